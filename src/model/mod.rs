//! The network: token embedder, temporal transformer, spatial decoder and refinement decoder, strung together.

mod batch;
mod count;
mod network;
mod parameters;
mod random;
mod work;

pub use crate::ops::dropout::DropoutKey;
pub use batch::{DeviceBatch, DeviceInputs, DeviceTarget};
pub use count::ParameterCounts;
pub use parameters::{Group, Kind, Parameter, Parameters};
pub use random::random_batch;
pub use work::ForwardWork;

use crate::device::Device;
use crate::ops::loss::{LossBuffers, LossReport, LossSettings, Thresholds, segmentation_loss, segmentation_loss_on};
use crate::patch::Grid;
use crate::tensor::DType;
use crate::{Error, Result};
use network::Pass;
use serde::{Deserialize, Serialize};

/// What the network looks like (SPEC §2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSettings {
    /// Model width d.
    pub d_model: usize,
    /// Attention heads; divides `d_model`.
    pub heads: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Width of the feed-forward layers.
    pub feedforward: usize,
    /// Dropout of the temporal transformer.
    pub dropout: f64,
    /// Dropout of the decode head (0.1).
    pub head_dropout: f64,
    /// Pixels along a patch's side: 4, 8 or 16.
    pub patch: usize,
    /// Static bands Cs.
    pub static_channels: usize,
    /// Whether the wind is embedded.
    pub use_wind: bool,
    /// Whether the static bands are embedded.
    pub use_static: bool,
    /// What the fire token is.
    pub fire_embedding: FireEmbedding,
    /// Channels c of the decode head's four levels.
    pub hidden_sizes: [usize; 4],
    /// Width D of the decode head.
    pub decoder_width: usize,
    /// Base channels of the refinement stages.
    pub base_channels: usize,
    /// Whether a 1×1 convolution precedes the refinement stages.
    pub input_projection: bool,
    /// Whether the last frame's mask joins the last refinement stage.
    pub last_frame_skip: bool,
}

impl Default for ModelSettings {
    /// The published network: 1,072,578 parameters on eight static bands.
    fn default() -> Self {
        Self {
            d_model: 64,
            heads: 4,
            layers: 3,
            feedforward: 256,
            dropout: 0.1,
            head_dropout: 0.1,
            patch: 8,
            static_channels: 8,
            use_wind: true,
            use_static: true,
            fire_embedding: FireEmbedding::Mean,
            hidden_sizes: [32, 64, 160, 256],
            decoder_width: 256,
            base_channels: 32,
            input_projection: false,
            last_frame_skip: false,
        }
    }
}

/// What the fire token is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FireEmbedding {
    /// The burned fraction of the patch.
    Mean,
    /// The patch's own pixels.
    Pixels,
}

/// A batch as the network sees it, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Samples B.
    pub batch: usize,
    /// Steps T of the longest history; shorter ones are padded on the left.
    pub history: usize,
    /// Patch grid.
    pub grid: Grid,
    /// Burning pixels as patch bits, [B, T, N, words].
    pub frames: Vec<u64>,
    /// Wind speed and direction, scaled to [0, 1], [B, T, 2].
    pub wind: Vec<f32>,
    /// Static patch tokens, [B, N, Cs].
    pub statics: Vec<f32>,
    /// Whether a step is real, [B, T].
    pub valid_steps: Vec<bool>,
}

/// What the network should have said, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Burning pixels as patch bits, [B, N, words].
    pub bits: Vec<u64>,
    /// Whether a patch counts, [B, N].
    pub valid_patches: Vec<bool>,
}

impl Inputs {
    /// Whether every array has the length that the sizes call for, and the network can take it.
    fn check(&self, settings: &ModelSettings) -> Result<()> {
        let (b, t, n) = (self.batch, self.history, self.grid.patches());
        let complain = |what: String| Err(Error::failed("batch", what, "use data that fits the model's configuration"));
        let lengths = [
            ("frames", self.frames.len(), b * t * n * self.grid.words()),
            ("wind", self.wind.len(), b * t * 2),
            ("static tokens", self.statics.len(), b * n * settings.static_channels),
            ("valid steps", self.valid_steps.len(), b * t),
        ];
        for (what, is, should) in lengths {
            if is != should {
                return complain(format!("{is} values of {what}, {should} expected"));
            }
        }
        settings.check_grid(self.grid)?;
        match self.valid_steps.chunks_exact(t.max(1)).all(|steps| steps.last() == Some(&true)) {
            true if b > 0 && t > 0 => Ok(()),
            _ => complain("a history without a last frame".into()),
        }
    }
}

/// The network with its parameters, their gradients and the running statistics.
pub struct EmberFormer {
    settings: ModelSettings,
    parameters: Parameters,
    activations: DType,
}

impl EmberFormer {
    /// A network with fresh parameters (SPEC §2's initial values) drawn from `seed`, that computes in `dtype`: float or
    /// double on the CPU, float or bf16 on a GPU, where parameters, sums and statistics are float in any case.
    ///
    /// # Errors
    /// For settings that make no network, or none that the device can compute.
    pub fn new(settings: &ModelSettings, device: &Device, dtype: DType, seed: u64) -> Result<Self> {
        settings.check()?;
        let parameters = match (device, dtype) {
            (Device::Cpu(_), DType::BF16) => {
                return Err(Error::usage("train.precision", "the CPU computes in float", "use float32 or auto"));
            }
            (Device::Gpu(_), DType::F64) => {
                return Err(Error::usage("precision", "a GPU computes in float or bf16", "use one of them"));
            }
            (Device::Gpu(_), _) => {
                settings.check_gpu()?;
                DType::F32
            }
            (Device::Cpu(_), _) => dtype,
        };
        let parameters = Parameters::new(settings, device, parameters, seed)?;
        Ok(Self { settings: settings.clone(), parameters, activations: dtype })
    }

    /// What the forward computes in.
    pub fn activations(&self) -> DType {
        self.activations
    }

    /// Refuses histories that are longer than the device's kernels can hold.
    ///
    /// # Errors
    /// Names the limit.
    pub fn check_history(&self, steps: usize) -> Result<()> {
        match self.parameters.device() {
            Device::Gpu(_) if steps > GPU_HISTORY => Err(Error::usage(
                "model.temporal.max_seq_len",
                format_args!("histories of {steps} steps, a GPU takes {GPU_HISTORY} at most"),
                "set it lower, or use --device cpu",
            )),
            _ => Ok(()),
        }
    }

    /// Checks a batch and brings its inputs to the device.
    ///
    /// # Errors
    /// For a batch that does not fit the model, and where the device's memory runs out.
    pub fn inputs(&self, inputs: &Inputs) -> Result<DeviceInputs> {
        inputs.check(&self.settings)?;
        self.check_history(inputs.history)?;
        DeviceInputs::new(self.parameters.device(), self.activations, inputs)
    }

    /// Checks a batch with its target and brings it to the device.
    ///
    /// # Errors
    /// For a batch that does not fit the model, and where the device's memory runs out.
    pub fn batch(&self, inputs: &Inputs, target: &Target) -> Result<DeviceBatch> {
        let n = inputs.batch * inputs.grid.patches();
        if target.bits.len() != n * inputs.grid.words() || target.valid_patches.len() != n {
            return Err(Error::failed(
                "batch",
                format_args!(
                    "a target of {} words and {} patches for {n} patches",
                    target.bits.len(),
                    target.valid_patches.len()
                ),
                "use a target of the same window",
            ));
        }
        let inputs = self.inputs(inputs)?;
        let target = DeviceTarget::new(self.parameters.device(), inputs.grid, target)?;
        Ok(DeviceBatch { inputs, target })
    }

    /// What the network looks like.
    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// Its tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Its tensors, to change.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Forward and backward in training mode: gradients are left in the parameters (overwritten, not accumulated),
    /// running statistics are moved.
    ///
    /// # Errors
    /// For a batch that does not fit the model.
    pub fn train_step(
        &mut self,
        inputs: &Inputs,
        target: &Target,
        loss: &LossSettings,
        thresholds: &Thresholds,
        dropout: DropoutKey,
    ) -> Result<LossReport> {
        self.backward(inputs, target, loss, thresholds, Some(dropout))
    }

    /// Forward and backward with the running statistics and without dropout, as the golden cases of evaluation mode do.
    ///
    /// # Errors
    /// For a batch that does not fit the model.
    pub fn evaluate_with_gradients(
        &mut self,
        inputs: &Inputs,
        target: &Target,
        loss: &LossSettings,
        thresholds: &Thresholds,
    ) -> Result<LossReport> {
        self.backward(inputs, target, loss, thresholds, None)
    }

    /// Launches forward and backward in training mode on a GPU, waiting for nothing: the loss is left in `losses`, gradients
    /// in the parameters, running statistics are moved in place.
    ///
    /// # Errors
    /// Where memory runs out, and what the device reports.
    pub fn launch_training(
        &mut self,
        batch: &DeviceBatch,
        loss: &LossSettings,
        dropout: DropoutKey,
        losses: &LossBuffers,
    ) -> Result<()> {
        let mut pass = Pass::new(&self.settings, self, &batch.inputs, true, Some(dropout));
        let logits = pass.logits()?;
        let Some(seed) = segmentation_loss_on(logits.value(), &batch.comparison(true), loss, true, losses)? else {
            return Ok(());
        };
        let Pass { tape, vars, .. } = pass;
        let mut gradients = tape.backward(&logits, seed)?;
        for (parameter, var) in self.parameters.iter_mut().zip(&vars) {
            parameter.gradient = gradients.take(var);
        }
        Ok(())
    }

    /// Launches the forward in evaluation mode on a GPU, waiting for nothing: the loss is left in `losses`.
    ///
    /// # Errors
    /// Where memory runs out, and what the device reports.
    pub fn launch_evaluation(&self, batch: &DeviceBatch, loss: &LossSettings, losses: &LossBuffers) -> Result<()> {
        let logits = Pass::new(&self.settings, self, &batch.inputs, false, None).logits()?;
        segmentation_loss_on(logits.value(), &batch.comparison(false), loss, false, losses).map(drop)
    }

    fn backward(
        &mut self,
        inputs: &Inputs,
        target: &Target,
        loss: &LossSettings,
        thresholds: &Thresholds,
        training: Option<DropoutKey>,
    ) -> Result<LossReport> {
        let batch = self.batch(inputs, target)?;
        let comparison = batch.comparison(training.is_some());
        let mut pass = Pass::new(&self.settings, self, &batch.inputs, true, training);
        let logits = pass.logits()?;
        let (report, seed) = segmentation_loss(self.parameters.device(), &logits, &comparison, loss, thresholds, true)?;
        let Pass { tape, vars, statistics, .. } = pass;
        let Some(seed) = seed else { return Ok(report) };
        let mut gradients = tape.backward(&logits, seed)?;
        for ((parameter, var), running) in self.parameters.iter_mut().zip(&vars).zip(statistics) {
            parameter.gradient = gradients.take(var);
            if parameter.kind == Kind::Buffer {
                parameter.value = running;
            }
        }
        Ok(report)
    }

    /// Forward in evaluation mode with the loss's report.
    ///
    /// # Errors
    /// For a batch that does not fit the model.
    pub fn evaluate(
        &self,
        inputs: &Inputs,
        target: &Target,
        loss: &LossSettings,
        thresholds: &Thresholds,
    ) -> Result<LossReport> {
        let batch = self.batch(inputs, target)?;
        let logits = Pass::new(&self.settings, self, &batch.inputs, false, None).logits()?;
        let comparison = batch.comparison(false);
        Ok(segmentation_loss(self.parameters.device(), &logits, &comparison, loss, thresholds, false)?.0)
    }

    /// Logits in evaluation mode, [B, H, W].
    ///
    /// # Errors
    /// For a batch that does not fit the model.
    pub fn logits(&self, inputs: &Inputs) -> Result<Vec<f64>> {
        let inputs = self.inputs(inputs)?;
        Pass::new(&self.settings, self, &inputs, false, None).logits()?.value().to_host()
    }

    /// Logits in training mode without dropout, [B, H, W]; running statistics stay.
    ///
    /// # Errors
    /// For a batch that does not fit the model.
    pub fn training_logits(&self, inputs: &Inputs) -> Result<Vec<f64>> {
        let inputs = self.inputs(inputs)?;
        // A key draws nothing where both probabilities are zero.
        let settings = ModelSettings { dropout: 0.0, head_dropout: 0.0, ..self.settings.clone() };
        let key = DropoutKey { seed: 0, step: 0 };
        let mut pass = Pass::new(&settings, self, &inputs, false, Some(key));
        for running in &mut pass.statistics {
            *running = running.copied(self.parameters.device())?;
        }
        pass.logits()?.value().to_host()
    }
}

/// Steps of history that the attention kernels hold at most.
pub const GPU_HISTORY: usize = 64;

/// A size may not be larger: with more, counts of parameters would no longer fit in 64 bits.
const LARGEST_SIZE: usize = 1 << 16;

impl ModelSettings {
    /// Whether they make a network. Nothing else here may be asked of settings that nobody has checked.
    ///
    /// # Errors
    /// What is wrong with them, as bad usage; a file that they come from is for the caller to name.
    pub fn check(&self) -> Result<()> {
        let complain = |what: String| Err(Error::usage("model", what, "change the model's settings"));
        if self.d_model == 0 || self.heads == 0 || !self.d_model.is_multiple_of(self.heads) {
            return complain(format!("{} heads do not divide a width of {}", self.heads, self.d_model));
        }
        if self.use_wind && self.d_model < 2 {
            return complain("the wind embedding needs a width of at least 2".into());
        }
        if ![4, 8, 16].contains(&self.patch) {
            return complain(format!("patches of {} pixels, possible are 4, 8 and 16", self.patch));
        }
        let sizes = [self.layers, self.feedforward, self.decoder_width, self.base_channels];
        if sizes.iter().chain(&self.hidden_sizes).any(|n| *n == 0) || (self.use_static && self.static_channels == 0) {
            return complain("a size is 0".into());
        }
        let counted = [self.d_model, self.static_channels];
        if let Some(size) = sizes.iter().chain(&self.hidden_sizes).chain(&counted).find(|n| **n > LARGEST_SIZE) {
            return complain(format!("a size of {size}, the largest possible is {LARGEST_SIZE}"));
        }
        match [self.dropout, self.head_dropout].iter().all(|p| (0.0..1.0).contains(p)) {
            true => Ok(()),
            false => complain("a dropout outside [0, 1)".into()),
        }
    }

    /// Whether the network can take windows of that grid.
    pub(crate) fn check_grid(&self, grid: Grid) -> Result<()> {
        let complain = |what: String| Err(Error::failed("batch", what, "use data that fits the model's configuration"));
        if grid.patch != self.patch {
            return complain(format!("patches of {0}x{0} pixels, the model takes {1}x{1}", grid.patch, self.patch));
        }
        if grid.rows < 8 || grid.cols < 8 {
            return complain(format!(
                "a grid of {}x{} patches leaves the pyramid's coarsest level empty, each side must be at least 8",
                grid.rows, grid.cols
            ));
        }
        Ok(())
    }

    /// Whether the kernels can compute the network: pixels and tokens are whole 16-byte vectors there.
    fn check_gpu(&self) -> Result<()> {
        let remedy = "change the model's settings, or use --device cpu";
        let complain = |what: String| Err(Error::usage("model on a GPU", what, remedy));
        let head = self.d_model / self.heads;
        if !(4..=64).contains(&head) {
            return complain(format!("heads of width {head}, possible are 4 to 64"));
        }
        let sizes = [
            ("temporal.d_model", self.d_model),
            ("temporal.dim_feedforward", self.feedforward),
            ("spatial.decoder_width", self.decoder_width),
            ("refinement.base_channels", self.base_channels),
        ];
        let hidden = self.hidden_sizes.map(|c| ("spatial.hidden_sizes", c));
        match sizes.iter().chain(&hidden).find(|(_, size)| !size.is_multiple_of(8)) {
            Some((name, size)) => complain(format!("model.{name} of {size}, only multiples of 8 are possible")),
            None => Ok(()),
        }
    }
}
