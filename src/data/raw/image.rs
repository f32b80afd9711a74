//! PNG images straight into patch bits.

use super::PadMode;
use crate::patch::Grid;
use crate::{Error, Result};
use png::{BitDepth, ColorType, DecodingError, Transformations};
use std::io::Cursor;
use std::path::Path;

/// A PNG may not have more bytes: no window that we take compresses so badly.
const PNG_BYTES: u64 = 1 << 30;

/// The patch grid of a window of `height`×`width` pixels. Errors: a patch side that we do not know, sides that are
/// not multiples of it in strict mode.
pub fn grid(height: usize, width: usize, patch: usize, pad: PadMode) -> Result<Grid> {
    if ![4, 8, 16].contains(&patch) {
        return Err(Error::usage("patch_size", format_args!("{patch} is not supported"), "choose 4, 8 or 16"));
    }
    if pad == PadMode::Strict && (!height.is_multiple_of(patch) || !width.is_multiple_of(patch)) {
        return Err(Error::failed(
            "pad_mode strict",
            format_args!("windows of {height}×{width} pixels are not divisible by the patch size {patch}"),
            "set pad_mode to edge or constant, or choose another patch size",
        ));
    }
    Ok(Grid { rows: height.div_ceil(patch), cols: width.div_ceil(patch), patch })
}

/// Reads a PNG file into `bytes`, whose allocation is kept.
pub fn read_png(path: &Path, bytes: &mut Vec<u8>) -> Result<()> {
    use std::io::Read;
    bytes.clear();
    let unreadable = |e| Error::io(path, "cannot read", &e);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(PNG_BYTES + 1).read_to_end(bytes).map_err(unreadable)?;
    if bytes.len() as u64 > PNG_BYTES {
        return Err(Error::failed(path.display(), format_args!("larger than {PNG_BYTES} bytes"), "check the file"));
    }
    Ok(())
}

/// Which pixels burn, and how an image becomes patch bits.
#[derive(Debug, Clone, Copy)]
pub struct Packer {
    /// Height and width of the image before padding.
    pub window: (usize, usize),
    /// Grid of the padded image.
    pub grid: Grid,
    /// How the image is padded to the grid.
    pub pad: PadMode,
}

impl Packer {
    /// Decodes a PNG (RGB, RGBA, palette or grey, up to 8 bits a channel) row by row into patch bits [N, words]: a
    /// pixel burns where `channel` has `value`. `path` serves the errors: an image that is truncated or altered, that
    /// has another size than the window, or lacks the channel.
    pub fn pack_png(&self, path: &Path, bytes: &[u8], channel: usize, value: u8) -> Result<Vec<u64>> {
        let broken = |e: DecodingError| {
            let truncated = matches!(&e, DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
            let problem =
                if truncated { "truncated PNG: the file ends early".into() } else { format!("broken PNG: {e}") };
            Error::failed(path.display(), problem, "copy or render the image again")
        };
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(Transformations::EXPAND);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);

        let (height, width) = self.window;
        let info = decoder.read_header_info().map_err(broken)?;
        if (info.height as usize, info.width as usize) != (height, width) {
            return Err(Error::failed(
                path.display(),
                format_args!(
                    "sizes differ: {}×{} pixels, but its window has {height}×{width}",
                    info.height, info.width
                ),
                "render the image at the size of its window in indices.json",
            ));
        }
        if info.bit_depth == BitDepth::Sixteen {
            return Err(Error::failed(path.display(), "16 bits a channel", "save the image with 8 bits a channel"));
        }
        let interlaced = info.interlaced;
        let mut reader = decoder.read_info().map_err(broken)?;
        let (channels, sample) = match reader.output_color_type().0 {
            ColorType::Grayscale => (1, (channel < 3).then_some(0)),
            ColorType::GrayscaleAlpha => (2, Some(if channel < 3 { 0 } else { 1 })),
            ColorType::Rgb => (3, Some(channel)),
            ColorType::Rgba => (4, Some(channel)),
            ColorType::Indexed => (0, None), // EXPAND has made it RGB or RGBA.
        };
        let sample = sample.filter(|&s| s < channels && channel < 4).ok_or_else(|| {
            Error::failed(
                path.display(),
                format_args!("no channel {channel} in an image of {channels}"),
                "set the channel in encoding: 0 red, 1 green, 2 blue, 3 alpha",
            )
        })?;

        let mut bits = vec![0; self.grid.patches() * self.grid.words()];
        if interlaced {
            let size = reader.output_buffer_size().filter(|&s| s == height * width * channels);
            let mut image = vec![0; size.ok_or_else(|| broken(DecodingError::LimitsExceeded))?];
            reader.next_frame(&mut image).map_err(broken)?;
            for (y, row) in image.chunks_exact(width * channels).enumerate() {
                self.pack_row(&mut bits, y, row, channels, sample, value);
            }
        } else {
            for y in 0..height {
                let row = reader.next_row().map_err(broken)?;
                let row = row.ok_or_else(|| broken(DecodingError::LimitsExceeded))?;
                self.pack_row(&mut bits, y, row.data(), channels, sample, value);
            }
        }
        // Reads on to the end, so that a cut or altered tail is seen.
        reader.finish().map_err(broken)?;
        self.pad_rows(&mut bits);
        Ok(bits)
    }

    /// Sets the bits of row `y`, and pads it to the right.
    fn pack_row(&self, bits: &mut [u64], y: usize, row: &[u8], channels: usize, sample: usize, value: u8) {
        let Grid { patch, cols, .. } = self.grid;
        let words = self.grid.words();
        let start = y % patch * patch;
        let line = &mut bits[y / patch * cols * words..][..cols * words];
        let side = patch * channels;
        let strip = |pixels: &[u8]| {
            // One patch's pixels of this row, the leftmost in bit 0.
            let burns = pixels.chunks_exact(channels).map(|pixel| u64::from(pixel[sample] == value));
            burns.enumerate().fold(0, |strip, (i, burns)| strip | burns << i)
        };
        for (patch_words, pixels) in line.chunks_exact_mut(words).zip(row.chunks(side)) {
            let mut strip = strip(pixels);
            let inside = pixels.len() / channels;
            if inside < patch && self.pad == PadMode::Edge && strip >> (inside - 1) & 1 == 1 {
                strip |= (1 << patch) - (1 << inside);
            }
            patch_words[start / 64] |= strip << (start % 64);
        }
    }

    /// Pads to the bottom: the last row's strips again, or nothing.
    fn pad_rows(&self, bits: &mut [u64]) {
        let Grid { patch, cols, .. } = self.grid;
        let (words, last) = (self.grid.words(), self.window.0 - 1);
        if self.pad != PadMode::Edge {
            return;
        }
        let line = &mut bits[last / patch * cols * words..][..cols * words];
        for patch_words in line.chunks_exact_mut(words) {
            let start = last % patch * patch;
            let strip = patch_words[start / 64] >> (start % 64) & ((1 << patch) - 1);
            for below in (last % patch + 1..patch).map(|y| y * patch) {
                patch_words[below / 64] |= strip << (below % 64);
            }
        }
    }
}
