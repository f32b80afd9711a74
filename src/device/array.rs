//! Plain arrays beside the tensors: patch bits, flags, positions.

use super::Device;
use super::gpu::{Buffer, Gpu};
use crate::Result;
use bytemuck::NoUninit;
use std::sync::Arc;

/// Elements where a device reads them. Clones share them.
#[derive(Debug, Clone)]
pub enum Array<T> {
    /// On the host.
    Host(Arc<[T]>),
    /// In a GPU's memory, so many elements.
    Gpu(Arc<Buffer>, usize),
}

impl<T, L: Into<Arc<[T]>>> From<L> for Array<T> {
    fn from(values: L) -> Self {
        Self::Host(values.into())
    }
}

impl<T: NoUninit> Array<T> {
    /// `values` where ops of `device` find them.
    ///
    /// # Errors
    /// Where the device's memory runs out.
    pub fn new(device: &Device, values: Vec<T>) -> Result<Self> {
        match device {
            Device::Cpu(_) => Ok(Self::Host(values.into())),
            Device::Gpu(gpu) => Self::on(gpu, &values),
        }
    }

    fn on(gpu: &Gpu, values: &[T]) -> Result<Self> {
        Ok(Self::Gpu(Arc::new(gpu.upload(values)?), values.len()))
    }

    /// Room for `len` elements on a GPU, which a kernel is to write.
    ///
    /// # Errors
    /// Where the device's memory runs out.
    pub fn uninitialized(gpu: &Gpu, len: usize) -> Result<Self> {
        Ok(Self::Gpu(Arc::new(gpu.take(len * size_of::<T>())?), len))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Gpu(_, len) => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the elements of `from` to where these lie on a GPU.
    ///
    /// # Errors
    /// What the device reports.
    ///
    /// # Panics
    /// If either is on the host.
    pub(crate) fn copy_from(&self, gpu: &Gpu, from: &Self) -> Result<()> {
        match (self, from) {
            (Self::Gpu(to, _), Self::Gpu(from, _)) => gpu.copy(from, to),
            _ => panic!("an array in host memory given to a GPU"),
        }
    }

    /// The elements, for the ops of the CPU.
    ///
    /// # Panics
    /// If they are on a GPU.
    pub fn host(&self) -> &[T] {
        match self {
            Self::Host(values) => values,
            Self::Gpu(..) => panic!("an array in a GPU's memory read on the host"),
        }
    }

    /// Their device address, for parameter structs.
    ///
    /// # Panics
    /// If they are on the host.
    pub fn gpu_address(&self) -> *const T {
        match self {
            Self::Host(_) => panic!("an array in host memory given to a GPU"),
            Self::Gpu(buffer, _) => buffer.address().cast(),
        }
    }
}
