//! Patches of P×P pixels as bits. A patch's pixels are numbered row-major from its upper left corner; pixel i is bit
//! i mod 64 of word i / 64. P = 8 fills exactly one `u64`; P = 4 uses the low 16 bits of one; P = 16 takes four.

/// The patch grid of a window: `rows`×`cols` patches of `patch`×`patch` pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Grid {
    /// Patches from top to bottom (Gy).
    pub rows: usize,
    /// Patches from left to right (Gx).
    pub cols: usize,
    /// Pixels along a patch's side (P): 4, 8 or 16.
    pub patch: usize,
}

impl Grid {
    /// Number of patches, N = Gy·Gx.
    pub fn patches(&self) -> usize {
        self.rows * self.cols
    }
    /// Pixels from top to bottom, H = Gy·P.
    pub fn height(&self) -> usize {
        self.rows * self.patch
    }
    /// Pixels from left to right, W = Gx·P.
    pub fn width(&self) -> usize {
        self.cols * self.patch
    }
    /// Pixels of the window, H·W.
    pub fn pixels(&self) -> usize {
        self.height() * self.width()
    }
    /// `u64` words a patch takes: 1 for P = 4 and 8, 4 for P = 16.
    pub fn words(&self) -> usize {
        (self.patch * self.patch).div_ceil(64)
    }

    /// Packs an H×W mask (row-major, true burns) into `patches() * words()` words.
    pub fn pack(&self, pixel: impl Fn(usize, usize) -> bool) -> Vec<u64> {
        let mut bits = vec![0; self.patches() * self.words()];
        for y in 0..self.height() {
            for x in 0..self.width() {
                if pixel(y, x) {
                    let (word, bit) = self.locate(y, x);
                    bits[word] |= 1 << bit;
                }
            }
        }
        bits
    }

    /// Unpacks into an H×W row-major mask of 0 and 1.
    pub fn unpack(&self, bits: &[u64]) -> Vec<u8> {
        let mut mask = vec![0; self.pixels()];
        for y in 0..self.height() {
            for x in 0..self.width() {
                let (word, bit) = self.locate(y, x);
                mask[y * self.width() + x] = (bits[word] >> bit & 1) as u8;
            }
        }
        mask
    }

    /// Unpacks line `y` of a window into `line` (W values of 0 and 1).
    pub fn unpack_line(&self, bits: &[u64], y: usize, line: &mut [u8]) {
        let p = self.patch;
        let first = (y % p) * p; // a patch line never straddles a word: P divides 64
        let patches = bits.chunks_exact(self.words()).skip(y / p * self.cols);
        for (pixels, patch) in line.chunks_exact_mut(p).zip(patches) {
            let run = patch[first / 64] >> (first % 64);
            for (i, pixel) in pixels.iter_mut().enumerate() {
                *pixel = (run >> i & 1) as u8;
            }
        }
    }

    /// Where pixel (y, x) lies: index of its word within the window, and its bit.
    pub fn locate(&self, y: usize, x: usize) -> (usize, usize) {
        let p = self.patch;
        let index = (y % p) * p + x % p;
        (((y / p) * self.cols + x / p) * self.words() + index / 64, index % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_round_trips() {
        for patch in [4, 8, 16] {
            let grid = Grid { rows: 3, cols: 2, patch };
            let burns = |y: usize, x: usize| (y * 31 + x * 17) % 5 < 2;
            let mask = grid.unpack(&grid.pack(burns));
            for y in 0..grid.height() {
                for x in 0..grid.width() {
                    assert_eq!(mask[y * grid.width() + x] == 1, burns(y, x), "P {patch}, pixel ({y}, {x})");
                }
            }
        }
    }

    #[test]
    fn a_line_is_the_windows_line() {
        for patch in [4, 8, 16] {
            let grid = Grid { rows: 2, cols: 3, patch };
            let bits = grid.pack(|y, x| (y * 13 + x * 7) % 3 == 0);
            let mask = grid.unpack(&bits);
            let mut line = vec![9; grid.width()];
            for (y, expected) in mask.chunks_exact(grid.width()).enumerate() {
                grid.unpack_line(&bits, y, &mut line);
                assert_eq!(line, expected);
            }
        }
    }

    #[test]
    fn bits_run_row_major_within_a_patch() {
        let grid = Grid { rows: 2, cols: 2, patch: 8 };
        assert_eq!(grid.pack(|y, x| (y, x) == (9, 2)), [0, 0, 1 << 10, 0]);
    }
}
