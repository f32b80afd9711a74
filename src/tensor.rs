//! Shape, element type and storage of an array.

use crate::Result;
use crate::device::Device;
use crate::device::cpu::{Buffer, Cpu, Real};
use crate::device::gpu::{self, Gpu, Launch, params};
use half::bf16;
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
    /// Half precision with the exponent of float (bfloat16): activations on a GPU.
    BF16,
}

impl DType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::BF16 => "bfloat16",
        }
    }

    /// What ends the name of a kernel for activations of this type.
    ///
    /// # Panics
    /// For double precision, which has no kernels.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F64 => unreachable!("a GPU computes in f32 or bf16"),
        }
    }
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
    Gpu(DType, Arc<gpu::Buffer>),
}

/// Runs `$body` with `$E` as the Rust type of a [`DType`] of the CPU path.
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
            $crate::tensor::DType::BF16 => unreachable!("the CPU computes in f32 or f64"),
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

    /// A tensor in a GPU's memory.
    pub(crate) fn from_gpu(shape: &[usize], dtype: DType, buffer: gpu::Buffer) -> Self {
        Self { shape: shape.to_vec(), storage: Storage::Gpu(dtype, Arc::new(buffer)) }
    }

    /// A tensor on `device` with values from the host, rounded to `dtype`.
    ///
    /// # Errors
    /// Where the device's memory runs out.
    pub fn from_host(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        values: impl ExactSizeIterator<Item = f64>,
    ) -> Result<Self> {
        match (device, dtype) {
            (Device::Cpu(cpu), _) => with_real!(dtype, E => {
                let mut data = cpu.take::<E>(values.len());
                data.iter_mut().zip(values).for_each(|(to, from)| *to = E::of(from));
                Ok(Self::from_buffer(shape, data))
            }),
            (Device::Gpu(gpu), DType::BF16) => {
                let values: Vec<bf16> = values.map(bf16::from_f64).collect();
                Ok(Self::from_gpu(shape, dtype, gpu.upload(&values)?))
            }
            (Device::Gpu(gpu), _) => {
                let values: Vec<f32> = values.map(|x| x as f32).collect();
                Ok(Self::from_gpu(shape, DType::F32, gpu.upload(&values)?))
            }
        }
    }

    /// Zeros.
    ///
    /// # Errors
    /// Where the device's memory runs out.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        match device {
            Device::Cpu(cpu) => {
                with_real!(dtype, E => Ok(Self::from_buffer(shape, cpu.zeros::<E>(shape.iter().product()))))
            }
            Device::Gpu(gpu) => gpu.zeros(dtype, shape),
        }
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
            Storage::Gpu(dtype, _) => dtype,
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
    /// If the element type is another, or the tensor is on a GPU.
    pub fn cpu<E: Real>(&self) -> &[E] {
        let buffer: &dyn Any = match &self.storage {
            Storage::F32(data) => &**data,
            Storage::F64(data) => &**data,
            Storage::Gpu(_, data) => &**data,
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
            Storage::Gpu(_, data) => data,
        };
        match buffer.downcast_mut::<Buffer<E>>() {
            Some(data) => data,
            None => panic!("a tensor of {dtype:?} written as {}", std::any::type_name::<E>()),
        }
    }

    /// A copy of the values on the host, in double precision.
    ///
    /// # Errors
    /// What the device reports of this copy or of a kernel before it.
    pub fn to_host(&self) -> Result<Vec<f64>> {
        match &self.storage {
            Storage::Gpu(DType::BF16, data) => {
                Ok(data.home().download::<bf16>(data, self.len())?.into_iter().map(f64::from).collect())
            }
            Storage::Gpu(_, data) => {
                Ok(data.home().download::<f32>(data, self.len())?.into_iter().map(f64::from).collect())
            }
            _ => with_real!(self.dtype(), E => Ok(self.cpu::<E>().iter().map(|x| x.f64()).collect())),
        }
    }

    /// The device address of the first element, for parameter structs. Kernels write through it only to tensors that
    /// [`Gpu::tensor`] has just made or [`Tensor::gpu_mut`] has made unique.
    ///
    /// # Panics
    /// If the tensor is on the host.
    pub fn gpu_address(&self) -> *mut std::ffi::c_void {
        match &self.storage {
            Storage::Gpu(_, data) => data.address(),
            _ => panic!("a tensor in host memory given to a GPU"),
        }
    }

    /// The device address to write to in place; copies the elements first where another tensor shares them.
    ///
    /// # Errors
    /// Where memory for the copy runs out.
    ///
    /// # Panics
    /// If the tensor is on the host.
    pub fn gpu_mut(&mut self, gpu: &Gpu) -> Result<*mut std::ffi::c_void> {
        let Storage::Gpu(_, data) = &mut self.storage else { panic!("a tensor in host memory given to a GPU") };
        if Arc::get_mut(data).is_none() {
            *data = Arc::new(gpu.copied(data)?);
        }
        Ok(data.address())
    }

    /// A copy that shares nothing.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn copied(&self, device: &Device) -> Result<Self> {
        match (&self.storage, device) {
            (Storage::Gpu(dtype, data), Device::Gpu(gpu)) => Ok(Self::from_gpu(&self.shape, *dtype, gpu.copied(data)?)),
            (_, Device::Cpu(cpu)) => {
                let (shared, mut copy) = (self.clone(), self.clone());
                with_real!(self.dtype(), E => { copy.cpu_mut::<E>(cpu); });
                drop(shared);
                Ok(copy)
            }
            _ => panic!("a tensor in host memory given to a GPU"),
        }
    }

    /// Copies the elements of `from` to where these lie on a GPU, whoever shares them.
    ///
    /// # Errors
    /// What the device reports.
    ///
    /// # Panics
    /// If either is on the host.
    pub(crate) fn copy_from(&self, gpu: &Gpu, from: &Self) -> Result<()> {
        match (&self.storage, &from.storage) {
            (Storage::Gpu(_, to), Storage::Gpu(_, from)) => gpu.copy(from, to),
            _ => panic!("a tensor in host memory given to a GPU"),
        }
    }

    /// self += other, of the same length and type.
    ///
    /// # Errors
    /// What the device reports.
    pub fn add_assign(&mut self, device: &Device, other: &Self) -> Result<()> {
        match device {
            Device::Cpu(cpu) => with_real!(self.dtype(), E => {
                let terms = other.cpu::<E>();
                crate::device::cpu::vectorized(|| {
                    self.cpu_mut::<E>(cpu).iter_mut().zip(terms).for_each(|(sum, term)| *sum += *term);
                });
                Ok(())
            }),
            Device::Gpu(gpu) => {
                assert_eq!((self.dtype(), self.len()), (other.dtype(), other.len()), "terms of one kind");
                let (to, len) = (self.gpu_mut(gpu)?, self.len());
                let params = params::Add { to, from: other.gpu_address(), len: len as u64 };
                gpu.launch_for("add", self.dtype(), elementwise(len), &params)
            }
        }
    }

    /// self *= factor.
    ///
    /// # Errors
    /// What the device reports.
    pub fn scale(&mut self, device: &Device, factor: f64) -> Result<()> {
        match device {
            Device::Cpu(cpu) => with_real!(self.dtype(), E => {
                let factor = <E as Real>::of(factor);
                self.cpu_mut::<E>(cpu).iter_mut().for_each(|x| *x *= factor);
                Ok(())
            }),
            Device::Gpu(gpu) => {
                let (values, len) = (self.gpu_mut(gpu)?, self.len());
                let params = params::Scale { values, len: len as u64, factor: factor as f32 };
                gpu.launch_for("scale", self.dtype(), elementwise(len), &params)
            }
        }
    }

    /// A float tensor of a GPU in the type `dtype`: itself where that is float.
    ///
    /// # Errors
    /// What the device reports.
    pub fn cast(&self, gpu: &Gpu, dtype: DType) -> Result<Self> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        assert_eq!(self.dtype(), DType::F32, "parameters are float");
        let cast = gpu.tensor(dtype, &self.shape)?;
        let params = params::Cast { to: cast.gpu_address(), from: self.gpu_address().cast(), len: self.len() as u64 };
        gpu.launch_for("cast", dtype, elementwise(self.len()), &params)?;
        Ok(cast)
    }
}

/// A launch over `len` elements in a grid-stride loop.
fn elementwise(len: usize) -> Launch {
    Launch::linear(len.div_ceil(4 * 256).min(4096), 256)
}
