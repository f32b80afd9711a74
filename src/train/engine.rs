//! The network with its optimiser, as the training loop drives it.

use crate::data::batch::Batch;
use crate::device::Device;
use crate::model::{DropoutKey, EmberFormer, Group, Kind, ModelSettings};
use crate::ops::loss::{LossReport, LossSettings, Thresholds};
use crate::optim::{Adam, AdamSettings, LearningRates};
use crate::tensor::DType;
use crate::train::checkpoint::{Checkpoint, HostTensor};
use crate::train::run::{Learner, Saved};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// EmberFormer with Adam.
pub struct Engine {
    /// The network.
    pub model: EmberFormer,
    adam: Adam,
}

impl Engine {
    /// A fresh network with fresh moments.
    ///
    /// # Errors
    /// Settings that make no network.
    pub fn new(settings: &ModelSettings, adam: AdamSettings, device: &Device, seed: u64) -> Result<Self> {
        let model = EmberFormer::new(settings, device, DType::F32, seed)?;
        let adam = Adam::new(adam, model.parameters());
        Ok(Self { model, adam })
    }
}

/// The network of a checkpoint, to evaluate; `path` is for the errors.
///
/// # Errors
/// Settings that make no network, or another one than the checkpoint's tensors.
pub fn load_model(checkpoint: &Checkpoint, device: &Device, path: &Path) -> Result<EmberFormer> {
    // The settings decide what is allocated: they must fit what the file holds before they are believed.
    let settings = &checkpoint.state.model;
    let stored: u64 = checkpoint.weights.values().map(|tensor| tensor.values.len() as u64).sum();
    settings.check_fits(stored, path.display())?;
    let mut model = EmberFormer::new(settings, device, DType::F32, 0)?;
    load_weights(&mut model, checkpoint, path)?;
    Ok(model)
}

fn load_weights(model: &mut EmberFormer, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    let shapes: Vec<_> = model.parameters().iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
    for (name, shape) in &shapes {
        let tensor = checkpoint.weight(name, shape, path)?;
        model.parameters_mut().set(name, &tensor.values)?;
    }
    match checkpoint.weights.keys().find(|name| !shapes.iter().any(|(known, _)| known == *name)) {
        None => Ok(()),
        Some(name) => Err(Error::failed(
            path.display(),
            format_args!("has a tensor {name}, which the model does not have"),
            "use the checkpoint with the configuration that it was trained with",
        )),
    }
}

impl Learner for Engine {
    fn train_step(
        &mut self,
        batch: &Batch,
        loss: &LossSettings,
        thresholds: &Thresholds,
        key: DropoutKey,
    ) -> Result<LossReport> {
        self.model.train_step(&batch.inputs, &batch.target, loss, thresholds, key)
    }

    fn gradient_norm(&self, frozen: &[Group]) -> f64 {
        let trained = Group::ALL.into_iter().filter(|group| !frozen.contains(group));
        trained.map(|group| self.model.parameters().gradient_norm(Some(group)).powi(2)).sum::<f64>().sqrt()
    }

    fn scale_gradients(&mut self, factor: f64) {
        self.model.parameters_mut().scale_gradients(factor);
    }

    fn update(&mut self, rates: &LearningRates, frozen: &[Group]) -> Result<()> {
        self.adam.step(self.model.parameters_mut(), rates, frozen)
    }

    fn evaluate(&self, batch: &Batch, loss: &LossSettings, thresholds: &Thresholds) -> Result<LossReport> {
        self.model.evaluate(&batch.inputs, &batch.target, loss, thresholds)
    }

    fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        Ok(self.model.logits(&batch.inputs)?.into_iter().map(|z| z as f32).collect())
    }

    fn save(&self) -> Result<Saved> {
        let mut saved = Saved { optimizer_updates: self.adam.updates(), ..Saved::default() };
        let tensor = |shape: &[usize], values| HostTensor { shape: shape.to_vec(), values };
        for parameter in self.model.parameters().iter() {
            let name = &parameter.name;
            if let Some(values) = self.model.parameters().get(name) {
                saved.weights.insert(name.clone(), tensor(&parameter.shape, values));
            }
            if let (Kind::Weight(_), Some((first, second))) = (parameter.kind, self.adam.moments(name)) {
                let moments = (tensor(&parameter.shape, first), tensor(&parameter.shape, second));
                saved.moments.insert(name.clone(), moments);
            }
        }
        Ok(saved)
    }

    fn restore(&mut self, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
        load_weights(&mut self.model, checkpoint, path)?;
        let mut moments = BTreeMap::new();
        for parameter in self.model.parameters().iter() {
            if let Some((first, second)) = checkpoint.moments(&parameter.name, &parameter.shape, path)? {
                moments.insert(parameter.name.as_str(), (first.values.as_slice(), second.values.as_slice()));
            }
        }
        let updates = checkpoint.state.progress.optimizer_updates;
        self.adam.restore(self.model.parameters(), updates, |name| moments.get(name).copied())
    }
}
