//! The numerics check: golden cases (inputs, weights and the reference's results in one safetensors file) through a device.

use crate::device::Device;
use crate::extent::{self, Defect};
use crate::model::{DropoutKey, EmberFormer, FireEmbedding, Inputs, Kind, ModelSettings, Target};
use crate::ops::loss::{LossSettings, Thresholds};
use crate::optim::{Adam, AdamSettings, LearningRates};
use crate::patch::Grid;
use crate::tensor::DType;
use crate::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The golden cases that come with the program: name and file.
pub const EMBEDDED: [(&str, &[u8]); 6] = [
    ("small_focal_tversky", include_bytes!("../../tests/golden/small_focal_tversky.safetensors")),
    ("small_bce_dice", include_bytes!("../../tests/golden/small_bce_dice.safetensors")),
    ("small_eval", include_bytes!("../../tests/golden/small_eval.safetensors")),
    ("patch16_input_projection", include_bytes!("../../tests/golden/patch16_input_projection.safetensors")),
    ("pixel_embedding_skip", include_bytes!("../../tests/golden/pixel_embedding_skip.safetensors")),
    ("seed_model", include_bytes!("../../tests/golden/seed_model.safetensors")),
];

/// One compared quantity.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was compared: `logits`, `loss`, `counts`, `grad.<name>`, `step_losses`, `after.<name>`; in bf16 `logits`, `loss`
    /// and `grad`, all gradients as one vector.
    pub quantity: String,
    /// ‖ours − expected‖ / ‖expected‖. A gradient that vanishes in exact arithmetic (a bias before a batch norm: its
    /// expectation is under 1e-9 of the norm of all gradients) is measured against the norm of all. Counts: the number of
    /// pixels counted otherwise.
    pub error: f64,
    /// The largest error that passes.
    pub tolerance: f64,
}

impl Check {
    /// Whether the error is within its tolerance; NaN is not.
    pub fn passes(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// The settings in a case's metadata key `case`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    model: CaseModel,
    grid: [usize; 2],
    loss: String,
    training: bool,
    steps: usize,
    learning_rates: LearningRates,
    weight_decay: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseModel {
    d: usize,
    static_channels: usize,
    heads: usize,
    layers: usize,
    ff: usize,
    patch: usize,
    base: usize,
    hidden_sizes: [usize; 4],
    decoder_width: usize,
    input_projection: bool,
    #[serde(default)]
    fire_embedding: Option<FireEmbedding>,
    #[serde(default)]
    last_frame_skip: bool,
}

/// Tolerance of a run in `dtype` for a quantity whose expectation is stored as `stored`.
///
/// Double precision: 1e-9, and 1e-6 where the expectation was rounded to float32. Single precision is measured by PyTorch's
/// own: its float32 run of these cases is off by up to 2.1e-6 on logits and 2.7e-5 on a gradient. After Adam steps a weight
/// whose gradient vanishes has moved by rounding noise (Adam divides it by its own size), hence the wider trajectories.
fn tolerance(case: &str, quantity: &str, dtype: DType, stored: Dtype) -> f64 {
    match (dtype, stored) {
        (DType::F64, Dtype::F64) => 1e-9,
        (DType::F64, _) => 1e-6,
        (DType::BF16, _) => HalfPrecision::tolerance(case, quantity),
        (DType::F32, _) if quantity.starts_with("grad.") => 1e-5,
        (DType::F32, _) if quantity.starts_with("after.") => 5e-5,
        (DType::F32, _) => 2e-6,
    }
}

/// Relative errors of the peer in bf16: PyTorch 2.15 under `torch.autocast("cpu", torch.bfloat16)`, of the logits and of all
/// gradients together. Ours may be twice as large; a case of somebody else's, twice the largest of these.
struct HalfPrecision;

impl HalfPrecision {
    const PEER: [(&'static str, f64, f64); 6] = [
        ("small_focal_tversky", 0.0217, 0.0567),
        ("small_bce_dice", 0.0168, 0.1188),
        ("small_eval", 0.0022, 0.0028),
        ("patch16_input_projection", 0.0323, 0.0579),
        ("pixel_embedding_skip", 0.0295, 0.0474),
        ("seed_model", 0.0230, 0.0762),
    ];
    /// The peer's losses are off by 4e-4 at most, partly by luck.
    const LOSS: f64 = 1e-3;

    fn tolerance(case: &str, quantity: &str) -> f64 {
        let largest = Self::PEER.iter().fold((0.0f64, 0.0f64), |m, peer| (m.0.max(peer.1), m.1.max(peer.2)));
        let known = Self::PEER.iter().find(|(name, ..)| *name == case).map(|(_, logits, grad)| (*logits, *grad));
        let (logits, gradient) = known.unwrap_or(largest);
        match quantity {
            "logits" => 2.0 * logits,
            "grad" => 2.0 * gradient,
            _ => Self::LOSS,
        }
    }
}

/// Adam steps of a case at most: more would not check more, only take longer.
const STEPS: usize = 1000;

/// Runs one case and compares everything that it expects. A case may come from anywhere: what it claims is checked
/// against what it holds before anything is allocated or computed.
///
/// # Errors
/// For a file that is not a golden case, naming `name` and what is wrong; an error beyond its tolerance is no error here.
pub fn run_case(name: &str, bytes: &[u8], device: &Device, dtype: DType) -> Result<Vec<Check>> {
    let file = GoldenFile::parse(name, bytes)?;
    let case = &file.case;
    let settings = case.model_settings();
    settings.check_fits(file.tensors.iter().map(|(_, view)| view.data().len() as u64).sum(), name)?;
    let (inputs, target) = file.batch()?;
    let (loss, thresholds) = (file.loss()?, Thresholds { prediction: 0.5, target: 0.05 });
    let mut model = EmberFormer::new(&settings, device, dtype, 0)?;
    file.load_weights(&mut model)?;

    let mut checks = Vec::new();
    let logits = if case.training { model.training_logits(&inputs) } else { model.logits(&inputs) };
    let logits = logits.map_err(|e| e.within(name))?;
    checks.push(file.compare("logits", &logits, dtype, 0.0)?);
    let key = DropoutKey { seed: 0, step: 0 };
    let report = if case.training {
        model.train_step(&inputs, &target, &loss, &thresholds, key)?
    } else {
        model.evaluate_with_gradients(&inputs, &target, &loss, &thresholds)?
    };
    checks.push(file.compare("loss", &[report.loss], dtype, 0.0)?);
    if dtype == DType::BF16 {
        checks.push(file.whole_gradient(&model)?);
        return Ok(checks);
    }
    let counts = [report.counts.tp, report.counts.fp, report.counts.fn_, report.counts.tn];
    let expected = file.shaped("expected.counts", &[counts.len()])?;
    let error = counts.iter().zip(&expected).map(|(ours, theirs)| (*ours as f64 - theirs).abs()).sum();
    checks.push(Check { quantity: "counts".into(), error, tolerance: 0.0 });
    let names: Vec<String> =
        model.parameters().iter().filter(|p| p.kind != Kind::Buffer).map(|p| p.name.clone()).collect();
    let mut squares = 0.0;
    for name in &names {
        squares += file.values(&format!("expected.grad.{name}"))?.0.iter().map(|x| x * x).sum::<f64>();
    }
    for name in &names {
        let ours = model.parameters().gradient(name)?.unwrap_or_default();
        checks.push(file.compare(&format!("grad.{name}"), &ours, dtype, squares.sqrt())?);
    }
    if case.steps > 0 {
        file.load_weights(&mut model)?;
        checks.extend(file.adam_steps(&mut model, &inputs, &target, &loss, &thresholds, dtype)?);
    }
    Ok(checks)
}

/// Reads a case from a file.
///
/// # Errors
/// Where it cannot be read, or is no file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let about = std::fs::metadata(path).map_err(|e| Error::io(path, "cannot read", &e))?;
    if !about.is_file() {
        return Err(Error::failed(path.display(), "is not a file", "name golden cases, one by one"));
    }
    std::fs::read(path).map_err(|e| Error::io(path, "cannot read", &e))
}

struct GoldenFile<'a> {
    name: &'a str,
    case: Case,
    tensors: SafeTensors<'a>,
}

impl Case {
    fn model_settings(&self) -> ModelSettings {
        let m = &self.model;
        ModelSettings {
            d_model: m.d,
            heads: m.heads,
            layers: m.layers,
            feedforward: m.ff,
            dropout: 0.0,
            head_dropout: 0.0,
            patch: m.patch,
            static_channels: m.static_channels,
            use_wind: true,
            use_static: true,
            fire_embedding: m.fire_embedding.unwrap_or(FireEmbedding::Mean),
            hidden_sizes: m.hidden_sizes,
            decoder_width: m.decoder_width,
            base_channels: m.base,
            input_projection: m.input_projection,
            last_frame_skip: m.last_frame_skip,
        }
    }
}

impl<'a> GoldenFile<'a> {
    fn parse(name: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let complain =
            |what: String| Error::failed(name, what, "give a golden case as tests/golden/README.md describes it");
        extent::check(bytes).map_err(|defect| match defect {
            Defect::Truncated(what) => complain(format!("truncated: {what}")),
            Defect::Foreign(what) => complain(format!("no safetensors file: {what}")),
        })?;
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| complain(format!("no safetensors file: {e}")))?;
        let text = header.metadata().as_ref().and_then(|m| m.get("case"));
        let text = text.ok_or_else(|| complain("no metadata key \"case\"".into()))?;
        let case: Case = serde_json::from_str(text).map_err(|e| complain(format!("metadata key \"case\": {e}")))?;
        if case.steps > STEPS {
            return Err(complain(format!("{} Adam steps, {STEPS} are the most", case.steps)));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| complain(e.to_string()))?;
        Ok(Self { name, case, tensors })
    }

    fn complain(&self, what: String) -> Error {
        Error::failed(self.name, what, "give a golden case as tests/golden/README.md describes it")
    }

    /// A tensor in double precision, its shape and how it was stored.
    fn values(&self, tensor: &str) -> Result<(Vec<f64>, Vec<usize>, Dtype)> {
        let view = self.tensors.tensor(tensor).map_err(|_| self.complain(format!("no tensor {tensor}")))?;
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            Dtype::U8 => data.iter().map(|b| f64::from(*b)).collect(),
            other => return Err(self.complain(format!("tensor {tensor} of type {other:?}"))),
        };
        Ok((values, view.shape().to_vec(), view.dtype()))
    }

    fn shaped(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let (values, is, _) = self.values(tensor)?;
        match is == shape {
            true => Ok(values),
            false => Err(self.complain(format!("tensor {tensor} of shape {is:?}, {shape:?} expected"))),
        }
    }

    fn batch(&self) -> Result<(Inputs, Target)> {
        let (_, wind_shape, _) = self.values("input.wind")?;
        let &[batch, history, 2] = wind_shape.as_slice() else {
            return Err(self.complain(format!("tensor input.wind of shape {wind_shape:?}, [B, T, 2] expected")));
        };
        let ([rows, cols], patch) = (self.case.grid, self.case.model.patch);
        // Pixels of all frames, which the file holds one by one.
        let sizes = [batch, history, rows, cols, patch, patch];
        let held = self.tensors.tensor("input.fire_pixels").map_or(0, |view| view.data().len());
        let pixels = sizes.into_iter().try_fold(1, |product: usize, size| product.checked_mul(size));
        if pixels.is_none_or(|pixels| pixels == 0 || pixels > held) {
            return Err(self.complain(format!(
                "{batch} histories of {history} frames of {rows}x{cols} patches of {patch}x{patch} pixels do not fit \
                 the {held} bytes of the tensor input.fire_pixels"
            )));
        }
        let grid = Grid { rows, cols, patch };
        let (h, w, n) = (grid.height(), grid.width(), grid.patches());
        let f32s = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let bools = |values: Vec<f64>| values.into_iter().map(|x| x != 0.0).collect::<Vec<bool>>();
        let pack = |values: &[f64]| {
            values.chunks_exact(h * w).flat_map(|mask| grid.pack(|y, x| mask[y * w + x] != 0.0)).collect::<Vec<u64>>()
        };
        let inputs = Inputs {
            batch,
            history,
            grid,
            frames: pack(&self.shaped("input.fire_pixels", &[batch, history, h, w])?),
            wind: f32s(self.shaped("input.wind", &[batch, history, 2])?),
            statics: f32s(self.shaped("input.static", &[batch, n, self.case.model.static_channels])?),
            valid_steps: bools(self.shaped("input.valid_t", &[batch, history])?),
        };
        let target = Target {
            bits: pack(&self.shaped("input.target", &[batch, 1, h, w])?),
            valid_patches: bools(self.shaped("input.valid", &[batch, n])?),
        };
        Ok((inputs, target))
    }

    /// The loss, with the weights of the published experiments.
    fn loss(&self) -> Result<LossSettings> {
        match self.case.loss.as_str() {
            "focal_tversky" => Ok(LossSettings::FOCAL_TVERSKY),
            "bce_dice" => Ok(LossSettings::BCE_DICE),
            other => Err(self.complain(format!("unknown loss {other}"))),
        }
    }

    fn load_weights(&self, model: &mut EmberFormer) -> Result<()> {
        let tensors: Vec<_> = model.parameters().iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        for (name, shape) in tensors {
            model.parameters_mut().set_f64(&name, &self.shaped(&name, &shape)?)?;
        }
        Ok(())
    }

    fn compare(&self, quantity: &str, ours: &[f64], dtype: DType, whole: f64) -> Result<Check> {
        let (expected, shape, stored) = self.values(&format!("expected.{quantity}"))?;
        if expected.len() != ours.len() {
            return Err(self.complain(format!("expected.{quantity} of shape {shape:?} for {} values", ours.len())));
        }
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut ours.iter().zip(&expected).map(|(a, b)| a - b));
        let size = norm(&mut expected.iter().copied());
        let reference = if size < 1e-9 * whole { whole } else { size };
        let error = if difference == 0.0 { 0.0 } else { difference / reference };
        Ok(Check { quantity: quantity.into(), error, tolerance: tolerance(self.name, quantity, dtype, stored) })
    }

    /// All gradients as one vector, as half precision is measured.
    fn whole_gradient(&self, model: &EmberFormer) -> Result<Check> {
        let (mut difference, mut size) = (0.0, 0.0);
        for parameter in model.parameters().iter().filter(|p| p.kind != Kind::Buffer) {
            let expected = self.shaped(&format!("expected.grad.{}", parameter.name), &parameter.shape)?;
            let ours = model.parameters().gradient(&parameter.name)?.unwrap_or_else(|| vec![0.0; expected.len()]);
            difference += ours.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            size += expected.iter().map(|x| x * x).sum::<f64>();
        }
        let error = (difference / size).sqrt();
        Ok(Check { quantity: "grad".into(), error, tolerance: HalfPrecision::tolerance(self.name, "grad") })
    }

    fn adam_steps(
        &self,
        model: &mut EmberFormer,
        inputs: &Inputs,
        target: &Target,
        loss: &LossSettings,
        thresholds: &Thresholds,
        dtype: DType,
    ) -> Result<Vec<Check>> {
        let settings = AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: self.case.weight_decay };
        let mut adam = Adam::new(settings, model.parameters())?;
        self.shaped("expected.step_losses", &[self.case.steps])?;
        let mut losses = Vec::new();
        for step in 0..self.case.steps as u64 {
            losses.push(model.train_step(inputs, target, loss, thresholds, DropoutKey { seed: 0, step })?.loss);
            adam.step(model.parameters_mut(), &self.case.learning_rates, &[])?;
        }
        let mut checks = vec![self.compare("step_losses", &losses, dtype, 0.0)?];
        let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
        for name in names {
            let ours = model.parameters().get_f64(&name)?;
            checks.push(self.compare(&format!("after.{name}"), &ours, dtype, 0.0)?);
        }
        Ok(checks)
    }
}
