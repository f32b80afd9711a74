//! Philox on the host, sixteen counters at a time.

use super::Dropout;
use crate::device::cpu::{Real, vectorized};
use rayon::prelude::*;

const LANES: usize = 16;
const GROUP: usize = 8 * LANES; // elements drawn at a time: sixteen counters of eight halves

/// Multiplies `data` by the mask of its elements, the whole tensor's.
pub fn apply<E: Real>(layer: &Dropout, data: &mut [E]) {
    data.par_chunks_mut(128 * GROUP).enumerate().for_each(|(i, chunk)| {
        apply_from(layer, chunk, i * 128 * GROUP);
    });
}

/// Multiplies a part of a tensor that begins at element `first` by its mask.
pub fn apply_from<E: Real>(layer: &Dropout, data: &mut [E], first: usize) {
    let (keep, threshold) = (E::of(layer.scale()), layer.threshold());
    vectorized(|| {
        let mut at = 0;
        while at < data.len() {
            let (group, offset) = ((first + at) / GROUP, (first + at) % GROUP);
            let halves = draw(layer, group as u32);
            let n = (GROUP - offset).min(data.len() - at);
            for (x, half) in data[at..at + n].iter_mut().zip(&halves[offset..]) {
                *x = if *half >= threshold { *x * keep } else { E::zero() };
            }
            at += n;
        }
    });
}

/// The 16 bits of each of the group's elements.
#[inline(always)]
fn draw(layer: &Dropout, group: u32) -> [u16; GROUP] {
    let first = group.wrapping_mul(LANES as u32);
    let mut c0: [u32; LANES] = std::array::from_fn(|lane| first.wrapping_add(lane as u32));
    let mut c1 = [layer.site; LANES];
    let mut c2 = [layer.key.step as u32; LANES];
    let mut c3 = [(layer.key.step >> 32) as u32; LANES];
    let mut key = [layer.key.seed as u32, (layer.key.seed >> 32) as u32];
    for _ in 0..10 {
        for (((c0, c1), c2), c3) in c0.iter_mut().zip(&mut c1).zip(&mut c2).zip(&mut c3) {
            let p0 = u64::from(*c0) * 0xD251_1F53;
            let p1 = u64::from(*c2) * 0xCD9E_8D57;
            *c0 = (p1 >> 32) as u32 ^ *c1 ^ key[0];
            *c2 = (p0 >> 32) as u32 ^ *c3 ^ key[1];
            *c1 = p1 as u32;
            *c3 = p0 as u32;
        }
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    let mut halves = [0; GROUP];
    for (word, values) in [c0, c1, c2, c3].iter().enumerate() {
        for (lane, value) in values.iter().enumerate() {
            halves[8 * lane + 2 * word] = *value as u16;
            halves[8 * lane + 2 * word + 1] = (*value >> 16) as u16;
        }
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dropout::DropoutKey;

    fn layer(probability: f64, seed: u64, step: u64, site: u32) -> Dropout {
        Dropout { probability, key: DropoutKey { seed, step }, site }
    }

    /// Known answers of Philox4x32-10 from the authors' Random123 test vectors (zeros, and all ones).
    #[test]
    fn philox_gives_the_published_words() {
        let words = |halves: &[u16]| -> Vec<u32> {
            halves.chunks_exact(2).map(|half| u32::from(half[0]) | u32::from(half[1]) << 16).collect()
        };
        let first = draw(&layer(0.5, 0, 0, 0), 0);
        assert_eq!(words(&first[..8]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let all = draw(&layer(0.5, u64::MAX, u64::MAX, u32::MAX), u32::MAX >> 4);
        assert_eq!(words(&all[GROUP - 8..]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn a_part_gets_the_mask_of_the_whole() {
        let layer = layer(0.3, 7, 11, 2);
        let mut whole = vec![1.0f32; 40_000];
        apply(&layer, &mut whole);
        for (from, to) in [(0, 5), (63, 130), (1000, 20_001)] {
            let mut part = vec![1.0f32; to - from];
            apply_from(&layer, &mut part, from);
            assert_eq!(part, whole[from..to]);
        }
        let dropped = whole.iter().filter(|x| **x == 0.0).count() as f64 / whole.len() as f64;
        assert!((dropped - 0.3).abs() < 0.01, "{dropped}");
    }

    #[test]
    fn sites_steps_and_seeds_differ() {
        let mask = |layer: &Dropout| {
            let mut x = vec![1.0f64; 256];
            apply(layer, &mut x);
            x
        };
        let base = mask(&layer(0.5, 1, 1, 1));
        for other in [layer(0.5, 2, 1, 1), layer(0.5, 1, 2, 1), layer(0.5, 1, 1, 2)] {
            assert_ne!(base, mask(&other));
        }
    }
}
