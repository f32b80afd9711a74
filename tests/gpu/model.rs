//! The whole network through the kernels: golden cases, training steps beside the CPU path, memory.

use crate::golden_cases;
use crate::harness::device;
use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, FireEmbedding, Inputs, ModelSettings, Target};
use emberformer::ops::loss::{LossReport, LossSettings, Thresholds};
use emberformer::optim::{Adam, AdamSettings, LearningRates};
use emberformer::patch::Grid;
use emberformer::tensor::DType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const THRESHOLDS: Thresholds = Thresholds { prediction: 0.5, target: 0.05 };
pub const RATES: LearningRates = LearningRates { temporal: 1e-3, spatial: 1e-4, refinement: 1e-3 };
pub const ADAM: AdamSettings = AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4 };

#[test]
fn golden_cases_in_float() {
    golden_cases::check(&device(), DType::F32);
}

#[test]
fn golden_cases_in_bf16() {
    golden_cases::check(&device(), DType::BF16);
}

pub fn settings() -> ModelSettings {
    ModelSettings {
        d_model: 16,
        heads: 2,
        layers: 2,
        feedforward: 24,
        static_channels: 5,
        hidden_sizes: [8, 16, 8, 24],
        decoder_width: 16,
        base_channels: 8,
        ..ModelSettings::default()
    }
}

/// Histories of the given lengths on a grid of 8×9 patches, some of them invalid.
pub fn batch(settings: &ModelSettings, lengths: &[usize], seed: u64) -> (Inputs, Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let grid = Grid { rows: 8, cols: 9, patch: settings.patch };
    let (b, t, n) = (lengths.len(), lengths.iter().copied().max().unwrap(), grid.patches());
    let mut bits = |len: usize| -> Vec<u64> {
        let mask = if settings.patch == 4 { 0xffff } else { u64::MAX };
        (0..len).map(|_| rng.random::<u64>() & rng.random::<u64>() & mask).collect()
    };
    let (frames, target) = (bits(b * t * n * grid.words()), bits(b * n * grid.words()));
    let inputs = Inputs {
        batch: b,
        history: t,
        grid,
        frames,
        wind: (0..b * t * 2).map(|_| rng.random()).collect(),
        statics: (0..b * n * settings.static_channels).map(|_| rng.random()).collect(),
        valid_steps: lengths.iter().flat_map(|length| (0..t).map(move |step| step >= t - length)).collect(),
    };
    (inputs, Target { bits: target, valid_patches: (0..b * n).map(|i| i % 7 != 3).collect() })
}

/// Reports and final weights of `steps` training steps.
fn train(
    device: &Device,
    dtype: DType,
    settings: &ModelSettings,
    loss: &LossSettings,
    steps: u64,
) -> (Vec<LossReport>, Vec<Vec<f64>>) {
    let mut model = EmberFormer::new(settings, device, dtype, 1).unwrap();
    let mut adam = Adam::new(ADAM, model.parameters()).unwrap();
    let reports = (0..steps)
        .map(|step| {
            let (inputs, target) = batch(settings, &[3, 1 + step as usize % 4], step);
            let report = model.train_step(&inputs, &target, loss, &THRESHOLDS, DropoutKey { seed: 7, step }).unwrap();
            adam.step(model.parameters_mut(), &RATES, &[]).unwrap();
            report
        })
        .collect();
    let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
    (reports, names.iter().map(|name| model.parameters().get_f64(name).unwrap()).collect())
}

/// ‖a − b‖ / ‖b‖ over all tensors.
pub fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a - b));
    difference / norm(&mut b.iter().flatten().copied())
}

/// Adam divides a gradient that vanishes by its own size, so rounding grows from step to step: the CPU's own float run,
/// measured against double precision, says how much.
#[test]
fn five_training_steps_follow_the_cpu_path() {
    for loss in [LossSettings::FOCAL_TVERSKY, LossSettings::BCE_DICE] {
        let (truth, weights) = train(&Device::cpu(), DType::F64, &settings(), &loss, 5);
        let (peer, peer_weights) = train(&Device::cpu(), DType::F32, &settings(), &loss, 5);
        let worst = |reports: &[LossReport]| {
            let errors = reports.iter().zip(&truth).map(|(ours, truth)| (ours.loss - truth.loss).abs() / truth.loss);
            errors.fold(0.0, f64::max)
        };
        let allowed = [worst(&peer), distance(&peer_weights, &weights)];
        for (dtype, factor) in [(DType::F32, 4.0), (DType::BF16, f64::INFINITY)] {
            let (reports, ours) = train(&device(), dtype, &settings(), &loss, 5);
            let errors = [worst(&reports), distance(&ours, &weights)];
            for (what, i) in [("losses", 0), ("weights", 1)] {
                println!("{dtype:?}: {what} off by {:.1e}, the CPU's float run by {:.1e}", errors[i], allowed[i]);
            }
            for (report, truth) in reports.iter().zip(&truth) {
                let pixels = |c: &emberformer::ops::loss::Counts| c.tp + c.fp + c.fn_ + c.tn;
                assert_eq!(report.copy_last, truth.copy_last);
                assert_eq!(pixels(&report.growth), pixels(&truth.growth));
            }
            assert!(errors[0] <= (factor * allowed[0]).clamp(1e-5, 2e-2), "{dtype:?}: losses off by {:.1e}", errors[0]);
            assert!(
                errors[1] <= (factor * allowed[1]).clamp(1e-4, 5e-2),
                "{dtype:?}: weights off by {:.1e}",
                errors[1]
            );
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for dtype in [DType::F32, DType::BF16] {
        let [a, b] = [0, 1].map(|_| train(&device(), dtype, &settings(), &LossSettings::FOCAL_TVERSKY, 2));
        assert!(a == b, "{dtype:?}");
    }
}

#[test]
fn every_setting_makes_a_network_that_trains() {
    let pixels = ModelSettings { fire_embedding: FireEmbedding::Pixels, last_frame_skip: true, ..settings() };
    let variants = [
        ModelSettings { use_wind: false, ..settings() },
        ModelSettings { use_static: false, ..settings() },
        ModelSettings { input_projection: true, ..settings() },
        ModelSettings { layers: 1, heads: 4, dropout: 0.0, ..settings() },
        ModelSettings { d_model: 40, heads: 8, ..settings() },
        ModelSettings { patch: 4, ..pixels.clone() },
        ModelSettings { patch: 16, d_model: 64, heads: 1, ..pixels.clone() },
        ModelSettings { static_channels: 8, ..pixels },
    ];
    for settings in variants {
        let (expected, _) = train(&Device::cpu(), DType::F32, &settings, &LossSettings::FOCAL_TVERSKY, 1);
        let (ours, _) = train(&device(), DType::F32, &settings, &LossSettings::FOCAL_TVERSKY, 1);
        let error = (ours[0].loss - expected[0].loss).abs() / expected[0].loss;
        assert!(error < 1e-5, "{settings:?}: {} but {}", ours[0].loss, expected[0].loss);
    }
}

#[test]
fn a_samples_logits_do_not_depend_on_its_batch() {
    let settings = ModelSettings { fire_embedding: FireEmbedding::Pixels, last_frame_skip: true, ..settings() };
    let model = EmberFormer::new(&settings, &device(), DType::F32, 1).unwrap();
    let (both, _) = batch(&settings, &[4, 2], 3);
    let together = model.logits(&both).unwrap();
    let window = both.grid.patches();
    let alone = Inputs {
        batch: 1,
        history: 2,
        grid: both.grid,
        frames: both.frames[6 * window..].to_vec(),
        wind: both.wind[6 * 2..].to_vec(),
        statics: both.statics[window * 5..].to_vec(),
        valid_steps: vec![true; 2],
    };
    let alone = model.logits(&alone).unwrap();
    let worst = alone.iter().zip(&together[alone.len()..]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "{worst:.1e}");
}

#[test]
fn settings_that_the_kernels_cannot_compute_are_refused() {
    let error =
        |settings: ModelSettings, dtype| EmberFormer::new(&settings, &device(), dtype, 0).err().unwrap().to_string();
    let narrow = ModelSettings { d_model: 8, heads: 4, ..settings() };
    assert!(error(narrow, DType::F32).contains("heads of width 2, possible are 4 to 64"));
    let odd = ModelSettings { base_channels: 12, ..settings() };
    assert!(error(odd, DType::BF16).contains("model.refinement.base_channels of 12, only multiples of 8"));
    assert!(error(settings(), DType::F64).contains("float or bf16"));
    let model = EmberFormer::new(&settings(), &device(), DType::F32, 0).unwrap();
    let text = model.check_history(65).unwrap_err().to_string();
    assert!(text.contains("histories of 65 steps, a GPU takes 64 at most"), "{text}");
}

#[test]
fn memory_stays_flat() {
    let device = device();
    let mut model = EmberFormer::new(&settings(), &device, DType::BF16, 1).unwrap();
    let (inputs, target) = batch(&settings(), &[2, 2], 4);
    let mut peaks = Vec::new();
    for step in 0..8 {
        let key = DropoutKey { seed: 9, step };
        model.train_step(&inputs, &target, &LossSettings::FOCAL_TVERSKY, &THRESHOLDS, key).unwrap();
        peaks.push(device.memory());
    }
    // A buffer may serve a need that is up to a quarter smaller, so the peak may move a little before it settles.
    assert!(peaks[4..].iter().all(|peak| *peak == peaks[4]), "{peaks:?}");
}
