//! Token embedding: the sum of a patch's fire, the step's wind, the patch's statics and the step's position.
//!
//! fire: patch bits [B, T, N, words]; W_f [d, 1] on the burned fraction or [d, P²] on the pixels, b_f `[d]`; wind tokens
//! [B·T, d]; static tokens [B·N, d] → tokens [B·N, T, d]. Positions are sinusoidal and count from a sample's first real
//! step: PE[p, 2i] = sin(p·10000^(−2i/d)), PE[p, 2i+1] = cos(p·10000^(−2i/d)) (Vaswani et al., "Attention is all you
//! need", 2017).

pub mod cpu;
mod gpu;

use crate::device::{Array, Device};
use crate::patch::Grid;
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::{Result, with_real};

/// What a batch's tokens are made from.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Samples B.
    pub batch: usize,
    /// Steps T.
    pub history: usize,
    /// Patch grid of N patches.
    pub grid: Grid,
    /// Burning pixels, [B, T, N, words].
    pub frames: Array<u64>,
    /// Position of a step within its sample's own history, [B, T]; 0 for padding.
    pub ages: Array<u32>,
    /// Type of the tokens on a GPU; on the CPU it is the weights'.
    pub activations: DType,
}

/// The tokens, [B·N, T, d].
pub fn token_embedding(
    tape: &mut Tape,
    tokens: &Tokens,
    weight: &Var,
    bias: &Var,
    wind: Option<&Var>,
    statics: Option<&Var>,
) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::token_embedding(tape, &gpu, tokens, weight, bias, wind, statics),
    };
    let (d, inputs) = (weight.shape()[0], weight.shape()[1]);
    let shape = [tokens.batch * tokens.grid.patches(), tokens.history, d];
    let y = with_real!(weight.value().dtype(), E => {
        let terms = cpu::Terms::<E> {
            weight: weight.value().cpu(),
            bias: bias.value().cpu(),
            wind: wind.map(|w| w.value().cpu()),
            statics: statics.map(|s| s.value().cpu()),
        };
        Tensor::from_buffer(&shape, cpu::forward(&cpu, tokens, &terms, d))
    });
    let (weight, bias, tokens) = (weight.id(), bias.id(), tokens.clone());
    let (wind, statics) = (wind.map(Var::id), statics.map(Var::id));
    Ok(tape.record(y, move |dy, gradients| {
        with_real!(dy.dtype(), E => {
            let grads = cpu::backward::<E>(&cpu, &tokens, dy.cpu(), d, inputs);
            gradients.add(weight, Tensor::from_buffer(&[d, inputs], grads.weight))?;
            gradients.add(bias, Tensor::from_buffer(&[d], grads.bias))?;
            if let Some(wind) = wind {
                gradients.add(wind, Tensor::from_buffer(&[tokens.batch * tokens.history, d], grads.wind))?;
            }
            if let Some(statics) = statics {
                gradients.add(statics, Tensor::from_buffer(&[tokens.batch * tokens.grid.patches(), d], grads.statics))?;
            }
        });
        Ok(())
    }))
}
