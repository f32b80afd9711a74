//! Chains of convolutions with their batch norms: on a GPU a map is normalised as it is read, the CPU does one after the other.

use crate::batch_norm::running;
use crate::harness::{Checker, Input, compare, device, parameter, rounded};
use emberformer::Result;
use emberformer::device::{Array, Device};
use emberformer::ops::batch_norm::{MaskBits, Statistics, batch_norm_relu};
use emberformer::ops::conv::{conv, conv_norm};
use emberformer::ops::feature::{Feature, Norm};
use emberformer::ops::map::Map;
use emberformer::ops::output_conv::output_conv;
use emberformer::ops::up_conv::{up_conv, up_conv_norm};
use emberformer::patch::Grid;
use emberformer::tape::{Tape, Var};
use emberformer::tensor::{DType, Tensor};
use half::bf16;

/// γ and β as bf16 holds them: rounded, they would move the ReLU's bend.
fn norm_inputs(c: &mut Checker, channels: usize) -> [Input; 2] {
    let mut parameter = |offset: f64| {
        let values = c.random(&[channels]).iter().map(|x| bf16::from_f64(x + offset).to_f64()).collect();
        Input::parameter(&[channels], values)
    };
    [parameter(0.7), parameter(0.2)]
}

/// One convolution of a chain.
#[derive(Clone, Copy)]
struct Stage<'a> {
    /// Whether it is the transposed one.
    up: bool,
    /// Whether the batch's statistics normalise what it makes.
    of_batch: bool,
    append: Option<&'a MaskBits>,
    passive: usize,
}

impl Stage<'_> {
    /// Over x, with weight, γ and β.
    fn fused(self, tape: &mut Tape, x: &Feature, leaves: &[Var]) -> Result<Feature> {
        let [weight, gamma, beta] = leaves else { unreachable!("three leaves a stage") };
        let (mut mean, mut var) = running(tape.device(), gamma.value().len());
        let norm = Norm { gamma, beta, statistics: self.statistics(&mut mean, &mut var), append: self.append };
        match self.up {
            true => up_conv_norm(tape, x, weight, norm),
            false => conv_norm(tape, x, weight, norm, self.passive),
        }
    }

    /// The same on the CPU, maps rounded.
    fn peer(self, tape: &mut Tape, x: &Var, leaves: &[Var]) -> Result<Var> {
        let [weight, gamma, beta] = leaves else { unreachable!("three leaves a stage") };
        let (mut mean, mut var) = running(tape.device(), gamma.value().len());
        let x = if self.up { up_conv(tape, x, weight)? } else { conv(tape, x, weight, self.passive)? };
        let x = rounded(tape, &x)?;
        let statistics = self.statistics(&mut mean, &mut var);
        let y = batch_norm_relu(tape, &x, gamma, beta, statistics, 1, self.append)?;
        rounded(tape, &y)
    }

    fn statistics<'a>(self, mean: &'a mut Tensor, var: &'a mut Tensor) -> Statistics<'a> {
        if self.of_batch { Statistics::Batch(mean, var) } else { Statistics::Running(mean, var) }
    }
}

/// Checks two convolutions in a row, of [inputs, between, outputs] channels.
fn check(extent: [usize; 3], [inputs, between, outputs]: [usize; 3], ups: [bool; 2], of_batch: bool) {
    let mut c = Checker::new((inputs * between + outputs) as u64);
    let [batch, height, width] = extent;
    let map = Map { batch, height, width, channels: inputs, halo: 1 };
    let mut leaves = vec![c.map(map)];
    for (up, from, to) in [(ups[0], inputs, between), (ups[1], between, outputs)] {
        let shape = if up { [from, to, 4, 4] } else { [to, from, 3, 3] };
        leaves.push(Input::parameter(&shape, c.random(&shape)));
        leaves.extend(norm_inputs(&mut c, to));
    }
    let name = format!("{inputs}, {between}, {outputs} channels over {extent:?}, up {ups:?}, batch's {of_batch}");
    let [first, second] = ups.map(|up| Stage { up, of_batch, append: None, passive: 0 });
    let fused = |t: &mut Tape, x: &[Var]| {
        let between = first.fused(t, &x[0].clone().into(), &x[1..4])?;
        second.fused(t, &between, &x[4..7])?.normalized(t)
    };
    let peer = |t: &mut Tape, x: &[Var]| {
        let between = first.peer(t, &x[0], &x[1..4])?;
        second.peer(t, &between, &x[4..7])
    };
    c.check_chain(&name, &leaves, fused, peer);
}

#[test]
fn stages_smaller_than_a_tile() {
    for of_batch in [true, false] {
        check([1, 2, 3], [8, 8, 16], [true, false], of_batch);
        check([2, 3, 2], [8, 16, 8], [false, true], of_batch);
    }
}

#[test]
fn stages_across_tiles() {
    check([1, 6, 9], [24, 64, 32], [true, false], true);
    check([2, 9, 11], [16, 32, 32], [false, true], true);
}

#[test]
fn stages_with_many_channels() {
    check([1, 3, 4], [65, 128, 128], [true, false], true);
    check([1, 3, 3], [8, 72, 40], [false, true], false);
}

#[test]
fn stages_of_odd_channels() {
    check([2, 4, 3], [65, 33, 20], [true, false], true);
    check([1, 5, 4], [9, 41, 7], [false, true], false);
}

#[test]
fn masks_are_seen_by_the_convolution() {
    for (patch, rows, channels, of_batch) in [(4, 2, 32, true), (8, 2, 13, true), (16, 1, 64, false), (4, 3, 31, true)]
    {
        let grid = Grid { rows, cols: 2, patch };
        let mut c = Checker::new(channels as u64);
        let map = Map { batch: 2, height: grid.height() / 2, width: grid.width() / 2, channels: 8, halo: 1 };
        let bits = c.bits(2 * grid.patches() * grid.words());
        let shapes = [[8, channels, 4, 4], [24, channels + 1, 3, 3]];
        let mut leaves = vec![c.map(map)];
        for (shape, channels) in shapes.iter().zip([channels, 24]) {
            leaves.push(Input::parameter(shape, c.random(shape)));
            leaves.extend(norm_inputs(&mut c, channels));
        }
        leaves.push(Input::parameter(&[1, 25, 1, 1], c.random(&[25])));
        leaves.push(Input::parameter(&[1], c.random(&[1])));
        let name = format!("a mask of {patch}×{patch} patches after {channels} channels");
        fn stages(mask: &MaskBits, of_batch: bool) -> [Stage<'_>; 2] {
            [(true, 0), (false, 1)].map(|(up, passive)| Stage { up, of_batch, append: Some(mask), passive })
        }
        let fused = |t: &mut Tape, x: &[Var]| {
            let mask = MaskBits { grid, bits: Array::new(t.device(), bits.clone())? };
            let [first, second] = stages(&mask, of_batch);
            let between = first.fused(t, &x[0].clone().into(), &x[1..4])?;
            let last = second.fused(t, &between, &x[4..7])?;
            output_conv(t, &last, &x[7], &x[8], 1)
        };
        let peer = |t: &mut Tape, x: &[Var]| {
            let mask = MaskBits { grid, bits: Array::new(t.device(), bits.clone())? };
            let [first, second] = stages(&mask, of_batch);
            let between = first.peer(t, &x[0], &x[1..4])?;
            let last = second.peer(t, &between, &x[4..7])?.into();
            output_conv(t, &last, &x[7], &x[8], 1)
        };
        c.check_chain(&name, &leaves, fused, peer);
    }
}

/// Maps of several splits of the weights' gradients, and more partials than threads add them up.
#[test]
fn stages_of_many_pixels() {
    check([1, 70, 64], [8, 8, 8], [true, false], true);
}

/// Output and weight's gradient over a map normalised as it is read are, to the bit, those over the normalised map.
#[test]
fn a_map_is_normalised_as_batch_norm_would() {
    let mut c = Checker::new(43);
    let grid = Grid { rows: 2, cols: 3, patch: 4 };
    let (map, bits) = (Map { batch: 2, height: 8, width: 12, channels: 8, halo: 1 }, c.bits(2 * grid.patches()));
    for (up, masked, channels) in [(false, true, 40), (false, false, 72), (true, false, 72)] {
        let extra = usize::from(masked);
        let shapes = [[channels, 8, 3, 3], if up { [channels, 32, 4, 4] } else { [32, channels + extra, 3, 3] }];
        let mut leaves = vec![c.map(map)];
        for (shape, channels) in shapes.iter().zip([channels, 32]) {
            leaves.push(Input::parameter(shape, c.random(shape)));
            leaves.extend(norm_inputs(&mut c, channels));
        }
        let side = if up { 2 } else { 1 };
        let seed = c.map(Map { height: side * map.height, width: side * map.width, channels: 32, ..map });
        for dtype in [DType::F32, DType::BF16] {
            let [fused, apart] = [true, false].map(|fused| {
                let device = device();
                let mut t = Tape::new(&device, true);
                let x: Vec<Var> = leaves.iter().map(|input| t.leaf(input.tensor(&device, dtype))).collect();
                let mask = MaskBits { grid, bits: Array::new(&device, bits.clone()).unwrap() };
                let append = masked.then_some(&mask);
                let first = Stage { up: false, of_batch: true, append, passive: 0 };
                let second = Stage { up, of_batch: false, append: None, passive: extra };
                let between = first.fused(&mut t, &x[0].clone().into(), &x[1..4]).unwrap();
                let y = if fused {
                    second.fused(&mut t, &between, &x[4..7]).unwrap().value
                } else {
                    let between = between.normalized(&mut t).unwrap();
                    if up { up_conv(&mut t, &between, &x[4]) } else { conv(&mut t, &between, &x[4], extra) }.unwrap()
                };
                let mut gradients = t.backward(&y, seed.tensor(&device, dtype)).unwrap();
                [y.value().to_host().unwrap(), gradients.take(&x[4]).unwrap().to_host().unwrap()]
            });
            assert_eq!(fused, apart, "up {up}, mask {masked}, {channels} channels in {dtype:?}");
        }
    }
}

#[test]
fn running_statistics_move_towards_those_of_the_products() {
    let mut c = Checker::new(41);
    let map = Map { batch: 2, height: 11, width: 14, channels: 8, halo: 1 };
    let mut values = vec![0.0; map.len()];
    for (b, y) in (0..map.batch).flat_map(|b| (0..map.height).map(move |y| (b, y))) {
        let line = map.line(b, y);
        let drawn = c.random(&[line.len()]);
        values[line].iter_mut().zip(drawn).for_each(|(to, x)| *to = bf16::from_f64(x).to_f64());
    }
    for (up, shape) in [(false, [40, 8, 3, 3]), (true, [8, 40, 4, 4])] {
        let weight: Vec<f64> = c.random(&shape).iter().map(|x| bf16::from_f64(*x).to_f64()).collect();
        let after = |device: &Device, dtype: DType| {
            let mut tape = Tape::new(device, false);
            let x = Tensor::from_host(device, dtype, &map.shape(), values.iter().copied()).unwrap();
            let ones = parameter(device, &[40], &[1.0; 40]);
            let [x, w, gamma, beta] = [x, parameter(device, &shape, &weight), ones.clone(), ones].map(|x| tape.leaf(x));
            let (mut mean, mut var) = running(device, 40);
            let statistics = Statistics::Batch(&mut mean, &mut var);
            let norm = Norm { gamma: &gamma, beta: &beta, statistics, append: None };
            let feature = match up {
                true => up_conv_norm(&mut tape, &x.into(), &w, norm),
                false => conv_norm(&mut tape, &x.into(), &w, norm, 0),
            };
            assert_eq!(feature.unwrap().pending.is_some(), matches!(device, Device::Gpu(_)));
            [mean, var].map(|tensor| tensor.to_host().unwrap())
        };
        let truth = after(&Device::cpu(), DType::F64);
        for (i, ours) in after(&device(), DType::F32).iter().enumerate() {
            compare(&format!("running statistic {i}, up {up}"), DType::F32, ours, &truth[i], &truth[i]);
        }
        // In bf16 they are those of the rounded map: a part in 256 of a deviation at most.
        for (ours, truth) in after(&device(), DType::BF16).iter().flatten().zip(truth.iter().flatten()) {
            assert!((ours - truth).abs() < 2e-3 * (1.0 + truth.abs()), "running statistic {ours} instead of {truth}");
        }
    }
}

/// The normalised map is neither written nor read, nor is the raw one for its moments; backward, sums for γ and β cost one
/// reading of x, not one of x and one of dy.
#[test]
fn fused_stages_move_fewer_bytes() {
    let Device::Gpu(gpu) = device() else { return };
    if gpu.bytes_moved().is_none() {
        return; // a real GPU does not count them
    }
    let mut c = Checker::new(44);
    let map = Map { batch: 1, height: 40, width: 40, channels: 8, halo: 1 };
    let mut leaves = vec![c.map(map)];
    for shape in [[32, 8, 3, 3], [32, 32, 3, 3]] {
        leaves.push(Input::parameter(&shape, c.random(&shape)));
        leaves.extend(norm_inputs(&mut c, 32));
    }
    let seed = c.map(map.with_channels(32));
    // Passes over the map between two convolutions: forward, and with the backward.
    let passes = |fused: bool| {
        let device = Device::Gpu(gpu.clone());
        let moved = || gpu.bytes_moved().unwrap() as f64 / (map.with_channels(32).len() * 2) as f64;
        let mut t = Tape::new(&device, true);
        let x: Vec<Var> = leaves.iter().map(|input| t.leaf(input.tensor(&device, DType::BF16))).collect();
        let start = moved();
        let stage = |of_batch| Stage { up: false, of_batch, append: None, passive: 0 };
        let y = if fused {
            let between = stage(true).fused(&mut t, &x[0].clone().into(), &x[1..4]).unwrap();
            stage(false).fused(&mut t, &between, &x[4..7]).unwrap().value
        } else {
            let between = conv(&mut t, &x[0], &x[1], 0).unwrap();
            let (mut mean, mut var) = running(&device, 32);
            let statistics = Statistics::Batch(&mut mean, &mut var);
            let between = batch_norm_relu(&mut t, &between, &x[2], &x[3], statistics, 1, None).unwrap();
            conv(&mut t, &between, &x[4], 0).unwrap()
        };
        let forward = moved() - start;
        t.backward(&y, seed.tensor(&device, DType::BF16)).unwrap();
        [forward, moved() - start]
    };
    let (fused, apart) = (passes(true), passes(false));
    let saved = [0, 1].map(|i| apart[i] - fused[i]);
    println!("passes over the map, re-reads from L2 included: {fused:.2?} instead of {apart:.2?}");
    assert!((2.5..3.5).contains(&saved[0]), "{saved:?} passes saved: three forward");
    assert!((3.5..4.5).contains(&saved[1]), "{saved:?} passes saved: one more backward");
}
