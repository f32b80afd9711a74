//! The golden cases through the CPU path.

#[path = "common/golden_cases.rs"]
mod golden_cases;

use emberformer::device::Device;
use emberformer::tensor::DType;

#[test]
fn double_precision() {
    golden_cases::check(&Device::cpu(), DType::F64);
}

#[test]
fn single_precision() {
    golden_cases::check(&Device::cpu(), DType::F32);
}
