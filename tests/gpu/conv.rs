use crate::harness::{Checker, Input};
use emberformer::ops::conv::conv;
use emberformer::ops::map::Map;

/// Checks maps of [batch, height, width] from `inputs` to `outputs` channels, the last `passive` inputs without gradient.
fn check(extent: [usize; 3], inputs: usize, outputs: usize, passive: usize) {
    let mut c = Checker::new((inputs * outputs) as u64);
    let [batch, height, width] = extent;
    let map = Map { batch, height, width, channels: inputs, halo: 1 };
    let shape = [outputs, inputs, 3, 3];
    let leaves = [c.map(map), Input::parameter(&shape, c.random(&shape))];
    let name = format!("conv of {extent:?}, {inputs} to {outputs} channels, {passive} passive");
    c.check(&name, &leaves, |t, x| conv(t, &x[0], &x[1], passive));
}

#[test]
fn conv_of_maps_smaller_than_a_tile() {
    check([1, 1, 1], 8, 8, 0);
    check([2, 5, 7], 8, 24, 0);
}

#[test]
fn conv_of_maps_across_tiles() {
    check([2, 13, 18], 16, 32, 0);
    check([1, 9, 31], 32, 64, 0);
}

#[test]
fn conv_of_odd_channels() {
    check([2, 5, 7], 65, 40, 0);
    check([1, 4, 5], 72, 136, 0);
}

#[test]
fn conv_with_a_passive_channel() {
    check([2, 9, 8], 33, 32, 1);
    check([1, 3, 4], 9, 8, 1);
}

#[test]
fn conv_with_many_output_channels() {
    check([1, 6, 5], 24, 128, 0);
    check([1, 3, 3], 128, 64, 0);
}

/// Maps of several splits of the weight's gradient.
#[test]
fn conv_of_many_pixels() {
    check([2, 30, 37], 8, 8, 0);
}
