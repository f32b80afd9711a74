//! The golden cases through a device: logits, loss, counts, every gradient and the Adam trajectories.

use emberformer::device::Device;
use emberformer::tensor::DType;
use emberformer::verify::{Check, EMBEDDED, run_case};

pub fn check(device: &Device, dtype: DType) {
    for (name, bytes) in EMBEDDED {
        let checks = run_case(name, bytes, device, dtype).unwrap();
        for prefix in ["logits", "loss", "step_losses", "grad", "after"] {
            let worst =
                checks.iter().filter(|c| c.quantity.starts_with(prefix)).max_by(|a, b| a.error.total_cmp(&b.error));
            worst.inspect(|c| println!("{name}: {} {:.1e} of {:.0e}", c.quantity, c.error, c.tolerance));
        }
        let failed: Vec<&Check> = checks.iter().filter(|check| !check.passes()).collect();
        assert!(failed.is_empty(), "{name}: {failed:#?}");
    }
}
