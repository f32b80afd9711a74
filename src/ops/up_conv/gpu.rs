//! Launches `kernels/up_conv.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, params};
use crate::ops::conv::gpu::Kind;
use crate::ops::map::{Map, stored_channels};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// See [`super::up_conv`].
pub fn up_conv(tape: &mut Tape, gpu: &Gpu, x: &Var, weight: &Var) -> Result<Var> {
    let stored = Map::of(x.shape(), 1);
    let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
    let input = stored.with_channels(inputs);
    assert_eq!(stored_channels(inputs), stored.channels, "up_conv: {:?} by {:?}", x.shape(), weight.shape());
    let output = Map { height: 2 * input.height, width: 2 * input.width, channels: outputs, ..input };
    let kind = Kind { name: "up_conv", taps: 2, inputs, outputs };
    let y = gpu.tensor(x.value().dtype(), &output.stored_shape())?;
    kind.gemm(gpu, &phase_windows(x.value(), &input), weight.value(), &input, &y, &output, false)?;
    let (gpu, x, weight) = (gpu.clone(), x.clone(), weight.clone());
    Ok(tape.record(y, move |dy, gradients| {
        let windows = pair_windows(&dy, &output);
        let dw = kind.weight_gradient(&gpu, &windows, x.value(), &input, weight.shape())?;
        gradients.add(weight.id(), dw)?;
        let id = x.id();
        drop(x);
        let dx = gpu.tensor(dy.dtype(), &input.stored_shape())?;
        kind.gemm(&gpu, &windows, weight.value(), &input, &dx, &input, true)?;
        gradients.add(id, dx)
    }))
}

/// The 2×2 pixels of x that phase (0, 0) sees; the kernel moves them by a line and a column for the other phases.
fn phase_windows(x: &Tensor, map: &Map) -> params::ConvWindows {
    let [_, height, width, channels] = map.stored_shape().map(|n| n as i64);
    params::ConvWindows {
        values: x.gpu_address(),
        origin: -width * channels,
        batch_step: height * width * channels,
        row_step: width * channels,
        column_step: channels,
        line_step: width * channels,
        channels: channels as u32,
        lines: 2,
        halves: 1,
        first_column: -1,
    }
}

/// The 4×4 pixels of dy that an input pixel reached, which begin at twice its place: pairs of columns, one tap each, whose
/// halves are lines of their own.
fn pair_windows(dy: &Tensor, map: &Map) -> params::ConvWindows {
    let [_, height, width, channels] = map.stored_shape().map(|n| n as i64);
    params::ConvWindows {
        values: dy.gpu_address(),
        origin: -2 * (width + 1) * channels,
        batch_step: height * width * channels,
        row_step: 2 * width * channels,
        column_step: 2 * channels,
        line_step: width * channels,
        channels: channels as u32,
        lines: 8,
        halves: 2,
        first_column: 0,
    }
}
