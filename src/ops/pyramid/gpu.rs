//! Launches `kernels/pyramid.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, params};
use crate::ops::map::{Map, thread_a_vector};
use crate::tape::{Tape, Var};

/// Levels that one launch of `resize_sum_forward` sums.
const LEVELS: usize = 4;

/// See [`super::average_pool`]; C is a multiple of 8.
pub fn average_pool(tape: &mut Tape, gpu: &Gpu, x: &Var, factor: usize) -> Result<Var> {
    let (from, dtype) = (Map::of(x.shape(), 0), x.value().dtype());
    let to = Map { height: from.height / factor, width: from.width / factor, ..from };
    let y = gpu.tensor(dtype, &to.shape())?;
    let (map, factor) = (from.params(), factor as u32);
    let params = params::AveragePoolForward { y: y.gpu_address(), x: x.value().gpu_address(), map, factor };
    gpu.launch_for("average_pool_forward", dtype, thread_a_vector(&y), &params)?;
    let (gpu, id) = (gpu.clone(), x.id());
    Ok(tape.record(y, move |dy, gradients| {
        let dx = gpu.tensor(dtype, &from.shape())?;
        let params = params::AveragePoolBackward { dy: dy.gpu_address(), dx: dx.gpu_address(), map, factor };
        gpu.launch_for("average_pool_backward", dtype, thread_a_vector(&dx), &params)?;
        gradients.add(id, dx)
    }))
}

/// See [`super::resize_sum`]; four levels at most, C a multiple of 8.
pub fn resize_sum(tape: &mut Tape, gpu: &Gpu, levels: &[Var], height: usize, width: usize) -> Result<Var> {
    assert!(levels.len() <= LEVELS, "the decode head has {LEVELS} levels, not {}", levels.len());
    let maps: Vec<Map> = levels.iter().map(|level| Map::of(level.shape(), 0)).collect();
    let (to, dtype) = (Map { height, width, ..maps[0] }, levels[0].value().dtype());
    let y = gpu.tensor(dtype, &to.shape())?;
    let mut params = params::ResizeSumForward {
        y: y.gpu_address(),
        map: to.params(),
        count: levels.len() as u32,
        ..params::ResizeSumForward::default()
    };
    for ((to, level), map) in params.levels.iter_mut().zip(levels).zip(&maps) {
        *to =
            params::ResizeLevel { x: level.value().gpu_address(), height: map.height as u32, width: map.width as u32 };
    }
    gpu.launch_for("resize_sum_forward", dtype, thread_a_vector(&y), &params)?;
    let (gpu, ids) = (gpu.clone(), levels.iter().map(Var::id).collect::<Vec<_>>());
    Ok(tape.record(y, move |dy, gradients| {
        for (id, map) in ids.iter().zip(&maps) {
            if (map.height, map.width) == (height, width) {
                gradients.add(*id, dy.clone())?;
                continue;
            }
            let dx = gpu.tensor(dtype, &map.shape())?;
            let params = params::ResizeSumBackward {
                dy: dy.gpu_address(),
                dx: dx.gpu_address(),
                map: to.params(),
                height: map.height as u32,
                width: map.width as u32,
            };
            gpu.launch_for("resize_sum_backward", dtype, thread_a_vector(&dx), &params)?;
            gradients.add(*id, dx)?;
        }
        Ok(())
    }))
}
