//! What grows on the ground: fuels in patches after elevation and aspect, canopy, moisture, and the map's other bands.

use super::behaviour::{self, Canopy, fuel};
use super::noise;
use super::terrain::Terrain;
use rayon::prelude::*;

/// Names of the bands, in their order in the GeoTIFF.
pub const BAND_NAMES: [&str; 8] = [
    "fuel_model",
    "archaeology",
    "canopy_bulk_density",
    "canopy_base_height",
    "elevation",
    "flora",
    "palaeontology",
    "slope",
];

/// What stands for no data in every band.
pub const NO_DATA: f32 = -9999.0;

/// One cell of a landscape, as far as fire is concerned, and the values at risk in it.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// Place in [`behaviour::MODELS`].
    pub fuel: u8,
    /// Outside the mapped area: no band has a value and nothing burns.
    pub unmapped: bool,
    /// Canopy bulk density in kg/m³.
    pub canopy_density: f32,
    /// Canopy base height in m.
    pub canopy_base: f32,
    /// What aspect and elevation add to the moisture of dead fuel, as a fraction.
    pub dampness: f32,
    /// Archaeological sensitivity, 0 to 3.
    pub archaeology: f32,
    /// Worth of the plant cover for conservation, 0 to 1.
    pub flora: f32,
    /// Palaeontological potential of the rock, 1 to 5.
    pub palaeontology: f32,
}

impl Site {
    /// Whether fire can burn here.
    pub fn burns(&self) -> bool {
        !self.unmapped && behaviour::burns(self.fuel)
    }

    /// The trees over the cell.
    pub fn canopy(&self) -> Canopy {
        Canopy { bulk_density: f64::from(self.canopy_density), base_height: f64::from(self.canopy_base) }
    }
}

/// A landscape: relief and what stands on it.
#[derive(Debug, Clone)]
pub struct Landscape {
    /// The ground.
    pub terrain: Terrain,
    /// What stands on it. [H·W]
    pub sites: Vec<Site>,
}

impl Landscape {
    /// Grows a landscape on the given ground.
    pub fn new(terrain: Terrain, seed: u64) -> Self {
        let seed = noise::hash(seed, 17, 0);
        let (height, width) = (terrain.height, terrain.width);
        let roads = roads(height, width, terrain.cell, seed ^ 9);
        let mut sorted = terrain.elevation.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let (low, high) = (sorted[sorted.len() / 20], sorted[sorted.len() - 1 - sorted.len() / 20]);
        let sites = (0..height * width)
            .into_par_iter()
            .map(|i| {
                let (y, x) = ((i / width) as f64, (i % width) as f64);
                let altitude = f64::from((terrain.elevation[i] - low) / (high - low).max(1.0));
                let place = Place { y, x, cell: terrain.cell, altitude, uphill: terrain.uphill[i] };
                let mut site = place.site(seed);
                // Streams run dry and roads are grown over here and there, so they delay a fire more often than they hold it.
                let open = place.noise(seed ^ 12, 450.0, 2) > 0.005 * terrain.cell - 0.35; // the more on a coarse map
                let wet = terrain.water[i];
                if wet && (open || place.in_lake(&terrain.water, width)) {
                    site = site.cleared(fuel::WATER);
                } else if roads[i] && open {
                    site = site.cleared(fuel::URBAN);
                }
                // The survey ends in a ragged line near the border of the map.
                let border = y.min(x).min(height as f64 - 1.0 - y).min(width as f64 - 1.0 - x);
                let side = height.min(width) as f64;
                let ragged = noise::fractal(seed ^ 8, x / side * 7.0, y / side * 7.0, 4);
                site.unmapped = border < side * (0.006 + 0.03 * ragged);
                site
            })
            .collect();
        Self { terrain, sites }
    }

    /// The bands of the GeoTIFF, by [`BAND_NAMES`]. Each [H·W]
    pub fn bands(&self) -> Vec<Vec<f32>> {
        let slope = self.terrain.slope_degrees();
        let code = |site: &Site| behaviour::MODELS.get(usize::from(site.fuel)).map_or(0.0, |m| f32::from(m.code));
        let band = |f: &(dyn Fn(usize, &Site) -> f32 + Sync)| -> Vec<f32> {
            self.sites.par_iter().enumerate().map(|(i, s)| if s.unmapped { NO_DATA } else { f(i, s) }).collect()
        };
        vec![
            band(&|_, s| code(s)),
            band(&|_, s| s.archaeology),
            band(&|_, s| s.canopy_density),
            band(&|_, s| s.canopy_base),
            band(&|i, _| self.terrain.elevation[i]),
            band(&|_, s| s.flora),
            band(&|_, s| s.palaeontology),
            band(&|i, _| slope[i]),
        ]
    }
}

/// Where a site is, and what the ground there is like.
struct Place {
    y: f64,
    x: f64,
    cell: f64,
    /// 0 in the valleys, 1 on the heights.
    altitude: f64,
    uphill: [f32; 2],
}

impl Place {
    /// Noise of a wavelength given in metres.
    fn noise(&self, seed: u64, metres: f64, octaves: u32) -> f64 {
        noise::fractal(seed, self.x * self.cell / metres, self.y * self.cell / metres, octaves)
    }

    /// Whether the water here is wider than a stream: a lake does not run dry.
    fn in_lake(&self, water: &[bool], width: usize) -> bool {
        let i = self.y as usize * width + self.x as usize;
        let around =
            [i.wrapping_sub(width + 1), i.wrapping_sub(width), i.wrapping_sub(1), i + 1, i + width, i + width + 1];
        around.iter().filter(|&&n| water.get(n) == Some(&true)).count() >= 4
    }

    fn site(&self, seed: u64) -> Site {
        let steepness = f64::from(self.uphill[0].hypot(self.uphill[1]));
        // The ground faces away from where it rises; on the northern half of the globe a south face is warm and dry.
        let south_facing = -f64::from(self.uphill[1]) / (0.15 + steepness);
        // Stands of about 500 m with ragged edges: within one the fuel is much the same, from one to the next it jumps.
        let stand = 520f64.max(9.0 * self.cell);
        let (bend_x, bend_y) = (self.noise(seed ^ 1, 0.7 * stand, 3), self.noise(seed ^ 2, 0.7 * stand, 3));
        let (u, v) = (self.x * self.cell / stand + 0.8 * bend_x, self.y * self.cell / stand + 0.8 * bend_y);
        let stand = noise::patch(seed ^ 3, u, v);
        let stand_draw = noise::unit(stand);
        let stand_state = noise::unit(noise::hash(stand, 3, 0));

        // 0 is a wet north face high up, 1 a hot south face in the valley.
        let dryness = (0.5 + 0.28 * south_facing - 0.30 * (self.altitude - 0.45)
            + 0.25 * self.noise(seed ^ 4, 4000.0, 3)
            + 0.22 * (stand_draw - 0.5))
            .clamp(0.0, 1.0);
        let rock = self.altitude - 0.93 + 0.35 * (steepness - 0.75) + 0.35 * self.noise(seed ^ 5, 900.0, 4);
        let settled = 0.5 * self.noise(seed ^ 6, 3500.0, 3) - 0.9 * self.altitude - 1.5 * steepness + 0.02;
        let fuel = if rock > 0.05 || steepness > 1.4 {
            fuel::BARE
        } else if settled > 0.10 {
            fuel::URBAN
        } else if settled > 0.0 && stand_draw < 0.8 {
            fuel::FIELD
        } else {
            let palette: [u8; 3] = match dryness {
                d if d < 0.26 => [fuel::LITTER_CONIFER, fuel::LITTER_LONG, fuel::TIMBER_SHRUB],
                d if d < 0.45 => [fuel::TIMBER_GRASS, fuel::TIMBER_SHRUB, fuel::LITTER_LONG],
                d if d < 0.60 => [fuel::SHRUB_LOW, fuel::SHRUB_DENSE, fuel::GRASS_SHRUB],
                d if d < 0.80 => [fuel::GRASS_SHRUB_LOW, fuel::SHRUB_HIGH, fuel::GRASS_SHRUB],
                _ => [fuel::GRASS_SHORT, fuel::GRASS_LOW, fuel::GRASS_TALL],
            };
            palette[((stand_state * 3.0) as usize).min(2)]
        };
        let texture = self.noise(seed ^ 7, 240.0, 3);
        let wooded = matches!(fuel, fuel::TIMBER_GRASS | fuel::TIMBER_SHRUB | fuel::LITTER_CONIFER | fuel::LITTER_LONG);
        let canopy_density =
            if wooded { (0.06 + 0.14 * stand_state + 0.06 * texture + 0.05 * (0.5 - dryness)).max(0.02) } else { 0.0 };
        let canopy_base = if wooded { (1.0 + 5.5 * stand_draw + 1.5 * texture).max(0.3) } else { 0.0 };
        let cover = if behaviour::burns(fuel) { 0.35 + 0.4 * (1.0 - dryness) } else { 0.05 };
        // Damp: north faces and heights. Dry: south faces low down.
        let dampness = -0.012 * south_facing + 0.020 * (self.altitude - 0.4);
        let found = 0.6 * self.noise(seed ^ 10, 2500.0, 4) - 0.5 * self.altitude - 0.4 * steepness + 0.25;
        let strata = 3.0 + 4.0 * self.noise(seed ^ 11, 6000.0, 2) + 2.0 * (self.altitude - 0.5);
        Site {
            fuel,
            unmapped: false,
            canopy_density: canopy_density as f32,
            canopy_base: canopy_base as f32,
            dampness: dampness as f32,
            archaeology: (found * 8.0).clamp(0.0, 3.0).floor() as f32,
            flora: (cover + 0.25 * texture + 0.15 * (stand_state - 0.5)).clamp(0.0, 1.0) as f32,
            palaeontology: strata.clamp(1.0, 5.0).round() as f32,
        }
    }
}

impl Site {
    /// The same place without plants.
    fn cleared(self, fuel: u8) -> Self {
        Self { fuel, canopy_density: 0.0, canopy_base: 0.0, flora: 0.0, ..self }
    }
}

/// Roads, one cell wide: they follow the lines on which a smooth noise changes its sign, so they wind and never end
/// in the open; cells are joined by their sides, so fire does not slip through between two of them.
fn roads(height: usize, width: usize, cell: f64, seed: u64) -> Vec<bool> {
    let side = |y: usize, x: usize| {
        let (u, v) = (x as f64 * cell / 13_000.0, y as f64 * cell / 13_000.0);
        noise::fractal(seed, u, v, 3) > 0.0
    };
    (0..height * width)
        .into_par_iter()
        .map(|i| {
            let (y, x) = (i / width, i % width);
            let here = side(y, x);
            here != side(y, x + 1) || here != side(y + 1, x)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuels_follow_aspect_and_elevation() {
        let landscape = Landscape::new(Terrain::new(220, 220, 60.0, 5), 5);
        let mean = |pick: &dyn Fn(usize) -> bool| {
            let wooded = |i: usize| landscape.sites[i].canopy_density > 0.0;
            let cells: Vec<usize> =
                (0..landscape.sites.len()).filter(|&i| pick(i) && landscape.sites[i].burns()).collect();
            cells.iter().filter(|&&i| wooded(i)).count() as f64 / cells.len() as f64
        };
        let north = mean(&|i| landscape.terrain.uphill[i][1] > 0.2);
        let south = mean(&|i| landscape.terrain.uphill[i][1] < -0.2);
        assert!(north > 1.5 * south, "woods on north faces {north}, on south faces {south}");
    }

    #[test]
    fn every_band_is_finite_and_a_few_percent_are_unmapped() {
        let landscape = Landscape::new(Terrain::new(200, 240, 60.0, 1), 1);
        let bands = landscape.bands();
        assert_eq!(bands.len(), BAND_NAMES.len());
        assert!(bands.iter().flatten().all(|v| v.is_finite()));
        let missing = bands[4].iter().filter(|&&v| v == NO_DATA).count() as f64 / bands[4].len() as f64;
        assert!((0.001..0.06).contains(&missing), "{missing}");
        let burnable = landscape.sites.iter().filter(|s| s.burns()).count() as f64 / landscape.sites.len() as f64;
        assert!((0.6..0.97).contains(&burnable), "{burnable}");
        let codes: std::collections::BTreeSet<u8> = landscape.sites.iter().map(|s| s.fuel).collect();
        assert!(codes.len() >= 10, "{codes:?}");
    }
}
