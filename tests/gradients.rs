//! Every op's backward against central differences of its forward, in double precision.

use emberformer::Result;
use emberformer::device::Device;
use emberformer::ops::attention::attention;
use emberformer::ops::batch_norm::{MaskBits, Statistics, batch_norm_relu};
use emberformer::ops::conv::conv;
use emberformer::ops::dropout::{Dropout, DropoutKey, dropout};
use emberformer::ops::linear::{Activation, linear};
use emberformer::ops::loss::{Comparison, LossSettings, PosWeight, Thresholds, segmentation_loss};
use emberformer::ops::map::Map;
use emberformer::ops::output_conv::output_conv;
use emberformer::ops::pyramid::{average_pool, resize_sum};
use emberformer::ops::refinement_input::{concat, to_map};
use emberformer::ops::residual_norm::residual_norm;
use emberformer::ops::slice::{last_step, slice};
use emberformer::ops::token_embedding::{Tokens, token_embedding};
use emberformer::ops::up_conv::up_conv;
use emberformer::patch::Grid;
use emberformer::tape::{Tape, Var};
use emberformer::tensor::{DType, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SHIFT: f64 = 1e-5;

struct Checker {
    device: Device,
    rng: ChaCha8Rng,
}

impl Checker {
    fn new(seed: u64) -> Self {
        Self { device: Device::cpu(), rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.rng.random_range(-1.0..1.0)).collect()
    }

    fn bits(&mut self, len: usize) -> Vec<u64> {
        (0..len).map(|_| self.rng.random::<u64>() & self.rng.random::<u64>()).collect()
    }

    fn dropout(&self) -> Option<Dropout> {
        Some(Dropout { probability: 0.3, key: DropoutKey { seed: 3, step: 5 }, site: 1 })
    }

    /// A map's values with a zero border, as the ops keep it.
    fn map(&mut self, map: Map) -> (Vec<usize>, Vec<f64>, Vec<usize>) {
        let mut values = vec![0.0; map.len()];
        let mut inside = Vec::new();
        for (b, y) in (0..map.batch).flat_map(|b| (0..map.height).map(move |y| (b, y))) {
            inside.extend(map.line(b, y));
        }
        inside.iter().for_each(|i| values[*i] = self.rng.random_range(-1.0..1.0));
        (map.shape().to_vec(), values, inside)
    }

    /// Checks `op` at random inputs of the given shapes.
    fn check(&mut self, name: &str, shapes: &[&[usize]], op: impl Fn(&mut Tape, &[Var]) -> Result<Var>) {
        let inputs = shapes
            .iter()
            .map(|shape| {
                let len = shape.iter().product();
                (shape.to_vec(), self.values(len), (0..len).collect())
            })
            .collect();
        self.check_at(name, inputs, op);
    }

    /// Compares the derivative of Σ output · weights along every listed element of every input, some chosen at random.
    fn check_at(
        &mut self,
        name: &str,
        inputs: Vec<(Vec<usize>, Vec<f64>, Vec<usize>)>,
        op: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
    ) {
        let run = |values: &[Vec<f64>], recording: bool| {
            let mut tape = Tape::new(&self.device, recording);
            let leaves: Vec<Var> = inputs
                .iter()
                .zip(values)
                .map(|((shape, ..), v)| {
                    let tensor = Tensor::from_host(&self.device, DType::F64, shape, v.iter().copied()).unwrap();
                    tape.leaf(tensor)
                })
                .collect();
            let output = op(&mut tape, &leaves).unwrap();
            (tape, leaves, output)
        };
        let mut values: Vec<Vec<f64>> = inputs.iter().map(|(_, values, _)| values.clone()).collect();
        let (tape, leaves, output) = run(&values, true);
        // Borders of maps are not outputs: their weights are zero wherever the forward wrote zero exactly.
        let out = output.value().to_host().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(99);
        let weights: Vec<f64> = out.iter().map(|y| if *y == 0.0 { 0.0 } else { rng.random_range(-1.0..1.0) }).collect();
        let seed = Tensor::from_host(&self.device, DType::F64, output.shape(), weights.iter().copied()).unwrap();
        let mut gradients = tape.backward(&output, seed).unwrap();
        let objective = |values: &[Vec<f64>]| {
            let (_, _, output) = run(values, false);
            output.value().to_host().unwrap().iter().zip(&weights).map(|(y, w)| y * w).sum::<f64>()
        };
        for (i, (_, _, inside)) in inputs.iter().enumerate() {
            let gradient = gradients
                .take(&leaves[i])
                .unwrap_or_else(|| panic!("{name}: input {i} has no gradient"))
                .to_host()
                .unwrap();
            for _ in 0..24 {
                let element = inside[rng.random_range(0..inside.len())];
                let original = values[i][element];
                values[i][element] = original + SHIFT;
                let above = objective(&values);
                values[i][element] = original - SHIFT;
                let below = objective(&values);
                values[i][element] = original;
                let numeric = (above - below) / (2.0 * SHIFT);
                let error = (gradient[element] - numeric).abs() / (1.0 + numeric.abs());
                assert!(error < 1e-7, "{name}, input {i}, element {element}: {} but {numeric}", gradient[element]);
            }
        }
    }
}

#[test]
fn linear_layers() {
    let mut c = Checker::new(1);
    let shapes: [&[usize]; 3] = [&[7, 5], &[3, 5], &[3]];
    let drop = c.dropout();
    for activation in [Activation::Identity, Activation::Gelu(None), Activation::Gelu(drop)] {
        c.check("linear", &shapes, |t, x| linear(t, &x[0], &x[1], Some(&x[2]), activation));
    }
    c.check("linear without bias", &shapes[..2], |t, x| linear(t, &x[0], &x[1], None, Activation::Identity));
}

#[test]
fn slices_and_dropout() {
    let mut c = Checker::new(2);
    c.check("slice", &[&[5, 6]], |t, x| slice(t, &x[0], 1..4, 2..5));
    c.check("slice of a vector", &[&[6]], |t, x| slice(t, &x[0], 2..5, 0..1));
    c.check("last step", &[&[3, 4, 5]], |t, x| last_step(t, &x[0]));
    let drop = c.dropout();
    c.check("dropout", &[&[9, 31]], |t, x| dropout(t, &x[0], drop));
    c.check("fan-out", &[&[4, 3], &[2, 3]], |t, x| {
        let a = linear(t, &x[0], &x[1], None, Activation::Gelu(None))?;
        let b = linear(t, &x[0], &x[1], None, Activation::Identity)?;
        concat(t, &a, &b)
    });
}

#[test]
fn attention_over_padded_histories() {
    let mut c = Checker::new(3);
    let valid = [true, true, true, false, false, true].as_slice().into();
    for (queries, drop) in [(3, None), (1, None), (3, c.dropout())] {
        let shapes: [&[usize]; 2] = [&[4, queries, 6], &[4, 3, 12]];
        c.check("attention", &shapes, |t, x| attention(t, &x[0], &x[1], &valid, 2, drop));
    }
    // head sizes beyond the lanes of the dot product, one step only
    c.check("attention", &[&[2, 1, 20], &[2, 1, 40]], |t, x| {
        attention(t, &x[0], &x[1], &[true, true].as_slice().into(), 1, None)
    });
}

#[test]
fn residual_norms() {
    let mut c = Checker::new(4);
    for (d, drop) in [(5, None), (20, c.dropout())] {
        c.check("residual_norm", &[&[6, d], &[6, d], &[d], &[d]], |t, x| {
            residual_norm(t, &x[0], &x[1], &x[2], &x[3], drop)
        });
    }
}

#[test]
fn token_embeddings() {
    let mut c = Checker::new(5);
    for patch in [4, 8, 16] {
        let grid = Grid { rows: 2, cols: 3, patch };
        let mut frames = c.bits(2 * 3 * grid.patches() * grid.words());
        if patch == 4 {
            frames.iter_mut().for_each(|word| *word &= 0xffff);
        }
        let ages = [0, 1, 2, 0, 0, 1].into();
        let tokens = Tokens { batch: 2, history: 3, grid, frames: frames.into(), ages, activations: DType::F64 };
        for inputs in [1, patch * patch] {
            let shapes: [&[usize]; 4] = [&[6, inputs], &[6], &[6, 6], &[12, 6]];
            c.check("token_embedding", &shapes, |t, x| {
                token_embedding(t, &tokens, &x[0], &x[1], Some(&x[2]), Some(&x[3]))
            });
            c.check("fire alone", &shapes[..2], |t, x| token_embedding(t, &tokens, &x[0], &x[1], None, None));
        }
    }
}

#[test]
fn pyramids() {
    let mut c = Checker::new(6);
    for factor in [1, 2, 4] {
        c.check("average_pool", &[&[2, 9, 11, 3]], |t, x| average_pool(t, &x[0], factor));
    }
    c.check("resize_sum", &[&[2, 9, 11, 3], &[2, 4, 5, 3], &[2, 1, 1, 3]], |t, x| resize_sum(t, x, 9, 11));
}

#[test]
fn convolutions_on_maps() {
    let mut c = Checker::new(7);
    let map = Map { batch: 2, height: 5, width: 4, channels: 3, halo: 1 };
    for (name, kernel) in [("conv", vec![2, 3, 3, 3]), ("up_conv", vec![3, 2, 4, 4])] {
        let weights = c.values(kernel.iter().product());
        let all = (0..weights.len()).collect();
        let inputs = vec![c.map(map), (kernel, weights, all)];
        c.check_at(
            name,
            inputs,
            |t, x| if name == "conv" { conv(t, &x[0], &x[1], 0) } else { up_conv(t, &x[0], &x[1]) },
        );
    }
    let (weights, bias) = (c.values(3), c.values(1));
    let inputs = vec![c.map(map), (vec![1, 3, 1, 1], weights, (0..3).collect()), (vec![1], bias, vec![0])];
    c.check_at("output_conv", inputs, |t, x| output_conv(t, &x[0].clone().into(), &x[1], &x[2], 0));
    c.check("refinement input", &[&[40, 2], &[40, 1]], |t, x| {
        let x = concat(t, &x[0], &x[1])?;
        to_map(t, &x, map)
    });
}

#[test]
fn batch_norms_with_an_appended_mask() {
    let mut c = Checker::new(8);
    let map = Map { batch: 2, height: 8, width: 16, channels: 3, halo: 1 };
    let grid = Grid { rows: 1, cols: 2, patch: 8 };
    let mask = MaskBits { grid, bits: c.bits(4).into() };
    let weights = c.values(2 * 4 * 9);
    for batch_statistics in [true, false] {
        let (gamma, beta) = (c.values(3), c.values(3));
        let all: Vec<usize> = (0..3).collect();
        let inputs = vec![
            c.map(map),
            (vec![3], gamma, all.clone()),
            (vec![3], beta, all),
            (vec![2, 4, 3, 3], weights.clone(), (0..72).collect()),
        ];
        c.check_at("batch_norm_relu and conv over it and the mask", inputs, |t, x| {
            let mut mean = Tensor::from_host(t.device(), DType::F64, &[3], [0.1, -0.2, 0.3].into_iter()).unwrap();
            let mut var = Tensor::from_host(t.device(), DType::F64, &[3], [0.5, 1.5, 1.0].into_iter()).unwrap();
            let statistics = match batch_statistics {
                true => Statistics::Batch(&mut mean, &mut var),
                false => Statistics::Running(&mean, &var),
            };
            let y = batch_norm_relu(t, &x[0], &x[1], &x[2], statistics, 1, Some(&mask))?;
            conv(t, &y, &x[3], 1)
        });
    }
    c.check("batch_norm_relu on a plain grid", &[&[2, 5, 3, 4], &[4], &[4]], |t, x| {
        let mut mean = Tensor::zeros(t.device(), DType::F64, &[4]).unwrap();
        let mut var = mean.clone();
        batch_norm_relu(t, &x[0], &x[1], &x[2], Statistics::Batch(&mut mean, &mut var), 0, None)
    });
}

#[test]
fn losses() {
    let mut c = Checker::new(9);
    let grid = Grid { rows: 2, cols: 1, patch: 8 };
    // the second sample has no fire, and one patch does not count
    let mut target = c.bits(4);
    target[2..].fill(0);
    let comparison = |training| Comparison {
        target: MaskBits { grid, bits: target.clone().into() },
        last: MaskBits { grid, bits: [0; 4].into() },
        valid_patches: [true, true, false, true].into(),
        training,
    };
    let focal = |focal_weight, tversky_weight, focal_gamma| LossSettings::FocalTversky {
        focal_weight,
        tversky_weight,
        focal_alpha: 0.25,
        focal_gamma,
        tversky_alpha: 0.7,
        tversky_beta: 0.3,
    };
    let bce = |bce_weight, dice_weight, pos_weight| LossSettings::BceDice { bce_weight, dice_weight, pos_weight };
    let all = [
        focal(1.0, 0.0, 2.0),
        focal(0.7, 0.3, 1.5),
        focal(0.0, 1.0, 2.0),
        bce(1.0, 0.0, PosWeight::Auto),
        bce(0.9, 0.1, PosWeight::Value(3.0)),
        bce(0.0, 1.0, PosWeight::None),
    ];
    for (settings, training) in all.iter().flat_map(|s| [(s, true), (s, false)]) {
        let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
        let comparison = comparison(training);
        let mut z: Vec<f64> = c.values(256).iter().map(|z| 6.0 * z).collect();
        let run = |z: &[f64]| {
            let logits = Tensor::from_host(&c.device, DType::F64, &[2, 16, 8], z.iter().copied()).unwrap();
            let logits = Tape::new(&c.device, false).leaf(logits);
            segmentation_loss(&c.device, &logits, &comparison, settings, &thresholds, true).unwrap()
        };
        let (_, gradient) = run(&z);
        let gradient = gradient.unwrap().to_host().unwrap();
        for i in (0..256).step_by(5) {
            let original = z[i];
            z[i] = original + SHIFT;
            let above = run(&z).0.loss;
            z[i] = original - SHIFT;
            let below = run(&z).0.loss;
            z[i] = original;
            let numeric = (above - below) / (2.0 * SHIFT);
            assert!((gradient[i] - numeric).abs() < 1e-9, "{settings:?}, logit {i}: {} but {numeric}", gradient[i]);
        }
        assert!(gradient[128..192].iter().all(|g| *g == 0.0), "pixels that do not count have no gradient");
        for extreme in [-1e4, 1e4] {
            let (report, gradient) = run(&vec![extreme; 256]);
            let finite = gradient.unwrap().to_host().unwrap().iter().all(|g| g.is_finite());
            assert!(report.loss.is_finite() && finite, "{settings:?} at {extreme}");
        }
    }
}
