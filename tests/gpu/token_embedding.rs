use crate::harness::{Checker, Input};
use emberformer::device::Array;
use emberformer::ops::token_embedding::{Tokens, token_embedding};
use emberformer::patch::Grid;

const BATCH: usize = 2;
/// With or without wind, with or without statics.
const ALL: &[(bool, bool)] = &[(true, true), (true, false), (false, true), (false, false)];
const BOTH: &[(bool, bool)] = &[(true, true)];

/// Tokens with such `terms`. A third of the patches burn nowhere, a third everywhere.
fn check(patch: usize, inputs: usize, d: usize, history: usize, (rows, cols): (usize, usize), terms: &[(bool, bool)]) {
    let mut c = Checker::new((patch + inputs + d + history) as u64);
    let grid = Grid { rows, cols, patch };
    let n = grid.patches();
    let mut frames = c.bits(BATCH * history * n * grid.words());
    for (i, bits) in frames.chunks_mut(grid.words()).enumerate() {
        match i % 6 {
            0 | 1 => bits.fill(0),
            2 | 3 => bits.fill(u64::MAX),
            4 => bits.iter_mut().for_each(|word| *word = !*word),
            _ => (),
        }
        if patch == 4 {
            bits[0] &= 0xffff;
        }
    }
    // the second sample is padded by all but its last step
    let ages: Vec<u32> = (0..history as u32).chain((0..history).map(|_| 0)).collect();
    let weights = [vec![d, inputs], vec![d]].map(|shape| Input::parameter(&shape, c.random(&shape)));
    let others = [[BATCH * history, d], [BATCH * n, d]].map(|shape| Input::activation(&shape, c.random(&shape)));
    let [[weight, bias], [wind, statics]] = [weights, others];
    let inputs = [weight, bias, wind, statics];
    for (with_wind, with_statics) in terms.iter().copied() {
        let name = format!("token_embedding, P {patch}, d {d}, wind {with_wind}, statics {with_statics}");
        c.check(&name, &inputs, |t, x| {
            let frames = Array::new(t.device(), frames.clone())?;
            let ages = Array::new(t.device(), ages.clone())?;
            let activations = x[2].value().dtype();
            let tokens = Tokens { batch: BATCH, history, grid, frames, ages, activations };
            let (wind, statics) = (with_wind.then_some(&x[2]), with_statics.then_some(&x[3]));
            token_embedding(t, &tokens, &x[0], &x[1], wind, statics)
        });
    }
}

#[test]
fn token_embedding_of_burned_fractions() {
    check(4, 1, 8, 1, (3, 3), ALL);
    check(8, 1, 24, 3, (7, 11), BOTH);
    check(16, 1, 72, 2, (2, 3), BOTH);
}

#[test]
fn token_embedding_of_pixels() {
    check(4, 16, 16, 3, (7, 11), BOTH);
    check(8, 64, 72, 2, (5, 3), ALL);
    check(16, 256, 24, 2, (3, 3), BOTH);
}

#[test]
fn token_embedding_of_more_patches_than_the_backward_has_blocks() {
    check(8, 1, 8, 1, (1, 64 * 169), BOTH);
}

#[test]
fn token_embedding_over_a_long_history() {
    check(8, 64, 8, 64, (1, 3), BOTH);
}
