//! Launches `kernels/gather.cu`.

use super::{GatherSample, Outputs, Tables};
use crate::device::gpu::{Buffer, Gpu, Launch, params};
use crate::{Error, Result};
use std::ops::Range;

/// Blocks of a grid along y or z.
const MOST_BLOCKS: usize = 65_535;

/// Fills a batch with `samples` of the data set in `set`, whose tables lie as `tables` says.
///
/// # Errors
/// A history that no launch can hold; what the device reports.
///
/// # Panics
/// If the arrays' lengths are not those of the batch.
pub fn gather(gpu: &Gpu, (set, tables): (&Buffer, &Tables), samples: Samples<'_>, to: &Outputs<'_>) -> Result<()> {
    let Outputs { batch, history, .. } = *to;
    let grid = tables.grid;
    let (patches, steps) = (grid.patches(), batch * history);
    let image = patches * grid.words();
    assert_eq!([to.frames.len(), to.last.len(), to.target.len()], [steps * image, batch * image, batch * image]);
    assert_eq!([to.valid_steps.len(), to.ages.len(), to.valid_patches.len()], [steps, steps, batch * patches]);
    assert_eq!([to.wind.len(), to.statics.len()], [2 * steps, batch * patches * tables.channels]);
    assert_eq!(to.wind.dtype(), to.statics.dtype());
    if history >= MOST_BLOCKS {
        let problem = format!("a history of {history} steps, {} are the most on a GPU", MOST_BLOCKS - 1);
        return Err(Error::usage("model.temporal.max_seq_len", problem, "set it lower"));
    }
    let at = |range: &Range<usize>| set.address().wrapping_byte_add(range.start);
    let params = params::Gather {
        set: params::GatherSet {
            frames: at(&tables.frames).cast(),
            isochrones: at(&tables.isochrones).cast(),
            wind: at(&tables.wind).cast(),
            statics: at(&tables.statics).cast(),
            aspects: at(&tables.aspects).cast(),
            aspect_of: at(&tables.aspect_of).cast(),
            valid_patches: at(&tables.valid_patches).cast(),
        },
        samples: samples.buffer.address().wrapping_byte_add(samples.offset).cast::<GatherSample>(),
        frames: to.frames.gpu_address().cast_mut(),
        last: to.last.gpu_address().cast_mut(),
        target: to.target.gpu_address().cast_mut(),
        wind: to.wind.gpu_address(),
        statics: to.statics.gpu_address(),
        valid_steps: to.valid_steps.gpu_address().cast_mut().cast(),
        ages: to.ages.gpu_address().cast_mut(),
        valid_patches: to.valid_patches.gpu_address().cast_mut().cast(),
        batch: batch as u32,
        history: history as u32,
        rows: grid.rows as u32,
        cols: grid.cols as u32,
        patch: grid.patch as u32,
        channels: tables.channels as u32,
        aspect_bands: tables.aspect_bands as u32,
    };
    let blocks = [patches.div_ceil(256) as u32, history as u32 + 1, batch.min(MOST_BLOCKS) as u32];
    gpu.launch_for("gather", to.wind.dtype(), Launch { grid: blocks, block: 256, shared: 0 }, &params)
}

/// A batch's samples in device memory.
#[derive(Clone, Copy)]
pub struct Samples<'a> {
    /// Where they are.
    pub buffer: &'a Buffer,
    /// Bytes before the first.
    pub offset: usize,
}
