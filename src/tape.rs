//! The autograd tape: ops in order, what they saved, one backward walk.
//!
//! Gradient contract: an op's backward takes the gradient of its output by value (it may reuse that memory) and adds its
//! contribution to each input with [`Gradients::add`]; the first contribution is stored, later ones are summed.

use crate::Result;
use crate::device::Device;
use crate::tensor::Tensor;
use std::collections::HashMap;

/// Names a value: what an op's backward keeps of an input whose elements it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(usize);

/// A value on the tape. Clones are the same value.
#[derive(Clone)]
pub struct Var {
    id: Id,
    value: Tensor,
    constant: bool,
}

impl Var {
    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Its name, without its storage.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Whether nobody wants its gradient.
    pub fn is_constant(&self) -> bool {
        self.constant
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }
}

type Backward = Box<dyn FnOnce(Tensor, &mut Gradients) -> Result<()> + Send>;

/// The ops of one forward pass.
pub struct Tape {
    device: Device,
    recording: bool,
    values: usize,
    ops: Vec<(Id, Backward)>,
}

impl Tape {
    /// A tape on `device`. Where `recording` is false nothing is saved, and there is no backward.
    pub fn new(device: &Device, recording: bool) -> Self {
        Self { device: device.clone(), recording, values: 0, ops: Vec::new() }
    }

    /// The device that ops run on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether a backward may follow.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// A value that is no op's output: a parameter.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        self.values += 1;
        Var { id: Id(self.values - 1), value, constant: false }
    }

    /// A value that is no op's output and needs no gradient: an input.
    pub fn constant(&mut self, value: Tensor) -> Var {
        Var { constant: true, ..self.leaf(value) }
    }

    /// An op's output with its backward, which is called once with the output's gradient, or never where there is none.
    pub fn record(
        &mut self,
        value: Tensor,
        backward: impl FnOnce(Tensor, &mut Gradients) -> Result<()> + Send + 'static,
    ) -> Var {
        let var = self.leaf(value);
        if self.recording {
            self.ops.push((var.id, Box::new(backward)));
        }
        var
    }

    /// The same value under another shape.
    pub fn reshape(&mut self, x: &Var, shape: &[usize]) -> Var {
        Var { id: x.id, value: x.value.clone().reshaped(shape), constant: x.constant }
    }

    /// Walks the ops backward from `output`, whose gradient is `seed`, and returns the gradients of the leaves.
    pub fn backward(self, output: &Var, seed: Tensor) -> Result<Gradients> {
        let mut gradients = Gradients { device: self.device, of: HashMap::from([(output.id, seed)]) };
        for (id, backward) in self.ops.into_iter().rev() {
            if let Some(gradient) = gradients.of.remove(&id) {
                backward(gradient, &mut gradients)?;
            }
        }
        Ok(gradients)
    }
}

/// Gradients by value.
pub struct Gradients {
    device: Device,
    of: HashMap<Id, Tensor>,
}

impl Gradients {
    /// The device that ops run on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds a contribution to the gradient of the value `id`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn add(&mut self, id: Id, gradient: Tensor) -> Result<()> {
        match self.of.get_mut(&id) {
            None => {
                self.of.insert(id, gradient);
                Ok(())
            }
            Some(sum) => sum.add_assign(&self.device, &gradient),
        }
    }

    /// Takes the gradient of `var`; none where nothing depends on it.
    pub fn take(&mut self, var: &Var) -> Option<Tensor> {
        self.of.remove(&var.id)
    }
}
