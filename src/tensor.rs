//! Shape, element type and storage of an array.

use crate::device::Device;
use crate::device::cpu::{Buffer, Cpu, Real};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::sync::Arc;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// Single precision.
    F32,
    /// Double precision: for checks, on the CPU only.
    F64,
}

/// An array on a device. Clones share their storage.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    F32(Arc<Buffer<f32>>),
    F64(Arc<Buffer<f64>>),
}

/// Runs `$body` with `$E` as the Rust type of a [`DType`].
#[macro_export]
macro_rules! with_real {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $E = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $E = f64;
                $body
            }
        }
    };
}

impl Tensor {
    /// A host tensor that takes over `data`.
    ///
    /// # Panics
    /// If the shape's product is not the buffer's length.
    pub fn from_buffer<E: Real>(shape: &[usize], data: Buffer<E>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape {shape:?} does not fit its data");
        let data: Box<dyn Any> = Box::new(data);
        let storage = match data.downcast::<Buffer<f32>>() {
            Ok(data) => Storage::F32(Arc::new(*data)),
            Err(data) => match data.downcast::<Buffer<f64>>() {
                Ok(data) => Storage::F64(Arc::new(*data)),
                Err(_) => unreachable!("Real is f32 or f64"),
            },
        };
        Self { shape: shape.to_vec(), storage }
    }

    /// A tensor on `device` with values from the host, rounded to `dtype`.
    pub fn from_host(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        values: impl ExactSizeIterator<Item = f64>,
    ) -> Self {
        let Device::Cpu(cpu) = device;
        with_real!(dtype, E => {
            let mut data = cpu.take::<E>(values.len());
            data.iter_mut().zip(values).for_each(|(to, from)| *to = E::of(from));
            Self::from_buffer(shape, data)
        })
    }

    /// Zeros.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Self {
        let Device::Cpu(cpu) = device;
        with_real!(dtype, E => Self::from_buffer(shape, cpu.zeros::<E>(shape.iter().product())))
    }

    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.storage {
            Storage::F32(_) => DType::F32,
            Storage::F64(_) => DType::F64,
        }
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "{:?} seen as {shape:?}", self.shape);
        self.shape = shape.to_vec();
        self
    }

    /// The elements of a host tensor.
    ///
    /// # Panics
    /// If the element type is another.
    pub fn cpu<E: Real>(&self) -> &[E] {
        let buffer: &dyn Any = match &self.storage {
            Storage::F32(data) => &**data,
            Storage::F64(data) => &**data,
        };
        match buffer.downcast_ref::<Buffer<E>>() {
            Some(data) => data,
            None => panic!("a tensor of {:?} read as {}", self.dtype(), std::any::type_name::<E>()),
        }
    }

    /// The elements to write to; copies them first where another tensor shares them.
    ///
    /// # Panics
    /// If the element type is another.
    pub fn cpu_mut<E: Real>(&mut self, cpu: &Cpu) -> &mut [E] {
        fn unique<'a, E: Real>(data: &'a mut Arc<Buffer<E>>, cpu: &Cpu) -> &'a mut Buffer<E> {
            if Arc::get_mut(data).is_none() {
                let mut copy = cpu.take::<E>(data.len());
                copy.copy_from_slice(data);
                *data = Arc::new(copy);
            }
            Arc::get_mut(data).unwrap_or_else(|| unreachable!("just made unique"))
        }
        let dtype = self.dtype();
        let buffer: &mut dyn Any = match &mut self.storage {
            Storage::F32(data) => unique(data, cpu),
            Storage::F64(data) => unique(data, cpu),
        };
        match buffer.downcast_mut::<Buffer<E>>() {
            Some(data) => data,
            None => panic!("a tensor of {dtype:?} written as {}", std::any::type_name::<E>()),
        }
    }

    /// A copy of the values on the host, in double precision.
    pub fn to_host(&self) -> Vec<f64> {
        with_real!(self.dtype(), E => self.cpu::<E>().iter().map(|x| x.f64()).collect())
    }
}
