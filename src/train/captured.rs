//! Training steps and evaluations on a GPU, recorded once for each shape of batch and replayed.
//!
//! A step passes nothing but its batch and a few numbers to the device, and waits for nothing: losses, counts and the
//! gradients' norm stay there until somebody asks.

use crate::device::gpu::{Buffer, Gpu, Graph, Plan};
use crate::model::{DeviceBatch, DropoutKey, EmberFormer};
use crate::ops::adam::{Factors, Update};
use crate::ops::gradient_norm::{GradientReport, GradientState};
use crate::ops::loss::{LossBuffers, LossReport, LossSettings, LossTotals, Thresholds};
use crate::optim::Adam;
use crate::patch::Grid;
use crate::train::run::StepSettings;
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// What a recorded piece of work is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Samples.
    pub batch: usize,
    /// Steps of the longest history.
    pub history: usize,
    /// Patch grid.
    pub grid: Grid,
}

/// Which work is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Forward, backward, clipping and update.
    Step,
    /// Forward and backward of a training step.
    Gradients,
    /// The forward in evaluation mode.
    Forward,
}

/// What recorded work takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// By the GPU's own clock.
    pub seconds: f64,
    /// Kernels, products, copies and fills.
    pub launches: usize,
    /// Bytes that its kernels move by vector accesses; counted on the emulated device only.
    pub bytes: Option<u64>,
}

/// The settings that are part of what is recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fixed {
    loss: LossSettings,
    thresholds: Thresholds,
    grad_clip: Option<f64>,
}

/// Recorded work with the batch that it reads.
struct Recorded {
    graph: Graph,
    batch: DeviceBatch,
}

/// The recorded work of a model.
pub struct Captured {
    gpu: Gpu,
    fixed: Fixed,
    factors: Factors,
    state: GradientState,
    training: LossBuffers,
    evaluation: LossBuffers,
    arena: Option<Arc<Buffer>>,
    recorded: HashMap<(Shape, Work), Recorded>,
}

impl Captured {
    /// Nothing recorded yet.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn new(gpu: &Gpu, loss: &LossSettings, thresholds: &Thresholds, grad_clip: Option<f64>) -> Result<Self> {
        Ok(Self {
            gpu: gpu.clone(),
            fixed: Fixed { loss: *loss, thresholds: *thresholds, grad_clip },
            factors: Factors::new(gpu, 3)?,
            state: GradientState::new(gpu, grad_clip)?,
            training: LossBuffers::new(gpu, thresholds)?,
            evaluation: LossBuffers::new(gpu, thresholds)?,
            arena: None,
            recorded: HashMap::new(),
        })
    }

    /// Whether it was made for these settings.
    pub fn fits(&self, loss: &LossSettings, thresholds: &Thresholds, grad_clip: Option<f64>) -> bool {
        self.fixed == Fixed { loss: *loss, thresholds: *thresholds, grad_clip }
    }

    /// The limit of the gradients' norm that it was made for.
    pub fn grad_clip(&self) -> Option<f64> {
        self.fixed.grad_clip
    }

    /// Forgets what is recorded: the model's tensors lie elsewhere now.
    pub fn clear(&mut self, model: &mut EmberFormer) {
        self.recorded.clear();
        model.parameters_mut().clear_gradients();
        self.arena = None;
        self.gpu.release_unused();
    }

    /// Launches a training step on the batch that `fill` writes.
    ///
    /// # Errors
    /// Where memory runs out, and what the device reports.
    pub fn train(
        &mut self,
        model: &mut EmberFormer,
        adam: &mut Adam,
        shape: Shape,
        settings: &StepSettings<'_>,
        fill: impl FnOnce(&mut DeviceBatch) -> Result<()>,
    ) -> Result<()> {
        self.gpu.step_words(settings.key.step)?;
        self.record(model, adam, shape, Work::Step, settings.key)?;
        self.factors.set(&adam.advance(settings.rates, settings.frozen))?;
        self.replay(shape, Work::Step, fill)
    }

    /// What `runs` pieces of work on the batch that `fill` writes take on average, after one that does not count. The dropout
    /// masks are those of `key` throughout, and updates have a rate of 0.
    ///
    /// # Errors
    /// Where memory runs out, and what the device reports.
    pub fn time(
        &mut self,
        model: &mut EmberFormer,
        adam: &Adam,
        (shape, work): (Shape, Work),
        key: DropoutKey,
        runs: u32,
        fill: impl FnOnce(&mut DeviceBatch) -> Result<()>,
    ) -> Result<Timing> {
        self.gpu.step_words(key.step)?;
        self.record(model, adam, shape, work, key)?;
        let still = Update { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, rate: 0.0, step: 1 };
        self.factors.set(&[Some(still); 3])?;
        self.replay(shape, work, fill)?;
        let before = self.gpu.bytes_moved();
        let seconds = self.gpu.time(|| (0..runs).try_for_each(|_| self.replay(shape, work, |_| Ok(()))))?;
        let bytes = self.gpu.bytes_moved().zip(before).map(|(after, before)| (after - before) / u64::from(runs.max(1)));
        let launches = self.recorded.get(&(shape, work)).map_or(0, |recorded| recorded.graph.launches());
        Ok(Timing { seconds: seconds / f64::from(runs), launches, bytes })
    }

    /// Launches a forward in evaluation mode on the batch that `fill` writes, and waits for its report.
    ///
    /// # Errors
    /// Where memory runs out, and what the device reports.
    pub fn evaluate(
        &mut self,
        model: &mut EmberFormer,
        adam: &Adam,
        shape: Shape,
        fill: impl FnOnce(&mut DeviceBatch) -> Result<()>,
    ) -> Result<LossReport> {
        self.record(model, adam, shape, Work::Forward, DropoutKey { seed: 0, step: 0 })?;
        self.replay(shape, Work::Forward, fill)?;
        self.evaluation.report()
    }

    fn replay(&self, shape: Shape, work: Work, fill: impl FnOnce(&mut DeviceBatch) -> Result<()>) -> Result<()> {
        let Some(recorded) = self.recorded.get(&(shape, work)) else {
            return Err(Error::failed(
                self.gpu.describe(),
                "a step was not recorded",
                "this is a bug; please report it",
            ));
        };
        fill(&mut recorded.batch.clone())?;
        self.gpu.replay(&recorded.graph)
    }

    /// Records work, unless it is.
    fn record(
        &mut self,
        model: &mut EmberFormer,
        adam: &Adam,
        shape: Shape,
        work: Work,
        key: DropoutKey,
    ) -> Result<()> {
        if self.recorded.contains_key(&(shape, work)) {
            return Ok(());
        }
        let gpu = self.gpu.clone();
        let (batch, plan) = self.plan(model, adam, shape, work, key)?;
        if self.arena.as_ref().is_none_or(|arena| arena.bytes() < plan.bytes()) {
            self.clear(model);
            self.arena = Some(Arc::new(gpu.take(plan.bytes())?));
        }
        let Some(arena) = self.arena.clone() else { unreachable!("just made") };
        let (graph, ()) = gpu.capture(&plan, &arena, || self.launch(model, adam, &batch, work, key))?;
        self.recorded.insert((shape, work), Recorded { graph, batch });
        Ok(())
    }

    /// Room for a batch, and a plan of the memory that its work needs.
    fn plan(
        &self,
        model: &mut EmberFormer,
        adam: &Adam,
        shape: Shape,
        work: Work,
        key: DropoutKey,
    ) -> Result<(DeviceBatch, Arc<Plan>)> {
        let Shape { batch, history, grid } = shape;
        model.check_history(history)?;
        model.settings().check_grid(grid)?;
        let channels = model.settings().static_channels;
        let batch = DeviceBatch::uninitialized(&self.gpu, model.activations(), grid, channels, (batch, history))?;
        let plan = self.gpu.plan(|| self.launch(model, adam, &batch, work, key))?;
        Ok((batch, Arc::new(plan)))
    }

    /// Bytes that all buffers of a training step take.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn step_bytes(&self, model: &mut EmberFormer, adam: &Adam, shape: Shape) -> Result<usize> {
        let key = DropoutKey { seed: 0, step: 0 };
        let bytes = self.plan(model, adam, shape, Work::Step, key)?.1.bytes();
        model.parameters_mut().clear_gradients();
        Ok(bytes)
    }

    fn launch(
        &self,
        model: &mut EmberFormer,
        adam: &Adam,
        batch: &DeviceBatch,
        work: Work,
        key: DropoutKey,
    ) -> Result<()> {
        if work == Work::Forward {
            return model.launch_evaluation(batch, &self.fixed.loss, &self.evaluation);
        }
        model.launch_training(batch, &self.fixed.loss, key, &self.training)?;
        if work == Work::Gradients {
            return Ok(());
        }
        adam.launch(&self.gpu, model.parameters(), &self.factors, &self.training, &self.state)
    }

    /// What the last step gave; waits for it.
    ///
    /// # Errors
    /// What the device reports.
    pub fn report(&self) -> Result<LossReport> {
        self.training.report()
    }

    /// What the steps since the last reset gave; waits for them.
    ///
    /// # Errors
    /// What the device reports.
    pub fn totals(&self) -> Result<(LossTotals, GradientReport)> {
        Ok((self.training.totals()?, self.state.report()?))
    }

    /// Empties the totals; the sum of losses times samples goes on from `loss`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn reset(&self, loss: f64) -> Result<()> {
        self.state.reset()?;
        self.training.reset(loss)
    }
}
