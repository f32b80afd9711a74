//! Launches `kernels/conv.cu`, and the products of `kernels/include/conv.cuh` for `ops/up_conv` too.

use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::map::{Map, stored_channels};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Most pixels that one partial weight gradient sums: float sums stay accurate.
const MOST_PIXELS: usize = 8192;
/// Blocks that a weight gradient is split into where it has pixels enough: two for each of 84 multiprocessors, four times
/// over. The same on every device, as the gradient then is.
const BLOCKS: usize = 672;

/// See [`super::conv`].
pub fn conv(tape: &mut Tape, gpu: &Gpu, x: &Var, weight: &Var, passive: usize) -> Result<Var> {
    let stored = Map::of(x.shape(), 1);
    let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
    let input = stored.with_channels(inputs);
    assert_eq!(stored_channels(inputs), stored.channels, "conv: {:?} by {:?}", x.shape(), weight.shape());
    let output = input.with_channels(outputs);
    let kind = Kind { name: "conv", taps: 3, inputs, outputs };
    let y = gpu.tensor(x.value().dtype(), &output.stored_shape())?;
    kind.gemm(gpu, &windows(x.value(), &input), weight.value(), &input, &y, &output, false)?;
    let (gpu, x, weight) = (gpu.clone(), x.clone(), weight.clone());
    Ok(tape.record(y, move |dy, gradients| {
        let dw = kind.weight_gradient(&gpu, &windows(x.value(), &input), &dy, &output, weight.shape())?;
        gradients.add(weight.id(), dw)?;
        let id = x.id();
        drop(x);
        let dx_map = input.with_channels(inputs - passive);
        let dx = gpu.tensor(dy.dtype(), &dx_map.stored_shape())?;
        kind.gemm(&gpu, &windows(&dy, &output), weight.value(), &output, &dx, &dx_map, true)?;
        gradients.add(id, dx)
    }))
}

/// The windows of three lines and three columns around a map's pixels.
fn windows(x: &Tensor, map: &Map) -> params::ConvWindows {
    let [_, height, width, channels] = map.stored_shape().map(|n| n as i64);
    params::ConvWindows {
        values: x.gpu_address(),
        origin: -width * channels,
        batch_step: height * width * channels,
        row_step: width * channels,
        column_step: channels,
        line_step: width * channels,
        channels: channels as u32,
        lines: 3,
        halves: 1,
        first_column: -1,
    }
}

/// Which of the convolutions.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Kind {
    /// What its kernels' names begin with.
    pub name: &'static str,
    /// Taps of a line.
    pub taps: usize,
    /// Input channels of the weight.
    pub inputs: usize,
    /// Output channels of the weight.
    pub outputs: usize,
}

impl Kind {
    /// to = windows · weight for every pixel of `grid`, whose batch and extent count; `to_map` may be larger than it by a
    /// whole factor. `backward` takes the weight as the input's gradient needs it.
    #[allow(clippy::too_many_arguments)]
    pub fn gemm(
        &self,
        gpu: &Gpu,
        windows: &params::ConvWindows,
        weight: &Tensor,
        grid: &Map,
        to: &Tensor,
        to_map: &Map,
        backward: bool,
    ) -> Result<()> {
        let dtype = to.dtype();
        let [batch, height, width, _] = grid.shape();
        let channels = stored_channels(to_map.channels);
        let pixels = self.pixels(grid)?;
        let scale = to_map.height / grid.height;
        let sizes: &[usize] = if dtype == DType::BF16 { &[128, 64, 32] } else { &[64, 32] };
        let tile = tile(channels, sizes);
        let (tiles, phases) = (channels.div_ceil(tile), scale * scale);
        let chunk = 32 / dtype.bytes();
        let chunks = (windows.channels as usize).div_ceil(chunk);
        let len = phases * tiles * windows.lines as usize * chunks * self.taps * chunk * tile;
        let panel = gpu.tensor(dtype, &[len])?;
        let params = params::ConvPack {
            panel: panel.gpu_address(),
            weight: weight.gpu_address().cast(),
            len: len as u64,
            inputs: self.inputs as u32,
            outputs: self.outputs as u32,
            tiles: tiles as u32,
            tile: tile as u32,
            chunks: chunks as u32,
            backward: backward.into(),
        };
        let launch = Launch::linear(len.div_ceil(256).min(4096), 256);
        gpu.launch_for(&format!("{}_pack", self.name), dtype, launch, &params)?;

        // As in `kernels/include/conv.cuh`: the ring of buffers, afterwards the sums on their way out.
        let rows = if tile > 128 / dtype.bytes() { 128 } else { 256 };
        let stages = if tile == 32 { 2 } else { 3 };
        let ring = stages * 32 * (rows + self.taps - 1 + self.taps * tile);
        let staged = if dtype == DType::BF16 { rows * (tile + 8) * 2 } else { 0 };
        let params = params::ConvGemm {
            windows: *windows,
            panel: panel.gpu_address(),
            output: to.gpu_address(),
            batch: batch as u32,
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            scale: scale as u32,
        };
        let shared = ring.max(staged + 8 * rows) as u32;
        let launch = Launch { shared, ..Launch::linear(pixels.div_ceil(rows) * phases * tiles, 256) };
        gpu.launch_for(&format!("{}_{tile}", self.name), dtype, launch, &params)
    }

    /// The gradient of the weight, of shape `shape`: windowsᵀ · centers, summed over the pixels of `grid`, whose channels
    /// are those of the centers.
    pub fn weight_gradient(
        &self,
        gpu: &Gpu,
        windows: &params::ConvWindows,
        centers: &Tensor,
        grid: &Map,
        shape: &[usize],
    ) -> Result<Tensor> {
        let dtype = centers.dtype();
        let [batch, height, width, _] = grid.shape();
        let pixels = self.pixels(grid)?;
        let (lines, wide, tall) = (windows.lines as usize, windows.channels as usize, stored_channels(grid.channels));
        let (wide_tile, tall_tile) = (tile(wide, &[64, 32]), tile(tall, &[64, 32]));
        let tiles = lines * wide.div_ceil(wide_tile) * tall.div_ceil(tall_tile);
        let step = 128 / dtype.bytes();
        let splits = BLOCKS.div_ceil(tiles).min(pixels.div_ceil(1024)).max(pixels.div_ceil(MOST_PIXELS));
        let split = pixels.div_ceil(splits).next_multiple_of(step);
        let splits = pixels.div_ceil(split);
        let partials = gpu.tensor(DType::F32, &[splits, lines, self.taps, wide, tall])?;
        let params = params::ConvWeightGradient {
            windows: *windows,
            centers: centers.gpu_address(),
            partials: partials.gpu_address().cast(),
            batch: batch as u32,
            height: height as u32,
            width: width as u32,
            center_channels: tall as u32,
            split: split as u32,
        };
        // As in `kernels/include/conv.cuh`: the ring of three buffers, afterwards the sums of one group of threads.
        let ring = 3 * dtype.bytes() * ((step + self.taps - 1) * wide_tile + step * tall_tile);
        let groups = 4096 / (wide_tile * tall_tile);
        let shared = ring.max(if groups > 1 { 4 * 16 * self.taps * 256 / groups } else { 0 }) as u32;
        let launch = Launch { shared, ..Launch::linear(splits * tiles, 256) };
        let name = format!("{}_weight_{wide_tile}x{tall_tile}", self.name);
        gpu.launch_for(&name, dtype, launch, &params)?;

        let gradient = gpu.tensor(DType::F32, shape)?;
        let params = params::ConvWeightSum {
            gradient: gradient.gpu_address().cast(),
            partials: partials.gpu_address().cast(),
            splits: splits as u32,
            inputs: self.inputs as u32,
            outputs: self.outputs as u32,
            window_channels: wide as u32,
            center_channels: tall as u32,
        };
        let launch = Launch { shared: 1024, ..Launch::linear(lines * self.taps * wide * tall / 32, 256) };
        gpu.launch(&format!("{}_weight_sum", self.name), launch, &params)?;
        Ok(gradient)
    }

    /// Pixels of the grid, border included, which kernels count in 32 bits.
    fn pixels(&self, grid: &Map) -> Result<usize> {
        let [batch, height, width, _] = grid.shape();
        let pixels = batch * height * width;
        // They look at pixels of the sample before the first, and of a tile or split beyond the last.
        if pixels + height * width + 2 * MOST_PIXELS < 1 << 31 {
            return Ok(pixels);
        }
        Err(Error::failed(
            self.name,
            format_args!("a map of {pixels} pixels is beyond what its kernels count"),
            "use a smaller data.batch_size",
        ))
    }
}

/// The size, of `sizes` from the largest on, whose tiles leave the fewest of `channels` empty.
fn tile(channels: usize, sizes: &[usize]) -> usize {
    sizes.iter().copied().min_by_key(|size| channels.next_multiple_of(*size)).unwrap_or(32)
}
