//! Launches of kernels whose threads keep to columns (`kernels/include/columns.cuh`), and the sums of their partials
//! (`kernels/columns.cu`).

use crate::Result;
use crate::device::gpu::{Buffer, Gpu, Launch, params};
use crate::tensor::Tensor;

const THREADS: usize = 256;

/// Blocks that a kernel with partial sums runs in at most: four for each multiprocessor of an RTX A6000. A constant, so that
/// sums do not depend on the GPU.
pub(crate) const MOST_PARTIALS: usize = 336;

/// Blocks that other kernels run in at most: they go on in a loop.
pub(crate) const MOST_BLOCKS: usize = 4096;

/// A launch over `rows` rows of `groups` column groups each, in at most `most_blocks` blocks along the rows.
pub(crate) fn walk(rows: usize, groups: usize, most_blocks: usize) -> Launch {
    let tiles = groups.div_ceil(THREADS);
    let lanes = THREADS / groups.div_ceil(tiles);
    let blocks = rows.div_ceil(lanes).clamp(1, most_blocks);
    Launch { grid: [blocks as u32, tiles as u32, 1], block: THREADS as u32, shared: 0 }
}

/// Columns that a thread of the linear layer's kernels keeps to.
pub(crate) fn neighbours(columns: usize) -> usize {
    if columns.is_multiple_of(8) { 8 } else { 1 }
}

/// Adds up `partials` [blocks, columns]: the first columns to `first`, those beyond its length to `second`.
pub(crate) fn sums(gpu: &Gpu, partials: &Buffer, blocks: u32, first: &Tensor, second: Option<&Tensor>) -> Result<()> {
    let columns = first.len() + second.map_or(0, Tensor::len);
    let params = params::ColumnSums {
        first: first.gpu_address().cast(),
        second: second.map_or(std::ptr::null_mut(), |second| second.gpu_address().cast()),
        partials: partials.address().cast(),
        blocks,
        columns: columns as u32,
        split: first.len() as u32,
    };
    let launch = Launch { shared: 4 * THREADS as u32, ..Launch::linear(columns.div_ceil(32), THREADS as u32) };
    gpu.launch("column_sums", launch, &params)
}
