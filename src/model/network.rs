//! The forward pass, strung from ops.

use super::{DeviceInputs, EmberFormer, FireEmbedding, ModelSettings, Parameters};
use crate::Result;
use crate::ops::batch_norm::{Statistics, batch_norm_relu};
use crate::ops::conv::conv_norm;
use crate::ops::dropout::{Dropout, DropoutKey, dropout};
use crate::ops::feature::{Feature, Norm};
use crate::ops::feed_forward::{Layer, feed_forward};
use crate::ops::linear::{Activation, linear};
use crate::ops::map::Map;
use crate::ops::output_conv::output_conv;
use crate::ops::pyramid::{average_pool, resize_sum};
use crate::ops::refinement_input::{concat, to_map};
use crate::ops::self_attention::{Dropouts, Weights, self_attention};
use crate::ops::slice::slice;
use crate::ops::token_embedding::{Tokens, token_embedding};
use crate::ops::up_conv::up_conv_norm;
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// One forward pass: the tape, the model's tensors on it, and the running statistics, which a training pass moves.
pub(super) struct Pass<'a> {
    settings: &'a ModelSettings,
    parameters: &'a Parameters,
    activations: DType,
    inputs: &'a DeviceInputs,
    training: Option<DropoutKey>,
    pub tape: Tape,
    /// One for each tensor of the model, in its order.
    pub vars: Vec<Var>,
    /// Values of the running statistics, by the position of their tensor.
    pub statistics: Vec<Tensor>,
}

impl<'a> Pass<'a> {
    /// A pass with gradients where `recording`, with batch statistics and dropout where `training`.
    pub fn new(
        settings: &'a ModelSettings,
        model: &'a EmberFormer,
        inputs: &'a DeviceInputs,
        recording: bool,
        training: Option<DropoutKey>,
    ) -> Self {
        let EmberFormer { parameters, activations, .. } = model;
        let mut tape = Tape::new(parameters.device(), recording);
        let vars = parameters.iter().map(|p| tape.leaf(p.value.clone())).collect();
        let statistics = parameters.iter().map(|p| p.value.clone()).collect();
        Self { settings, parameters, activations: *activations, inputs, training, tape, vars, statistics }
    }

    /// Position of a tensor; the network only asks for names that its own settings put there.
    fn position(&self, name: &str) -> usize {
        match self.parameters.position(name) {
            Some(i) => i,
            None => unreachable!("{name} is not in the model's plan"),
        }
    }

    fn var(&self, name: &str) -> Var {
        self.vars[self.position(name)].clone()
    }

    fn layer(&mut self, x: &Var, name: &str, activation: Activation) -> Result<Var> {
        let (weight, bias) = (self.var(&format!("{name}.weight")), self.var(&format!("{name}.bias")));
        linear(&mut self.tape, x, &weight, Some(&bias), activation)
    }

    fn drop(&self, probability: f64, site: usize) -> Option<Dropout> {
        let key = self.training.filter(|_| probability > 0.0)?;
        Some(Dropout { probability, key, site: site as u32 })
    }

    /// Logits [B, H, W].
    pub fn logits(&mut self) -> Result<Var> {
        let tokens = self.embed()?; // [B·N, T, d]
        let features = self.temporal(tokens)?; // [B·N, d]
        let coarse = self.spatial(&features)?; // [B·N, 1]
        self.refine(&features, &coarse)
    }

    fn embed(&mut self) -> Result<Var> {
        let DeviceInputs { batch, history, grid, .. } = *self.inputs;
        let wind = if self.settings.use_wind {
            let wind = self.tape.constant(self.inputs.wind.clone());
            let hidden = self.layer(&wind, "token_embedder.wind_embed.0", Activation::Gelu(None))?; // [B·T, d/2]
            Some(self.layer(&hidden, "token_embedder.wind_embed.2", Activation::Identity)?) // [B·T, d]
        } else {
            None
        };
        let statics = if self.settings.use_static {
            let statics = self.tape.constant(self.inputs.statics.clone());
            Some(self.layer(&statics, "token_embedder.static_embed", Activation::Identity)?) // [B·N, d]
        } else {
            None
        };
        let (frames, ages) = (self.inputs.frames.clone(), self.inputs.ages.clone());
        let tokens = Tokens { batch, history, grid, frames, ages, activations: self.activations };
        let weight = self.var("token_embedder.fire_embed.weight");
        let bias = self.var("token_embedder.fire_embed.bias");
        token_embedding(&mut self.tape, &tokens, &weight, &bias, wind.as_ref(), statics.as_ref())
    }

    /// The last step's features [B·N, d]. Earlier steps serve the last layer as keys and values only.
    fn temporal(&mut self, mut x: Var) -> Result<Var> {
        let (d, p) = (self.settings.d_model, self.settings.dropout);
        let valid = self.inputs.valid_steps.clone();
        for l in 0..self.settings.layers {
            let name = |part: &str| format!("temporal_transformer.transformer.layers.{l}.{part}");
            let last = l + 1 == self.settings.layers;
            let weights = Weights {
                in_weight: self.var(&name("self_attn.in_proj_weight")),
                in_bias: self.var(&name("self_attn.in_proj_bias")),
                out_weight: self.var(&name("self_attn.out_proj.weight")),
                out_bias: self.var(&name("self_attn.out_proj.bias")),
                gamma: self.var(&name("norm1.weight")),
                beta: self.var(&name("norm1.bias")),
            };
            let dropouts = Dropouts { probabilities: self.drop(p, 4 * l), residual: self.drop(p, 4 * l + 1) };
            x = self_attention(&mut self.tape, &x, &weights, &valid, self.settings.heads, last, dropouts)?; // [R, T or 1, d]
            let parameters =
                ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias", "norm2.weight", "norm2.bias"];
            let [w1, b1, w2, b2, gamma, beta] = &parameters.map(|part| self.var(&name(part)));
            let [inner, outer] = [4 * l + 2, 4 * l + 3].map(|site| self.drop(p, site));
            x = feed_forward(&mut self.tape, &x, &Layer { w1, b1, w2, b2, gamma, beta, inner, outer })?;
        }
        let (rows, steps) = (x.shape()[0], x.shape()[1]);
        Ok(self.tape.reshape(&x, &[rows, steps * d]))
    }

    /// What `run` makes of the tape and of batch norm `name`: γ, β and statistics.
    fn with_norm<R>(&mut self, name: &str, run: impl FnOnce(&mut Tape, &Var, &Var, Statistics<'_>) -> R) -> R {
        let (gamma, beta) = (self.var(&format!("{name}.weight")), self.var(&format!("{name}.bias")));
        let mean = self.position(&format!("{name}.running_mean"));
        let var = self.position(&format!("{name}.running_var"));
        let (before, after) = self.statistics.split_at_mut(var);
        let statistics = match self.training {
            Some(_) => Statistics::Batch(&mut before[mean], &mut after[0]),
            None => Statistics::Running(&before[mean], &after[0]),
        };
        run(&mut self.tape, &gamma, &beta, statistics)
    }

    /// Coarse logits [B·N, 1]. Pooling, projection, fusing and resizing are all linear, so each level is pooled first and
    /// fused at its own size, and only their sum is made at full size.
    fn spatial(&mut self, features: &Var) -> Result<Var> {
        let (grid, batch, d) = (self.inputs.grid, self.inputs.batch, self.settings.d_model);
        let width = self.settings.decoder_width;
        let head = "spatial_decoder.segformer.decode_head";
        let fuse = self.var(&format!("{head}.linear_fuse.weight"));
        let map = self.tape.reshape(features, &[batch, grid.rows, grid.cols, d]);
        let mut levels = Vec::new();
        for i in 0..4 {
            let x = average_pool(&mut self.tape, &map, 1 << i)?; // [B, Gy / 2^i, Gx / 2^i, d]
            let x = self.layer(&x, &format!("spatial_decoder.feature_projections.{i}"), Activation::Identity)?;
            let x = self.layer(&x, &format!("{head}.linear_c.{i}.proj"), Activation::Identity)?;
            let columns = (3 - i) * width..(4 - i) * width; // levels are concatenated from the coarsest on
            let weight = self.tape.reshape(&fuse, &[width, 4 * width]);
            let weight = slice(&mut self.tape, &weight, 0..width, columns)?;
            levels.push(linear(&mut self.tape, &x, &weight, None, Activation::Identity)?);
        }
        let x = resize_sum(&mut self.tape, &levels, grid.rows, grid.cols)?; // [B, Gy, Gx, D]
        drop(levels);
        let x = self.with_norm(&format!("{head}.batch_norm"), |tape, gamma, beta, statistics| {
            batch_norm_relu(tape, &x, gamma, beta, statistics, 0, None)
        })?;
        let drop = self.drop(self.settings.head_dropout, 4 * self.settings.layers);
        let x = dropout(&mut self.tape, &x, drop)?;
        let coarse = self.layer(&x, &format!("{head}.classifier"), Activation::Identity)?;
        Ok(self.tape.reshape(&coarse, &[batch * grid.patches(), 1]))
    }

    fn refine(&mut self, features: &Var, coarse: &Var) -> Result<Var> {
        let (grid, batch) = (self.inputs.grid, self.inputs.batch);
        let mut x = concat(&mut self.tape, features, coarse)?; // [B·N, d + 1]
        if self.settings.input_projection {
            x = self.layer(&x, "refinement_decoder.input_proj", Activation::Identity)?;
        }
        let map = Map { batch, height: grid.rows, width: grid.cols, channels: x.shape()[1], halo: 1 };
        let mut x: Feature = to_map(&mut self.tape, &x, map)?.into();
        let stages = self.settings.stages().len();
        let mask = self.settings.last_frame_skip.then(|| self.inputs.last.clone());
        for stage in 0..stages {
            let name = |i: usize| format!("refinement_decoder.upsample_layers.{}", 6 * stage + i);
            let skip = mask.as_ref().filter(|_| stage + 1 == stages);
            let weight = self.var(&format!("{}.weight", name(0)));
            x = self.with_norm(&name(1), |tape, gamma, beta, statistics| {
                up_conv_norm(tape, &x, &weight, Norm { gamma, beta, statistics, append: skip }) // [B, 2h, 2w, c]
            })?;
            let weight = self.var(&format!("{}.weight", name(3)));
            x = self.with_norm(&name(4), |tape, gamma, beta, statistics| {
                let norm = Norm { gamma, beta, statistics, append: skip };
                conv_norm(tape, &x, &weight, norm, usize::from(skip.is_some()))
            })?;
        }
        let weight = self.var("refinement_decoder.output_conv.weight");
        let bias = self.var("refinement_decoder.output_conv.bias");
        output_conv(&mut self.tape, &x, &weight, &bias, usize::from(mask.is_some()))
    }
}

impl ModelSettings {
    /// Inputs of the fire embedding: 1, or a patch's pixels.
    pub fn fire_inputs(&self) -> usize {
        match self.fire_embedding {
            FireEmbedding::Mean => 1,
            FireEmbedding::Pixels => self.patch * self.patch,
        }
    }

    /// Output channels of each refinement stage.
    pub fn stages(&self) -> Vec<usize> {
        let (mut channels, mut stages) = (4 * self.base_channels, Vec::new());
        for _ in 0..self.patch.ilog2() {
            stages.push(channels);
            channels = self.base_channels.max(channels / 2);
        }
        stages
    }
}
