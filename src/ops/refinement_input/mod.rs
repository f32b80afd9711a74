//! What enters the refinement decoder: features and coarse logits side by side, features first, as a map with a border.

mod gpu;

use crate::device::Device;
use crate::ops::map::Map;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// a [rows, m] and b [rows, n] → [rows, m + n].
pub fn concat(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::concat(tape, &gpu, a, b),
    };
    let (rows, m, n) = (a.shape()[0], a.shape()[1], b.shape()[1]);
    let y = with_real!(a.value().dtype(), E => {
        let mut y = cpu.take::<E>(rows * (m + n));
        let parts = a.value().cpu::<E>().chunks_exact(m).zip(b.value().cpu::<E>().chunks_exact(n));
        for (y, (a, b)) in y.chunks_exact_mut(m + n).zip(parts) {
            y[..m].copy_from_slice(a);
            y[m..].copy_from_slice(b);
        }
        Tensor::from_buffer(&[rows, m + n], y)
    });
    let (a, b) = (a.id(), b.id());
    Ok(tape.record(y, move |dy, gradients| {
        with_real!(dy.dtype(), E => {
            let (mut da, mut db) = (cpu.take::<E>(rows * m), cpu.take::<E>(rows * n));
            let parts = da.chunks_exact_mut(m).zip(db.chunks_exact_mut(n));
            for (dy, (da, db)) in dy.cpu::<E>().chunks_exact(m + n).zip(parts) {
                da.copy_from_slice(&dy[..m]);
                db.copy_from_slice(&dy[m..]);
            }
            gradients.add(a, Tensor::from_buffer(&[rows, m], da))?;
            gradients.add(b, Tensor::from_buffer(&[rows, n], db))?;
        });
        Ok(())
    }))
}

/// x [B·Gy·Gx, C] → a map [B, Gy + 2, Gx + 2, C] with a zero border.
pub fn to_map(tape: &mut Tape, x: &Var, map: Map) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::to_map(tape, &gpu, x, map),
    };
    let plain = Map { halo: 0, ..map };
    let y = with_real!(x.value().dtype(), E => {
        let mut y = cpu.take::<E>(map.len());
        let x = x.value().cpu::<E>();
        map.for_lines_mut(&mut y, |b, y, line| line.copy_from_slice(&x[plain.line(b, y)]));
        Tensor::from_buffer(&map.shape(), y)
    });
    let (id, shape) = (x.id(), x.shape().to_vec());
    Ok(tape.record(y, move |dy, gradients| {
        with_real!(dy.dtype(), E => {
            let mut dx = cpu.take::<E>(plain.len());
            plain.for_lines_mut(&mut dx, |b, y, line| line.copy_from_slice(&dy.cpu::<E>()[map.line(b, y)]));
            gradients.add(id, Tensor::from_buffer(&shape, dx))?;
        });
        Ok(())
    }))
}
