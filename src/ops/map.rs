//! Geometry of feature maps in memory, and loops over their lines.

use crate::device::cpu::Real;
use crate::device::gpu::{Launch, params};
use crate::tensor::{DType, Tensor};
use rayon::prelude::*;

/// Channels that a GPU stores of each pixel: the next multiple of 8, those beyond zeros, so that a pixel is whole 16-byte
/// vectors.
pub fn stored_channels(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

/// A feature map of `batch` samples, channels last, with `halo` zero pixels on every side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Samples.
    pub batch: usize,
    /// Pixels from top to bottom, without halo.
    pub height: usize,
    /// Pixels from left to right, without halo.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// 1 for the maps of convolutions, 0 for plain grids.
    pub halo: usize,
}

impl Map {
    /// The geometry of a tensor of shape [B, H + 2·halo, W + 2·halo, C].
    pub fn of(shape: &[usize], halo: usize) -> Self {
        Self { batch: shape[0], height: shape[1] - 2 * halo, width: shape[2] - 2 * halo, channels: shape[3], halo }
    }

    /// The tensor's shape.
    pub fn shape(&self) -> [usize; 4] {
        [self.batch, self.height + 2 * self.halo, self.width + 2 * self.halo, self.channels]
    }

    /// The geometry as kernels take it.
    pub fn params(&self) -> params::Map {
        params::Map {
            batch: self.batch as u32,
            height: self.height as u32,
            width: self.width as u32,
            channels: self.channels as u32,
            stride: stored_channels(self.channels) as u32,
            halo: self.halo as u32,
        }
    }

    /// The shape of the tensor that a GPU keeps: see [`stored_channels`].
    pub fn stored_shape(&self) -> [usize; 4] {
        self.with_channels(stored_channels(self.channels)).shape()
    }

    /// Elements, halo included.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pixels of all samples, without halo.
    pub fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }

    /// Pixels of all samples, halo included.
    pub fn stored_pixels(&self) -> usize {
        self.with_channels(1).len()
    }

    /// Elements of a stored line, halo included.
    pub fn pitch(&self) -> usize {
        (self.width + 2 * self.halo) * self.channels
    }

    /// Where the stored line `row` of sample `b` begins; row 0 is the halo's.
    pub fn stored_line(&self, b: usize, row: usize) -> usize {
        (b * (self.height + 2 * self.halo) + row) * self.pitch()
    }

    /// Where the pixels of line `y` lie, without halo.
    pub fn line(&self, b: usize, y: usize) -> std::ops::Range<usize> {
        let start = self.stored_line(b, y + self.halo) + self.halo * self.channels;
        start..start + self.width * self.channels
    }

    /// The same extent with another number of channels.
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Calls `f(b, y, line)` for every line in parallel and zeroes the halo.
    pub fn for_lines_mut<E: Real>(&self, data: &mut [E], f: impl Fn(usize, usize, &mut [E]) + Sync) {
        let (rows, border) = (self.height + 2 * self.halo, self.halo * self.channels);
        data.par_chunks_mut(self.pitch()).enumerate().for_each(|(i, line)| {
            let (b, row) = (i / rows, i % rows);
            if row < self.halo || row >= rows - self.halo {
                line.fill(E::zero());
            } else {
                let end = line.len() - border;
                line[..border].fill(E::zero());
                line[end..].fill(E::zero());
                f(b, row - self.halo, &mut line[border..end]);
            }
        });
    }

    /// Splits the lines of all samples into bands of `(b, first line, lines)`, none across samples, whatever the number of
    /// threads: partial sums over bands are the same on every machine.
    pub fn bands(&self, lines: usize) -> Vec<(usize, usize, usize)> {
        let starts = (0..self.height).step_by(lines.max(1));
        (0..self.batch).flat_map(|b| starts.clone().map(move |y| (b, y, lines.min(self.height - y)))).collect()
    }
}

/// Elements of a 16-byte vector.
pub(crate) fn vector(dtype: DType) -> usize {
    16 / dtype.bytes()
}

/// A thread for each 16-byte vector of a tensor.
pub(crate) fn thread_a_vector(tensor: &Tensor) -> Launch {
    Launch::linear((tensor.len() / vector(tensor.dtype())).div_ceil(256), 256)
}

/// How the blocks of a launch share the pixels of a map whose channels their threads own: see
/// `kernels/include/pixels.cuh`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    /// Pixels of a block.
    pub span: u32,
    /// Blocks along the pixels; each has one at least.
    pub blocks: u32,
    /// Blocks along a pixel's channels.
    chunks: u32,
}

impl Split {
    /// Threads of a block.
    pub const THREADS: u32 = 256;

    /// For kernels that write `pixels` pixels: up to 16 a thread, so that loading what belongs to the channels costs little.
    pub fn writing(pixels: usize, stride: usize, dtype: DType) -> Self {
        Self::new(pixels, stride, dtype, |rows| rows * (pixels / (rows * 1024)).clamp(1, 16))
    }

    /// For sums over `pixels` pixels: 1024 partial sums at most, so that adding them up costs little.
    pub fn summing(pixels: usize, stride: usize, dtype: DType) -> Self {
        Self::new(pixels, stride, dtype, |rows| (4 * rows).max(pixels.div_ceil(1024)))
    }

    /// The same where the blocks stride over the pixels: 16 a thread at least.
    pub fn striding(pixels: usize, stride: usize, dtype: DType) -> Self {
        Self::new(pixels, stride, dtype, |rows| (16 * rows).max(pixels.div_ceil(1024)))
    }

    /// `span` gives a block's pixels from those that it covers at a time. A warp's lanes lie along the channels.
    fn new(pixels: usize, stride: usize, dtype: DType, span: impl Fn(usize) -> usize) -> Self {
        let vectors = stride / vector(dtype);
        let chunks = vectors.div_ceil(32);
        let span = span(Self::THREADS as usize / vectors.div_ceil(chunks));
        Self { span: span as u32, blocks: pixels.div_ceil(span) as u32, chunks: chunks as u32 }
    }

    /// The launch, with so many floats of shared memory a thread.
    pub fn launch(&self, floats: usize) -> Launch {
        let shared = floats as u32 * 4 * Self::THREADS;
        Launch { grid: [self.blocks, self.chunks, 1], block: Self::THREADS, shared }
    }
}

/// Sums partial results in their order.
pub fn sum_partials<E: Real>(partials: Vec<Vec<E>>, len: usize) -> Vec<E> {
    let mut partials = partials.into_iter();
    let mut sum = partials.next().unwrap_or_else(|| vec![E::zero(); len]);
    for partial in partials {
        sum.iter_mut().zip(partial).for_each(|(sum, term)| *sum += term);
    }
    sum
}
