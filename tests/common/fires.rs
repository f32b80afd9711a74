//! A data set in memory.

use emberformer::data::batch::FrameSource;
use emberformer::patch::Grid;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sequences of random frames with two aspect bands among three, some of whose patches have none.
pub struct Fires {
    grid: Grid,
    images: Vec<[Vec<Vec<u64>>; 2]>,
    wind: Vec<Vec<[f32; 2]>>,
    statics: Vec<Vec<f32>>,
    valid: Vec<bool>,
    bands: Vec<String>,
}

impl Fires {
    /// One sequence for each number of frames.
    pub fn new(grid: Grid, lengths: &[usize]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mask = if grid.patch == 4 { 0xffff } else { u64::MAX };
        let mut image = || (0..grid.patches() * grid.words()).map(|_| rng.random::<u64>() & mask).collect();
        let images = lengths.iter().map(|n| [0, 1].map(|_| (0..*n).map(|_| image()).collect())).collect();
        let mut number = || rng.random::<f32>();
        let wind = lengths.iter().map(|n| (0..*n).map(|_| [number(), number()]).collect()).collect();
        let statics =
            lengths.iter().map(|_| (0..grid.patches() * 3).map(|_| 1.25 * number() - 0.25).collect()).collect();
        let valid = (0..grid.patches()).map(|n| n % grid.cols + 1 < grid.cols && n < 2 * grid.cols).collect();
        let bands = ["aspect", "fuel", "slope aspect"].map(str::to_owned).into();
        Self { grid, images, wind, statics, valid, bands }
    }
}

impl FrameSource for Fires {
    fn grid(&self) -> Grid {
        self.grid
    }
    fn sequences(&self) -> usize {
        self.images.len()
    }
    fn id(&self, _sequence: usize) -> &str {
        "fire"
    }
    fn frames(&self, sequence: usize) -> usize {
        self.wind[sequence].len()
    }
    fn frame(&self, sequence: usize, t: usize) -> &[u64] {
        &self.images[sequence][0][t]
    }
    fn isochrone(&self, sequence: usize, t: usize) -> &[u64] {
        &self.images[sequence][1][t]
    }
    fn wind(&self, sequence: usize) -> &[[f32; 2]] {
        &self.wind[sequence]
    }
    fn statics(&self, sequence: usize) -> &[f32] {
        &self.statics[sequence]
    }
    fn valid_patches(&self) -> &[bool] {
        &self.valid
    }
    fn band_names(&self) -> &[String] {
        &self.bands
    }
    fn band_range(&self, band: usize) -> [f32; 2] {
        [0.0, if band == 0 { 360.0 } else { 333.0 }]
    }
    fn direction_range(&self) -> [f32; 2] {
        [12.0, 341.0]
    }
}
