use crate::harness::{Checker, Input, compare, device, parameter};
use emberformer::device::{Array, Device};
use emberformer::ops::batch_norm::{MaskBits, Statistics, batch_norm_relu};
use emberformer::ops::conv::conv;
use emberformer::ops::map::Map;
use emberformer::patch::Grid;
use emberformer::tape::{Tape, Var};
use emberformer::tensor::{DType, Tensor};
use half::bf16;

/// x about `offset`, γ and β. The last two are such that bf16 holds them: rounded, they would move the ReLU's bend.
pub fn inputs(c: &mut Checker, map: Map, offset: f64) -> Vec<Input> {
    let plain: Vec<f64> = c.random(&[map.pixels() * map.channels]).iter().map(|x| offset + x).collect();
    let mut values = vec![0.0; map.len()];
    let lines = (0..map.batch).flat_map(|b| (0..map.height).map(move |y| map.line(b, y)));
    lines.zip(plain.chunks_exact(map.width * map.channels)).for_each(|(at, line)| values[at].copy_from_slice(line));
    let channels = [map.channels];
    let mut parameter = || {
        let values = c.random(&channels).iter().map(|x| bf16::from_f64(x + 0.2).to_f64()).collect();
        Input::parameter(&channels, values)
    };
    let (gamma, beta) = (parameter(), parameter());
    vec![Input::padded(&map.shape(), values), gamma, beta]
}

/// Running mean and variance of so many channels before the op.
pub fn running(device: &Device, channels: usize) -> (Tensor, Tensor) {
    let mean: Vec<f64> = (0..channels).map(|i| (i % 5) as f64 * 0.2 - 0.3).collect();
    let var: Vec<f64> = (0..channels).map(|i| 0.2 + (i % 7) as f64 * 0.1).collect();
    (parameter(device, &[channels], &mean), parameter(device, &[channels], &var))
}

fn batch_norm(
    tape: &mut Tape,
    x: &[Var],
    of_batch: bool,
    halo: usize,
    append: Option<&MaskBits>,
) -> emberformer::Result<Var> {
    let (mut mean, mut var) = running(tape.device(), x[1].shape()[0]);
    let statistics = match of_batch {
        true => Statistics::Batch(&mut mean, &mut var),
        false => Statistics::Running(&mean, &var),
    };
    batch_norm_relu(tape, &x[0], &x[1], &x[2], statistics, halo, append)
}

#[test]
fn batch_norms() {
    let mut c = Checker::new(27);
    for (batch, height, width, channels, halo) in [
        (2, 5, 7, 8, 0),
        (1, 13, 11, 24, 1),
        (2, 13, 11, 32, 1),
        (1, 21, 17, 64, 0),
        (2, 7, 5, 33, 1),
        (1, 3, 4, 264, 1),
        (3, 17, 30, 8, 1),
        (1, 3, 5, 5, 1),
        (1, 32, 33, 128, 0),
    ] {
        let inputs = inputs(&mut c, Map { batch, height, width, channels, halo }, 0.1);
        for of_batch in [true, false] {
            let name = format!("batch_norm of {channels} channels, batch statistics {of_batch}");
            c.check(&name, &inputs, |t, x| batch_norm(t, x, of_batch, halo, None));
        }
    }
}

#[test]
fn a_mean_far_above_the_deviation_costs_no_digits() {
    let mut c = Checker::new(28);
    let map = Map { batch: 2, height: 23, width: 19, channels: 16, halo: 1 };
    let inputs = inputs(&mut c, map, 20.0);
    c.check("batch_norm far from 0", &inputs, |t, x| batch_norm(t, x, true, 1, None));
}

#[test]
fn masks_are_appended() {
    let mut c = Checker::new(29);
    for (patch, rows, channels) in [(4, 2, 32), (8, 2, 33), (16, 1, 8), (4, 3, 24), (8, 1, 31)] {
        let grid = Grid { rows, cols: 3, patch };
        let map = Map { batch: 2, height: grid.height(), width: grid.width(), channels, halo: 1 };
        let bits = c.bits(2 * grid.patches() * grid.words());
        let mut inputs = inputs(&mut c, map, 0.0);
        let shape = [8, channels + 1, 3, 3];
        inputs.push(Input::parameter(&shape, c.random(&shape)));
        let masked = |t: &mut Tape, x: &[Var], of_batch| {
            let mask = MaskBits { grid, bits: Array::new(t.device(), bits.clone())? };
            batch_norm(t, x, of_batch, 1, Some(&mask))
        };
        for of_batch in [true, false] {
            let name = format!("batch_norm with a mask of {patch}×{patch} patches after {channels} channels");
            c.check(&name, &inputs, |t, x| {
                let y = masked(t, x, of_batch)?;
                conv(t, &y, &x[3], 1)
            });
        }
        // The mask itself: exact.
        let forward = |device: &Device, dtype: DType| {
            let mut tape = Tape::new(device, false);
            let stored = if matches!(device, Device::Gpu(_)) { channels.next_multiple_of(8) } else { channels };
            let x = Tensor::zeros(device, dtype, &map.with_channels(stored).shape()).unwrap();
            let ones = parameter(device, &[channels], &vec![1.0; channels]);
            let leaves = [x, ones.clone(), ones].map(|value| tape.leaf(value));
            let y = masked(&mut tape, &leaves, true).unwrap();
            let stride = y.shape()[3];
            let values = y.value().to_host().unwrap();
            values.chunks_exact(stride).map(|pixel| pixel[channels]).collect::<Vec<_>>()
        };
        for dtype in [DType::F32, DType::BF16] {
            assert_eq!(forward(&device(), dtype), forward(&Device::cpu(), DType::F64), "patches of {patch}×{patch}");
        }
    }
}

#[test]
fn running_statistics_move_towards_the_batch_s() {
    let mut c = Checker::new(30);
    let (map, offset) = (Map { batch: 3, height: 25, width: 31, channels: 24, halo: 1 }, 2.0);
    let mut values = vec![0.0; map.len()];
    for (b, y) in (0..map.batch).flat_map(|b| (0..map.height).map(move |y| (b, y))) {
        let line = map.line(b, y);
        let drawn = c.random(&[line.len()]);
        values[line].iter_mut().zip(drawn).for_each(|(to, x)| *to = bf16::from_f64(offset + x).to_f64());
    }
    let after = |device: &Device, dtype: DType| {
        let mut tape = Tape::new(device, false);
        let x = Tensor::from_host(device, dtype, &map.shape(), values.iter().copied()).unwrap();
        let ones = parameter(device, &[map.channels], &vec![1.0; map.channels]);
        let leaves = [x, ones.clone(), ones].map(|value| tape.leaf(value));
        let (mut mean, mut var) = running(device, map.channels);
        let statistics = Statistics::Batch(&mut mean, &mut var);
        batch_norm_relu(&mut tape, &leaves[0], &leaves[1], &leaves[2], statistics, 1, None).unwrap();
        [mean, var].map(|tensor| tensor.to_host().unwrap())
    };
    let truth = after(&Device::cpu(), DType::F64);
    for dtype in [DType::F32, DType::BF16] {
        for (i, ours) in after(&device(), dtype).iter().enumerate() {
            compare(&format!("running statistic {i} in {dtype:?}"), DType::F32, ours, &truth[i], &truth[i]);
        }
    }
}
