use crate::harness::{Checker, Input, LAYER};
use emberformer::ops::dropout::Dropout;
use emberformer::ops::feed_forward::{Layer, feed_forward};

fn check(rows: &[usize], d: usize, hidden: usize) {
    let mut c = Checker::new((d + hidden) as u64);
    let x = c.random(&[rows, &[d]].concat());
    // Weights as a network has them: rows of norm 1 or so, whatever their length.
    let mut weight = |outputs: usize, inputs: usize| {
        let scale = (3.0 / inputs as f64).sqrt();
        Input::parameter(&[outputs, inputs], c.random(&[outputs, inputs]).iter().map(|w| w * scale).collect())
    };
    let (w1, w2) = (weight(hidden, d), weight(d, hidden));
    let mut vector = |len: usize| Input::parameter(&[len], c.random(&[len]));
    let inputs =
        [Input::activation(&[rows, &[d]].concat(), x), w1, vector(hidden), w2, vector(d), vector(d), vector(d)];
    for drops in [[None, None], [Some(LAYER), Some(Dropout { site: 2, ..LAYER })]] {
        let name = format!("feed_forward {rows:?}, {d} to {hidden}, {drops:?}");
        c.check(&name, &inputs, |tape, v| {
            let [inner, outer] = drops;
            let layer = Layer { w1: &v[1], b1: &v[2], w2: &v[3], b2: &v[4], gamma: &v[5], beta: &v[6], inner, outer };
            feed_forward(tape, &v[0], &layer)
        });
    }
}

#[test]
fn feed_forward_of_rows_that_fill_no_tile() {
    for rows in [1, 33, 77] {
        check(&[rows], 64, 256);
    }
}

#[test]
fn feed_forward_of_every_number_of_hidden_units() {
    for hidden in [64, 128, 192] {
        check(&[5, 9], 64, hidden);
    }
}

#[test]
fn feed_forward_of_more_rows_than_blocks_take_at_a_time() {
    check(&[93, 31], 64, 64); // 91 tiles for 84 blocks of the backward
}

#[test]
fn feed_forward_of_other_widths() {
    for (d, hidden) in [(32, 64), (64, 104), (64, 320), (128, 256)] {
        check(&[21], d, hidden);
    }
}
