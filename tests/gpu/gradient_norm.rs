use crate::harness::{Checker, device, parameter};
use emberformer::device::Device;
use emberformer::ops::gradient_norm::gradient_norm;
use emberformer::tensor::Tensor;

#[test]
fn gradient_norm_of_tensors_of_any_length() {
    let mut c = Checker::new(1);
    let values: Vec<Vec<f64>> = [1, 2, 7, 64, 4095, 4096, 4099, 20_001].iter().map(|len| c.random(&[*len])).collect();
    for some in [&values[..1], &values[1..4], &values[..], &[]] {
        let norm = |device: &Device| {
            let tensors: Vec<Tensor> = some.iter().map(|values| parameter(device, &[values.len()], values)).collect();
            gradient_norm(device, &tensors.iter().collect::<Vec<_>>()).unwrap()
        };
        let truth = some.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
        assert!((norm(&Device::cpu()) - truth).abs() <= 1e-12 * truth);
        let device = device();
        let ours = norm(&device);
        assert!((ours - truth).abs() <= 1e-6 * truth, "{ours} but {truth}");
        if let Device::Gpu(gpu) = &device {
            gpu.reverse_threads(true);
            assert_eq!(norm(&device).to_bits(), ours.to_bits());
        }
    }
}
