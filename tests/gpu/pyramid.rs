use crate::harness::{Checker, Input};
use emberformer::ops::pyramid::{average_pool, resize_sum};

#[test]
fn average_pools_drop_partial_windows() {
    let mut c = Checker::new(21);
    for (shape, factor) in
        [([2, 9, 11, 8], 1), ([2, 9, 11, 8], 2), ([1, 13, 10, 24], 4), ([2, 8, 8, 32], 8), ([3, 17, 23, 64], 8)]
    {
        let x = c.random(&shape);
        let name = format!("average_pool by {factor} of {shape:?}");
        c.check(&name, &[Input::activation(&shape, x)], |t, x| average_pool(t, &x[0], factor));
    }
}

#[test]
fn resized_levels_are_summed() {
    let mut c = Checker::new(22);
    for (levels, height, width, channels) in [
        (vec![(9, 11), (4, 5), (2, 2), (1, 1)], 9, 11, 8),
        (vec![(13, 10), (6, 5), (3, 2), (1, 1)], 13, 10, 24),
        (vec![(25, 17), (12, 8), (6, 4), (3, 2)], 25, 17, 64),
        (vec![(5, 3), (5, 7), (9, 3)], 5, 7, 32), // one direction only, and downwards
        (vec![(7, 6)], 3, 2, 16),
    ] {
        let inputs: Vec<Input> = levels
            .iter()
            .map(|(h, w)| {
                let shape = [2, *h, *w, channels];
                Input::activation(&shape, c.random(&shape))
            })
            .collect();
        let name = format!("resize_sum of {levels:?} to {height}×{width}");
        c.check(&name, &inputs, |t, x| resize_sum(t, x, height, width));
    }
}
