//! The published network on whole windows: 400×400 pixels, history 6. The CPU in double precision is the truth, and what its
//! single precision is off by is the measure: gradients of such sums cancel, so their errors are far over rounding.

use crate::harness::device;
use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, FireEmbedding, Inputs, ModelSettings, Target};
use emberformer::ops::loss::{Counts, LossReport, LossSettings, Thresholds};
use emberformer::patch::Grid;
use emberformer::tensor::DType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn batch() -> (Inputs, Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let grid = Grid { rows: 50, cols: 50, patch: 8 };
    let (batch, history, n) = (2, 6, grid.patches());
    let mut bits = |len: usize| (0..len).map(|_| if rng.random_bool(0.1) { rng.random() } else { 0 }).collect();
    let (frames, target) = (bits(batch * history * n), bits(batch * n));
    let inputs = Inputs {
        batch,
        history,
        grid,
        frames,
        wind: (0..batch * history * 2).map(|_| rng.random()).collect(),
        statics: (0..batch * n * 8).map(|_| rng.random()).collect(),
        valid_steps: (0..batch * history).map(|i| i != history).collect(), // the second sample is a step shorter
    };
    (inputs, Target { bits: target, valid_patches: (0..batch * n).map(|i| i % 11 != 5).collect() })
}

/// Report and gradients of one training step with dropout.
fn step(device: &Device, dtype: DType, settings: &ModelSettings) -> (LossReport, Vec<(String, Vec<f64>)>) {
    let mut model = EmberFormer::new(settings, device, dtype, 1).unwrap();
    let (inputs, target) = batch();
    let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
    let key = DropoutKey { seed: 7, step: 3 };
    let report = model.train_step(&inputs, &target, &LossSettings::FOCAL_TVERSKY, &thresholds, key).unwrap();
    let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
    let gradient = |name: &String| Some((name.clone(), model.parameters().gradient(name).unwrap()?));
    (report, names.iter().filter_map(gradient).collect())
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
#[ignore = "takes minutes without a GPU"]
fn a_training_step_on_whole_windows_is_the_cpu_s() {
    let pixels =
        ModelSettings { fire_embedding: FireEmbedding::Pixels, last_frame_skip: true, ..ModelSettings::default() };
    for settings in [ModelSettings::default(), pixels] {
        let (truth, expected) = step(&Device::cpu(), DType::F64, &settings);
        let (_, peer) = step(&Device::cpu(), DType::F32, &settings);
        let (report, gradients) = step(&device(), DType::F32, &settings);
        let [exact, ours] = [(Device::cpu(), DType::F64), (device(), DType::F32)]
            .map(|(device, dtype)| EmberFormer::new(&settings, &device, dtype, 1).unwrap().logits(&batch().0).unwrap());
        let error = norm(ours.iter().zip(&exact).map(|(a, b)| a - b)) / norm(exact.iter().copied());
        assert!(error < 1e-4, "logits off by {error:.1e}");
        let error = (report.loss - truth.loss).abs() / truth.loss;
        assert!(error < 1e-6, "loss {} instead of {}", report.loss, truth.loss);
        let pixels = |c: &Counts| c.tp + c.fp + c.fn_ + c.tn;
        assert_eq!(report.copy_last, truth.copy_last);
        assert_eq!(pixels(&report.growth), pixels(&truth.growth));
        let all = norm(expected.iter().flat_map(|(_, values)| values.iter().copied()));
        assert_eq!((gradients.len(), peer.len()), (expected.len(), expected.len()));
        for (((name, ours), (_, peer)), (_, truth)) in gradients.iter().zip(&peer).zip(&expected) {
            let distance = |values: &[f64]| norm(values.iter().zip(truth).map(|(a, b)| a - b));
            let (error, peer) = (distance(ours), distance(peer));
            println!("{name}: off by {error:.1e}, the CPU by {peer:.1e}");
            // A gradient that vanishes in exact arithmetic is rounding noise of all the others.
            let allowed = 3.0 * peer + 1e-4 * norm(truth.iter().copied()) + 1e-6 * all;
            assert!(error <= allowed, "gradient of {name}: error {error:.1e}, allowed {allowed:.1e}");
        }
        // In half precision as far off as twice PyTorch's autocast is on the golden case of this network.
        let (report, gradients) = step(&device(), DType::BF16, &settings);
        let error = (report.loss - truth.loss).abs() / truth.loss;
        let distance =
            norm(gradients.iter().zip(&expected).flat_map(|((_, a), (_, b))| a.iter().zip(b).map(|(a, b)| a - b)));
        println!("bfloat16: loss off by {error:.1e}, gradients by {:.1e}", distance / all);
        assert!(error < 1e-3 && distance < 0.15 * all, "bfloat16: {error:.1e} and {:.1e}", distance / all);
    }
}
