use crate::batch_norm::{inputs, running};
use crate::harness::{Checker, Input};
use emberformer::Result;
use emberformer::device::Array;
use emberformer::ops::batch_norm::{MaskBits, Statistics, pending};
use emberformer::ops::map::Map;
use emberformer::ops::output_conv::output_conv;
use emberformer::patch::Grid;
use emberformer::tape::{Tape, Var};

/// Batch norm + ReLU of a raw map, the mask appended, and the convolution: fused on a GPU.
fn head(tape: &mut Tape, x: &[Var], of_batch: bool, mask: Option<&MaskBits>) -> Result<Var> {
    let (mut mean, mut var) = running(tape.device(), x[1].shape()[0]);
    let statistics = match of_batch {
        true => Statistics::Batch(&mut mean, &mut var),
        false => Statistics::Running(&mean, &var),
    };
    let feature = pending(tape, &x[0], &x[1], &x[2], statistics, mask)?;
    output_conv(tape, &feature, &x[3], &x[4], usize::from(mask.is_some()))
}

/// Raw map, γ and β about `offset`, weight and bias.
fn leaves(c: &mut Checker, map: Map, offset: f64, masks: usize) -> Vec<Input> {
    let mut inputs = inputs(c, map, offset);
    let shape = [1, map.channels + masks, 1, 1];
    inputs.push(Input::parameter(&shape, c.random(&shape)));
    inputs.push(Input::parameter(&[1], c.random(&[1])));
    inputs
}

#[test]
fn logits_of_raw_maps() {
    let mut c = Checker::new(26);
    for (batch, height, width, channels) in
        [(1, 3, 5, 8), (2, 17, 9, 24), (1, 61, 33, 32), (2, 13, 11, 64), (1, 9, 7, 33), (1, 5, 4, 264), (3, 70, 41, 5)]
    {
        let inputs = leaves(&mut c, Map { batch, height, width, channels, halo: 1 }, 0.1, 0);
        for of_batch in [true, false] {
            let name = format!("output_conv of {channels} channels, batch statistics {of_batch}");
            c.check(&name, &inputs, |t, x| head(t, x, of_batch, None));
        }
    }
}

#[test]
fn a_mean_far_above_the_deviation_costs_no_digits() {
    let mut c = Checker::new(32);
    let inputs = leaves(&mut c, Map { batch: 2, height: 23, width: 19, channels: 16, halo: 1 }, 20.0, 0);
    c.check("output_conv far from 0", &inputs, |t, x| head(t, x, true, None));
}

#[test]
fn masks_are_a_channel_more() {
    let mut c = Checker::new(31);
    for (patch, rows, channels) in [(4, 2, 32), (8, 2, 33), (16, 1, 8), (4, 3, 24), (8, 1, 31)] {
        let grid = Grid { rows, cols: 3, patch };
        let map = Map { batch: 2, height: grid.height(), width: grid.width(), channels, halo: 1 };
        let bits = c.bits(2 * grid.patches() * grid.words());
        let inputs = leaves(&mut c, map, 0.0, 1);
        for of_batch in [true, false] {
            let name = format!("output_conv of {channels} channels and a mask of {patch}×{patch} patches");
            c.check(&name, &inputs, |t, x| {
                let mask = MaskBits { grid, bits: Array::new(t.device(), bits.clone())? };
                head(t, x, of_batch, Some(&mask))
            });
        }
    }
}
