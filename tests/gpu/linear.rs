use crate::harness::{Checker, Input, LAYER};
use emberformer::ops::linear::{Activation, linear};

/// Weight and bias.
fn layer(c: &mut Checker, outputs: usize, inputs: usize) -> [Input; 2] {
    let (weight, bias) = (c.random(&[outputs, inputs]), c.random(&[outputs]));
    [Input::parameter(&[outputs, inputs], weight), Input::parameter(&[outputs], bias)]
}

const ACTIVATIONS: [Activation; 3] = [Activation::Identity, Activation::Gelu(None), Activation::Gelu(Some(LAYER))];

#[test]
fn linear_layers() {
    let mut c = Checker::new(1);
    let sizes = [(1, 8, 8), (77, 64, 104), (13, 24, 2056), (150, 256, 1), (9, 2, 36), (41, 5, 64), (33, 8, 12)];
    for (rows, inputs, outputs) in sizes {
        let x = c.random(&[rows, inputs]);
        let [weight, bias] = layer(&mut c, outputs, inputs);
        let all = [Input::activation(&[rows, inputs], x), weight, bias];
        for activation in ACTIVATIONS {
            let name = format!("linear {inputs} to {outputs}, {activation:?}");
            c.check(&name, &all, |t, x| linear(t, &x[0], &x[1], Some(&x[2]), activation));
            c.check(&format!("{name}, no bias"), &all[..2], |t, x| linear(t, &x[0], &x[1], None, activation));
        }
    }
}

#[test]
fn linear_sums_many_rows() {
    let mut c = Checker::new(2);
    let x = c.random(&[3, 3000, 8]);
    let [weight, bias] = layer(&mut c, 16, 8);
    let all = [Input::activation(&[3, 3000, 8], x), weight, bias];
    for activation in [Activation::Identity, Activation::Gelu(Some(LAYER))] {
        c.check("linear", &all, |t, x| linear(t, &x[0], &x[1], Some(&x[2]), activation));
    }
}

#[test]
fn linear_leaves_the_channels_of_a_padded_input_zero() {
    let mut c = Checker::new(3);
    for (inputs, outputs) in [(65, 128), (65, 1), (5, 20)] {
        let x = c.random(&[19, inputs]);
        let [weight, bias] = layer(&mut c, outputs, inputs);
        let all = [Input::padded(&[19, inputs], x), weight, bias];
        for activation in ACTIVATIONS {
            c.check("linear", &all, |t, x| linear(t, &x[0], &x[1], Some(&x[2]), activation));
        }
    }
}

#[test]
fn linear_takes_weights_of_convolutions() {
    let mut c = Checker::new(4);
    let (x, weight) = (c.random(&[2, 3, 5, 16]), c.random(&[24, 16, 1, 1]));
    let all = [Input::activation(&[2, 3, 5, 16], x), Input::parameter(&[24, 16, 1, 1], weight)];
    c.check("linear", &all, |t, x| linear(t, &x[0], &x[1], None, Activation::Identity));
}
