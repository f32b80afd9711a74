//! Copies to a GPU that run ahead of its kernels: from page-locked host memory, on a stream of their own, which waits for the
//! kernels' stream, and it for them, by events. On the emulated device a copy is done at once.

use super::{Backend, Buffer, Gpu, cuda};
use crate::Result;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Host memory that a GPU reads by itself.
pub struct Pinned {
    memory: PinnedMemory,
    bytes: usize,
    /// When the last copy from it was done.
    done: Event,
}

enum PinnedMemory {
    Cuda(cuda::Pinned),
    /// Aligned as numbers of 8 bytes are.
    Host(Vec<u64>),
}

/// A moment in the order of a stream.
pub enum Event {
    /// Of a GPU.
    Cuda(cudarc::driver::CudaEvent),
    /// On the emulated device everything before has already run.
    Emulated,
}

/// A copy under way. It holds the memory at both ends until it is done.
pub struct Sending {
    pinned: Option<Pinned>,
    to: Arc<Buffer>,
}

impl Gpu {
    /// `bytes` bytes of page-locked memory, all zero.
    ///
    /// # Errors
    /// Where the host has not that much left that can be locked.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned> {
        let memory = match &self.0.backend {
            Backend::Cuda(cuda) => PinnedMemory::Cuda(cuda.pinned(bytes)?),
            Backend::Emulated(_) => PinnedMemory::Host(vec![0; bytes.div_ceil(8)]),
        };
        Ok(Pinned { memory, bytes, done: self.event()? })
    }

    /// An event that has passed.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn event(&self) -> Result<Event> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.event().map(Event::Cuda),
            Backend::Emulated(_) => Ok(Event::Emulated),
        }
    }

    /// Makes `event` the moment at which all kernels launched so far have run.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn record(&self, event: &Event) -> Result<()> {
        match (&self.0.backend, event) {
            (Backend::Cuda(cuda), Event::Cuda(event)) => cuda.record(event),
            _ => Ok(()),
        }
    }

    /// Starts to copy the first `len` bytes of `from` to the start of `to`, once `after` has passed.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If either holds less.
    pub fn send(&self, from: Pinned, len: usize, to: &Arc<Buffer>, after: &Event) -> Result<Sending> {
        let bytes = &from[..len];
        assert!(len <= to.bytes(), "{len} bytes into {}", to.bytes());
        match (&self.0.backend, after, &from.done) {
            (Backend::Cuda(cuda), Event::Cuda(after), Event::Cuda(done)) => {
                cuda.send(bytes, to.address(), after, done)?;
            }
            (Backend::Emulated(_), ..) => self.write_at(to, 0, bytes)?,
            (Backend::Cuda(_), ..) => unreachable!("an event of another device"),
        }
        Ok(Sending { pinned: Some(from), to: to.clone() })
    }

    /// Lets kernels that are launched from now on wait until a copy is done.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn wait_for(&self, sending: &Sending) -> Result<()> {
        match (&self.0.backend, sending.pinned.as_ref().map(|pinned| &pinned.done)) {
            (Backend::Cuda(cuda), Some(Event::Cuda(done))) => cuda.wait_for(done),
            _ => Ok(()),
        }
    }

    /// Bytes that could still be allocated: what the device has left, and what lies idle here.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn free_memory(&self) -> Result<usize> {
        let free = match &self.0.backend {
            Backend::Cuda(cuda) => cuda.free_memory()?,
            Backend::Emulated(_) => super::emulated::free_memory(),
        };
        Ok(free.saturating_add(self.lock().free_bytes))
    }
}

impl Sending {
    /// Where the copy goes to.
    pub fn to(&self) -> &Arc<Buffer> {
        &self.to
    }

    /// The memory that was copied from, once the copy is done.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn finish(mut self) -> Result<Pinned> {
        let Some(pinned) = self.pinned.take() else { unreachable!("taken here and when dropped only") };
        pinned.done.synchronize(&self.to)?;
        Ok(pinned)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            // An error of the device comes out of the next call too.
            let _ = pinned.done.synchronize(&self.to);
        }
    }
}

impl Event {
    /// Waits until it has passed.
    fn synchronize(&self, of: &Buffer) -> Result<()> {
        match (&of.home().0.backend, self) {
            (Backend::Cuda(cuda), Event::Cuda(event)) => cuda.synchronize_event(event),
            _ => Ok(()),
        }
    }
}

impl Deref for Pinned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            PinnedMemory::Cuda(memory) => memory.bytes(),
            PinnedMemory::Host(words) => &bytemuck::cast_slice(words)[..self.bytes],
        }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            PinnedMemory::Cuda(memory) => memory.bytes_mut(),
            PinnedMemory::Host(words) => &mut bytemuck::cast_slice_mut(words)[..self.bytes],
        }
    }
}
