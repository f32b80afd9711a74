//! Seeded noise on the plane: smooth, in octaves, ridged, and in patches. Pure functions of place and seed, so that any
//! number of threads paints the same map.
//!
//! Gradient noise is Perlin's (1985, SIGGRAPH; the fifth-degree fade of 2002), summed in octaves as fractional Brownian
//! motion; ridges are Musgrave's (Ebert et al., *Texturing and Modeling*, 2003); patches are Worley's (1996, SIGGRAPH).

use std::f64::consts::TAU;

/// Mixes a seed and a lattice point to 64 even bits (the finaliser of SplitMix64, Steele et al. 2014).
pub fn hash(seed: u64, x: i64, y: i64) -> u64 {
    let mut z = seed
        .wrapping_add((x as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .wrapping_add((y as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F));
    for _ in 0..2 {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
    }
    z
}

/// 64 random bits as a number in [0, 1).
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn fade(t: f64) -> f64 {
    t * t * t * (t * (t * 6.0 - 15.0) + 10.0)
}

/// Gradient noise of wavelength 1, about −1 to 1 and 0 on average.
pub fn gradient(seed: u64, x: f64, y: f64) -> f64 {
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = (x - left, y - top);
    let corner = |dx: i64, dy: i64| {
        let (sin, cos) = (TAU * unit(hash(seed, left as i64 + dx, top as i64 + dy))).sin_cos();
        cos * (fx - dx as f64) + sin * (fy - dy as f64)
    };
    let (u, v) = (fade(fx), fade(fy));
    let upper = corner(0, 0) + u * (corner(1, 0) - corner(0, 0));
    let lower = corner(0, 1) + u * (corner(1, 1) - corner(0, 1));
    (upper + v * (lower - upper)) * std::f64::consts::SQRT_2
}

/// Octaves of [`gradient`] noise, each at half the wavelength and half the height of the one before.
pub fn fractal(seed: u64, x: f64, y: f64, octaves: u32) -> f64 {
    octave_sum(octaves, |octave, scale| gradient(seed.wrapping_add(u64::from(octave)), x * scale, y * scale))
}

/// Octaves of ridges: 1 − |noise| squared, so that crests are sharp and valleys wide; 0 to 1.
pub fn ridged(seed: u64, x: f64, y: f64, octaves: u32) -> f64 {
    octave_sum(octaves, |octave, scale| {
        let ridge = 1.0 - gradient(seed.wrapping_add(u64::from(octave)), x * scale, y * scale).abs().min(1.0);
        ridge * ridge
    })
}

fn octave_sum(octaves: u32, f: impl Fn(u32, f64) -> f64) -> f64 {
    let (mut sum, mut height, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
    for octave in 0..octaves {
        sum += height * f(octave, scale);
        total += height;
        height *= 0.5;
        scale *= 2.0;
    }
    sum / total
}

/// The patch of a plane divided among random points, about one on each unit square: 64 random bits that its cells share.
pub fn patch(seed: u64, x: f64, y: f64) -> u64 {
    let (column, row) = (x.floor() as i64, y.floor() as i64);
    let mut nearest = (f64::INFINITY, 0);
    for dy in -1..=1 {
        for dx in -1..=1 {
            let bits = hash(seed, column + dx, row + dy);
            let px = (column + dx) as f64 + unit(bits);
            let py = (row + dy) as f64 + unit(hash(bits, 1, 0));
            let distance = (px - x).powi(2) + (py - y).powi(2);
            if distance < nearest.0 {
                nearest = (distance, bits);
            }
        }
    }
    hash(nearest.1, 2, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractal_noise_is_smooth_bounded_and_centred() {
        let mut sum = 0.0;
        for i in 0..2500 {
            let (x, y) = (f64::from(i % 50) * 0.37, f64::from(i / 50) * 0.41);
            let value = fractal(7, x, y, 5);
            assert!(value.abs() < 1.2);
            assert!((fractal(7, x + 1e-4, y, 5) - value).abs() < 1e-2);
            sum += value;
        }
        assert!((sum / 2500.0).abs() < 0.05);
        assert_ne!(fractal(7, 0.3, 0.3, 5), fractal(8, 0.3, 0.3, 5));
    }
}
