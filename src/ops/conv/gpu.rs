//! Launches `kernels/conv.cu`, and the products of `kernels/include/conv.cuh` for `ops/up_conv` too.

use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::batch_norm::{Statistics, gpu as batch_norm};
use crate::ops::feature::{Feature, Norm, Pending};
use crate::ops::map::{Map, stored_channels};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use std::ptr;

/// Most pixels that one partial weight gradient sums: float sums stay accurate.
const MOST_PIXELS: usize = 8192;
/// Blocks that a weight gradient is split into where it has pixels enough: two for each of 84 multiprocessors, four times
/// over. The same on every device, as the gradient then is.
const BLOCKS: usize = 672;

/// See [`super::conv`] and, where a `norm` follows, [`super::conv_norm`].
pub fn conv(
    tape: &mut Tape,
    gpu: &Gpu,
    input: &Feature,
    weight: &Var,
    norm: Option<Norm<'_>>,
    passive: usize,
) -> Result<Feature> {
    let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
    let map = Map::of(input.value.shape(), 1).with_channels(inputs);
    let kind = Kind {
        name: "conv",
        taps: 3,
        input: map,
        output: map.with_channels(outputs),
        windows: |x, map, _| windows(x, map),
    };
    kind.record(tape, gpu, input, weight, norm, passive)
}

/// The windows of three lines and three columns around a map's pixels.
fn windows(x: &Tensor, map: &Map) -> params::ConvWindows {
    let [_, height, width, channels] = pixel_strides(x);
    params::ConvWindows {
        values: x.gpu_address(),
        origin: -width * channels,
        batch_step: height * width * channels,
        row_step: width * channels,
        column_step: channels,
        line_step: width * channels,
        channels: stored_channels(map.channels) as u32,
        lines: 3,
        halves: 1,
        first_column: -1,
    }
}

/// The shape of a map as it is stored, of which its reader may see a channel more.
pub(in crate::ops) fn pixel_strides(x: &Tensor) -> [i64; 4] {
    let shape = x.shape();
    [shape[0], shape[1], shape[2], shape[3]].map(|n| n as i64)
}

/// What a product reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Side {
    /// The input, for the output.
    Input,
    /// The output's gradient, for the input's.
    Gradient,
}

/// One of the convolutions: 3×3 with three taps a line, or transposed with two.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Kind {
    /// What its kernels' names begin with.
    pub name: &'static str,
    /// Taps of a line.
    pub taps: usize,
    /// The input as the weight sees it.
    pub input: Map,
    /// The output.
    pub output: Map,
    /// Where the windows lie in the input, or in the output's gradient, whose map is given.
    pub windows: fn(&Tensor, &Map, Side) -> params::ConvWindows,
}

/// What a product makes on its way out.
enum Sums<'a> {
    None,
    /// The moments of the output.
    Moments,
    /// The output is the gradient at this batch norm + ReLU of x: it passes the ReLU, and there are sums for γ and β.
    Gradient(&'a Tensor, &'a Pending),
}

impl Kind {
    /// The op on the tape.
    pub fn record(
        self,
        tape: &mut Tape,
        gpu: &Gpu,
        input: &Feature,
        weight: &Var,
        norm: Option<Norm<'_>>,
        passive: usize,
    ) -> Result<Feature> {
        let Feature { value: x, pending } = input.clone();
        let stored = pending.as_ref().map_or(self.input.channels, |pending| pending.channels);
        let appended = pending.as_ref().is_some_and(|pending| pending.mask.is_some());
        assert_eq!(stored_channels(stored), x.shape()[3], "{}: {:?} by {:?}", self.name, x.shape(), weight.shape());
        if pending.is_some() {
            assert_eq!((stored + usize::from(appended), passive), (self.input.channels, usize::from(appended)));
        }
        let y = gpu.tensor(x.value().dtype(), &self.output.stored_shape())?;
        let sums = match &norm {
            Some(Norm { statistics: Statistics::Batch(..), .. }) => Sums::Moments,
            _ => Sums::None,
        };
        let partials =
            self.gemm(gpu, Side::Input, x.value(), pending.as_ref(), weight.value(), &y, &self.output, sums)?;
        let after = match norm {
            None => None,
            Some(Norm { gamma, beta, statistics, append }) => {
                let of_batch = matches!(statistics, Statistics::Batch(..));
                let channels = self.output.channels;
                let (g, b) = (gamma.value(), beta.value());
                let affine = batch_norm::affine(gpu, channels, partials.as_ref(), (g, b), statistics)?;
                let (gamma, beta, mask) = (gamma.id(), beta.id(), append.cloned());
                Some(Pending { affine, gamma, beta, channels, of_batch, mask })
            }
        };
        let (gpu, weight) = (gpu.clone(), weight.clone());
        let value = tape.record(y, move |dy, gradients| {
            let dw = self.weight_gradient(&gpu, x.value(), pending.as_ref(), &dy, weight.shape())?;
            gradients.add(weight.id(), dw)?;
            let id = x.id();
            let map = self.input.with_channels(self.input.channels - passive);
            let mut dx = gpu.tensor(dy.dtype(), &map.stored_shape())?;
            let Some(pending) = pending else {
                drop(x);
                self.gemm(&gpu, Side::Gradient, &dy, None, weight.value(), &dx, &map, Sums::None)?;
                return gradients.add(id, dx);
            };
            let sums = Sums::Gradient(x.value(), &pending);
            let partials = self.gemm(&gpu, Side::Gradient, &dy, None, weight.value(), &dx, &map, sums)?;
            drop(dy);
            if let Some(partials) = partials {
                let (dgamma, dbeta) = batch_norm::parameter_gradients(&gpu, &partials)?;
                batch_norm::input_gradient(&gpu, &map, &mut dx, x.value(), &pending, (&dgamma, &dbeta))?;
                gradients.add(pending.gamma, dgamma)?;
                gradients.add(pending.beta, dbeta)?;
            }
            gradients.add(id, dx)
        });
        Ok(Feature { value, pending: after })
    }

    /// to = windows · weight, or where the windows are the gradient's its transpose, for every pixel of the smaller map; `map`
    /// is that of `to`. Returns the partial sums, where there are any.
    #[allow(clippy::too_many_arguments)]
    fn gemm(
        &self,
        gpu: &Gpu,
        side: Side,
        from: &Tensor,
        pending: Option<&Pending>,
        weight: &Tensor,
        to: &Tensor,
        map: &Map,
        sums: Sums<'_>,
    ) -> Result<Option<Tensor>> {
        let dtype = to.dtype();
        let [batch, height, width, _] = self.input.shape(); // of the grid
        let channels = stored_channels(map.channels);
        let pixels = self.pixels()?;
        let windows = (self.windows)(from, if side == Side::Input { &self.input } else { &self.output }, side);
        let scale = map.height / self.input.height;
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
            inputs: self.input.channels as u32,
            outputs: self.output.channels as u32,
            tiles: tiles as u32,
            tile: tile as u32,
            chunks: chunks as u32,
            backward: (side == Side::Gradient).into(),
        };
        let launch = Launch::linear(len.div_ceil(256).min(4096), 256);
        gpu.launch_for(&format!("{}_pack", self.name), dtype, launch, &params)?;

        // As in `kernels/include/conv.cuh`: the ring of buffers with the table of what normalizes; afterwards the sums on their
        // way out, the pixels' places, and the sums over pixels.
        let rows = if tile > 128 / dtype.bytes() { 128 } else { 256 };
        let stages = if tile == 32 || (pending.is_some() && self.taps * tile > 256) { 2 } else { 3 };
        let table = if pending.is_some() { 12 * windows.channels as usize } else { 0 };
        let ring = stages * 32 * (rows + self.taps - 1 + self.taps * tile) + table;
        let staged = if dtype == DType::BF16 { rows * (tile + 8) * 2 } else { 0 };
        let shared = ring.max(staged + 8 * rows + 4 * (9 * tile + 8)) as u32;
        let blocks = pixels.div_ceil(rows) * phases;
        let partials = match &sums {
            Sums::None => None,
            Sums::Moments => Some(batch_norm::moments(gpu, map.channels, blocks)?),
            Sums::Gradient(..) => Some(gpu.tensor(DType::F32, &[2, map.channels, blocks])?),
        };
        let (x, affine) = match &sums {
            Sums::Gradient(x, pending) => {
                (x.gpu_address().cast_const(), pending.affine.gpu_address().cast_const().cast())
            }
            _ => (ptr::null(), ptr::null()),
        };
        let params = params::ConvGemm {
            windows,
            norm: norm(pending),
            sums: params::ConvSums {
                partials: partials.as_ref().map_or(ptr::null_mut(), |partials| partials.gpu_address().cast()),
                x,
                affine,
                channels: map.channels as u32,
            },
            panel: panel.gpu_address(),
            output: to.gpu_address(),
            batch: batch as u32,
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            scale: scale as u32,
        };
        let launch = Launch { shared, ..Launch::linear(blocks * tiles, 256) };
        gpu.launch_for(&format!("{}{}_{tile}", prefix(pending), self.name), dtype, launch, &params)?;
        Ok(partials)
    }

    /// The gradient of the weight, of shape `shape`: windowsᵀ · centers, summed over pixels. The windows are those that take
    /// three taps of x for conv, and two of dy for up_conv; the centers are the other's pixels.
    fn weight_gradient(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        pending: Option<&Pending>,
        dy: &Tensor,
        shape: &[usize],
    ) -> Result<Tensor> {
        let dtype = dy.dtype();
        let [batch, height, width, _] = self.input.shape(); // of the grid
        let pixels = self.pixels()?;
        let (windows, centers, tall) = match self.taps {
            3 => ((self.windows)(x, &self.input, Side::Input), dy, stored_channels(self.output.channels)),
            _ => ((self.windows)(dy, &self.output, Side::Gradient), x, stored_channels(self.input.channels)),
        };
        let (lines, wide) = (windows.lines as usize, windows.channels as usize);
        let (wide_tile, tall_tile) = (tile(wide, &[64, 32]), tile(tall, &[64, 32]));
        let tiles = lines * wide.div_ceil(wide_tile) * tall.div_ceil(tall_tile);
        let step = 128 / dtype.bytes();
        let splits = BLOCKS.div_ceil(tiles).min(pixels.div_ceil(1024)).max(pixels.div_ceil(MOST_PIXELS));
        let split = pixels.div_ceil(splits).next_multiple_of(step);
        let splits = pixels.div_ceil(split);
        let partials = gpu.tensor(DType::F32, &[splits, lines, self.taps, wide, tall])?;
        let params = params::ConvWeightGradient {
            windows,
            norm: norm(pending),
            centers: centers.gpu_address(),
            partials: partials.gpu_address().cast(),
            batch: batch as u32,
            height: height as u32,
            width: width as u32,
            center_channels: tall as u32,
            split: split as u32,
        };
        // As in `kernels/include/conv.cuh`: the ring of buffers with the table of what normalizes, afterwards the sums of one
        // group of threads.
        let groups = 4096 / (wide_tile * tall_tile);
        let stages = if pending.is_some() && groups == 1 { 2 } else { 3 };
        let table = if pending.is_some() { 12 * if self.taps == 3 { wide_tile } else { tall_tile } } else { 0 };
        let ring = stages * dtype.bytes() * ((step + self.taps - 1) * wide_tile + step * tall_tile) + table;
        let shared = ring.max(if groups > 1 { 4 * 16 * self.taps * 256 / groups } else { 0 }) as u32;
        let launch = Launch { shared, ..Launch::linear(splits * tiles, 256) };
        let name = format!("{}{}_weight_{wide_tile}x{tall_tile}", prefix(pending), self.name);
        gpu.launch_for(&name, dtype, launch, &params)?;

        let gradient = gpu.tensor(DType::F32, shape)?;
        let params = params::ConvWeightSum {
            gradient: gradient.gpu_address().cast(),
            partials: partials.gpu_address().cast(),
            splits: splits as u32,
            inputs: self.input.channels as u32,
            outputs: self.output.channels as u32,
            window_channels: wide as u32,
            center_channels: tall as u32,
        };
        let launch = Launch { shared: 1024, ..Launch::linear(lines * self.taps * wide * tall / 32, 256) };
        gpu.launch(&format!("{}_weight_sum", self.name), launch, &params)?;
        Ok(gradient)
    }

    /// Pixels of the grid, which is the smaller map with its border: kernels count them, and vectors, in 32 bits.
    fn pixels(&self) -> Result<usize> {
        let [batch, height, width, _] = self.input.shape();
        let pixels = batch * height * width;
        let vectors = [self.input, self.output].map(|map| map.stored_pixels() * (stored_channels(map.channels) / 4));
        // They look at pixels of the sample before the first, and of a tile or split beyond the last.
        if pixels + height * width + 2 * MOST_PIXELS < 1 << 31 && vectors.iter().all(|n| *n < 1 << 31) {
            return Ok(pixels);
        }
        Err(Error::failed(
            self.name,
            format_args!("a map of {pixels} pixels is beyond what its kernels count"),
            "use a smaller data.batch_size",
        ))
    }
}

/// What the names of kernels that normalize what they read begin with.
fn prefix(pending: Option<&Pending>) -> &'static str {
    if pending.is_some() { "norm_" } else { "" }
}

/// The batch norm + ReLU and the mask that a product applies to its input.
fn norm(pending: Option<&Pending>) -> params::ConvNorm {
    let Some(Pending { affine, channels, mask, .. }) = pending else { return params::ConvNorm::default() };
    params::ConvNorm {
        affine: affine.gpu_address().cast(),
        mask: mask.as_ref().map_or(ptr::null(), |mask| mask.bits.gpu_address()),
        channels: *channels as u32,
        stride: stored_channels(*channels) as u32,
        patch: mask.as_ref().map_or(1, |mask| mask.grid.patch as u32),
    }
}

/// The size, of `sizes` from the largest on, whose tiles leave the fewest of `channels` empty.
fn tile(channels: usize, sizes: &[usize]) -> usize {
    sizes.iter().copied().min_by_key(|size| channels.next_multiple_of(*size)).unwrap_or(32)
}
