use crate::harness::{Checker, compare, device, parameter};
use emberformer::device::Device;
use emberformer::ops::adam::{Step, Update, adam};
use emberformer::tensor::{DType, Tensor};

/// Values, then first and second moments after some steps of tensors of these lengths, of two groups, the second of which
/// began two steps late.
fn updated(device: &Device, lengths: &[usize], steps: &[Vec<Vec<f64>>], reversed: bool) -> Vec<Vec<f64>> {
    if let Device::Gpu(gpu) = device {
        gpu.reverse_threads(reversed);
    }
    let zeros = |len: usize| parameter(device, &[len], &vec![0.0; len]);
    let mut values: Vec<Tensor> = steps[0].iter().map(|values| parameter(device, &[values.len()], values)).collect();
    let mut moments: Vec<[Tensor; 2]> = lengths.iter().map(|len| [zeros(*len), zeros(*len)]).collect();
    for (number, gradients) in steps[1..].iter().enumerate() {
        let gradients: Vec<Tensor> =
            gradients.iter().map(|values| parameter(device, &[values.len()], values)).collect();
        let parts = values.iter_mut().zip(&gradients).zip(&mut moments).enumerate();
        let mut steps: Vec<Step> = parts
            .filter(|(i, _)| i % 2 == 0 || number >= 2)
            .map(|(i, ((value, gradient), moments))| {
                let (rate, late) = if i % 2 == 0 { (1e-2, 0) } else { (3e-4, 2) };
                let step = (number + 1 - late) as u64;
                let update = Update { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, rate, step };
                Step { value, gradient, moments, update }
            })
            .collect();
        adam(device, &mut steps).unwrap();
    }
    values.iter().chain(moments.iter().flatten()).map(|tensor| tensor.to_host().unwrap()).collect()
}

#[test]
fn adam_updates_tensors_of_any_length() {
    let mut c = Checker::new(1);
    let lengths = [1, 64, 4095, 3, 4097, 9001, 4096];
    let steps: Vec<Vec<Vec<f64>>> = (0..6).map(|_| lengths.iter().map(|len| c.random(&[*len])).collect()).collect();
    let truth = updated(&Device::cpu(), &lengths, &steps, false);
    let ours = updated(&device(), &lengths, &steps, false);
    for (i, (ours, truth)) in ours.iter().zip(&truth).enumerate() {
        compare(&format!("adam: tensor {i}"), DType::F32, ours, truth, &[]);
    }
    assert_eq!(ours, updated(&device(), &lengths, &steps, true));
}

#[test]
fn adam_leaves_tensors_that_share_memory() {
    let device = device();
    let before = parameter(&device, &[5], &[1.0; 5]);
    let mut value = before.clone();
    let gradient = parameter(&device, &[5], &[2.0; 5]);
    let mut moments = [0.0; 2].map(|x| parameter(&device, &[5], &[x; 5]));
    let update = Update { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, rate: 0.5, step: 1 };
    adam(&device, &mut [Step { value: &mut value, gradient: &gradient, moments: &mut moments, update }]).unwrap();
    assert_eq!(before.to_host().unwrap(), [1.0; 5]);
    assert!(value.to_host().unwrap().iter().all(|x| (x - 0.5).abs() < 1e-6));
    adam(&device, &mut []).unwrap();
}
