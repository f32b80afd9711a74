//! Adam over all parameters of a model.

use super::{AdamSettings, LearningRates};
use crate::device::gpu::Gpu;
use crate::model::{Group, Kind, Parameters};
use crate::ops::adam::{Factors, Step, Update, adam, adam_by_group};
use crate::ops::gradient_norm::{GradientState, gradient_clip};
use crate::ops::loss::LossBuffers;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// The optimiser: its settings, the updates made to each group and the moments of every weight.
pub struct Adam {
    settings: AdamSettings,
    updates: [u64; 3],
    moments: BTreeMap<String, [Tensor; 2]>,
}

impl Adam {
    /// Fresh moments for the weights of `parameters`.
    ///
    /// # Errors
    /// Where the device's memory runs out.
    pub fn new(settings: AdamSettings, parameters: &Parameters) -> Result<Self> {
        let weights = parameters.iter().filter(|p| matches!(p.kind, Kind::Weight(_)));
        let moments = weights
            .map(|p| {
                let zeros = || Tensor::zeros(parameters.device(), p.value.dtype(), &p.shape);
                Ok((p.name.clone(), [zeros()?, zeros()?]))
            })
            .collect::<Result<_>>()?;
        Ok(Self { settings, updates: [0; 3], moments })
    }

    /// One update from the gradients of the last training step; groups in `frozen` and weights without a gradient stay. A
    /// group counts its own updates, so that one that thaws late starts with its own bias correction, as in PyTorch.
    ///
    /// # Errors
    /// For parameters of another model than the moments'.
    pub fn step(&mut self, parameters: &mut Parameters, rates: &LearningRates, frozen: &[Group]) -> Result<()> {
        let updates = self.advance(rates, frozen);
        let device = parameters.device().clone();
        let mut all: BTreeMap<&str, &mut [Tensor; 2]> =
            self.moments.iter_mut().map(|(name, moments)| (name.as_str(), moments)).collect();
        let mut steps = Vec::new();
        for parameter in parameters.iter_mut() {
            let (Kind::Weight(group), Some(gradient)) = (parameter.kind, &parameter.gradient) else { continue };
            let Some(update) = updates[group as usize] else { continue };
            let Some(moments) = all.remove(parameter.name.as_str()) else { return Err(foreign(&parameter.name)) };
            steps.push(Step { value: &mut parameter.value, gradient, moments, update });
        }
        adam(&device, &mut steps)
    }

    /// Counts an update of the groups that are not in `frozen` and says what it takes, in the order of [`Group::ALL`].
    pub fn advance(&mut self, rates: &LearningRates, frozen: &[Group]) -> [Option<Update>; 3] {
        Group::ALL.map(|group| {
            if frozen.contains(&group) {
                return None;
            }
            self.updates[group as usize] += 1;
            Some(self.update(rates, group))
        })
    }

    fn update(&self, rates: &LearningRates, group: Group) -> Update {
        let rate = match group {
            Group::Temporal => rates.temporal,
            Group::Spatial => rates.spatial,
            Group::Refinement => rates.refinement,
        };
        let AdamSettings { beta1, beta2, eps, weight_decay } = self.settings;
        Update { beta1, beta2, eps, weight_decay, rate, step: self.updates[group as usize] }
    }

    /// Launches clipping and the update of all parameters on a GPU, waiting for nothing: `factors` hold what
    /// [`Adam::advance`] said, `state` the gradients' norm afterwards.
    ///
    /// # Errors
    /// For parameters of another model than the moments', and what the device reports.
    pub fn launch(
        &self,
        gpu: &Gpu,
        parameters: &Parameters,
        factors: &Factors,
        losses: &LossBuffers,
        state: &GradientState,
    ) -> Result<()> {
        let mut steps = Vec::new();
        for parameter in parameters.iter() {
            let (Kind::Weight(group), Some(gradient)) = (parameter.kind, &parameter.gradient) else { continue };
            let Some([first, second]) = self.moments.get(&parameter.name) else { return Err(foreign(&parameter.name)) };
            steps.push(([&parameter.value, gradient, first, second], group as usize));
        }
        let gradients: Vec<_> = steps.iter().map(|([_, gradient, ..], group)| (*gradient, *group)).collect();
        gradient_clip(gpu, &gradients, factors, losses, state)?;
        adam_by_group(gpu, &steps, factors, state)
    }

    /// Updates made so far to each group, in the order of [`Group::ALL`].
    pub fn updates(&self) -> [u64; 3] {
        self.updates
    }

    /// First and second moment of a weight, copied to the host; none where there is no such weight.
    ///
    /// # Errors
    /// What the device reports.
    pub fn moments(&self, name: &str) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
        let host = |t: &Tensor| Ok(t.to_host()?.into_iter().map(|x| x as f32).collect());
        self.moments.get(name).map(|[first, second]| Ok((host(first)?, host(second)?))).transpose()
    }

    /// Sets the updates of each group and every weight's moments, as `moments` gives them by name.
    ///
    /// # Errors
    /// Where a weight's moments are missing or of another length.
    pub fn restore<'a>(
        &mut self,
        parameters: &Parameters,
        updates: [u64; 3],
        mut moments: impl FnMut(&str) -> Option<(&'a [f32], &'a [f32])>,
    ) -> Result<()> {
        for (name, [first, second]) in &mut self.moments {
            let (m, v) = moments(name).ok_or_else(|| foreign(name))?;
            for (to, from) in [(first, m), (second, v)] {
                if to.len() != from.len() {
                    return Err(foreign(name));
                }
                let values = from.iter().map(|x| f64::from(*x));
                *to = Tensor::from_host(parameters.device(), to.dtype(), to.shape(), values)?;
            }
        }
        self.updates = updates;
        Ok(())
    }
}

fn foreign(name: &str) -> Error {
    Error::failed(name, "its moments are missing or of another shape", "resume with the run's own configuration")
}
