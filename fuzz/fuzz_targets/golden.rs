//! A golden case, in both precisions.
#![no_main]

use emberformer::device::Device;
use emberformer::tensor::DType;
use emberformer::verify::run_case;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for dtype in [DType::F64, DType::F32] {
        match run_case("fuzz.safetensors", data, &Device::cpu(), dtype) {
            Ok(checks) => assert!(!checks.is_empty()),
            Err(error) => assert!(error.to_string().starts_with("fuzz.safetensors: "), "{error}"),
        }
    }
});
