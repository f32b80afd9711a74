//! Parameters and running statistics under their checkpoint names, with PyTorch's initial values.

use super::ModelSettings;
use crate::device::Device;
use crate::ops::gradient_norm::gradient_norm;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The part of the network a parameter belongs to, for learning rates and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Token embedder and temporal transformer.
    Temporal,
    /// Spatial decoder.
    Spatial,
    /// Refinement decoder.
    Refinement,
}

impl Group {
    /// All of them, in the order of the network.
    pub const ALL: [Self; 3] = [Self::Temporal, Self::Spatial, Self::Refinement];
}

/// What a tensor of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Trained by the optimiser.
    Weight(Group),
    /// A running statistic of a batch norm.
    Buffer,
}

/// How a tensor begins.
#[derive(Debug, Clone, Copy)]
enum Init {
    Uniform(f64),
    Normal(f64),
    Constant(f64),
}

/// A named tensor of the model.
pub struct Parameter {
    /// Name in checkpoints.
    pub name: String,
    /// Shape in checkpoints: linear [out, in], convolution [out, in, kh, kw], transposed [in, out, kh, kw].
    pub shape: Vec<usize>,
    /// Weight or running statistic.
    pub kind: Kind,
    pub(crate) value: Tensor,
    pub(crate) gradient: Option<Tensor>,
}

/// All tensors of a model: weights and running statistics, in the order of the network.
pub struct Parameters {
    device: Device,
    dtype: DType,
    all: Vec<Parameter>,
    by_name: HashMap<String, usize>,
}

impl Parameters {
    /// The tensors of a model with fresh values drawn from `seed`.
    ///
    /// # Errors
    /// Where the device's memory runs out.
    pub fn new(settings: &ModelSettings, device: &Device, dtype: DType, seed: u64) -> Result<Self> {
        let mut plan = Plan::default();
        plan.model(settings);
        let all: Vec<Parameter> = plan
            .tensors
            .into_iter()
            .enumerate()
            .map(|(i, (name, shape, kind, init))| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(i as u64);
                let values = (0..shape.iter().product::<usize>()).map(|_| init.draw(&mut rng));
                let values: Vec<f64> = values.map(|x| f64::from(x as f32)).collect();
                let value = Tensor::from_host(device, dtype, &shape, values.into_iter())?;
                Ok(Parameter { name, shape, kind, value, gradient: None })
            })
            .collect::<Result<_>>()?;
        let by_name = all.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        Ok(Self { device: device.clone(), dtype, all, by_name })
    }

    /// Every tensor in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.all.iter_mut()
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The device that holds them.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The values of a tensor, copied to the host.
    ///
    /// # Errors
    /// Where there is no such tensor, or what the device reports.
    pub fn get(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.get_f64(name)?.into_iter().map(|x| x as f32).collect())
    }

    /// The values of a tensor in double precision, copied to the host.
    ///
    /// # Errors
    /// See [`Parameters::get`].
    pub fn get_f64(&self, name: &str) -> Result<Vec<f64>> {
        match self.position(name) {
            Some(i) => self.all[i].value.to_host(),
            None => Err(unknown(name)),
        }
    }

    /// Overwrites a tensor.
    ///
    /// # Errors
    /// Where there is no such tensor or its length is another.
    pub fn set(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.set_f64(name, &values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>())
    }

    /// Overwrites a tensor with values in double precision; see [`Parameters::set`].
    ///
    /// # Errors
    /// Where there is no such tensor or its length is another.
    pub fn set_f64(&mut self, name: &str, values: &[f64]) -> Result<()> {
        let Some(i) = self.position(name) else { return Err(unknown(name)) };
        let parameter = &mut self.all[i];
        if parameter.value.len() != values.len() {
            return Err(Error::failed(
                name,
                format_args!("{} values for shape {:?}", values.len(), parameter.shape),
                "use weights of the same configuration",
            ));
        }
        parameter.value = Tensor::from_host(&self.device, self.dtype, &parameter.shape, values.iter().copied())?;
        Ok(())
    }

    /// The gradient of the last training step, copied to the host; none for running statistics and before a step.
    ///
    /// # Errors
    /// What the device reports.
    pub fn gradient(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.position(name).and_then(|i| self.all[i].gradient.as_ref().map(Tensor::to_host)).transpose()
    }

    /// Forgets all gradients.
    pub(crate) fn clear_gradients(&mut self) {
        self.all.iter_mut().for_each(|parameter| parameter.gradient = None);
    }

    /// Euclidean norm of the gradients of `groups` together.
    ///
    /// # Errors
    /// What the device reports.
    pub fn gradient_norm(&self, groups: &[Group]) -> Result<f64> {
        let gradients = self.all.iter().filter(|p| matches!(p.kind, Kind::Weight(group) if groups.contains(&group)));
        gradient_norm(&self.device, &gradients.filter_map(|p| p.gradient.as_ref()).collect::<Vec<_>>())
    }

    /// Multiplies every gradient, as gradient clipping does.
    ///
    /// # Errors
    /// What the device reports.
    pub fn scale_gradients(&mut self, factor: f64) -> Result<()> {
        let device = &self.device;
        self.all.iter_mut().filter_map(|p| p.gradient.as_mut()).try_for_each(|g| g.scale(device, factor))
    }
}

fn unknown(name: &str) -> Error {
    Error::failed(name, "the model has no such tensor", "use weights of the same configuration")
}

impl Init {
    fn draw(self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Uniform(bound) => rng.random_range(-1.0..=1.0) * bound,
            // Box-Muller
            Self::Normal(deviation) => {
                let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
            }
            Self::Constant(value) => value,
        }
    }
}

/// The list of tensors that a configuration calls for.
#[derive(Default)]
struct Plan {
    tensors: Vec<(String, Vec<usize>, Kind, Init)>,
}

impl Plan {
    fn add(&mut self, group: Group, name: &str, shape: &[usize], init: Init) {
        self.tensors.push((name.to_string(), shape.to_vec(), Kind::Weight(group), init));
    }

    /// Weight and bias of a linear layer or convolution, U(±1/√fan_in).
    fn layer(&mut self, group: Group, name: &str, shape: &[usize]) {
        let init = Init::Uniform(1.0 / (shape[1..].iter().product::<usize>() as f64).sqrt());
        self.add(group, &format!("{name}.weight"), shape, init);
        self.add(group, &format!("{name}.bias"), &shape[..1], init);
    }

    fn norm(&mut self, group: Group, name: &str, channels: usize) {
        self.add(group, &format!("{name}.weight"), &[channels], Init::Constant(1.0));
        self.add(group, &format!("{name}.bias"), &[channels], Init::Constant(0.0));
    }

    fn batch_norm(&mut self, group: Group, name: &str, channels: usize) {
        self.norm(group, name, channels);
        for (what, value) in [("running_mean", 0.0), ("running_var", 1.0)] {
            self.tensors.push((format!("{name}.{what}"), vec![channels], Kind::Buffer, Init::Constant(value)));
        }
    }

    fn model(&mut self, s: &ModelSettings) {
        self.temporal(s);
        self.spatial(s);
        self.refinement(s);
    }

    fn temporal(&mut self, s: &ModelSettings) {
        let (group, d) = (Group::Temporal, s.d_model);
        self.layer(group, "token_embedder.fire_embed", &[d, s.fire_inputs()]);
        if s.use_wind {
            self.layer(group, "token_embedder.wind_embed.0", &[d / 2, 2]);
            self.layer(group, "token_embedder.wind_embed.2", &[d, d / 2]);
        }
        if s.use_static {
            self.layer(group, "token_embedder.static_embed", &[d, s.static_channels]);
        }
        for l in 0..s.layers {
            let name = |part: &str| format!("temporal_transformer.transformer.layers.{l}.{part}");
            let xavier = Init::Uniform((6.0 / (d + 3 * d) as f64).sqrt());
            self.add(group, &name("self_attn.in_proj_weight"), &[3 * d, d], xavier);
            self.add(group, &name("self_attn.in_proj_bias"), &[3 * d], Init::Constant(0.0));
            let uniform = Init::Uniform(1.0 / (d as f64).sqrt());
            self.add(group, &name("self_attn.out_proj.weight"), &[d, d], uniform);
            self.add(group, &name("self_attn.out_proj.bias"), &[d], Init::Constant(0.0));
            self.layer(group, &name("linear1"), &[s.feedforward, d]);
            self.layer(group, &name("linear2"), &[d, s.feedforward]);
            self.norm(group, &name("norm1"), d);
            self.norm(group, &name("norm2"), d);
        }
    }

    fn spatial(&mut self, s: &ModelSettings) {
        let (group, width) = (Group::Spatial, s.decoder_width);
        let head = "spatial_decoder.segformer.decode_head";
        for (i, c) in s.hidden_sizes.iter().enumerate() {
            self.layer(group, &format!("spatial_decoder.feature_projections.{i}"), &[*c, s.d_model, 1, 1]);
        }
        for (i, c) in s.hidden_sizes.iter().enumerate() {
            self.add(group, &format!("{head}.linear_c.{i}.proj.weight"), &[width, *c], Init::Normal(0.02));
            self.add(group, &format!("{head}.linear_c.{i}.proj.bias"), &[width], Init::Constant(0.0));
        }
        self.add(group, &format!("{head}.linear_fuse.weight"), &[width, 4 * width, 1, 1], Init::Normal(0.02));
        self.batch_norm(group, &format!("{head}.batch_norm"), width);
        self.add(group, &format!("{head}.classifier.weight"), &[1, width, 1, 1], Init::Normal(0.02));
        self.add(group, &format!("{head}.classifier.bias"), &[1], Init::Constant(0.0));
    }

    fn refinement(&mut self, s: &ModelSettings) {
        let group = Group::Refinement;
        let skip = usize::from(s.last_frame_skip);
        let mut inputs = s.d_model + 1;
        if s.input_projection {
            self.layer(group, "refinement_decoder.input_proj", &[4 * s.base_channels, inputs, 1, 1]);
            inputs = 4 * s.base_channels;
        }
        let stages = s.stages();
        for (stage, outputs) in stages.iter().copied().enumerate() {
            let name = |i: usize, part: &str| format!("refinement_decoder.upsample_layers.{}{part}", 6 * stage + i);
            let up = Init::Uniform(1.0 / ((outputs * 16) as f64).sqrt());
            self.add(group, &name(0, ".weight"), &[inputs, outputs, 4, 4], up);
            self.batch_norm(group, &name(1, ""), outputs);
            let conv_inputs = outputs + if stage + 1 == stages.len() { skip } else { 0 };
            let conv = Init::Uniform(1.0 / ((conv_inputs * 9) as f64).sqrt());
            self.add(group, &name(3, ".weight"), &[outputs, conv_inputs, 3, 3], conv);
            self.batch_norm(group, &name(4, ""), outputs);
            inputs = outputs;
        }
        self.layer(group, "refinement_decoder.output_conv", &[1, inputs + skip, 1, 1]);
    }
}
