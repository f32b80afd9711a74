use crate::harness::{Checker, Input};
use emberformer::ops::slice::{last_step, slice};

#[test]
fn slices_of_matrices() {
    let mut c = Checker::new(1);
    let ranges = [
        ([5, 6], 1..4, 2..5),
        ([24, 8], 8..24, 0..8),
        ([7, 13], 2..7, 0..13),
        ([9, 64], 0..9, 16..32),
        ([30, 1040], 3..29, 8..1040),
        ([5, 300], 0..5, 1..300),
    ];
    for (shape, rows, cols) in ranges {
        let x = c.random(&shape);
        for input in [Input::activation(&shape, x.clone()), Input::parameter(&shape, x)] {
            let name = format!("slice {rows:?} x {cols:?} of {shape:?}");
            c.check(&name, &[input], |t, x| slice(t, &x[0], rows.clone(), cols.clone()));
        }
    }
}

#[test]
fn slices_of_vectors() {
    let mut c = Checker::new(2);
    for (len, range) in [(6, 2..5), (192, 64..192)] {
        let x = c.random(&[len]);
        c.check("slice", &[Input::parameter(&[len], x)], |t, x| slice(t, &x[0], range.clone(), 0..1));
    }
}

#[test]
fn last_steps() {
    let mut c = Checker::new(3);
    for shape in [[3, 4, 5], [33, 6, 64], [2, 1, 8]] {
        let flat = [shape[0], shape[1] * shape[2]]; // as its gradient comes back
        let x = c.random(&flat);
        c.check("last_step", &[Input::activation(&flat, x)], |t, x| {
            let x = t.reshape(&x[0], &shape);
            last_step(t, &x)
        });
    }
}
