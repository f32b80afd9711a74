//! The network as a whole: what its results may and may not depend on.

use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, FireEmbedding, Inputs, ModelSettings, Target};
use emberformer::ops::loss::{LossSettings, Thresholds};
use emberformer::patch::Grid;
use emberformer::tensor::DType;
use rand::{RngExt, SeedableRng};

const THRESHOLDS: Thresholds = Thresholds { prediction: 0.5, target: 0.05 };
const LOSS: LossSettings = LossSettings::BCE_DICE;

fn settings() -> ModelSettings {
    ModelSettings {
        d_model: 16,
        heads: 2,
        layers: 2,
        feedforward: 24,
        dropout: 0.1,
        head_dropout: 0.1,
        patch: 8,
        static_channels: 3,
        use_wind: true,
        use_static: true,
        fire_embedding: FireEmbedding::Mean,
        hidden_sizes: [8, 8, 16, 16],
        decoder_width: 16,
        base_channels: 4,
        input_projection: false,
        last_frame_skip: false,
    }
}

fn batch(settings: &ModelSettings, lengths: &[usize], seed: u64) -> (Inputs, Target) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let grid = Grid { rows: 8, cols: 9, patch: settings.patch };
    let (b, t, n) = (lengths.len(), *lengths.iter().max().unwrap(), grid.patches());
    let mut floats = |len: usize| (0..len).map(|_| rng.random::<f32>()).collect::<Vec<f32>>();
    let (wind, statics) = (floats(b * t * 2), floats(b * n * settings.static_channels));
    let mask = if settings.patch == 4 { 0xffff } else { u64::MAX };
    let mut bits = |len: usize| (0..len).map(|_| rng.random::<u64>() & mask).collect::<Vec<u64>>();
    let inputs = Inputs {
        batch: b,
        history: t,
        grid,
        frames: bits(b * t * n * grid.words()),
        wind,
        statics,
        valid_steps: lengths.iter().flat_map(|len| (0..t).map(move |i| i >= t - len)).collect(),
    };
    let target = Target { bits: bits(b * n * grid.words()), valid_patches: vec![true; b * n] };
    (inputs, target)
}

/// Sample `i` of a batch without its padding.
fn alone(inputs: &Inputs, i: usize, length: usize) -> Inputs {
    let window = inputs.grid.patches() * inputs.grid.words();
    let steps = (i + 1) * inputs.history - length..(i + 1) * inputs.history;
    let statics = inputs.statics.len() / inputs.batch;
    Inputs {
        batch: 1,
        history: length,
        grid: inputs.grid,
        frames: inputs.frames[steps.start * window..steps.end * window].to_vec(),
        wind: inputs.wind[steps.start * 2..steps.end * 2].to_vec(),
        statics: inputs.statics[i * statics..(i + 1) * statics].to_vec(),
        valid_steps: vec![true; length],
    }
}

#[test]
fn a_samples_evaluation_logits_do_not_depend_on_its_batch() {
    for embedding in [FireEmbedding::Mean, FireEmbedding::Pixels] {
        let settings = ModelSettings { fire_embedding: embedding, last_frame_skip: true, ..settings() };
        let model = EmberFormer::new(&settings, &Device::cpu(), DType::F64, 1).unwrap();
        let lengths = [1, 4, 2];
        let (inputs, _) = batch(&settings, &lengths, 2);
        let together = model.logits(&inputs).unwrap();
        for (i, (length, expected)) in lengths.iter().zip(together.chunks_exact(inputs.grid.pixels())).enumerate() {
            let single = model.logits(&alone(&inputs, i, *length)).unwrap();
            let worst = single.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-12, "sample {i}: {worst:.1e}");
        }
    }
}

#[test]
fn one_step_gives_the_same_bytes_on_any_number_of_threads() {
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut model = EmberFormer::new(&settings(), &Device::cpu(), DType::F32, 1).unwrap();
            let (inputs, target) = batch(&settings(), &[3, 2], 3);
            let key = DropoutKey { seed: 1, step: 0 };
            let report = model.train_step(&inputs, &target, &LOSS, &THRESHOLDS, key).unwrap();
            let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
            let gradients: Vec<_> = names.iter().map(|name| model.parameters().gradient(name).unwrap()).collect();
            let values: Vec<_> = names.iter().map(|name| model.parameters().get(name).unwrap()).collect();
            (report, gradients, values)
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn dropout_draws_by_step_and_memory_stays_flat() {
    let mut model = EmberFormer::new(&settings(), &Device::cpu(), DType::F32, 1).unwrap();
    let (inputs, target) = batch(&settings(), &[3, 3], 4);
    let mut losses = Vec::new();
    let mut peaks = Vec::new();
    for step in (0..20).chain([0]) {
        let key = DropoutKey { seed: 9, step };
        losses.push(model.train_step(&inputs, &target, &LOSS, &THRESHOLDS, key).unwrap().loss);
        peaks.push(model.parameters().device().memory().1);
    }
    assert_eq!(losses[0], losses[20]);
    assert_ne!(losses[0], losses[1]);
    // A buffer may serve a need that is up to a quarter smaller, so the peak may move a little before it settles.
    assert!(peaks[10..].iter().all(|peak| *peak == peaks[10]), "{peaks:?}");
}

#[test]
fn every_setting_makes_a_network_that_trains() {
    let variants = [
        settings(),
        ModelSettings { use_wind: false, ..settings() },
        ModelSettings { use_static: false, ..settings() },
        ModelSettings { input_projection: true, ..settings() },
        ModelSettings { layers: 1, heads: 1, d_model: 10, dropout: 0.0, ..settings() },
        ModelSettings { patch: 4, last_frame_skip: true, fire_embedding: FireEmbedding::Pixels, ..settings() },
        ModelSettings { patch: 16, last_frame_skip: true, fire_embedding: FireEmbedding::Pixels, ..settings() },
    ];
    for settings in variants {
        let mut model = EmberFormer::new(&settings, &Device::cpu(), DType::F32, 5).unwrap();
        let (inputs, target) = batch(&settings, &[2], 6);
        let key = DropoutKey { seed: 0, step: 0 };
        let report = model.train_step(&inputs, &target, &LOSS, &THRESHOLDS, key).unwrap();
        assert!(report.loss.is_finite(), "{settings:?}");
        let weights = model.parameters().iter().filter(|p| p.kind != emberformer::model::Kind::Buffer);
        for name in weights.map(|p| p.name.clone()) {
            let gradient = model.parameters().gradient(&name).unwrap().unwrap_or_default();
            assert!(!gradient.is_empty() && gradient.iter().all(|g| g.is_finite()), "{name} of {settings:?}");
        }
    }
}

#[test]
fn wrong_settings_and_batches_are_errors() {
    let error =
        |settings: ModelSettings| EmberFormer::new(&settings, &Device::cpu(), DType::F32, 0).err().unwrap().to_string();
    assert!(error(ModelSettings { heads: 3, ..settings() }).contains("3 heads do not divide a width of 16"));
    assert!(error(ModelSettings { patch: 5, ..settings() }).contains("4, 8 and 16"));
    assert!(error(ModelSettings { decoder_width: 0, ..settings() }).contains("a size is 0"));
    let model = EmberFormer::new(&settings(), &Device::cpu(), DType::F32, 0).unwrap();
    let (inputs, _) = batch(&settings(), &[2], 0);
    let small = Inputs { grid: Grid { rows: 7, ..inputs.grid }, ..inputs.clone() };
    assert!(model.logits(&small).unwrap_err().to_string().contains("frames"));
    let no_last = Inputs { valid_steps: vec![true, false], ..inputs.clone() };
    assert!(model.logits(&no_last).unwrap_err().to_string().contains("without a last frame"));
    let short = Inputs { wind: vec![0.0], ..inputs };
    assert!(model.logits(&short).unwrap_err().to_string().contains("1 values of wind, 4 expected"));
}
