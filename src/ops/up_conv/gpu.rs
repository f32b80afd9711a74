//! Launches `kernels/up_conv.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, params};
use crate::ops::conv::gpu::{Kind, Side, pixel_strides};
use crate::ops::feature::{Feature, Norm};
use crate::ops::map::{Map, stored_channels};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// See [`super::up_conv`] and, where a `norm` follows, [`super::up_conv_norm`].
pub fn up_conv(tape: &mut Tape, gpu: &Gpu, input: &Feature, weight: &Var, norm: Option<Norm<'_>>) -> Result<Feature> {
    let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
    let map = Map::of(input.value.shape(), 1).with_channels(inputs);
    let output = Map { height: 2 * map.height, width: 2 * map.width, channels: outputs, ..map };
    let windows = |values: &Tensor, map: &Map, side| match side {
        Side::Input => phase_windows(values, map),
        Side::Gradient => pair_windows(values, map),
    };
    Kind { name: "up_conv", taps: 2, input: map, output, windows }.record(tape, gpu, input, weight, norm, 0)
}

/// The 2×2 pixels of x that phase (0, 0) sees; the kernel moves them by a line and a column for the other phases.
fn phase_windows(values: &Tensor, map: &Map) -> params::ConvWindows {
    let [_, height, width, channels] = pixel_strides(values);
    params::ConvWindows {
        values: values.gpu_address(),
        origin: -width * channels,
        batch_step: height * width * channels,
        row_step: width * channels,
        column_step: channels,
        line_step: width * channels,
        channels: stored_channels(map.channels) as u32,
        lines: 2,
        halves: 1,
        first_column: -1,
    }
}

/// The 4×4 pixels of dy that an input pixel reached, which begin at twice its place: pairs of columns, one tap each, whose
/// halves are lines of their own.
fn pair_windows(values: &Tensor, map: &Map) -> params::ConvWindows {
    let [_, height, width, channels] = pixel_strides(values);
    params::ConvWindows {
        values: values.gpu_address(),
        origin: -2 * (width + 1) * channels,
        batch_step: height * width * channels,
        row_step: 2 * width * channels,
        column_step: 2 * channels,
        line_step: width * channels,
        channels: stored_channels(map.channels) as u32,
        lines: 8,
        halves: 2,
        first_column: 0,
    }
}
