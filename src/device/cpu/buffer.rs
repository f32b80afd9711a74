//! Buffers that go back to a pool when dropped, so that a training step allocates nothing after the first.

use super::Real;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// The host device: a handle on its pool of buffers.
#[derive(Clone, Default)]
pub struct Cpu {
    pool: Arc<Mutex<Pool>>,
    reason: Option<Arc<str>>,
}

#[derive(Default)]
struct Pool {
    free: Vec<(usize, Box<dyn Any + Send>)>, // (bytes, Vec<E>)
    in_use: usize,
    free_bytes: usize,
    peak: usize,
}

impl Cpu {
    /// The host where a GPU was preferred but cannot be used.
    pub fn instead_of_gpu(reason: &str) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }

    /// Why no GPU is used, where one was preferred.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// A buffer of `len` elements whose content is arbitrary: the caller writes every element.
    pub fn take<E: Real>(&self, len: usize) -> Buffer<E> {
        let bytes = len * size_of::<E>();
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = pool
            .free
            .iter()
            .enumerate()
            .filter(|(_, (capacity, data))| (bytes..=bytes + bytes / 4).contains(capacity) && data.is::<Vec<E>>());
        let best = fitting.min_by_key(|(_, (capacity, _))| *capacity).map(|(i, _)| i);
        let recycled = best.map(|i| pool.free.swap_remove(i)).and_then(|(capacity, data)| {
            pool.free_bytes -= capacity;
            data.downcast::<Vec<E>>().ok()
        });
        let data = match recycled {
            Some(mut data) => {
                data.resize(len, E::zero());
                *data
            }
            None => {
                // Shapes change with the batch: let go of what no longer fits before growing past the peak.
                while pool.in_use + pool.free_bytes + bytes > pool.peak {
                    let Some((capacity, _)) = pool.free.pop() else { break };
                    pool.free_bytes -= capacity;
                }
                vec![E::zero(); len]
            }
        };
        pool.in_use += data.capacity() * size_of::<E>();
        pool.peak = pool.peak.max(pool.in_use);
        drop(pool);
        Buffer { data, home: self.clone() }
    }

    /// A buffer of zeros.
    pub fn zeros<E: Real>(&self, len: usize) -> Buffer<E> {
        let mut buffer = self.take(len);
        buffer.fill(E::zero());
        buffer
    }

    /// A buffer with a copy of `values`.
    pub fn copied<E: Real>(&self, values: &[E]) -> Buffer<E> {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// Bytes of all buffers now in use, and the most that ever were.
    pub fn memory(&self) -> (usize, usize) {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        (pool.in_use, pool.peak)
    }
}

/// Host memory that returns to its device's pool when dropped.
pub struct Buffer<E: Real> {
    data: Vec<E>,
    home: Cpu,
}

impl<E: Real> std::ops::Deref for Buffer<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        &self.data
    }
}

impl<E: Real> std::ops::DerefMut for Buffer<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        &mut self.data
    }
}

impl<E: Real> Drop for Buffer<E> {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let bytes = data.capacity() * size_of::<E>();
        let mut pool = self.home.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.in_use -= bytes;
        pool.free_bytes += bytes;
        pool.free.push((bytes, Box::new(data)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let cpu = Cpu::default();
        let first = cpu.zeros::<f32>(1000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(cpu.take::<f32>(990).as_ptr(), address);
        assert_eq!(cpu.memory(), (0, 4000));
    }

    #[test]
    fn changing_shapes_do_not_pile_up() {
        let cpu = Cpu::default();
        for len in 1..200 {
            drop(cpu.take::<f32>(len * 1000));
        }
        let pool = cpu.pool.lock().unwrap();
        assert!(pool.free_bytes <= pool.peak, "{} bytes kept, {} needed", pool.free_bytes, pool.peak);
    }
}
