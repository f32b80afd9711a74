use crate::harness::{Checker, Input, LAYER};
use emberformer::device::Array;
use emberformer::ops::attention::attention;

/// `rows` patches of two samples, of which the first has `padding` steps that are not its own.
fn check([rows, queries, steps]: [usize; 3], heads: usize, head_size: usize, padding: usize) {
    let mut c = Checker::new((queries + steps + head_size) as u64);
    let d = heads * head_size;
    let valid: Vec<bool> = (0..2 * steps).map(|i| i >= padding).collect();
    let inputs = [[rows, queries, d], [rows, steps, 2 * d]].map(|shape| Input::activation(&shape, c.random(&shape)));
    for dropout in [None, Some(LAYER)] {
        let name = format!("attention, {queries} of {steps} steps, {heads} heads of {head_size}, {dropout:?}");
        c.check(&name, &inputs, |t, x| {
            let valid = Array::new(t.device(), valid.clone())?;
            attention(t, &x[0], &x[1], &valid, heads, dropout)
        });
    }
}

#[test]
fn attention_over_short_histories() {
    for (steps, padding) in [(1, 0), (3, 1), (7, 6), (20, 5)] {
        check([6, steps, steps], 2, 16, padding);
    }
}

#[test]
fn attention_over_long_histories() {
    check([2, 32, 32], 3, 8, 9); // more heads than a block of the backward takes
    check([2, 64, 64], 1, 64, 1);
}

#[test]
fn attention_of_the_last_step() {
    check([10, 1, 20], 4, 16, 17);
    check([2, 1, 64], 3, 64, 30);
    check([2, 1, 1], 2, 32, 0);
}

#[test]
fn attention_with_every_head_size() {
    for (heads, head_size) in [(6, 4), (5, 8), (3, 16), (2, 32), (1, 64), (3, 24), (1, 40)] {
        check([4, 5, 5], heads, head_size, 2);
    }
    // what no vector holds
    for (heads, head_size) in [(8, 5), (2, 12), (4, 6), (8, 33)] {
        check([2, 3, 3], heads, head_size, 1);
    }
}
