//! Pictures of a prediction: side by side with the truth and the last frame, and as plain grey values.

use crate::{Error, Result, storage};
use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage};
use std::io::{BufWriter, Write};
use std::path::Path;

const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([30, 30, 30]);
/// What is not a number in a prediction.
const UNKNOWN: Rgb<u8> = Rgb([200, 200, 200]);
/// Margin, and gap between panels, in pixels.
const GAP: usize = 10;
/// Small windows are enlarged until a panel is at least this wide and high.
const PANEL_MIN: usize = 256;
/// Side of a letter in pixels.
const LETTER: usize = 8;
const LINE: usize = LETTER + 5;
/// Upper edge of the panels, below heading and captions.
const TOP: usize = GAP + LETTER + GAP + LINE;
/// Lines of text below the panels.
const FOOTER: usize = 4;

/// What became of a pixel. The colours are Okabe and Ito's (2008, *Color Universal Design*), which people of any colour
/// vision tell apart; they also differ in lightness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It burned in the last frame already, and was predicted to burn.
    Kept,
    /// New fire that was predicted.
    Hit,
    /// Fire that was not predicted.
    Miss,
    /// Predicted, and no fire came.
    FalseAlarm,
    /// Rightly predicted not to burn.
    Quiet,
}

impl Outcome {
    const SHOWN: [Self; 4] = [Self::Kept, Self::Hit, Self::Miss, Self::FalseAlarm];

    fn of(predicted: bool, burns: bool, burned: bool) -> Self {
        match (predicted, burns) {
            (true, true) if burned => Self::Kept,
            (true, true) => Self::Hit,
            (false, true) => Self::Miss,
            (true, false) => Self::FalseAlarm,
            (false, false) => Self::Quiet,
        }
    }

    fn colour(self) -> Rgb<u8> {
        match self {
            Self::Kept => Rgb([110, 110, 110]),
            Self::Hit => Rgb([0, 158, 115]),
            Self::Miss => Rgb([213, 94, 0]),
            Self::FalseAlarm => Rgb([86, 180, 233]),
            Self::Quiet => Rgb([240, 240, 236]),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kept => "burned before",
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::FalseAlarm => "false alarm",
            Self::Quiet => "",
        }
    }
}

/// What a picture shows. Slices are [height·width], row-major; what is missing from a slice counts as no fire.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// A line above the panels.
    pub heading: &'a str,
    /// Probabilities.
    pub prediction: &'a [f32],
    /// A pixel is predicted to burn above this.
    pub threshold: f64,
    /// 0 or 1; any other value counts as fire.
    pub target: Option<&'a [u8]>,
    /// 0 or 1, as the target.
    pub last_frame: &'a [u8],
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Speed, and direction *to* which the wind blows, in degrees clockwise from north.
    pub wind: Option<(f32, f32)>,
}

/// The prediction, the last frame and, where there is a target, the target and the errors, side by side with captions.
pub fn picture(panels: &Panels) -> RgbImage {
    let Panels { heading, prediction, threshold, target, last_frame, height, width, wind } = *panels;
    let fire = |mask: &[u8], i: usize| mask.get(i).is_some_and(|&v| v != 0);
    let probability = |i: usize| prediction.get(i).copied().unwrap_or(0.0);
    let outcome = |target: &[u8], i: usize| {
        Outcome::of(f64::from(probability(i)) > threshold, fire(target, i), fire(last_frame, i))
    };

    let mut sheet = Sheet::new(height, width, if target.is_some() { 4 } else { 2 });
    sheet.text(GAP, GAP, heading);
    let left = sheet.panel("prediction", |i| viridis(probability(i)));
    sheet.scale_of_probabilities(left);
    if let Some(target) = target {
        sheet.panel("target", |i| viridis(f32::from(u8::from(fire(target, i)))));
    }
    let left = sheet.panel("last frame", |i| viridis(f32::from(u8::from(fire(last_frame, i)))));
    if let Some((speed, toward)) = wind {
        sheet.wind(left, speed, toward);
    }
    if let Some(target) = target {
        let left = sheet.panel(&format!("errors at p > {threshold}"), |i| outcome(target, i).colour());
        let mut counts = [0usize; Outcome::SHOWN.len()];
        for i in 0..height * width {
            if let Some(place) = Outcome::SHOWN.iter().position(|&o| o == outcome(target, i)) {
                counts[place] += 1;
            }
        }
        for (line, (shown, count)) in Outcome::SHOWN.iter().zip(counts).enumerate() {
            let y = sheet.footer() + line * LINE;
            sheet.fill(left, y, LETTER, LETTER, shown.colour());
            sheet.text(left + 2 * LETTER, y, &format!("{} {count}", shown.name()));
        }
    }
    sheet.image
}

/// Viridis (van der Walt and Smith 2015), even to the eye from dark blue at 0 to yellow at 1.
fn viridis(value: f32) -> Rgb<u8> {
    if value.is_nan() {
        return UNKNOWN;
    }
    let colour = colorous::VIRIDIS.eval_continuous(f64::from(value.clamp(0.0, 1.0)));
    Rgb([colour.r, colour.g, colour.b])
}

/// Panels in a row on white, captions above, legends below.
struct Sheet {
    image: RgbImage,
    height: usize,
    width: usize,
    /// Pixels of the sheet for one of the window, on a side.
    zoom: usize,
    panels: usize,
}

impl Sheet {
    fn new(height: usize, width: usize, panels: usize) -> Self {
        let (height, width) = (height.max(1), width.max(1));
        let zoom = PANEL_MIN.div_ceil(height.min(width));
        let across = panels * (width * zoom + GAP) + GAP;
        let down = TOP + height * zoom + GAP + FOOTER * LINE;
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { image: RgbImage::from_pixel(clamp(across), clamp(down), PAPER), height, width, zoom, panels: 0 }
    }

    /// Adds a panel that shows `colour` of each pixel of the window, and returns its left edge.
    fn panel(&mut self, caption: &str, colour: impl Fn(usize) -> Rgb<u8>) -> usize {
        let left = GAP + self.panels * (self.width * self.zoom + GAP);
        self.panels += 1;
        self.text(left, TOP - LINE, caption);
        for y in 0..self.height {
            for x in 0..self.width {
                let (px, py) = (left + x * self.zoom, TOP + y * self.zoom);
                self.fill(px, py, self.zoom, self.zoom, colour(y * self.width + x));
            }
        }
        left
    }

    /// First row of the legends.
    fn footer(&self) -> usize {
        TOP + self.height * self.zoom + GAP
    }

    fn scale_of_probabilities(&mut self, left: usize) {
        let (top, length) = (self.footer(), PANEL_MIN.min(self.width * self.zoom));
        for x in 0..length {
            self.fill(left + x, top, 1, LINE, viridis(x as f32 / (length - 1).max(1) as f32));
        }
        self.text(left, top + LINE + 3, "0");
        self.text(left + length / 2 - 3 * LETTER / 2, top + LINE + 3, "0.5");
        self.text(left + length - LETTER, top + LINE + 3, "1");
    }

    /// An arrow that points where the wind blows, and its speed.
    fn wind(&mut self, left: usize, speed: f32, toward: f32) {
        let top = self.footer();
        if !(speed.is_finite() && toward.is_finite()) {
            return;
        }
        let (sin, cos) = f64::from(toward).to_radians().sin_cos();
        let along = [sin, -cos]; // right and down
        let reach = (FOOTER * LINE) as f64 / 2.0 - 5.0;
        let centre = [left as f64 + reach + 2.0, top as f64 + reach];
        let tip = [centre[0] + reach * along[0], centre[1] + reach * along[1]];
        self.line([centre[0] - reach * along[0], centre[1] - reach * along[1]], tip);
        for turn in [150f64, -150.0] {
            let (s, c) = turn.to_radians().sin_cos();
            let barb = [c * along[0] - s * along[1], s * along[0] + c * along[1]];
            self.line(tip, [tip[0] + 0.4 * reach * barb[0], tip[1] + 0.4 * reach * barb[1]]);
        }
        let x = left + 2 * reach as usize + 2 * LETTER;
        self.text(x, top + LINE, &format!("wind {speed:.1}"));
        self.text(x, top + 2 * LINE, &format!("toward {:.0}°", toward.rem_euclid(360.0)));
    }

    fn line(&mut self, [x0, y0]: [f64; 2], [x1, y1]: [f64; 2]) {
        let steps = (x1 - x0).abs().max((y1 - y0).abs()).ceil().max(1.0);
        for i in 0..=steps as usize {
            let t = i as f64 / steps;
            let (x, y) = (x0 + t * (x1 - x0), y0 + t * (y1 - y0));
            self.fill(x.max(0.0) as usize, y.max(0.0) as usize, 2, 2, INK);
        }
    }

    /// Letters of the 8×8 bitmap font; what it lacks stays blank.
    fn text(&mut self, x: usize, y: usize, text: &str) {
        for (i, letter) in text.chars().enumerate() {
            let glyph = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
            for (row, bits) in glyph.unwrap_or_default().into_iter().enumerate() {
                for column in (0..LETTER).filter(|c| bits >> c & 1 == 1) {
                    self.fill(x + i * LETTER + column, y + row, 1, 1, INK);
                }
            }
        }
    }

    /// Fills a rectangle, as far as it lies on the sheet.
    fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Rgb<u8>) {
        let right = (x + width).min(self.image.width() as usize);
        let bottom = (y + height).min(self.image.height() as usize);
        for py in y..bottom {
            for px in x..right {
                self.image.put_pixel(px as u32, py as u32, colour);
            }
        }
    }
}

/// Writes probabilities [height·width] as a 16-bit grey PNG: 0 is 0, 65535 is 1; what is not a number becomes 0.
///
/// # Errors
/// A slice of another length, and a disk that does not take the file. The file is written beside its place and renamed.
pub fn probability_png(path: &Path, prediction: &[f32], height: usize, width: usize) -> Result<()> {
    if height.checked_mul(width) != Some(prediction.len()) || prediction.is_empty() {
        return Err(Error::failed(
            path.display(),
            format_args!("{} probabilities for a picture of {height}×{width}", prediction.len()),
            "give one for each pixel",
        ));
    }
    let (Ok(columns), Ok(rows)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(Error::failed(path.display(), "too large for a PNG", "write the GeoTIFF only"));
    };
    // A NaN turns into 0 as it becomes an integer.
    let grey: Vec<u8> =
        prediction.iter().flat_map(|p| ((p.clamp(0.0, 1.0) * 65_535.0).round() as u16).to_be_bytes()).collect();
    let refused = |e: &std::io::Error| Error::io(path, "cannot write", e);
    let temporary = storage::begin(path)?;
    let mut file = BufWriter::new(temporary.as_file());
    let encode = |file: &mut BufWriter<&std::fs::File>| -> std::result::Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(file, columns, rows);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Sixteen);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&grey)?;
        writer.finish()
    };
    encode(&mut file).map_err(|e| match e {
        png::EncodingError::IoError(e) => refused(&e),
        e => Error::failed(path.display(), format_args!("cannot be encoded: {e}"), "write the GeoTIFF only"),
    })?;
    file.flush().map_err(|e| refused(&e))?;
    drop(file);
    storage::keep(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURNED: Rgb<u8> = Rgb([253, 231, 37]);

    /// Prediction, target and last frame of a 4×4 window with each outcome in a row of its own.
    fn rows() -> (Vec<f32>, Vec<u8>, Vec<u8>) {
        let rows = |values: [f32; 4]| values.iter().flat_map(|v| [*v; 4]).collect::<Vec<f32>>();
        let masks = |values: [f32; 4]| rows(values).iter().map(|v| *v as u8).collect::<Vec<u8>>();
        (rows([1.0, 0.9, 0.1, 0.8]), masks([1.0, 1.0, 1.0, 0.0]), masks([1.0, 0.0, 0.0, 0.0]))
    }

    fn draw(
        prediction: &[f32],
        target: Option<&[u8]>,
        last_frame: &[u8],
        [height, width]: [usize; 2],
        wind: Option<(f32, f32)>,
    ) -> RgbImage {
        picture(&Panels { heading: "", prediction, threshold: 0.5, target, last_frame, height, width, wind })
    }

    /// The colour in the middle of a row of a panel.
    fn at(image: &RgbImage, panel: u32, row: u32) -> Rgb<u8> {
        *image.get_pixel(10 + panel * 266 + 130, TOP as u32 + row * 64 + 32)
    }

    #[test]
    fn panels_stand_side_by_side_and_errors_have_their_own_colours() {
        let (prediction, target, last) = rows();
        let image = draw(&prediction, Some(&target), &last, [4, 4], Some((20.0, 90.0)));
        assert_eq!(image.width(), 4 * 266 + 10);
        assert_eq!((at(&image, 0, 0), at(&image, 1, 2), at(&image, 2, 0)), (BURNED, BURNED, BURNED));
        assert_eq!((at(&image, 1, 3), at(&image, 2, 1)), (Rgb([68, 1, 84]), Rgb([68, 1, 84])));
        let errors = [0, 1, 2, 3].map(|row| at(&image, 3, row));
        assert_eq!(errors, Outcome::SHOWN.map(Outcome::colour));
    }

    #[test]
    fn without_a_target_there_are_two_panels() {
        let (prediction, _, last) = rows();
        let image = draw(&prediction, None, &last, [4, 4], None);
        assert_eq!(image.width(), 2 * 266 + 10);
        assert_eq!(at(&image, 1, 0), BURNED);
        // A large window is not enlarged.
        assert_eq!(draw(&[], None, &[], [300, 400], None).width(), 2 * 410 + 10);
    }

    #[test]
    fn captions_and_the_wind_arrow_leave_ink() {
        let (prediction, target, last) = rows();
        let ink = |image: &RgbImage| image.pixels().filter(|p| **p == INK).count();
        let calm = draw(&prediction, Some(&target), &last, [4, 4], None);
        let windy = draw(&prediction, Some(&target), &last, [4, 4], Some((12.5, 200.0)));
        assert!(ink(&calm) > 400 && ink(&windy) > ink(&calm) + 100);
        let odd = draw(&prediction, Some(&target), &last, [4, 4], Some((f32::NAN, f32::INFINITY)));
        assert_eq!(ink(&odd), ink(&calm));
        let panels = Panels {
            heading: "sequence_007",
            prediction: &prediction,
            threshold: 0.85,
            target: Some(&target),
            last_frame: &last,
            height: 4,
            width: 4,
            wind: None,
        };
        let headed = picture(&panels);
        assert!(ink(&headed) > ink(&calm) + 100);
        // A false alarm at 0.8 is none above 0.85.
        assert_eq!((at(&calm, 3, 3), at(&headed, 3, 3)), (Outcome::FalseAlarm.colour(), Outcome::Quiet.colour()));
    }

    #[test]
    fn odd_input_is_drawn_and_does_not_panic() {
        let image = draw(&[f32::NAN, 7.0, -1.0], Some(&[]), &[255], [2, 2], Some((1.0, -30.0)));
        assert_eq!(*image.get_pixel(15, TOP as u32 + 7), UNKNOWN);
        draw(&[], None, &[], [0, 0], None);
    }

    #[test]
    fn colours_of_outcomes_stay_apart_without_red_and_green() {
        // Lightness alone (Rec. 601) tells the three errors apart, and all from the ground.
        let light = |o: Outcome| {
            let Rgb([r, g, b]) = o.colour();
            0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)
        };
        let mut all = [Outcome::Hit, Outcome::Miss, Outcome::FalseAlarm, Outcome::Quiet].map(light);
        all.sort_by(f64::total_cmp);
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] > 10.0), "{all:?}");
    }

    #[test]
    fn probabilities_survive_as_sixteen_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        probability_png(&path, &[0.0, 0.5, 1.0, 0.123, f32::NAN, 2.0], 2, 3).unwrap();
        let grey = image::open(&path).unwrap().into_luma16();
        assert_eq!((grey.width(), grey.height()), (3, 2));
        assert_eq!(grey.into_raw(), [0, 32768, 65535, 8061, 0, 65535]);
        let error = probability_png(&path, &[0.0; 5], 2, 3).unwrap_err().to_string();
        assert!(error.contains("p.png: 5 probabilities for a picture of 2×3"), "{error}");
        let error = probability_png(&path.join("below_a_file.png"), &[0.0], 1, 1).unwrap_err().to_string();
        assert!(error.contains("p.png: cannot create the folder"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
