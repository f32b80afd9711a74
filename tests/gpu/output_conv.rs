use crate::harness::{Checker, Input};
use emberformer::ops::map::Map;
use emberformer::ops::output_conv::output_conv;

#[test]
fn logits_of_maps() {
    let mut c = Checker::new(26);
    for (batch, height, width, channels) in
        [(1, 3, 5, 8), (2, 17, 9, 24), (1, 31, 33, 32), (2, 13, 11, 64), (1, 9, 7, 33), (1, 5, 4, 264), (1, 40, 41, 5)]
    {
        let x = c.map(Map { batch, height, width, channels, halo: 1 });
        let (weight, bias) = (c.random(&[channels]), c.random(&[1]));
        let inputs = [x, Input::parameter(&[1, channels, 1, 1], weight), Input::parameter(&[1], bias)];
        c.check(&format!("output_conv of {channels} channels"), &inputs, |t, x| output_conv(t, &x[0], &x[1], &x[2], 0));
    }
}

#[test]
fn passive_channels_get_no_gradient() {
    let mut c = Checker::new(31);
    for (channels, passive) in [(33, 1), (9, 1), (18, 2)] {
        let x = c.map(Map { batch: 2, height: 7, width: 5, channels, halo: 1 });
        let (weight, bias) = (c.random(&[channels]), c.random(&[1]));
        let inputs = [x, Input::parameter(&[1, channels, 1, 1], weight), Input::parameter(&[1], bias)];
        c.check(&format!("output_conv of {channels} channels, {passive} passive"), &inputs, |t, x| {
            output_conv(t, &x[0], &x[1], &x[2], passive)
        });
    }
}
