//! Pictures of predictions: probabilities in grey, and prediction, truth and last frame side by side.

use crate::{Error, Result};
use png::{BitDepth, ColorType, Encoder};

type Rgb = [u8; 3];

const UNBURNED: Rgb = [24, 32, 40];
const BURNED_BEFORE: Rgb = [120, 120, 120];
const BURNED_NOW: Rgb = [250, 190, 60];
const GAP: Rgb = [255, 255, 255];
/// Pixels between two panels.
const MARGIN: usize = 4;
/// Panels are enlarged to about this side.
const SIDE: usize = 256;

/// Probabilities [H, W] as an 8-bit grey PNG: 0 black, 1 white.
///
/// # Errors
/// A size that no PNG can have.
pub fn grey(probability: &[f32], height: usize, width: usize) -> Result<Vec<u8>> {
    let pixels: Vec<u8> = probability.iter().map(|p| (p.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    encode(&pixels, height, width, ColorType::Grayscale)
}

/// Prediction, truth (where it is known) and last frame of the history, each [H, W], side by side as a PNG. What burned
/// before is grey, what is new is yellow, the stronger the likelier.
///
/// # Errors
/// A size that no PNG can have.
pub fn triptych(
    probability: &[f32],
    truth: Option<&[f32]>,
    last: &[f32],
    height: usize,
    width: usize,
) -> Result<Vec<u8>> {
    let panels: Vec<&[f32]> = [Some(probability), truth, Some(last)].into_iter().flatten().collect();
    let scale = (SIDE / width.max(height).max(1)).max(1);
    let (panel_height, panel_width) = (height * scale, width * scale);
    let total = panels.len() * panel_width + (panels.len() - 1) * MARGIN;
    let mut pixels = Vec::with_capacity(panel_height * total * 3);
    for y in 0..panel_height {
        for (i, panel) in panels.iter().enumerate() {
            if i > 0 {
                pixels.extend(GAP.repeat(MARGIN));
            }
            for x in 0..panel_width {
                let at = y / scale * width + x / scale;
                pixels.extend(colour(panel[at], last[at] > 0.5));
            }
        }
    }
    encode(&pixels, panel_height, total, ColorType::Rgb)
}

fn colour(burns: f32, burned_before: bool) -> Rgb {
    let to = if burned_before { BURNED_BEFORE } else { BURNED_NOW };
    let mix = |from: u8, to: u8| (f32::from(from) + (f32::from(to) - f32::from(from)) * burns.clamp(0.0, 1.0)) as u8;
    [0, 1, 2].map(|i| mix(UNBURNED[i], to[i]))
}

fn encode(pixels: &[u8], height: usize, width: usize, color: ColorType) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| Error::failed("picture", e, "use smaller windows");
    let size = |n: usize| u32::try_from(n).map_err(|e| fail(&e));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, size(width)?, size(height)?);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| fail(&e))?;
    writer.write_image_data(pixels).map_err(|e| fail(&e))?;
    writer.finish().map_err(|e| fail(&e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triptych_has_a_panel_for_what_is_known() {
        let (p, truth, last) = ([0.0, 1.0, 0.5, 1.0], [0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]);
        for (truth, panels) in [(Some(truth.as_slice()), 3), (None, 2)] {
            let image = image::load_from_memory(&triptych(&p, truth, &last, 2, 2).unwrap()).unwrap().to_rgb8();
            assert_eq!(image.dimensions(), (panels * 256 + (panels - 1) * 4, 256));
            assert_eq!(image.get_pixel(0, 0).0, UNBURNED);
            assert_eq!(image.get_pixel(255, 0).0, BURNED_BEFORE);
            assert_eq!(image.get_pixel(255, 255).0, BURNED_NOW);
            assert_eq!(image.get_pixel(257, 0).0, GAP);
        }
    }

    #[test]
    fn grey_is_the_probability() {
        let image = image::load_from_memory(&grey(&[0.0, 0.2, 1.0], 1, 3).unwrap()).unwrap().to_luma8();
        assert_eq!(image.into_raw(), [0, 51, 255]);
    }
}
