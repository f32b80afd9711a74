//! The ground: fractal relief, slope, and the water that gathers in it.

use super::noise;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Relief of a landscape, cell by cell in rows from north to south.
#[derive(Debug, Clone)]
pub struct Terrain {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Side of a cell in metres.
    pub cell: f64,
    /// Metres above the sea. [H·W]
    pub elevation: Vec<f32>,
    /// Rise in metres a metre towards the east and the south. [H·W]
    pub uphill: Vec<[f32; 2]>,
    /// Rivers and lakes. [H·W]
    pub water: Vec<bool>,
}

impl Terrain {
    /// A landscape of ridges and valleys: fractal noise whose coordinates are bent by slower noise, with ridged crests
    /// where the ground is high anyway, and rivers where it drains.
    pub fn new(height: usize, width: usize, cell: f64, seed: u64) -> Self {
        let mut elevation = vec![0.0; height * width];
        elevation.par_chunks_mut(width).enumerate().for_each(|(y, row)| {
            for (x, value) in row.iter_mut().enumerate() {
                // Mountains of about 9 km, whatever the size of a cell.
                let (u, v) = (x as f64 * cell / 9000.0, y as f64 * cell / 9000.0);
                let bend_x = noise::fractal(seed ^ 1, u * 1.3, v * 1.3, 3);
                let bend_y = noise::fractal(seed ^ 2, u * 1.3, v * 1.3, 3);
                let (u, v) = (u + 0.35 * bend_x, v + 0.35 * bend_y);
                let broad = noise::fractal(seed ^ 3, u * 0.8, v * 0.8, 4);
                let crest = noise::ridged(seed ^ 4, u * 1.5, v * 1.5, 7);
                let lift = (0.5 + 0.9 * broad).clamp(0.0, 1.0);
                let rolling = noise::fractal(seed ^ 5, u * 6.0, v * 6.0, 6);
                *value = (120.0 + 650.0 * lift + 900.0 * lift * crest + 90.0 * rolling).max(0.0) as f32;
            }
        });
        let water = drain(&mut elevation, height, width, cell);
        let uphill = gradients(&elevation, height, width, cell);
        Self { height, width, cell, elevation, uphill, water }
    }

    /// Slope in degrees. [H·W]
    pub fn slope_degrees(&self) -> Vec<f32> {
        self.uphill.iter().map(|g| g[0].hypot(g[1]).atan().to_degrees()).collect()
    }
}

/// Gradients by Horn's (1981, Proc. IEEE 69) weighted differences; the border repeats its neighbours.
pub fn gradients(elevation: &[f32], height: usize, width: usize, cell: f64) -> Vec<[f32; 2]> {
    let at = |y: usize, x: usize| f64::from(elevation[y * width + x]);
    (0..height * width)
        .into_par_iter()
        .map(|i| {
            let (y, x) = (i / width, i % width);
            let (up, down) = (y.saturating_sub(1), (y + 1).min(height - 1));
            let (left, right) = (x.saturating_sub(1), (x + 1).min(width - 1));
            let column = |x: usize| at(up, x) + 2.0 * at(y, x) + at(down, x);
            let row = |y: usize| at(y, left) + 2.0 * at(y, x) + at(y, right);
            // The differences span two cells, one at the border.
            let east = (column(right) - column(left)) / (4.0 * cell * (right - left).max(1) as f64);
            let south = (row(down) - row(up)) / (4.0 * cell * (down - up).max(1) as f64);
            [east as f32, south as f32]
        })
        .collect()
}

/// Rivers drain at least this much land, m².
const RIVER_CATCHMENT: f64 = 12e6;
/// Lakes stand in the deepest hollows: on at most this share of the land, and nowhere shallower than this, m.
const LAKES: (f64, f32) = (0.02, 12.0);
/// What sediment leaves of a hollow's relief.
const SEDIMENT: f32 = 0.2;

/// Lets water shape the ground, and tells where it stands or flows. Hollows are filled from the border inwards in order
/// of height (Barnes, Lehman and Mulla 2014, *Computers & Geosciences* 62), which also gives each cell the neighbour that
/// it drains to; catchments add up along those. The deepest hollows stay lakes, and sediment levels the others: a fractal is full of them,
/// a landscape is not.
fn drain(elevation: &mut [f32], height: usize, width: usize, cell: f64) -> Vec<bool> {
    let cells = height * width;
    let mut filled = elevation.to_vec();
    let mut drains_to = vec![u32::MAX; cells];
    let mut seen = vec![false; cells];
    let mut order = Vec::with_capacity(cells);
    // Elevations are not negative, so their bits sort as they do. Where the flood is level the old bed comes first, so that
    // streams wind as it did.
    let mut open: BinaryHeap<Reverse<(u32, u32, u32)>> = BinaryHeap::new();
    for i in 0..cells {
        let (y, x) = (i / width, i % width);
        if y == 0 || x == 0 || y == height - 1 || x == width - 1 {
            seen[i] = true;
            open.push(Reverse((filled[i].to_bits(), elevation[i].to_bits(), i as u32)));
        }
    }
    while let Some(Reverse((_, _, i))) = open.pop() {
        order.push(i);
        let (y, x) = (i as usize / width, i as usize % width);
        for ny in y.saturating_sub(1)..=(y + 1).min(height - 1) {
            for nx in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                let n = ny * width + nx;
                if !seen[n] {
                    seen[n] = true;
                    drains_to[n] = i;
                    filled[n] = filled[n].max(filled[i as usize]);
                    open.push(Reverse((filled[n].to_bits(), elevation[n].to_bits(), n as u32)));
                }
            }
        }
    }
    let mut catchment = vec![1u32; cells];
    for &i in order.iter().rev() {
        let down = drains_to[i as usize] as usize;
        if down < cells {
            catchment[down] = catchment[down].saturating_add(catchment[i as usize]);
        }
    }
    let depths: Vec<f32> = filled.iter().zip(elevation.iter()).map(|(f, e)| f - e).collect();
    let river = (RIVER_CATCHMENT / (cell * cell)).max(200.0) as u32;
    let shallowest = {
        let mut sorted = depths.clone();
        let place = ((cells as f64 * (1.0 - LAKES.0)) as usize).min(cells - 1);
        *sorted.select_nth_unstable_by(place, f32::total_cmp).1
    };
    let lake = shallowest.max(LAKES.1);
    for ((height, depth), filled) in elevation.iter_mut().zip(&depths).zip(&filled) {
        // A lake's surface is level, at the height that its shore has after the sediment.
        *height = filled - SEDIMENT * depth.min(lake);
    }
    catchment.iter().zip(&depths).map(|(&c, &depth)| c > river || depth > lake).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_a_plane_are_its_slopes_everywhere() {
        let plane: Vec<f32> = (0..30).map(|i| (i % 6) as f32 * 20.0 - (i / 6) as f32 * 5.0).collect();
        for [east, south] in gradients(&plane, 5, 6, 10.0) {
            assert!((east - 2.0).abs() < 1e-5 && (south + 0.5).abs() < 1e-5);
        }
    }

    #[test]
    fn deep_hollows_are_lakes_and_shallow_ones_fill_with_sediment() {
        let hollow: Vec<f32> =
            (0..400).map(|i| 100.0 + ((i / 20) as f32 - 10.0).hypot((i % 20) as f32 - 10.0)).collect();
        let mut deep: Vec<f32> = hollow.iter().map(|h| (h - 100.0) * 5.0 + 100.0).collect();
        let (mut level, centre) = (hollow.clone(), 10 * 20 + 10);
        assert!(!drain(&mut level, 20, 20, 30.0)[centre]);
        assert!(drain(&mut deep, 20, 20, 30.0)[centre]);
        assert!(level[centre] > hollow[centre] + 5.0 && level[centre] < level[0]);
    }

    #[test]
    fn terrain_has_relief_and_some_water() {
        let terrain = Terrain::new(160, 200, 80.0, 3);
        let (low, high) = terrain.elevation.iter().fold((f32::MAX, 0f32), |(a, b), &e| (a.min(e), b.max(e)));
        assert!(high - low > 300.0, "{low} to {high}");
        let steepest = terrain.slope_degrees().into_iter().fold(0f32, f32::max);
        assert!((10.0..70.0).contains(&steepest), "{steepest}");
        let wet = terrain.water.iter().filter(|&&w| w).count() as f64 / 32_000.0;
        assert!((0.0005..0.08).contains(&wet), "{wet}");
    }
}
