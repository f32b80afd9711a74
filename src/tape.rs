//! The autograd tape: ops in order, what they saved, one backward walk.
