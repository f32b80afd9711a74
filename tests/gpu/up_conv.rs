use crate::harness::{Checker, Input};
use emberformer::ops::map::Map;
use emberformer::ops::up_conv::up_conv;

/// Checks maps of [batch, height, width] from `inputs` to `outputs` channels.
fn check(extent: [usize; 3], inputs: usize, outputs: usize) {
    let mut c = Checker::new((inputs * outputs) as u64);
    let [batch, height, width] = extent;
    let map = Map { batch, height, width, channels: inputs, halo: 1 };
    let shape = [inputs, outputs, 4, 4];
    let leaves = [c.map(map), Input::parameter(&shape, c.random(&shape))];
    let name = format!("up_conv of {extent:?}, {inputs} to {outputs} channels");
    c.check(&name, &leaves, |t, x| up_conv(t, &x[0], &x[1]));
}

#[test]
fn up_conv_of_maps_smaller_than_a_tile() {
    check([1, 1, 1], 8, 8);
    check([2, 5, 7], 8, 24);
}

#[test]
fn up_conv_of_maps_across_tiles() {
    check([2, 11, 13], 16, 32);
    check([1, 4, 35], 32, 64);
}

#[test]
fn up_conv_of_odd_channels() {
    check([2, 3, 5], 65, 24);
    check([1, 3, 2], 40, 72);
}

#[test]
fn up_conv_with_many_channels() {
    check([1, 3, 4], 64, 128);
    check([1, 2, 3], 128, 40);
}

/// Maps of several splits of the weight's gradient.
#[test]
fn up_conv_of_many_pixels() {
    check([2, 28, 21], 8, 8);
}
