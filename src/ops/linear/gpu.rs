//! Launches `kernels/linear.cu` around matrix products.

use super::Activation;
use crate::Result;
use crate::device::gpu::{Gemm, Gpu, Launch, params};
use crate::ops::columns::{MOST_BLOCKS, MOST_PARTIALS, neighbours, sums, walk};
use crate::ops::dropout::Dropout;
use crate::ops::map::stored_channels;
use crate::ops::slice::gpu::Window;
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// See [`super::linear`]; x has as many channels as the weight takes, or [`stored_channels`] of them, and so has its
/// gradient.
pub fn linear(
    tape: &mut Tape,
    gpu: &Gpu,
    x: &Var,
    weight: &Var,
    bias: Option<&Var>,
    activation: Activation,
) -> Result<Var> {
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
    let (dtype, stored) = (x.value().dtype(), x.shape()[x.shape().len() - 1]);
    let fits = [inputs, stored_channels(inputs)].contains(&stored);
    assert!(fits, "linear: {:?} by {:?}", x.shape(), weight.shape());
    let rows = x.value().len() / stored;
    let columns = Window { width: stored, rows: 0..outputs, cols: 0..inputs };
    let w = if stored == inputs {
        weight.value().clone()
    } else {
        columns.place(gpu, weight.value(), &[outputs, stored])?
    };
    let w = w.cast(gpu, dtype)?; // [out, stored in]
    let mut shape = x.shape().to_vec();
    shape[x.shape().len() - 1] = outputs;
    let mut product = gpu.tensor(dtype, &shape)?;
    let product_of =
        Gemm { a: x.value(), b: &w, m: rows, n: outputs, k: stored, transpose_a: false, transpose_b: true };
    gpu.gemm(&product_of, &mut product)?;
    let layer = Layer { rows, outputs, bias: bias.map(|bias| bias.value().clone()) };
    let (y, saved) = match activation {
        Activation::Identity => {
            layer.add_bias(gpu, &mut product)?;
            (product, None)
        }
        Activation::Gelu(drop) => (layer.gelu(gpu, &product, drop.as_ref())?, Some((product, drop))),
    };
    let (gpu, x, weight, bias) = (gpu.clone(), x.clone(), weight.clone(), bias.map(Var::id));
    Ok(tape.record(y, move |mut dy, gradients| {
        let db = match saved {
            Some((product, drop)) => layer.gelu_backward(&gpu, &mut dy, &product, drop.as_ref())?,
            None => layer.bias_backward(&gpu, &dy)?,
        };
        if let (Some(bias), Some(db)) = (bias, db) {
            gradients.add(bias, db)?;
        }
        let mut dw = gpu.tensor(DType::F32, &[outputs, stored])?;
        let weight_gradient =
            Gemm { a: &dy, b: x.value(), m: outputs, n: stored, k: rows, transpose_a: true, transpose_b: false };
        gpu.gemm(&weight_gradient, &mut dw)?;
        if stored != inputs {
            dw = columns.cut(&gpu, &dw, &[outputs, inputs])?;
        }
        gradients.add(weight.id(), dw.reshaped(weight.shape()))?;
        if x.is_constant() {
            return Ok(());
        }
        let mut dx = gpu.tensor(dtype, x.shape())?;
        let input_gradient =
            Gemm { a: &dy, b: &w, m: rows, n: stored, k: outputs, transpose_a: false, transpose_b: false };
        gpu.gemm(&input_gradient, &mut dx)?;
        gradients.add(x.id(), dx)
    }))
}

/// What follows the product [rows, outputs].
struct Layer {
    rows: usize,
    outputs: usize,
    bias: Option<Tensor>,
}

impl Layer {
    fn launch(&self, most_blocks: usize) -> Launch {
        walk(self.rows, self.outputs / neighbours(self.outputs), most_blocks)
    }

    /// A launch whose blocks leave a partial sum of every column.
    fn launch_partials(&self) -> Launch {
        let launch = self.launch(MOST_PARTIALS);
        Launch { shared: launch.block * 4 * neighbours(self.outputs) as u32, ..launch }
    }

    fn bias(&self) -> *const f32 {
        self.bias.as_ref().map_or(std::ptr::null(), |bias| bias.gpu_address().cast_const().cast())
    }

    fn add_bias(&self, gpu: &Gpu, y: &mut Tensor) -> Result<()> {
        if self.bias.is_none() {
            return Ok(());
        }
        let (y_address, dtype) = (y.gpu_mut(gpu)?, y.dtype());
        let params = params::LinearBias {
            y: y_address,
            bias: self.bias(),
            rows: self.rows as u64,
            outputs: self.outputs as u32,
        };
        gpu.launch_for("linear_bias", dtype, self.launch(MOST_BLOCKS), &params)
    }

    /// The gradient of the bias, where there is one.
    fn bias_backward(&self, gpu: &Gpu, dy: &Tensor) -> Result<Option<Tensor>> {
        if self.bias.is_none() {
            return Ok(None);
        }
        let launch = self.launch_partials();
        let partials = gpu.take(launch.grid[0] as usize * self.outputs * 4)?;
        let params = params::LinearBiasBackward {
            dy: dy.gpu_address(),
            partials: partials.address().cast(),
            rows: self.rows as u64,
            outputs: self.outputs as u32,
        };
        gpu.launch_for("linear_bias_backward", dy.dtype(), launch, &params)?;
        let db = gpu.tensor(DType::F32, &[self.outputs])?;
        sums(gpu, &partials, launch.grid[0], &db, None)?;
        Ok(Some(db))
    }

    fn gelu(&self, gpu: &Gpu, product: &Tensor, drop: Option<&Dropout>) -> Result<Tensor> {
        let y = gpu.tensor(product.dtype(), product.shape())?;
        let params = params::LinearGelu {
            y: y.gpu_address(),
            product: product.gpu_address(),
            bias: self.bias(),
            rows: self.rows as u64,
            outputs: self.outputs as u32,
            dropout: Dropout::params(gpu, drop)?,
        };
        gpu.launch_for("linear_gelu", product.dtype(), self.launch(MOST_BLOCKS), &params)?;
        Ok(y)
    }

    /// Turns dy into the gradient of product + bias; returns that of the bias, where there is one.
    fn gelu_backward(
        &self,
        gpu: &Gpu,
        dy: &mut Tensor,
        product: &Tensor,
        drop: Option<&Dropout>,
    ) -> Result<Option<Tensor>> {
        let launch = self.launch_partials();
        let partials = match self.bias {
            Some(_) => Some(gpu.take(launch.grid[0] as usize * self.outputs * 4)?),
            None => None,
        };
        let params = params::LinearGeluBackward {
            dy: dy.gpu_mut(gpu)?,
            product: product.gpu_address(),
            bias: self.bias(),
            partials: partials.as_ref().map_or(std::ptr::null_mut(), |partials| partials.address().cast()),
            rows: self.rows as u64,
            outputs: self.outputs as u32,
            dropout: Dropout::params(gpu, drop)?,
        };
        gpu.launch_for("linear_gelu_backward", product.dtype(), launch, &params)?;
        let Some(partials) = partials else { return Ok(None) };
        let db = gpu.tensor(DType::F32, &[self.outputs])?;
        sums(gpu, &partials, launch.grid[0], &db, None)?;
        Ok(Some(db))
    }
}
