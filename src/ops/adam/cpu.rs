//! Element by element.

use super::Update;
use crate::device::cpu::{Real, vectorized};

/// m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε).
pub fn update<E: Real>(update: &Update, value: &mut [E], gradient: &[E], first: &mut [E], second: &mut [E]) {
    let step = update.step as f64;
    let size = E::of(update.rate / (1.0 - update.beta1.powf(step)));
    let correction = E::of((1.0 - update.beta2.powf(step)).sqrt());
    let [beta1, beta2, eps, decay] = [update.beta1, update.beta2, update.eps, update.weight_decay].map(E::of);
    let [rest1, rest2] = [update.beta1, update.beta2].map(|beta| E::of(1.0 - beta));
    vectorized(|| {
        for (((x, g), m), v) in value.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = *g + decay * *x;
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *x -= size * *m / (v.sqrt() / correction + eps);
        }
    });
}
