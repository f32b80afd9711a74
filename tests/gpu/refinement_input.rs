use crate::harness::{Checker, Input};
use emberformer::ops::map::Map;
use emberformer::ops::refinement_input::{concat, to_map};

#[test]
fn rows_side_by_side() {
    let mut c = Checker::new(23);
    for (rows, m, n) in [(1, 8, 1), (37, 24, 1), (130, 64, 1), (41, 32, 8), (9, 16, 11)] {
        let (a, b) = (c.random(&[rows, m]), c.random(&[rows, n]));
        let inputs = [Input::activation(&[rows, m], a), Input::activation(&[rows, n], b)];
        c.check(&format!("concat of {m} and {n}"), &inputs, |t, x| concat(t, &x[0], &x[1]));
    }
}

#[test]
fn grids_get_a_border() {
    let mut c = Checker::new(24);
    for (batch, height, width, channels) in [(1, 1, 1, 8), (2, 5, 7, 9), (3, 9, 4, 24), (1, 13, 11, 65)] {
        let shape = [batch * height * width, channels];
        let x = c.random(&shape);
        c.check(&format!("to_map of {channels} channels"), &[Input::padded(&shape, x)], |t, x| {
            let map = Map { batch, height, width, channels: x[0].shape()[1], halo: 1 };
            to_map(t, &x[0], map)
        });
    }
}

#[test]
fn both_in_a_row() {
    let mut c = Checker::new(25);
    let (a, b) = (c.random(&[70, 32]), c.random(&[70, 1]));
    c.check("concat and to_map", &[Input::activation(&[70, 32], a), Input::activation(&[70, 1], b)], |t, x| {
        let y = concat(t, &x[0], &x[1])?;
        let map = Map { batch: 2, height: 5, width: 7, channels: y.shape()[1], halo: 1 };
        to_map(t, &y, map)
    });
}
