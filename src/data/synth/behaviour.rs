//! How fast and in which direction a cell burns: Rothermel's surface fire model, the ellipse it spreads in, and crown fire.
//!
//! Surface spread is Rothermel (1972), *A mathematical model for predicting fire spread in wildland fuels*, USDA INT-115,
//! with Albini's (1976, INT-30) size classes and moisture of extinction of live fuel, and the fuel models of Scott and
//! Burgan (2005), *Standard fire behavior fuel models*, RMRS-GTR-153. Wind and slope factors add as vectors, and the
//! ellipse about the resulting direction has the length-to-breadth ratio of Anderson (1983, INT-305) with the ignition
//! point in its rear focus (Catchpole, de Mestre and Gill 1982, *Aust. For. Res.* 12). Wind is brought down to mid-flame
//! height as in Andrews (2012), RMRS-GTR-266. Crown fire starts after Van Wagner (1977, *Can. J. For. Res.* 7) and runs
//! after Cruz, Alexander and Wakimoto (2005, *Can. J. For. Res.* 35).
//!
//! The formulas are kept in the units of their papers (pound, foot, Btu, minute); only what leaves this file is metric.

const METRES_PER_FOOT: f64 = 0.3048;
/// Feet a minute in one km/h.
const FT_MIN_PER_KMH: f64 = 54.680_664_9;
const PARTICLE_DENSITY: f64 = 32.0; // lb/ft³
const HEAT_CONTENT: f64 = 8000.0; // Btu/lb
const TOTAL_MINERALS: f64 = 0.0555;
const MINERAL_DAMPING: f64 = 0.417_397; // 0.174 · 0.010^−0.19
const SAV_10H: f64 = 109.0; // 1/ft
const SAV_100H: f64 = 30.0;
/// Longest ellipse that is believed: beyond it Anderson's fit extrapolates.
const LENGTH_TO_BREADTH_MAX: f64 = 8.0;

/// A fuel model: what lies on one acre, and how coarse it is.
#[derive(Debug, Clone, Copy)]
pub struct FuelModel {
    /// Number of Scott and Burgan (2005); 91-99 do not burn.
    pub code: u8,
    /// Oven-dry loads in short tons an acre: dead 1 h, 10 h, 100 h, live herbaceous, live woody.
    loads: [f64; 5],
    /// Surface-area-to-volume ratios in 1/ft: dead 1 h, live herbaceous, live woody.
    sav: [f64; 3],
    /// Depth of the fuel bed in feet.
    depth: f64,
    /// Moisture of extinction of dead fuel, as a fraction.
    extinction: f64,
}

impl FuelModel {
    const fn barrier(code: u8) -> Self {
        Self { code, loads: [0.0; 5], sav: [0.0; 3], depth: 0.0, extinction: 0.0 }
    }

    const fn new(code: u8, loads: [f64; 5], sav: [f64; 3], depth: f64, extinction: f64) -> Self {
        Self { code, loads, sav, depth, extinction }
    }

    /// Whether the model carries fire at all.
    pub fn burns(&self) -> bool {
        self.depth > 0.0
    }
}

/// Places in [`MODELS`]: what the fuel map holds for each cell.
pub mod fuel {
    #![allow(missing_docs)]
    pub const URBAN: u8 = 0;
    pub const FIELD: u8 = 1;
    pub const WATER: u8 = 2;
    pub const BARE: u8 = 3;
    pub const GRASS_SHORT: u8 = 4;
    pub const GRASS_LOW: u8 = 5;
    pub const GRASS_TALL: u8 = 6;
    pub const GRASS_SHRUB_LOW: u8 = 7;
    pub const GRASS_SHRUB: u8 = 8;
    pub const SHRUB_LOW: u8 = 9;
    pub const SHRUB_HIGH: u8 = 10;
    pub const SHRUB_DENSE: u8 = 11;
    pub const TIMBER_GRASS: u8 = 12;
    pub const TIMBER_SHRUB: u8 = 13;
    pub const LITTER_CONIFER: u8 = 14;
    pub const LITTER_LONG: u8 = 15;
}

/// The fuel models that the simulator plants, by [`fuel`] (values: Scott and Burgan 2005, table 7).
pub const MODELS: [FuelModel; 16] = [
    FuelModel::barrier(91),
    FuelModel::barrier(93),
    FuelModel::barrier(98),
    FuelModel::barrier(99),
    FuelModel::new(101, [0.10, 0.0, 0.0, 0.30, 0.0], [2200.0, 2000.0, 0.0], 0.4, 0.15),
    FuelModel::new(102, [0.10, 0.0, 0.0, 1.00, 0.0], [2000.0, 1800.0, 0.0], 1.0, 0.15),
    FuelModel::new(104, [0.25, 0.0, 0.0, 1.90, 0.0], [2000.0, 1800.0, 0.0], 2.0, 0.15),
    FuelModel::new(121, [0.20, 0.0, 0.0, 0.50, 0.65], [2000.0, 1800.0, 1800.0], 0.9, 0.15),
    FuelModel::new(122, [0.50, 0.50, 0.0, 0.60, 1.00], [2000.0, 1800.0, 1800.0], 1.5, 0.15),
    FuelModel::new(142, [1.35, 2.40, 0.75, 0.0, 3.85], [2000.0, 0.0, 1600.0], 1.0, 0.15),
    FuelModel::new(145, [3.60, 2.10, 0.0, 0.0, 2.90], [750.0, 0.0, 1600.0], 6.0, 0.15),
    FuelModel::new(147, [3.50, 5.30, 2.20, 0.0, 3.40], [750.0, 0.0, 1600.0], 6.0, 0.15),
    FuelModel::new(161, [0.20, 0.90, 1.50, 0.20, 0.90], [2000.0, 1800.0, 1600.0], 0.6, 0.20),
    FuelModel::new(165, [4.00, 4.00, 3.00, 0.0, 3.00], [1500.0, 0.0, 750.0], 1.0, 0.25),
    FuelModel::new(183, [0.50, 2.20, 2.80, 0.0, 0.0], [2000.0, 0.0, 0.0], 0.3, 0.20),
    FuelModel::new(188, [5.80, 1.40, 1.10, 0.0, 0.0], [1800.0, 0.0, 0.0], 0.3, 0.35),
];

/// Whether the fuel at this place of [`MODELS`] burns.
pub fn burns(fuel: u8) -> bool {
    MODELS.get(usize::from(fuel)).is_some_and(FuelModel::burns)
}

/// Water in the fuel, as fractions of its dry weight.
#[derive(Debug, Clone, Copy)]
pub struct Moisture {
    /// Dead fuel of the 1 h, 10 h and 100 h classes.
    pub dead: [f64; 3],
    /// Live herbaceous and live woody fuel.
    pub live: [f64; 2],
    /// Needles in the crowns.
    pub foliar: f64,
}

/// One size class in the fuel bed.
#[derive(Debug, Clone, Copy, Default)]
struct Particle {
    load: f64,    // lb/ft²
    sav: f64,     // 1/ft
    share: f64,   // of the surface of its category
    heating: f64, // effective heating number exp(−138/σ)
}

impl Particle {
    fn new(tons_an_acre: f64, sav: f64) -> Self {
        // 2000 lb on 43560 ft²
        let heating = if sav > 0.0 { (-138.0 / sav).exp() } else { 0.0 };
        Self { load: tons_an_acre * 2000.0 / 43_560.0, sav, share: 0.0, heating }
    }

    /// Albini's size class, of which net loads are weighted together; the coarsest carries no flame.
    fn size_class(&self) -> Option<usize> {
        [1200.0, 192.0, 96.0, 48.0, 16.0].iter().position(|&least| self.sav >= least)
    }
}

/// The parts of Rothermel's model that depend on the fuel and its curing alone: computed once a sequence and fuel.
#[derive(Debug, Clone)]
pub struct FuelBed {
    dead: [Particle; 4], // 1 h, 10 h, 100 h, cured herbs
    live: [Particle; 2], // herbs, wood
    category: [f64; 2],  // share of the surface: dead, live
    net_load: [f64; 2],  // lb/ft²: dead, live
    bulk_density: f64,   // lb/ft³
    reaction_velocity: f64,
    flux_ratio: f64,
    residence: f64, // min
    extinction: f64,
    live_extinction_ratio: f64,
    wind: [f64; 3], // C·(β/βop)^−E, B, and 1/B
    slope: f64,     // 5.275 β^−0.3
    depth: f64,     // ft
}

impl FuelBed {
    /// The bed of a fuel model with the share of its herbs that the live moisture says has cured to dead fuel; `None`
    /// where nothing burns.
    pub fn new(model: &FuelModel, live_herb_moisture: f64) -> Option<Self> {
        if !model.burns() {
            return None;
        }
        let cured = (1.33 - 1.11 * live_herb_moisture).clamp(0.0, 1.0);
        let [one, ten, hundred, herb, wood] = model.loads;
        let [sav_one, sav_herb, sav_wood] = model.sav;
        let mut dead = [
            Particle::new(one, sav_one),
            Particle::new(ten, SAV_10H),
            Particle::new(hundred, SAV_100H),
            Particle::new(herb * cured, sav_herb),
        ];
        let mut live = [Particle::new(herb * (1.0 - cured), sav_herb), Particle::new(wood, sav_wood)];
        let surface = |parts: &[Particle]| parts.iter().map(|p| p.load * p.sav / PARTICLE_DENSITY).sum::<f64>();
        let (dead_surface, live_surface) = (surface(&dead), surface(&live));
        let category = [dead_surface, live_surface].map(|s| s / (dead_surface + live_surface));
        for (parts, total) in [(&mut dead[..], dead_surface), (&mut live[..], live_surface)] {
            for part in parts.iter_mut().filter(|_| total > 0.0) {
                part.share = part.load * part.sav / PARTICLE_DENSITY / total;
            }
        }
        let sav_of = |parts: &[Particle]| parts.iter().map(|p| p.share * p.sav).sum::<f64>();
        let sav = category[0] * sav_of(&dead) + category[1] * sav_of(&live);
        let load: f64 = dead.iter().chain(&live).map(|p| p.load).sum();
        let bulk_density = load / model.depth;
        let packing = bulk_density / PARTICLE_DENSITY;
        let relative_packing = packing / (3.348 * sav.powf(-0.8189));
        let steep = sav.powf(1.5);
        let a = 133.0 * sav.powf(-0.7913);
        let reaction_velocity =
            steep / (495.0 + 0.0594 * steep) * relative_packing.powf(a) * (a * (1.0 - relative_packing)).exp();
        let flux_ratio = ((0.792 + 0.681 * sav.sqrt()) * (packing + 0.1)).exp() / (192.0 + 0.2595 * sav);
        let fine_dead: f64 = dead.iter().map(|p| p.load * p.heating).sum();
        let fine_live: f64 = live.iter().map(|p| p.load * if p.sav > 0.0 { (-500.0 / p.sav).exp() } else { 0.0 }).sum();
        let b = 0.02526 * sav.powf(0.54);
        let c = 7.47 * (-0.133 * sav.powf(0.55)).exp();
        let e = 0.715 * (-3.59e-4 * sav).exp();
        Some(Self {
            net_load: [net_load(&dead), net_load(&live)],
            dead,
            live,
            category,
            bulk_density,
            reaction_velocity,
            flux_ratio,
            residence: 384.0 / sav,
            extinction: model.extinction,
            live_extinction_ratio: if fine_live > 0.0 { 2.9 * fine_dead / fine_live } else { 0.0 },
            wind: [c * relative_packing.powf(-e), b, 1.0 / b],
            slope: 5.275 * packing.powf(-0.3),
            depth: model.depth,
        })
    }

    /// Spread without wind and slope in ft/min, and heat released on a square foot in Btu.
    fn base_spread(&self, moisture: &Moisture) -> (f64, f64) {
        let dead_moisture = [moisture.dead[0], moisture.dead[1], moisture.dead[2], moisture.dead[0]];
        let weighted = |f: fn(&Particle) -> f64| {
            let (mut water, mut weight) = (0.0, 0.0);
            for (part, m) in self.dead.iter().zip(dead_moisture) {
                water += f(part) * m;
                weight += f(part);
            }
            water / weight
        };
        let fine_moisture = weighted(|p| p.load * p.heating);
        let live_extinction =
            (self.live_extinction_ratio * (1.0 - fine_moisture / self.extinction) - 0.226).max(self.extinction);
        let live_moisture: f64 = self.live.iter().zip(moisture.live).map(|(p, m)| p.share * m).sum();
        let damping = [
            moisture_damping(weighted(|p| p.share), self.extinction),
            moisture_damping(live_moisture, live_extinction),
        ];
        let reaction: f64 = (0..2).map(|i| self.net_load[i] * damping[i]).sum::<f64>()
            * self.reaction_velocity
            * HEAT_CONTENT
            * MINERAL_DAMPING;
        let ignition = |part: &Particle, m: f64| part.share * part.heating * (250.0 + 1116.0 * m);
        let sink = self.bulk_density
            * (self.category[0] * self.dead.iter().zip(dead_moisture).map(|(p, m)| ignition(p, m)).sum::<f64>()
                + self.category[1] * self.live.iter().zip(moisture.live).map(|(p, m)| ignition(p, m)).sum::<f64>());
        (reaction * self.flux_ratio / sink, reaction * self.residence)
    }

    /// Mid-flame wind over wind at 20 ft: in the open by the depth of the bed, under trees by their height and cover.
    fn wind_adjustment(&self, canopy: &Canopy) -> f64 {
        // A closed stand of 0.2 kg/m³ covers 80 % of the ground; crowns reach about twice as high as they begin, plus 6 m.
        let cover = (canopy.bulk_density * 4.0).min(0.8);
        let height = (6.0 + 2.0 * canopy.base_height) / METRES_PER_FOOT;
        let filled = cover / 3.0;
        if filled > 0.05 {
            0.555 / ((filled * height).sqrt() * ((20.0 + 0.36 * height) / (0.13 * height)).ln())
        } else {
            1.83 / ((20.0 + 0.36 * self.depth) / (0.13 * self.depth)).ln()
        }
    }
}

fn net_load(parts: &[Particle]) -> f64 {
    let class_share =
        |class: usize| -> f64 { parts.iter().filter(|p| p.size_class() == Some(class)).map(|p| p.share).sum() };
    parts.iter().map(|p| p.size_class().map_or(0.0, class_share) * p.load * (1.0 - TOTAL_MINERALS)).sum()
}

fn moisture_damping(moisture: f64, extinction: f64) -> f64 {
    let r = (moisture / extinction).min(1.0);
    (1.0 - 2.59 * r + 5.11 * r * r - 3.52 * r * r * r).max(0.0)
}

/// The trees over a cell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Canopy {
    /// Mass of fine crown fuel in a cubic metre of crown, kg/m³; 0 without trees.
    pub bulk_density: f64,
    /// Height of the lowest branches, m.
    pub base_height: f64,
}

/// Wind over a cell: speed at 20 ft in km/h, and the unit vector (east, south) along which it blows.
#[derive(Debug, Clone, Copy)]
pub struct Wind {
    /// km/h at 20 ft above the vegetation.
    pub speed: f64,
    /// (east, south) of length 1: where it blows *to*.
    pub toward: [f64; 2],
}

/// How fire spreads from a point of a cell: an ellipse with the point in its rear focus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ellipse {
    /// Rate of spread at the head, m/min.
    pub head: f64,
    /// Unit vector (east, south) of the head.
    pub toward: [f64; 2],
    /// Eccentricity in [0, 1).
    pub eccentricity: f64,
}

impl Ellipse {
    /// A cell that does not burn.
    pub const NONE: Self = Self { head: 0.0, toward: [1.0, 0.0], eccentricity: 0.0 };

    /// Rate of spread in m/min along a unit vector (east, south): head · (1 − e)/(1 − e cos θ).
    pub fn rate(&self, direction: [f64; 2]) -> f64 {
        let cosine = self.toward[0] * direction[0] + self.toward[1] * direction[1];
        self.head * (1.0 - self.eccentricity) / (1.0 - self.eccentricity * cosine)
    }
}

/// The ellipse of a cell. `uphill` is the gradient of the ground (east, south) in metres a metre.
pub fn ellipse(bed: &FuelBed, moisture: &Moisture, wind: &Wind, uphill: [f64; 2], canopy: &Canopy) -> Ellipse {
    let (base, heat) = bed.base_spread(moisture);
    if base.is_nan() || base < 1e-6 {
        return Ellipse::NONE;
    }
    let [wind_factor, wind_power, wind_root] = bed.wind;
    let midflame = wind.speed * bed.wind_adjustment(canopy) * FT_MIN_PER_KMH; // ft/min
    let by_wind = wind_factor * midflame.powf(wind_power);
    let steepness = uphill[0].hypot(uphill[1]);
    // Rothermel's slope factor is quadratic in the slope, and points uphill.
    let by_slope = bed.slope * steepness;
    let push = [by_wind * wind.toward[0] + by_slope * uphill[0], by_wind * wind.toward[1] + by_slope * uphill[1]];
    let factor = push[0].hypot(push[1]);
    let toward = if factor > 1e-9 { [push[0] / factor, push[1] / factor] } else { wind.toward };
    let mut head = base * (1.0 + factor) * METRES_PER_FOOT;
    // The wind that alone would push as hard as wind and slope together sets the shape.
    let effective = (factor / wind_factor).powf(wind_root) / FT_MIN_PER_KMH / 3.6; // m/s
    let intensity = heat * head / METRES_PER_FOOT / 60.0 * 3.459; // kW/m
    if let Some(crown) = crown_spread(intensity, moisture, wind, canopy) {
        head = head.max(crown);
    }
    let ratio = length_to_breadth(effective);
    Ellipse { head, toward, eccentricity: (1.0 - 1.0 / (ratio * ratio)).max(0.0).sqrt() }
}

/// Length-to-breadth ratio for an effective mid-flame wind in m/s (Anderson 1983, shifted to 1 in calm as in Finney 1998).
fn length_to_breadth(wind: f64) -> f64 {
    let ratio = 0.936 * (0.2566 * wind).exp() + 0.461 * (-0.1548 * wind).exp() - 0.397;
    ratio.clamp(1.0, LENGTH_TO_BREADTH_MAX)
}

/// Rate of spread of a crown fire in m/min, `None` where the surface fire does not reach the crowns.
fn crown_spread(intensity: f64, moisture: &Moisture, wind: &Wind, canopy: &Canopy) -> Option<f64> {
    let needed = (0.010 * canopy.base_height * (460.0 + 25.9 * moisture.foliar * 100.0)).powf(1.5); // kW/m
    if canopy.bulk_density < 0.02 || intensity < needed {
        return None;
    }
    let wind_10m = wind.speed * 1.15;
    let active =
        11.02 * wind_10m.powf(0.90) * canopy.bulk_density.powf(0.19) * (-0.17 * moisture.dead[0] * 100.0).exp();
    let criterion = active * canopy.bulk_density / 3.0; // below 1 crowns torch one by one
    Some(if criterion >= 1.0 { active } else { active * (-criterion).exp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRY: Moisture = Moisture { dead: [0.06, 0.07, 0.08], live: [0.6, 0.9], foliar: 1.0 };
    const OPEN: Canopy = Canopy { bulk_density: 0.0, base_height: 0.0 };

    fn bed(fuel: u8) -> FuelBed {
        FuelBed::new(&MODELS[usize::from(fuel)], DRY.live[0]).unwrap()
    }

    fn calm() -> Wind {
        Wind { speed: 0.0, toward: [1.0, 0.0] }
    }

    /// Spread and fireline intensity without wind and slope, as the independent simulator pyretechnics 2026.10 works them
    /// out for the same fuels and moisture: m/min and kW/m.
    #[test]
    fn base_spread_agrees_with_another_implementation() {
        let theirs = [
            (101, 0.228_544, 3.535_93),
            (102, 0.469_153, 21.526_8),
            (104, 0.946_733, 84.360_7),
            (121, 0.231_388, 11.618_4),
            (122, 0.363_552, 31.565_2),
            (142, 0.084_124, 8.487_55),
            (145, 0.728_034, 217.372),
            (147, 0.592_958, 239.650),
            (161, 0.074_770, 5.616_70),
            (165, 0.311_344, 151.273),
            (183, 0.064_219, 2.389_18),
            (188, 0.252_692, 33.733_1),
        ];
        for (code, spread, intensity) in theirs {
            let model = MODELS.iter().find(|m| m.code == code).unwrap();
            let (ours, heat) = FuelBed::new(model, DRY.live[0]).unwrap().base_spread(&DRY);
            let ours_intensity = heat * ours / 60.0 * 3.4592;
            let ours = ours * METRES_PER_FOOT;
            assert!((ours / spread - 1.0).abs() < 0.01, "{code}: {ours} m/min, theirs {spread}");
            assert!(
                (ours_intensity / intensity - 1.0).abs() < 0.02,
                "{code}: {ours_intensity} kW/m, theirs {intensity}"
            );
        }
        // GR1: their φ_w is 0.0116343 U^1.5531 with U in m/min, their φ_s 37.5786 tan².
        let bed = bed(fuel::GRASS_SHORT);
        let wind = bed.wind[0] * (100.0 / METRES_PER_FOOT).powf(bed.wind[1]);
        assert!((wind / (0.011_634_28 * 100f64.powf(1.553_097)) - 1.0).abs() < 0.01);
        assert!((bed.slope / 37.578_56 - 1.0).abs() < 0.01);
    }

    #[test]
    fn wind_pushes_the_head_and_stretches_the_ellipse() {
        let bed = bed(fuel::GRASS_LOW);
        let still = ellipse(&bed, &DRY, &calm(), [0.0, 0.0], &OPEN);
        let windy = ellipse(&bed, &DRY, &Wind { speed: 30.0, toward: [0.0, -1.0] }, [0.0, 0.0], &OPEN);
        assert!(still.eccentricity < 0.1 && windy.eccentricity > 0.8);
        assert_eq!(windy.toward, [0.0, -1.0]);
        assert!(windy.rate([0.0, -1.0]) > 5.0 * still.head);
        assert!(windy.rate([0.0, -1.0]) > windy.rate([1.0, 0.0]) && windy.rate([1.0, 0.0]) > windy.rate([0.0, 1.0]));
    }

    #[test]
    fn fire_runs_uphill_without_wind() {
        let slope = ellipse(&bed(fuel::SHRUB_HIGH), &DRY, &calm(), [0.5, 0.0], &OPEN);
        assert!(slope.toward[0] > 0.999 && slope.rate([1.0, 0.0]) > 1.5 * slope.rate([-1.0, 0.0]));
    }

    #[test]
    fn wet_fuel_does_not_burn_and_barriers_have_no_bed() {
        let wet = Moisture { dead: [0.4; 3], live: [3.0, 3.0], foliar: 1.0 };
        assert_eq!(ellipse(&bed(fuel::GRASS_LOW), &wet, &calm(), [0.0, 0.0], &OPEN), Ellipse::NONE);
        for barrier in [fuel::URBAN, fuel::FIELD, fuel::WATER, fuel::BARE] {
            assert!(!burns(barrier) && FuelBed::new(&MODELS[usize::from(barrier)], 0.6).is_none());
        }
    }

    #[test]
    fn dense_low_crowns_catch_fire_and_high_ones_do_not() {
        let wind = Wind { speed: 40.0, toward: [1.0, 0.0] };
        let (low, high) =
            (Canopy { bulk_density: 0.2, base_height: 1.0 }, Canopy { bulk_density: 0.2, base_height: 60.0 });
        let bed = bed(fuel::TIMBER_SHRUB);
        let crowned = ellipse(&bed, &DRY, &wind, [0.0, 0.0], &low).head;
        assert!(crowned > 3.0 * ellipse(&bed, &DRY, &wind, [0.0, 0.0], &high).head);
    }
}
