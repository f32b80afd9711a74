//! Launches `kernels/refinement_input.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, params};
use crate::ops::map::{Map, stored_channels, thread_a_vector};
use crate::tape::{Tape, Var};

/// See [`super::concat`]; m is a multiple of 8, and y is `[rows, stored(m + n)]`.
pub fn concat(tape: &mut Tape, gpu: &Gpu, a: &Var, b: &Var) -> Result<Var> {
    let (rows, m, n, dtype) = (a.shape()[0], a.shape()[1], b.shape()[1], a.value().dtype());
    debug_assert_eq!(b.value().dtype(), dtype, "both are activations");
    let stride = stored_channels(m + n);
    let y = gpu.tensor(dtype, &[rows, stride])?;
    let params = params::ConcatForward {
        y: y.gpu_address(),
        a: a.value().gpu_address(),
        b: b.value().gpu_address(),
        rows: rows as u32,
        m: m as u32,
        n: n as u32,
        stride: stride as u32,
    };
    gpu.launch_for("concat_forward", dtype, thread_a_vector(&y), &params)?;
    let (gpu, a, b) = (gpu.clone(), a.id(), b.id());
    Ok(tape.record(y, move |dy, gradients| {
        let (da, db) = (gpu.tensor(dtype, &[rows, m])?, gpu.tensor(dtype, &[rows, n])?);
        let params = params::ConcatBackward {
            dy: dy.gpu_address(),
            da: da.gpu_address(),
            db: db.gpu_address(),
            rows: rows as u32,
            m: m as u32,
            n: n as u32,
            stride: stride as u32,
        };
        gpu.launch_for("concat_backward", dtype, thread_a_vector(&dy), &params)?;
        gradients.add(a, da)?;
        gradients.add(b, db)
    }))
}

/// See [`super::to_map`]; x is `[B·Gy·Gx, stored(C)]`.
pub fn to_map(tape: &mut Tape, gpu: &Gpu, x: &Var, map: Map) -> Result<Var> {
    let dtype = x.value().dtype();
    let y = gpu.tensor(dtype, &map.stored_shape())?;
    let params = params::ToMapForward { y: y.gpu_address(), x: x.value().gpu_address(), map: map.params() };
    gpu.launch_for("to_map_forward", dtype, thread_a_vector(&y), &params)?;
    let (gpu, id, shape) = (gpu.clone(), x.id(), x.shape().to_vec());
    Ok(tape.record(y, move |dy, gradients| {
        let dx = gpu.tensor(dtype, &shape)?;
        let params = params::ToMapBackward { dy: dy.gpu_address(), dx: dx.gpu_address(), map: map.params() };
        gpu.launch_for("to_map_backward", dtype, thread_a_vector(&dx), &params)?;
        gradients.add(id, dx)
    }))
}
