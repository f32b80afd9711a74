use crate::harness::{Checker, Input, LAYER};
use emberformer::device::Array;
use emberformer::ops::dropout::Dropout;
use emberformer::ops::self_attention::{Dropouts, Weights, self_attention};

/// `rows` patches of two samples, of which the first has `padding` steps that are not its own.
fn check([rows, steps]: [usize; 2], heads: usize, d: usize, padding: usize, last: bool) {
    let mut c = Checker::new((rows + steps + heads) as u64);
    let valid: Vec<bool> = (0..2 * steps).map(|i| i >= padding).collect();
    let scaled = |values: Vec<f64>, factor: f64| values.into_iter().map(|x| x * factor).collect::<Vec<_>>();
    let parameter = |c: &mut Checker, shape: &[usize], factor: f64| {
        let values = scaled(c.random(shape), factor);
        Input::parameter(shape, values)
    };
    let width = (3.0 / d as f64).sqrt(); // so that products are as large as what they are made from
    let x = c.random(&[rows, steps, d]);
    let inputs = [
        Input::activation(&[rows, steps, d], scaled(x, 1.7)),
        parameter(&mut c, &[3 * d, d], width),
        parameter(&mut c, &[3 * d], 0.3),
        parameter(&mut c, &[d, d], width),
        parameter(&mut c, &[d], 0.3),
        parameter(&mut c, &[d], 1.0),
        parameter(&mut c, &[d], 1.0),
    ];
    let layers = Dropouts { probabilities: Some(LAYER), residual: Some(Dropout { site: 2, ..LAYER }) };
    for dropouts in [Dropouts::default(), layers] {
        let what = if last { "the last" } else { "all" };
        let name =
            format!("self_attention, {what} of {rows}·{steps} steps, {heads} heads of {}, {dropouts:?}", d / heads);
        c.check(&name, &inputs, |t, v| {
            let valid = Array::new(t.device(), valid.clone())?;
            let [in_weight, in_bias, out_weight, out_bias, gamma, beta] = [1, 2, 3, 4, 5, 6].map(|i| v[i].clone());
            let weights = Weights { in_weight, in_bias, out_weight, out_bias, gamma, beta };
            self_attention(t, &v[0], &weights, &valid, heads, last, dropouts)
        });
    }
}

#[test]
fn self_attention_over_histories() {
    for (rows, steps, padding) in [(6, 1, 0), (34, 2, 1), (14, 5, 0), (12, 6, 3), (4, 17, 16), (2, 32, 5)] {
        check([rows, steps], 4, 64, padding, false);
    }
}

#[test]
fn self_attention_of_the_last_step() {
    for (rows, steps, padding) in [(6, 1, 0), (34, 2, 1), (14, 5, 0), (12, 6, 3), (4, 17, 16), (2, 32, 5)] {
        check([rows, steps], 4, 64, padding, true);
    }
}

#[test]
fn self_attention_with_every_head_size() {
    for heads in [1, 2, 8] {
        check([10, 6], heads, 64, 2, false);
        check([10, 6], heads, 64, 2, true);
    }
}

#[test]
fn self_attention_of_other_sizes_is_that_of_its_ops() {
    check([4, 3], 2, 32, 1, false); // another width
    check([4, 3], 16, 64, 1, true); // narrow heads
    check([2, 33], 4, 64, 30, false); // a long history
}

#[test]
#[ignore = "takes minutes without a GPU"]
fn self_attention_over_more_tiles_than_blocks() {
    check([1702, 6], 4, 64, 2, false);
    check([1702, 6], 4, 64, 2, true);
}
