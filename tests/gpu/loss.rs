use crate::harness::{compare, device};
use emberformer::device::{Array, Device};
use emberformer::ops::batch_norm::MaskBits;
use emberformer::ops::loss::{
    BINS, Comparison, LossBuffers, LossReport, LossSettings, PosWeight, Thresholds, segmentation_loss,
    segmentation_loss_on,
};
use emberformer::patch::Grid;
use emberformer::tape::{Tape, Var};
use emberformer::tensor::{DType, Tensor};
use emberformer::train::metrics::Evaluation;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const THRESHOLDS: Thresholds = Thresholds { prediction: 0.5, target: 0.05 };

const fn focal(focal_weight: f64, tversky_weight: f64, focal_gamma: f64) -> LossSettings {
    LossSettings::FocalTversky {
        focal_weight,
        tversky_weight,
        focal_alpha: 0.25,
        focal_gamma,
        tversky_alpha: 0.7,
        tversky_beta: 0.3,
    }
}

const fn bce(bce_weight: f64, dice_weight: f64, pos_weight: PosWeight) -> LossSettings {
    LossSettings::BceDice { bce_weight, dice_weight, pos_weight }
}

const ALL: [LossSettings; 9] = [
    LossSettings::FOCAL_TVERSKY,
    focal(1.0, 0.0, 1.5),
    focal(1.0, 0.0, 0.0),
    focal(0.0, 1.0, 2.0),
    focal(0.4, 0.6, 3.0),
    LossSettings::BCE_DICE,
    bce(1.0, 0.0, PosWeight::Value(3.0)),
    bce(0.0, 1.0, PosWeight::None),
    bce(0.5, 0.5, PosWeight::None),
];

/// A batch on the host.
struct Case {
    grid: Grid,
    logits: Vec<f64>,
    target: Vec<u64>,
    last: Vec<u64>,
    valid: Vec<bool>,
}

impl Case {
    /// Sample b burns in `burning[b]` of its target's pixels; an eighth of the patches is invalid.
    fn new(rng: &mut ChaCha8Rng, grid: Grid, burning: &[f64], logit: impl Fn(&mut ChaCha8Rng) -> f64) -> Self {
        let batch = burning.len();
        let mut bits = |share: f64| {
            let burns: Vec<bool> = (0..grid.pixels()).map(|_| rng.random_bool(share)).collect();
            grid.pack(|y, x| burns[y * grid.width() + x])
        };
        let target = burning.iter().flat_map(|share| bits(*share)).collect();
        let last = burning.iter().flat_map(|share| bits(share / 2.0)).collect();
        let valid = (0..batch * grid.patches()).map(|_| rng.random_bool(0.875)).collect();
        // Both sides get the same values.
        let logits = (0..batch * grid.pixels()).map(|_| f64::from(logit(rng) as f32)).collect();
        Self { grid, logits, target, last, valid }
    }

    fn samples(&self) -> usize {
        self.valid.len() / self.grid.patches()
    }

    /// Logits, and what they are compared with.
    fn on(&self, device: &Device, training: bool) -> (Var, Comparison) {
        let grid = self.grid;
        let mask = |bits: &Vec<u64>| MaskBits { grid, bits: Array::new(device, bits.clone()).unwrap() };
        let comparison = Comparison {
            target: mask(&self.target),
            last: mask(&self.last),
            valid_patches: Array::new(device, self.valid.clone()).unwrap(),
            training,
        };
        let dtype = if matches!(device, Device::Gpu(_)) { DType::F32 } else { DType::F64 };
        let shape = [self.samples(), grid.height(), grid.width()];
        let logits = Tensor::from_host(device, dtype, &shape, self.logits.iter().copied()).unwrap();
        (Tape::new(device, false).leaf(logits), comparison)
    }

    fn run(
        &self,
        device: &Device,
        settings: &LossSettings,
        thresholds: &Thresholds,
        training: bool,
    ) -> (LossReport, Vec<f64>) {
        let (logits, comparison) = self.on(device, training);
        let run = |backward| segmentation_loss(device, &logits, &comparison, settings, thresholds, backward).unwrap();
        let (report, gradient) = run(true);
        let evaluated = run(false);
        assert!(evaluated.1.is_none() && evaluated.0 == report, "the report is the same without a gradient");
        (report, gradient.unwrap().to_host().unwrap())
    }

    fn check(&self, name: &str, settings: &LossSettings, thresholds: &Thresholds, training: bool) {
        let name = format!("{name}, {settings:?}, {thresholds:?}, training {training}");
        let device = device();
        let (truth, gradient) = self.run(&Device::cpu(), settings, thresholds, training);
        let ours = self.run(&device, settings, thresholds, training);
        if let Device::Gpu(gpu) = &device {
            gpu.reverse_threads(true);
            let reversed = self.run(&device, settings, thresholds, training);
            gpu.reverse_threads(false);
            assert_eq!(ours.0, reversed.0, "{name}");
            assert!(ours.1.iter().map(|x| x.to_bits()).eq(reversed.1.iter().map(|x| x.to_bits())), "{name}");
        }
        let terms = |r: &LossReport| [r.loss, r.focal, r.tversky, r.bce, r.dice];
        for (ours, truth) in terms(&ours.0).into_iter().zip(terms(&truth)) {
            assert!((ours - truth).abs() <= 1e-5 * truth.abs(), "{name}: {ours} instead of {truth}");
        }
        assert_eq!(ours.0.counts, truth.counts, "{name}");
        assert_eq!(ours.0.growth, truth.growth, "{name}");
        assert_eq!(ours.0.copy_last, truth.copy_last, "{name}");
        assert!(ours.0.histogram == truth.histogram, "{name}: histogram");
        assert!(ours.0.growth_histogram == truth.growth_histogram, "{name}: histogram of the growth");
        compare(&format!("{name}: gradient"), DType::F32, &ours.1, &gradient, &[]);
    }
}

/// p in the middle of a random bin.
fn off_the_edges(rng: &mut ChaCha8Rng) -> f64 {
    let p = (f64::from(rng.random_range(0..BINS as u32)) + rng.random_range(0.1..0.9)) / BINS as f64;
    (p / (1.0 - p)).ln()
}

#[test]
fn losses_counts_and_gradients_are_the_cpu_s() {
    let rng = &mut ChaCha8Rng::seed_from_u64(11);
    let cases = [
        (Grid { rows: 5, cols: 7, patch: 4 }, vec![0.3]),
        (Grid { rows: 3, cols: 5, patch: 8 }, vec![0.1, 0.0, 0.5]), // the second sample has no fire
        (Grid { rows: 2, cols: 3, patch: 16 }, vec![0.0, 0.05]),
    ];
    for (grid, burning) in cases {
        let case = Case::new(rng, grid, &burning, off_the_edges);
        for (settings, training) in ALL.iter().flat_map(|s| [(s, true), (s, false)]) {
            case.check(&format!("{grid:?}, {} samples", burning.len()), settings, &THRESHOLDS, training);
        }
    }
}

#[test]
fn several_blocks_of_a_sample_are_summed() {
    let rng = &mut ChaCha8Rng::seed_from_u64(12);
    for grid in [Grid { rows: 9, cols: 11, patch: 8 }, Grid { rows: 5, cols: 4, patch: 16 }] {
        let case = Case::new(rng, grid, &[0.2, 0.01], off_the_edges);
        case.check("several blocks", &LossSettings::FOCAL_TVERSKY, &THRESHOLDS, true);
        case.check("several blocks", &LossSettings::BCE_DICE, &THRESHOLDS, true);
    }
}

#[test]
fn thresholds_lie_anywhere() {
    let rng = &mut ChaCha8Rng::seed_from_u64(13);
    // At 0.3 or 0.7 of a bin: a threshold on an edge leaves no doubt, one within a bin splits it.
    let case = Case::new(rng, Grid { rows: 4, cols: 3, patch: 8 }, &[0.3, 0.2], |rng| {
        let p = (f64::from(rng.random_range(0..BINS as u32)) + [0.3, 0.7][rng.random_range(0..2)]) / BINS as f64;
        (p / (1.0 - p)).ln()
    });
    for prediction in [0.0, 0.25, 0.3, 300.5 / 1024.0, 0.999_51, 1.0] {
        for target in [0.05, 1.0] {
            case.check("thresholds", &LossSettings::FOCAL_TVERSKY, &Thresholds { prediction, target }, true);
        }
    }
}

#[test]
fn confident_logits_are_stable() {
    let rng = &mut ChaCha8Rng::seed_from_u64(14);
    let values = [-1e4, -200.0, -90.0, -20.0, -3.3, 0.0, 0.7, 12.0, 90.0, 1e4];
    let case = Case::new(rng, Grid { rows: 3, cols: 3, patch: 8 }, &[0.2, 0.0], |rng| {
        values[rng.random_range(0..values.len())]
    });
    for (settings, training) in ALL.iter().flat_map(|s| [(s, true), (s, false)]) {
        case.check("confident logits", settings, &THRESHOLDS, training);
    }
}

#[test]
fn nothing_valid_and_no_fire_give_finite_losses() {
    let rng = &mut ChaCha8Rng::seed_from_u64(15);
    let grid = Grid { rows: 2, cols: 3, patch: 8 };
    let mut case = Case::new(rng, grid, &[0.0, 0.0], off_the_edges);
    case.check("no fire", &LossSettings::BCE_DICE, &THRESHOLDS, true);
    case.valid.fill(false);
    for settings in &ALL {
        case.check("nothing valid", settings, &THRESHOLDS, true);
    }
}

#[test]
fn totals_are_what_the_host_would_add_up() {
    let rng = &mut ChaCha8Rng::seed_from_u64(16);
    let device = device();
    let Device::Gpu(gpu) = &device else { return };
    let buffers = LossBuffers::new(gpu, &THRESHOLDS).unwrap();
    let grid = Grid { rows: 2, cols: 3, patch: 8 };
    let cases = [vec![0.3], vec![0.1, 0.0, 0.5], vec![0.2, 0.4]].map(|b| Case::new(rng, grid, &b, off_the_edges));
    let settings = LossSettings::FOCAL_TVERSKY;
    let run = |case: &Case, backward| {
        let (logits, comparison) = case.on(&device, true);
        segmentation_loss_on(logits.value(), &comparison, &settings, backward, &buffers).unwrap()
    };
    for round in 0..2 {
        let mut expected = Evaluation::default();
        let mut terms = [0.0; 4];
        for (i, case) in cases.iter().enumerate() {
            let (alone, gradient) = case.run(&device, &settings, &THRESHOLDS, true);
            let ours = run(case, true).unwrap().to_host().unwrap();
            assert!(ours.iter().map(|x| x.to_bits()).eq(gradient.iter().map(|x| x.to_bits())), "gradient of batch {i}");
            assert_eq!(buffers.report().unwrap(), alone, "batch {i} after others, round {round}");
            expected.add(&alone, case.samples(), 1);
            for (sum, term) in terms.iter_mut().zip([alone.focal, alone.tversky, alone.bce, alone.dice]) {
                *sum += term * case.samples() as f64;
            }
        }
        let totals = buffers.totals().unwrap();
        assert_eq!((totals.batches, totals.samples, totals.first_bad), (3, 6, None));
        assert_eq!((totals.batches, totals.samples), (expected.totals.batches, expected.totals.samples));
        let sums = totals.sums;
        assert_eq!(sums.loss.to_bits(), expected.totals.loss.to_bits());
        assert_eq!([sums.focal, sums.tversky, sums.bce, sums.dice], terms);
        assert_eq!(
            (sums.counts, sums.growth, sums.copy_last),
            (expected.totals.counts, expected.totals.growth, expected.totals.copy_last)
        );
        assert!(sums.histogram == expected.histogram && sums.growth_histogram == expected.growth_histogram);
        buffers.reset(0.0).unwrap();
    }
    let empty = buffers.totals().unwrap();
    assert_eq!((empty.batches, empty.samples, empty.sums.loss, empty.sums.counts.tn), (0, 0, 0.0, 0));
}

#[test]
fn the_first_loss_that_is_not_finite_is_remembered() {
    let rng = &mut ChaCha8Rng::seed_from_u64(17);
    let device = device();
    let Device::Gpu(gpu) = &device else { return };
    let buffers = LossBuffers::new(gpu, &THRESHOLDS).unwrap();
    let good = Case::new(rng, Grid { rows: 2, cols: 3, patch: 4 }, &[0.3], off_the_edges);
    for bad_logit in [f64::NAN, f64::INFINITY] {
        let mut bad = Case::new(rng, good.grid, &[0.3], off_the_edges);
        bad.valid.fill(true);
        bad.target.fill(0);
        bad.logits[5] = bad_logit;
        for (settings, backward) in [(LossSettings::FOCAL_TVERSKY, true), (LossSettings::BCE_DICE, false)] {
            for case in [&good, &good, &bad, &good, &bad] {
                let (logits, comparison) = case.on(&device, true);
                segmentation_loss_on(logits.value(), &comparison, &settings, backward, &buffers).unwrap();
            }
            assert!(!buffers.report().unwrap().loss.is_finite());
            let totals = buffers.totals().unwrap();
            assert_eq!((totals.batches, totals.first_bad), (5, Some(2)), "{bad_logit} in {settings:?}");
            buffers.reset(0.0).unwrap();
            assert_eq!(buffers.totals().unwrap().first_bad, None);
        }
    }
}
