//! The eight flips and rotations of a square (the group D4), applied to everything that knows a direction.

use super::shuffle::{below, generator};
use crate::patch::Grid;
use serde::{Deserialize, Serialize};

/// What is done to training samples on the fly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augment {
    /// Nothing.
    #[default]
    None,
    /// One of the eight flips and rotations, drawn anew for every sample and epoch. Where the patch grid is not square,
    /// the quarter turns would change its shape: there it is one of the four symmetries that keep it.
    D4 {
        /// Static bands that hold an aspect (degrees clockwise from north): they turn with the picture. The mean over
        /// a patch is turned as one angle; below 0 (flat, no data) it has no direction and stays.
        aspect_bands: Vec<String>,
    },
}

/// A symmetry of the square: first mirrored left to right or not, then turned clockwise by quarters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symmetry {
    mirror: bool,
    quarters: u8,
}

impl Symmetry {
    /// Leaves everything where it is.
    pub const IDENTITY: Symmetry = Symmetry { mirror: false, quarters: 0 };

    /// The symmetry with number 0..8: 1 mirrors, then 2 turns by a half and 4 by a quarter. The first four keep the shape
    /// of a grid that is not square.
    pub fn numbered(number: u64) -> Symmetry {
        let quarters = [0, 2, 1, 3][(number >> 1 & 3) as usize];
        Symmetry { mirror: number & 1 == 1, quarters }
    }

    /// The number that [`Symmetry::numbered`] knows it by.
    pub fn number(self) -> u32 {
        u32::from(self.mirror) + u32::from(self.quarters & 2) + 4 * u32::from(self.quarters & 1)
    }

    /// How many symmetries keep the grid's shape.
    pub fn choices(grid: Grid) -> u64 {
        if grid.rows == grid.cols { 8 } else { 4 }
    }

    /// The symmetry of a sample in an epoch: uniform over all that keep the grid's shape, a pure function of the key.
    pub fn draw(grid: Grid, key: [u64; 4]) -> Symmetry {
        Self::numbered(below(&mut generator(key), Self::choices(grid)))
    }

    /// What undoes this symmetry.
    pub fn inverse(self) -> Symmetry {
        // A reflection undoes itself.
        if self.mirror { self } else { Symmetry { quarters: (4 - self.quarters) % 4, ..self } }
    }

    /// Where (row, column) of a field of `size` (rows, columns) goes.
    fn place(self, (y, x): (usize, usize), (rows, cols): (usize, usize)) -> (usize, usize) {
        let x = if self.mirror { cols - 1 - x } else { x };
        match self.quarters {
            0 => (y, x),
            1 => (x, rows - 1 - y),
            2 => (rows - 1 - y, cols - 1 - x),
            _ => (cols - 1 - x, y),
        }
    }

    /// Moves a value of each patch (`width` numbers each) to where the patch goes: [N, width].
    pub fn patches<T: Copy>(self, grid: Grid, width: usize, from: &[T], to: &mut [T]) {
        if width == 0 {
            return;
        }
        for (i, values) in from.chunks_exact(width).enumerate() {
            let (y, x) = self.place((i / grid.cols, i % grid.cols), (grid.rows, grid.cols));
            let at = (y * grid.cols + x) * width;
            to[at..at + width].copy_from_slice(values);
        }
    }

    /// Moves the burning pixels of a frame, [N, words]; `to` must be all zero.
    pub fn bits(self, grid: Grid, from: &[u64], to: &mut [u64]) {
        let (p, words) = (grid.patch, grid.words());
        for (i, &word) in from.iter().enumerate() {
            let (patch, first) = (i / words, i % words * 64);
            let (top, left) = (patch / grid.cols * p, patch % grid.cols * p);
            let mut rest = word;
            // Burning pixels are few: going from one to the next is quicker than turning whole patches.
            while rest != 0 {
                let pixel = first + rest.trailing_zeros() as usize;
                rest &= rest - 1;
                // P = 4 uses 16 bits of its word.
                if pixel < p * p {
                    let at = (top + pixel / p, left + pixel % p);
                    let (y, x) = self.place(at, (grid.height(), grid.width()));
                    let (word, bit) = grid.locate(y, x);
                    to[word] |= 1 << bit;
                }
            }
        }
    }

    /// Turns a compass direction in degrees clockwise from north, rows running north to south.
    pub fn degrees(self, degrees: f64) -> f64 {
        let mirrored = if self.mirror { -degrees } else { degrees };
        mirrored + 90.0 * f64::from(self.quarters)
    }
}

/// A direction in degrees, scaled to [0, 1] by the minimum and maximum of the data.
#[derive(Debug, Clone, Copy)]
pub struct ScaledDirection {
    low: f64,
    span: f64,
}

impl ScaledDirection {
    /// Of data from `range[0]` to `range[1]` degrees. Data that is the same everywhere is taken as scaled by a whole
    /// circle, for it says nothing of its scale.
    pub fn new(range: [f32; 2]) -> Self {
        let [low, high] = range.map(f64::from);
        Self { low, span: if high > low { high - low } else { 360.0 } }
    }

    /// The scaled value in degrees.
    pub fn degrees(self, scaled: f32) -> f64 {
        self.low + f64::from(scaled) * self.span
    }

    /// Turns a scaled value. Of the angles that differ by whole circles the one nearest to the middle of the data's
    /// range is taken, so that results stay within [0, 1] where the data covers the circle.
    pub fn turn(self, scaled: f32, symmetry: Symmetry) -> f32 {
        if symmetry == Symmetry::IDENTITY {
            return scaled;
        }
        let start = self.low + self.span / 2.0 - 180.0;
        let turned = start + (symmetry.degrees(self.degrees(scaled)) - start).rem_euclid(360.0);
        ((turned - self.low) / self.span) as f32
    }

    /// Turns a scaled aspect; what is below 0 degrees has no direction and stays.
    pub fn turn_aspect(self, scaled: f32, symmetry: Symmetry) -> f32 {
        if self.degrees(scaled) >= 0.0 { self.turn(scaled, symmetry) } else { scaled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> impl Iterator<Item = Symmetry> {
        (0..8).map(Symmetry::numbered)
    }

    /// The bits after a symmetry.
    fn moved(grid: Grid, symmetry: Symmetry, bits: &[u64]) -> Vec<u64> {
        let mut to = vec![0; bits.len()];
        symmetry.bits(grid, bits, &mut to);
        to
    }

    /// Smallest angle between two directions, degrees.
    fn apart(a: f64, b: f64) -> f64 {
        let d = (a - b).rem_euclid(360.0);
        d.min(360.0 - d)
    }

    #[test]
    fn the_eight_differ_and_the_first_four_keep_a_rectangle() {
        let grid = Grid { rows: 2, cols: 2, patch: 4 };
        let bits = grid.pack(|y, x| (y, x) == (0, 1));
        let results: std::collections::BTreeSet<_> = all().map(|s| moved(grid, s, &bits)).collect();
        assert_eq!(results.len(), 8);
        assert!((0..8).all(|i| u64::from(Symmetry::numbered(i).number()) == i));
        assert!((0..4).all(|i| Symmetry::numbered(i).quarters.is_multiple_of(2)));
        let wide = Grid { rows: 1, cols: 2, patch: 4 };
        let drawn: std::collections::HashSet<_> = (0..200).map(|i| Symmetry::draw(wide, [i; 4]).quarters).collect();
        assert_eq!(drawn, [0, 2].into());
        let drawn: std::collections::HashSet<_> = (0..200).map(|i| Symmetry::draw(grid, [i; 4]).quarters).collect();
        assert_eq!(drawn.len(), 4);
    }

    #[test]
    fn a_quarter_turn_goes_clockwise() {
        let grid = Grid { rows: 1, cols: 1, patch: 8 };
        let quarter = Symmetry { mirror: false, quarters: 1 };
        // From the middle of the upper (northern) edge to the middle of the right (eastern) one.
        let north = grid.pack(|y, x| (y, x) == (0, 4));
        assert_eq!(moved(grid, quarter, &north), grid.pack(|y, x| (y, x) == (4, 7)));
        assert_eq!(quarter.degrees(0.0), 90.0);
        let mirror = Symmetry { mirror: true, quarters: 0 };
        assert_eq!(moved(grid, mirror, &north), grid.pack(|y, x| (y, x) == (0, 3)));
        assert_eq!(mirror.degrees(90.0), -90.0);
    }

    #[test]
    fn directions_stay_near_the_range_of_the_data() {
        let whole = ScaledDirection::new([0.0, 360.0]);
        assert_eq!(whole.turn(0.875, Symmetry { mirror: false, quarters: 1 }), 0.125);
        assert_eq!(whole.turn(0.125, Symmetry { mirror: true, quarters: 0 }), 0.875);
        let narrow = ScaledDirection::new([200.0, 300.0]);
        assert_eq!(narrow.turn(0.5, Symmetry { mirror: false, quarters: 1 }), 1.4);
        let constant = ScaledDirection::new([90.0, 90.0]);
        assert_eq!(constant.degrees(0.0), 90.0);
        assert_eq!(constant.turn(0.0, Symmetry { mirror: false, quarters: 1 }), 0.25);
    }

    #[test]
    fn bits_beyond_a_small_patch_are_ignored() {
        let grid = Grid { rows: 1, cols: 1, patch: 4 };
        assert_eq!(moved(grid, Symmetry::numbered(1), &[u64::MAX]), [0xffff]);
    }

    proptest! {
        #[test]
        fn a_symmetry_and_its_inverse_change_nothing(
            (number, patch, rows) in (0u64..8, prop::sample::select(vec![4usize, 8, 16]), 1usize..4),
            seed: u64, degrees in 0f32..360.0,
        ) {
            let symmetry = Symmetry::numbered(number);
            let cols = if symmetry.quarters.is_multiple_of(2) { 5 - rows } else { rows };
            let grid = Grid { rows, cols, patch };
            let bits = grid.pack(|y, x| (seed >> ((y * 31 + x * 7) % 64)) & 1 == 1);
            prop_assert_eq!(&moved(grid, symmetry.inverse(), &moved(grid, symmetry, &bits)), &bits);

            let values: Vec<_> = (0..grid.patches() * 3).collect();
            let (mut there, mut back) = (vec![0; values.len()], vec![0; values.len()]);
            symmetry.patches(grid, 3, &values, &mut there);
            symmetry.inverse().patches(grid, 3, &there, &mut back);
            prop_assert_eq!(back, values);

            let direction = ScaledDirection::new([0.0, 359.0]);
            let there = direction.turn(degrees / 359.0, symmetry);
            let back = direction.degrees(direction.turn(there, symmetry.inverse()));
            prop_assert!(apart(back, f64::from(degrees)) < 1e-3, "{degrees} came back as {back}");
        }

        #[test]
        fn what_lies_downwind_stays_downwind(number in 0u64..8, degrees in 0f64..360.0) {
            let grid = Grid { rows: 8, cols: 8, patch: 8 };
            let (symmetry, middle, reach) = (Symmetry::numbered(number), 32.0, 28.0);
            // The wind blows towards `degrees`; one pixel far downwind of the middle burns.
            let (sin, cos) = degrees.to_radians().sin_cos();
            let pixel = ((middle - reach * cos) as usize, (middle + reach * sin) as usize);
            let mask = grid.unpack(&moved(grid, symmetry, &grid.pack(|y, x| (y, x) == pixel)));
            let at = mask.iter().position(|&burns| burns == 1).unwrap();
            let (y, x) = ((at / 64) as f64 + 0.5 - middle, (at % 64) as f64 + 0.5 - middle);
            let seen = x.atan2(-y).to_degrees();
            prop_assert!(apart(seen, symmetry.degrees(degrees)) < 3.0, "seen at {seen}, wind to {}", symmetry.degrees(degrees));
        }

        #[test]
        fn patches_and_pixels_move_together(number in 0u64..8, patch in prop::sample::select(vec![4usize, 8, 16]), burning in 0usize..9) {
            let grid = Grid { rows: 3, cols: 3, patch };
            let symmetry = Symmetry::numbered(number);
            let bits = grid.pack(|y, x| y / patch * 3 + x / patch == burning);
            let counts = |bits: &[u64]| -> Vec<u32> {
                bits.chunks(grid.words()).map(|patch| patch.iter().map(|w| w.count_ones()).sum()).collect()
            };
            let mut expected = vec![0; 9];
            symmetry.patches(grid, 1, &counts(&bits), &mut expected);
            prop_assert_eq!(counts(&moved(grid, symmetry, &bits)), expected);
        }
    }
}
