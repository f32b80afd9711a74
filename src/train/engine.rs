//! The network with its optimiser, as the training loop drives it.

use crate::data::batch::Batch;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::model::{DeviceBatch, DropoutKey, EmberFormer, Group, Inputs, Kind, ModelSettings, Target};
use crate::ops::loss::{LossReport, LossSettings, Thresholds};
use crate::optim::{Adam, AdamSettings};
use crate::tensor::DType;
use crate::train::captured::Captured;
pub use crate::train::captured::{Shape, Timing, Work};
use crate::train::checkpoint::{Checkpoint, HostTensor};
use crate::train::metrics::Totals;
use crate::train::run::{Failure, Input, Learner, Saved, StepSettings};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// EmberFormer with Adam.
pub struct Engine {
    /// The network.
    pub model: EmberFormer,
    adam: Adam,
    /// Of the steps since the totals were set; on a GPU only what the host knows.
    totals: Totals,
    /// What the last step gave; on a GPU that is for the device to say.
    report: Option<LossReport>,
    failure: Option<Failure>,
    /// Batches in the totals when they were set.
    before: u64,
    captured: Option<Captured>,
}

impl Engine {
    /// A fresh network with fresh moments.
    ///
    /// # Errors
    /// Settings that make no network.
    pub fn new(
        settings: &ModelSettings,
        adam: AdamSettings,
        device: &Device,
        precision: DType,
        seed: u64,
    ) -> Result<Self> {
        let model = EmberFormer::new(settings, device, precision, seed)?;
        let adam = Adam::new(adam, model.parameters())?;
        let (totals, before) = (Totals::default(), 0);
        Ok(Self { model, adam, totals, report: None, failure: None, before, captured: None })
    }

    fn gpu(&self) -> Option<Gpu> {
        match self.model.parameters().device() {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => Some(gpu.clone()),
        }
    }

    /// What is recorded for these settings; nothing yet where they are others than before.
    fn captured(
        &mut self,
        gpu: &Gpu,
        loss: &LossSettings,
        thresholds: &Thresholds,
        grad_clip: Option<f64>,
    ) -> Result<Captured> {
        match self.captured.take() {
            Some(captured) if captured.fits(loss, thresholds, grad_clip) => Ok(captured),
            _ => {
                let captured = Captured::new(gpu, loss, thresholds, grad_clip)?;
                captured.reset(self.totals.loss)?;
                Ok(captured)
            }
        }
    }

    /// What recorded work takes on a GPU, the mean of `runs` replays with updates of rate 0. None on the CPU.
    ///
    /// # Errors
    /// Where memory runs out, and what the device reports.
    pub fn time(
        &mut self,
        work: Work,
        (inputs, target): (&Inputs, &Target),
        (loss, thresholds): (&LossSettings, &Thresholds),
        runs: u32,
    ) -> Result<Option<Timing>> {
        let Some(gpu) = self.gpu() else { return Ok(None) };
        let mut captured = self.captured(&gpu, loss, thresholds, None)?;
        let shape = Shape { batch: inputs.batch, history: inputs.history, grid: inputs.grid };
        let key = DropoutKey { seed: 0, step: 0 };
        let fill = |to: &mut DeviceBatch| to.overwrite(&gpu, inputs, target);
        let timing = captured.time(&mut self.model, &self.adam, (shape, work), key, runs, fill);
        self.captured = Some(captured);
        timing.map(Some)
    }

    /// Bytes that all buffers of a training step take on a GPU, beside weights and moments; nothing is computed. None on the
    /// CPU.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn step_bytes(
        &mut self,
        shape: Shape,
        (loss, thresholds): (&LossSettings, &Thresholds),
    ) -> Result<Option<usize>> {
        let Some(gpu) = self.gpu() else { return Ok(None) };
        let captured = self.captured(&gpu, loss, thresholds, None)?;
        let bytes = captured.step_bytes(&mut self.model, &self.adam, shape);
        self.captured = Some(captured);
        bytes.map(Some)
    }

    fn step_on_gpu(&mut self, gpu: &Gpu, input: Input<'_>, settings: &StepSettings<'_>) -> Result<()> {
        let mut captured = self.captured(gpu, settings.loss, settings.thresholds, settings.grad_clip)?;
        let Self { model, adam, .. } = self;
        let (samples, history) = input.size();
        let done = match input {
            Input::Host(batch) => captured
                .train(model, adam, shape(batch), settings, |to| to.overwrite(gpu, &batch.inputs, &batch.target)),
            Input::Device { grid, fill, .. } => {
                captured.train(model, adam, Shape { batch: samples, history, grid }, settings, fill)
            }
        };
        self.captured = Some(captured);
        done?;
        self.totals.samples += samples as u64;
        self.totals.batches += 1;
        self.totals.history += history as u64;
        Ok(())
    }

    fn step_on_cpu(&mut self, batch: &Batch, settings: &StepSettings<'_>) -> Result<()> {
        let StepSettings { loss, thresholds, grad_clip, key, rates, frozen } = *settings;
        let report = self.model.train_step(&batch.inputs, &batch.target, loss, thresholds, key)?;
        let number = self.totals.batches - self.before;
        let fails = |what, value: f64| (!value.is_finite()).then_some(Failure { number, what, value });
        let trained: Vec<Group> = Group::ALL.into_iter().filter(|group| !frozen.contains(group)).collect();
        self.failure = fails("the loss", report.loss);
        if self.failure.is_none() {
            let norm = self.model.parameters().gradient_norm(&trained)?;
            self.failure = fails("the gradient's norm", norm);
            if let Some(limit) = grad_clip.filter(|limit| norm > *limit) {
                self.model.parameters_mut().scale_gradients(limit / norm)?;
            }
        }
        if self.failure.is_none() {
            self.adam.step(self.model.parameters_mut(), rates, frozen)?;
        }
        self.totals.add(&report, batch.samples.len(), batch.inputs.history);
        self.report = Some(report);
        Ok(())
    }
}

fn shape(batch: &Batch) -> Shape {
    Shape { batch: batch.inputs.batch, history: batch.inputs.history, grid: batch.inputs.grid }
}

/// The network of a checkpoint, to evaluate; `path` is for the errors.
///
/// # Errors
/// Settings that make no network, or another one than the checkpoint's tensors.
pub fn load_model(checkpoint: &Checkpoint, device: &Device, precision: DType, path: &Path) -> Result<EmberFormer> {
    // The settings decide what is allocated: they must fit what the file holds before they are believed.
    let settings = &checkpoint.state.model;
    let stored: u64 = checkpoint.weights.values().map(|tensor| tensor.values.len() as u64).sum();
    settings.check_fits(stored, path.display())?;
    let mut model = EmberFormer::new(settings, device, precision, 0)?;
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
    fn step(&mut self, input: Input<'_>, settings: &StepSettings<'_>) -> Result<()> {
        match (self.gpu(), input) {
            (Some(gpu), input) => self.step_on_gpu(&gpu, input, settings),
            (None, Input::Host(batch)) => self.step_on_cpu(batch, settings),
            (None, Input::Device { .. }) => {
                Err(Error::failed("CPU", "a batch in a GPU's memory", "this is a bug; please report it"))
            }
        }
    }

    fn report(&mut self) -> Result<LossReport> {
        match (&self.captured, &self.report) {
            (Some(captured), _) => captured.report(),
            (None, Some(report)) => Ok(report.clone()),
            (None, None) => Err(Error::failed("training", "there was no step yet", "this is a bug; please report it")),
        }
    }

    fn set_totals(&mut self, totals: &Totals) -> Result<()> {
        (self.totals, self.before, self.failure) = (*totals, totals.batches, None);
        self.captured.as_ref().map_or(Ok(()), |captured| captured.reset(totals.loss))
    }

    fn add_up(&mut self, totals: &mut Totals) -> Result<()> {
        let Some(captured) = &self.captured else {
            *totals = self.totals;
            return Ok(());
        };
        let (sums, gradients) = captured.totals()?;
        let Totals { samples, batches, history, .. } = self.totals;
        let mut all = Totals { samples, batches, history, loss: sums.sums.loss, ..self.totals };
        all.counts += sums.sums.counts;
        all.growth += sums.sums.growth;
        all.copy_last += sums.sums.copy_last;
        *totals = all;
        let bad = |number: Option<u64>, what| number.map(|number| Failure { number, what, value: f64::NAN });
        self.failure = bad(sums.first_bad, "the loss").or(bad(gradients.first_bad, "the gradient's norm"));
        Ok(())
    }

    fn failure(&self) -> Option<Failure> {
        self.failure
    }

    fn evaluate(&mut self, batch: &Batch, loss: &LossSettings, thresholds: &Thresholds) -> Result<LossReport> {
        let Some(gpu) = self.gpu() else { return self.model.evaluate(&batch.inputs, &batch.target, loss, thresholds) };
        let grad_clip = self.captured.as_ref().and_then(Captured::grad_clip);
        let mut captured = self.captured(&gpu, loss, thresholds, grad_clip)?;
        let fill = |to: &mut DeviceBatch| to.overwrite(&gpu, &batch.inputs, &batch.target);
        let report = captured.evaluate(&mut self.model, &self.adam, shape(batch), fill);
        self.captured = Some(captured);
        report
    }

    fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        Ok(self.model.logits(&batch.inputs)?.into_iter().map(|z| z as f32).collect())
    }

    fn save(&self) -> Result<Saved> {
        let mut saved = Saved { optimizer_updates: self.adam.updates(), ..Saved::default() };
        let tensor = |shape: &[usize], values| HostTensor { shape: shape.to_vec(), values };
        for parameter in self.model.parameters().iter() {
            let name = &parameter.name;
            let values = self.model.parameters().get(name)?;
            saved.weights.insert(name.clone(), tensor(&parameter.shape, values));
            if let (Kind::Weight(_), Some((first, second))) = (parameter.kind, self.adam.moments(name)?) {
                let moments = (tensor(&parameter.shape, first), tensor(&parameter.shape, second));
                saved.moments.insert(name.clone(), moments);
            }
        }
        Ok(saved)
    }

    fn restore(&mut self, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
        if let Some(captured) = &mut self.captured {
            captured.clear(&mut self.model);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::checkpoint::State;
    use crate::train::stopping::Stopping;

    const ADAM: AdamSettings = AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4 };

    fn settings() -> ModelSettings {
        ModelSettings {
            d_model: 8,
            heads: 2,
            layers: 1,
            feedforward: 16,
            dropout: 0.1,
            head_dropout: 0.1,
            patch: 8,
            static_channels: 3,
            use_wind: true,
            use_static: true,
            fire_embedding: crate::model::FireEmbedding::Pixels,
            hidden_sizes: [4; 4],
            decoder_width: 8,
            base_channels: 4,
            input_projection: false,
            last_frame_skip: true,
        }
    }

    fn checkpoint() -> Checkpoint {
        let saved = Engine::new(&settings(), ADAM, &Device::cpu(), DType::F32, 7).unwrap().save().unwrap();
        let state = State {
            model: settings(),
            data: Default::default(),
            progress: Default::default(),
            stopping: Stopping::default(),
            history: vec![],
            recipe: serde_json::Value::Null,
            config: String::new(),
        };
        Checkpoint { state, weights: saved.weights, moments: saved.moments }
    }

    #[test]
    fn an_engine_takes_back_what_it_saved() {
        let path = Path::new("last.safetensors");
        let checkpoint = checkpoint();
        let mut other = Engine::new(&settings(), ADAM, &Device::cpu(), DType::F32, 8).unwrap();
        assert_ne!(other.save().unwrap().weights, checkpoint.weights);
        other.restore(&checkpoint, path).unwrap();
        assert_eq!(other.save().unwrap().weights, checkpoint.weights);
        assert_eq!(other.save().unwrap().moments, checkpoint.moments);
        assert!(load_model(&checkpoint, &Device::cpu(), DType::F32, path).is_ok());
    }

    #[test]
    fn settings_that_the_file_does_not_fill_allocate_nothing() {
        let huge = 1 << 40;
        let changes: [fn(&mut ModelSettings, usize); 6] = [
            |s, n| (s.d_model, s.heads) = (n, 1),
            |s, n| s.layers = n,
            |s, n| s.feedforward = n,
            |s, n| s.hidden_sizes[3] = n,
            |s, n| s.decoder_width = n,
            |s, n| s.base_channels = n,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            for n in [huge, usize::MAX, 4096] {
                let mut checkpoint = checkpoint();
                change(&mut checkpoint.state.model, n);
                let error = load_model(&checkpoint, &Device::cpu(), DType::F32, Path::new("last.safetensors")).err();
                let text = error.expect("an error").to_string();
                let expected =
                    if n == 4096 { "its own model settings call for" } else { "the largest possible is 65536" };
                assert!(text.contains(expected), "{i}: {text}");
            }
        }
        let mut wider = checkpoint();
        wider.weights.insert("extra".into(), HostTensor { shape: vec![1 << 20], values: vec![0.0; 1 << 20] });
        wider.state.model.feedforward = 32;
        let text = load_model(&wider, &Device::cpu(), DType::F32, Path::new("a")).err().expect("an error").to_string();
        assert!(text.contains("linear1") && text.contains("the model needs [32, 8]"), "{text}");
    }
}
