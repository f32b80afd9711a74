//! Batches taken from a data set in a GPU's memory: histories with their padding, targets, wind and static bands, each sample
//! under its own symmetry of the square.
//!
//! The data set lies in one buffer, as [`Tables`] says. There may be more in it than a batch needs (the whole data set) or
//! just that (what has been sent ahead of a step). The reference is [`crate::data::batch::assemble`], whose batches these are
//! bit for bit.

mod gpu;

pub use crate::device::gpu::params::GatherSample;
pub use gpu::{Samples, gather};

use crate::device::Array;
use crate::patch::Grid;
use crate::tensor::Tensor;
use std::ops::Range;

/// How many rows each table has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    /// Frames of histories.
    pub frames: usize,
    /// Targets.
    pub isochrones: usize,
    /// Steps of wind; a step has one for each symmetry that it may be asked for.
    pub wind: usize,
    /// Windows of static tokens.
    pub statics: usize,
    /// Windows of aspects; a window has one for each symmetry that it may be asked for.
    pub aspects: usize,
    /// Samples that are named by their rows.
    pub samples: usize,
}

/// Where the tables of a data set lie in their buffer, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The patch grid of all windows.
    pub grid: Grid,
    /// Static bands, Cs.
    pub channels: usize,
    /// Static bands among them that hold an aspect, A.
    pub aspect_bands: usize,
    /// u64 [rows, N, words]
    pub frames: Range<usize>,
    /// u64 [rows, N, words]
    pub isochrones: Range<usize>,
    /// f32 [rows, 2]
    pub wind: Range<usize>,
    /// f32 [rows, N, Cs]
    pub statics: Range<usize>,
    /// f32 [rows, N, A]
    pub aspects: Range<usize>,
    /// i32 `[Cs]`: which of the aspects a band is, −1 for none.
    pub aspect_of: Range<usize>,
    /// bool `[N]`: patches wholly inside the original window.
    pub valid_patches: Range<usize>,
    /// [`GatherSample`] `[rows]`
    pub samples: Range<usize>,
    /// All of it.
    pub bytes: usize,
}

impl Tables {
    /// Tables one behind the other, each from a multiple of 16 bytes on.
    pub fn new(grid: Grid, channels: usize, aspect_bands: usize, rows: Rows) -> Self {
        let mut end = 0usize;
        let mut place = |bytes: usize| {
            let start = end.next_multiple_of(16);
            end = start + bytes;
            start..end
        };
        let (patches, image) = (grid.patches(), grid.patches() * grid.words() * 8);
        let frames = place(rows.frames * image);
        let isochrones = place(rows.isochrones * image);
        let wind = place(rows.wind * 8);
        let statics = place(rows.statics * patches * channels * 4);
        let aspects = place(rows.aspects * patches * aspect_bands * 4);
        let aspect_of = place(channels * 4);
        let valid_patches = place(patches);
        let samples = place(rows.samples * size_of::<GatherSample>());
        Self {
            grid,
            channels,
            aspect_bands,
            frames,
            isochrones,
            wind,
            statics,
            aspects,
            aspect_of,
            valid_patches,
            samples,
            bytes: end,
        }
    }
}

/// The batch's arrays in the GPU's memory, all of them overwritten.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// Samples B.
    pub batch: usize,
    /// Steps T.
    pub history: usize,
    /// Burning pixels, [B, T, N, words].
    pub frames: &'a Array<u64>,
    /// Those of the last step, [B, N, words].
    pub last: &'a Array<u64>,
    /// Those to predict, [B, N, words].
    pub target: &'a Array<u64>,
    /// Wind [B·T, 2] in the activations' type.
    pub wind: &'a Tensor,
    /// Static tokens [B·N, Cs] in the activations' type.
    pub statics: &'a Tensor,
    /// Whether a step is real, [B, T].
    pub valid_steps: &'a Array<bool>,
    /// A step's place in its own history, [B, T].
    pub ages: &'a Array<u32>,
    /// Whether a patch counts, [B, N].
    pub valid_patches: &'a Array<bool>,
}
