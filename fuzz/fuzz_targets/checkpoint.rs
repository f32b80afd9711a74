//! A checkpoint, with a checksum made to fit: reading it, writing it again, and making its network.
#![no_main]

use emberformer::device::Device;
use emberformer::train::checkpoint::{Checkpoint, seal};
use emberformer::tensor::DType;
use emberformer::train::engine::load_model;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    // Half of the runs as they are, half with a checksum that fits: the last bit of the input says which.
    let Some((choice, bytes)) = data.split_last() else { return };
    let sealed = if choice & 1 == 1 { seal(bytes) } else { None };
    let path = Path::new("last.safetensors");
    let Ok(checkpoint) = Checkpoint::from_bytes(sealed.as_deref().unwrap_or(bytes), path) else { return };
    let again = checkpoint.to_bytes().expect("what was read can be written");
    let read = Checkpoint::from_bytes(&again, path).expect("and read again");
    assert_eq!(read.to_bytes().expect("and written again"), again);
    checkpoint.state.model.parameter_counts().total();
    let _ = load_model(&checkpoint, &Device::cpu(), DType::F32, path);
});
