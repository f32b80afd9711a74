use crate::harness::{Checker, Input, LAYER};
use emberformer::ops::residual_norm::residual_norm;

fn check(c: &mut Checker, rows: &[usize], d: usize) {
    let shape = [rows, &[d]].concat();
    let inputs = [
        Input::activation(&shape, c.random(&shape)),
        Input::activation(&shape, c.random(&shape)),
        Input::parameter(&[d], c.random(&[d])),
        Input::parameter(&[d], c.random(&[d])),
    ];
    for drop in [None, Some(LAYER)] {
        let name = format!("residual_norm {shape:?}, {drop:?}");
        c.check(&name, &inputs, |t, x| residual_norm(t, &x[0], &x[1], &x[2], &x[3], drop));
    }
}

#[test]
fn residual_norms_of_all_widths() {
    let mut c = Checker::new(1);
    for (rows, d) in [(1, 8), (45, 8), (67, 64), (23, 104), (19, 256), (9, 264), (7, 512), (5, 768), (3, 1024)] {
        check(&mut c, &[rows], d);
    }
}

#[test]
fn residual_norm_sums_many_rows() {
    let mut c = Checker::new(2);
    check(&mut c, &[2125, 6], 64);
}
