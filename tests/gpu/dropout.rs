use crate::harness::{Checker, Input, LAYER};
use emberformer::ops::dropout::dropout;

#[test]
fn dropout_draws_the_cpu_s_mask() {
    let mut c = Checker::new(1);
    for shape in [[1, 8], [3, 40], [130, 64]] {
        let x = c.random(&shape);
        c.check("dropout", &[Input::activation(&shape, x)], |t, x| dropout(t, &x[0], Some(LAYER)));
    }
}
