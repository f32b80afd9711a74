//! The march of a fire over a window: minimum travel time between cells, step by step under changing wind.
//!
//! Minimum travel time is Finney's (2002), *Fire growth using minimum travel time methods*, Can. J. For. Res. 32: by
//! Huygens' principle the front at any time is the set of points that the fastest path from the ignitions reaches, and
//! the fastest paths on a graph of cells are Dijkstra's. Each cell is joined to its neighbours in 48 directions, and a path
//! takes from every cell that it crosses the time of that cell's own ellipse in that direction.
//!
//! Wind changes from one interval to the next while fire is between cells: a path that an interval's end cuts keeps the
//! share that it has gone, and goes on at the rates of the next.

use super::behaviour::{Ellipse, FuelBed, MODELS, ellipse};
use super::vegetation::Site;
use super::weather::Row;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::LazyLock;

/// A square cut out of a landscape.
#[derive(Debug, Clone)]
pub struct Window {
    /// Cells on a side.
    pub size: usize,
    /// Side of a cell in metres.
    pub cell: f64,
    /// What stands there. `[size²]`
    pub sites: Vec<Site>,
    /// Metres above the sea. `[size²]`
    pub elevation: Vec<f32>,
    /// Rise in metres a metre towards the east and the south. `[size²]`
    pub uphill: Vec<[f32; 2]>,
    /// By what the rate of spread of each cell differs from the model's, about 1. `[size²]`
    pub texture: Vec<f32>,
}

/// The straight way from a cell to one of its neighbours.
struct Ray {
    dx: isize,
    dy: isize,
    /// Length in cells.
    length: f64,
    /// Unit vector (east, south).
    direction: [f64; 2],
    /// Cells crossed, both ends included: offset and share of the length.
    crossed: Vec<(isize, isize, f64)>,
    /// Corners at which the way passes exactly between two cells that it does not cross.
    corners: Vec<[(isize, isize); 2]>,
}

/// The 48 rays to the cells at most four columns or rows away that no other ray hides.
static RAYS: LazyLock<Vec<Ray>> = LazyLock::new(|| {
    let coprime = |a: isize, b: isize| (2..=4).all(|d| a % d != 0 || b % d != 0);
    let mut rays = Vec::new();
    for dy in -4isize..=4 {
        for dx in -4isize..=4 {
            if (dx, dy) != (0, 0) && coprime(dx.abs(), dy.abs()) {
                rays.push(Ray::new(dx, dy));
            }
        }
    }
    rays
});

impl Ray {
    fn new(dx: isize, dy: isize) -> Self {
        let length = (dx as f64).hypot(dy as f64);
        // Places along the way, as shares of it, at which it leaves a column or a row of cells.
        let leaves = |d: isize| (0..d.abs()).map(move |i| (i as f64 + 0.5) / d.abs() as f64);
        let mut cuts: Vec<f64> = leaves(dx).chain(leaves(dy)).chain([0.0, 1.0]).collect();
        cuts.sort_by(f64::total_cmp);
        let mut crossed: Vec<(isize, isize, f64)> = Vec::new();
        let mut corners = Vec::new();
        for pair in cuts.windows(2) {
            if pair[1] - pair[0] < 1e-9 {
                // Two cuts in one place: the way leaves column and row at once, through a corner.
                let (x, y) = (pair[0] * dx as f64, pair[0] * dy as f64);
                let (ahead_x, ahead_y) = (0.5 * dx.signum() as f64, 0.5 * dy.signum() as f64);
                let cell = |x: f64, y: f64| (x.round() as isize, y.round() as isize);
                corners.push([cell(x + ahead_x, y - ahead_y), cell(x - ahead_x, y + ahead_y)]);
                continue;
            }
            let middle = 0.5 * (pair[0] + pair[1]);
            crossed.push((
                (middle * dx as f64).round() as isize,
                (middle * dy as f64).round() as isize,
                pair[1] - pair[0],
            ));
        }
        Self { dx, dy, length, direction: [dx as f64 / length, dy as f64 / length], crossed, corners }
    }
}

/// A way that fire is on.
struct Run {
    from: u32,
    ray: u8,
    /// Time at which it was, or is to be, at the share `gone`.
    since: f64,
    gone: f64,
    /// Minutes that the whole way takes in this interval.
    whole: f64,
}

/// Rates of the cells in the present interval, worked out where fire comes.
struct Rates<'a> {
    window: &'a Window,
    beds: &'a [Option<FuelBed>],
    row: &'a Row,
    interval: u32,
    stamps: Vec<u32>,
    ellipses: Vec<Ellipse>,
}

impl Rates<'_> {
    fn ellipse(&mut self, cell: usize) -> Ellipse {
        if self.stamps[cell] != self.interval {
            self.stamps[cell] = self.interval;
            let site = &self.window.sites[cell];
            self.ellipses[cell] = match self.beds.get(usize::from(site.fuel)) {
                Some(Some(bed)) if !site.unmapped => {
                    let moisture = self.row.moisture(f64::from(site.dampness));
                    let uphill = self.window.uphill[cell].map(f64::from);
                    let mut found = ellipse(bed, &moisture, &self.row.wind(), uphill, &site.canopy());
                    found.head *= f64::from(self.window.texture[cell]);
                    found
                }
                _ => Ellipse::NONE,
            };
        }
        self.ellipses[cell]
    }

    /// Minutes from a cell along a ray; infinite where something on the way does not burn.
    fn minutes(&mut self, from: usize, ray: &Ray) -> f64 {
        let size = self.window.size;
        let at = |dx: isize, dy: isize| (from as isize + dy * size as isize + dx) as usize;
        for pair in &ray.corners {
            if pair.iter().all(|&(dx, dy)| !self.window.sites[at(dx, dy)].burns()) {
                return f64::INFINITY;
            }
        }
        let rise = f64::from(self.window.elevation[at(ray.dx, ray.dy)] - self.window.elevation[from]);
        let metres = (ray.length * self.window.cell).hypot(rise);
        let mut minutes = 0.0;
        for &(dx, dy, share) in &ray.crossed {
            let rate = self.ellipse(at(dx, dy)).rate(ray.direction);
            if rate <= 1e-6 {
                return f64::INFINITY;
            }
            minutes += share * metres / rate;
        }
        minutes
    }
}

/// Burns a window from the ignitions (places in it, row-major) at time 0. `ends` are the times in minutes, in order, at which
/// the intervals end, and `weather[k]` rules interval k. Returns the time at which each cell catches fire, infinite where it does not,
/// or `None` as soon as more than `limit` cells burn. `[size²]`
pub fn burn(window: &Window, ignitions: &[usize], ends: &[f64], weather: &[Row], limit: usize) -> Option<Vec<f32>> {
    let size = window.size;
    let cells = size * size;
    let mut caught = vec![f32::INFINITY; cells];
    let Some(first) = weather.first() else { return Some(caught) };
    let beds: Vec<Option<FuelBed>> = MODELS.iter().map(|m| FuelBed::new(m, first.live[0])).collect();
    let mut rates = Rates {
        window,
        beds: &beds,
        row: first,
        interval: 0,
        stamps: vec![0; cells],
        ellipses: vec![Ellipse::NONE; cells],
    };
    let mut arrival = vec![f64::INFINITY; cells]; // of fire at the centre, from where it spreads
    let mut soonest = vec![f64::INFINITY; cells];
    let mut touched: Vec<u32> = Vec::new();
    let mut runs: Vec<Run> = Vec::new();
    // Times are not negative, so their bits sort as they do. (time, cell, from, ray)
    let mut front: BinaryHeap<Reverse<(u64, u32, u32, u8)>> = BinaryHeap::new();
    let mut burning = 0;
    let mut start = 0.0;
    for (&end, row) in ends.iter().zip(weather) {
        (rates.row, rates.interval) = (row, rates.interval + 1);
        front.clear();
        for cell in touched.drain(..) {
            soonest[cell as usize] = f64::INFINITY;
        }
        if rates.interval == 1 {
            for &cell in ignitions.iter().filter(|&&c| c < cells && window.sites[c].burns()) {
                soonest[cell] = 0.0;
                front.push(Reverse((0, cell as u32, cell as u32, u8::MAX)));
            }
        }
        for run in &mut runs {
            let ray = &RAYS[usize::from(run.ray)];
            (run.since, run.whole) = (start, rates.minutes(run.from as usize, ray));
            let time = start + (1.0 - run.gone) * run.whole;
            let target = (run.from as isize + ray.dy * size as isize + ray.dx) as usize;
            if time < soonest[target] && time <= end {
                soonest[target] = time;
                touched.push(target as u32);
                front.push(Reverse((time.to_bits(), target as u32, run.from, run.ray)));
            }
        }
        while let Some(Reverse((bits, cell, from, by))) = front.pop() {
            let (time, here) = (f64::from_bits(bits), cell as usize);
            if arrival[here].is_finite() {
                continue;
            }
            if time > end {
                break;
            }
            arrival[here] = time;
            burning += 1;
            if burning > limit {
                return None;
            }
            caught[here] = caught[here].min(time as f32);
            if let Some(ray) = RAYS.get(usize::from(by)) {
                scorch(&mut caught, size, from as usize, ray, [arrival[from as usize], time]);
            }
            let (y, x) = ((here / size) as isize, (here % size) as isize);
            for (index, ray) in RAYS.iter().enumerate() {
                let (tx, ty) = (x + ray.dx, y + ray.dy);
                if tx < 0 || ty < 0 || tx >= size as isize || ty >= size as isize {
                    continue;
                }
                let target = (ty * size as isize + tx) as usize;
                if arrival[target].is_finite() {
                    continue;
                }
                let whole = rates.minutes(here, ray);
                if !whole.is_finite() {
                    continue;
                }
                let there = time + whole;
                runs.push(Run { from: cell, ray: index as u8, since: time, gone: 0.0, whole });
                if there < soonest[target] && there <= end {
                    soonest[target] = there;
                    touched.push(target as u32);
                    front.push(Reverse((there.to_bits(), target as u32, cell, index as u8)));
                }
            }
        }
        runs.retain_mut(|run| {
            let ray = &RAYS[usize::from(run.ray)];
            let target = (run.from as isize + ray.dy * size as isize + ray.dx) as usize;
            // A way that is barred in this interval (too damp) may open in the next.
            run.gone = (run.gone + (end - run.since) / run.whole).min(1.0);
            arrival[target].is_infinite()
        });
        start = end;
    }
    Some(caught)
}

/// Marks the cells that fire crossed on a way between two times. They only count as burned: fire does not spread from
/// them, as their centres are off the way.
fn scorch(caught: &mut [f32], size: usize, from: usize, ray: &Ray, [left, time]: [f64; 2]) {
    let mut gone = 0.0;
    for &(dx, dy, share) in &ray.crossed {
        let middle = left + (gone + 0.5 * share) * (time - left);
        let cell = (from as isize + dy * size as isize + dx) as usize;
        caught[cell] = caught[cell].min(middle as f32);
        gone += share;
    }
}

#[cfg(test)]
mod tests {
    use super::super::behaviour::fuel;
    use super::*;

    const SIZE: usize = 61;
    const CENTRE: usize = 30 * SIZE + 30;

    fn flat(fuel: u8) -> Window {
        let site = Site {
            fuel,
            unmapped: false,
            canopy_density: 0.0,
            canopy_base: 0.0,
            dampness: 0.0,
            archaeology: 0.0,
            flora: 0.0,
            palaeontology: 1.0,
        };
        let cells = SIZE * SIZE;
        Window {
            size: SIZE,
            cell: 30.0,
            sites: vec![site; cells],
            elevation: vec![0.0; cells],
            uphill: vec![[0.0; 2]; cells],
            texture: vec![1.0; cells],
        }
    }

    fn wind(speed: f64, from: u16) -> Row {
        Row {
            second: 0,
            speed,
            from,
            temperature: 30.0,
            humidity: 25.0,
            dead: [0.05, 0.06, 0.08],
            live: [0.5, 0.8, 1.0],
        }
    }

    /// Distances in cells from the centre to the last burned cell to the east, north, west and south.
    fn reach(caught: &[f32]) -> [usize; 4] {
        [(1, 0), (0, -1), (-1, 0), (0, 1)].map(|(dx, dy): (isize, isize)| {
            (1..=30)
                .take_while(|&r| caught[(CENTRE as isize + r * (dy * SIZE as isize + dx)) as usize].is_finite())
                .count()
        })
    }

    fn steps(window: &Window, rows: &[Row], minutes: f64) -> Vec<f32> {
        let ends: Vec<f64> = (1..=rows.len()).map(|k| k as f64 * minutes).collect();
        burn(window, &[CENTRE], &ends, rows, usize::MAX).unwrap()
    }

    #[test]
    fn rays_cover_the_circle_and_their_shares_add_to_one() {
        assert_eq!(RAYS.len(), 48);
        for ray in RAYS.iter() {
            assert!((ray.crossed.iter().map(|c| c.2).sum::<f64>() - 1.0).abs() < 1e-9);
            assert_eq!((ray.crossed[0].0, ray.crossed[0].1), (0, 0));
            assert_eq!(ray.crossed.last().map(|c| (c.0, c.1)), Some((ray.dx, ray.dy)));
            for pair in ray.crossed.windows(2) {
                assert!((pair[0].0 - pair[1].0).abs() <= 1 && (pair[0].1 - pair[1].1).abs() <= 1);
            }
        }
    }

    #[test]
    fn without_wind_and_slope_the_fire_is_round() {
        let caught = steps(&flat(fuel::GRASS_SHRUB), &[wind(0.0, 0)], 1500.0);
        let [east, north, west, south] = reach(&caught);
        assert!(east > 8 && east < 30 && [north, west, south] == [east; 3], "{:?}", [east, north, west, south]);
        // Area of the disc with that radius.
        let area = caught.iter().filter(|t| t.is_finite()).count() as f64;
        let disc = std::f64::consts::PI * (east as f64 + 0.5).powi(2);
        assert!((area / disc - 1.0).abs() < 0.12, "{area} cells, disc {disc}");
    }

    #[test]
    fn the_front_matches_the_ellipse_of_its_wind() {
        let window = flat(fuel::GRASS_SHRUB);
        let row = wind(14.0, 270);
        let bed = FuelBed::new(&MODELS[usize::from(fuel::GRASS_SHRUB)], row.live[0]).unwrap();
        let open = window.sites[0].canopy();
        let shape = ellipse(&bed, &row.moisture(0.0), &row.wind(), [0.0; 2], &open);
        let minutes = 25.0 * 30.0 / shape.head;
        let caught = steps(&window, &[row], minutes);
        for (i, &time) in caught.iter().enumerate() {
            let (dx, dy) = ((i % SIZE) as f64 - 30.0, (i / SIZE) as f64 - 30.0);
            let distance = dx.hypot(dy);
            if distance > 2.0 {
                let exact = move |dx: f64, dy: f64| {
                    let distance = dx.hypot(dy);
                    distance * 30.0 / shape.rate([dx / distance, dy / distance])
                };
                // A cell counts as burned when fire comes to any part of it, so not before its first point ...
                let side = (-5..=5).map(|i| f64::from(i) / 10.0);
                let points = side.clone().flat_map(|a| side.clone().map(move |b| exact(dx + a, dy + b)));
                let first = points.fold(f64::INFINITY, f64::min);
                assert!(f64::from(time) > 0.99 * first, "({dx}, {dy}): {time}, exact {first}");
                // ... and not much after its centre, as 48 directions are nearly all.
                let centre = exact(dx, dy);
                if centre < 0.85 * minutes {
                    assert!(f64::from(time) < 1.06 * centre, "({dx}, {dy}): {time}, exact {centre}");
                }
            }
        }
    }

    #[test]
    fn wind_slope_and_fuel_each_steer_the_fire() {
        let [east, north, west, south] = reach(&steps(&flat(fuel::GRASS_SHRUB), &[wind(12.0, 270)], 60.0));
        assert!(
            east > 2 * north && north > west && north == south,
            "wind from the west: {east} {north} {west} {south}"
        );

        let mut hill = flat(fuel::GRASS_SHRUB);
        for i in 0..SIZE * SIZE {
            hill.elevation[i] = (SIZE - i / SIZE) as f32 * 15.0;
            hill.uphill[i] = [0.0, -0.5];
        }
        let [east, north, west, south] = reach(&steps(&hill, &[wind(0.0, 0)], 150.0));
        assert!(north > south + 3 && north > east && east == west, "uphill north: {east} {north} {west} {south}");

        let mut river = flat(fuel::GRASS_SHRUB);
        let mut shrub = flat(fuel::GRASS_SHRUB);
        for i in 0..SIZE * SIZE {
            // A river one cell wide that runs in a diagonal of cells touching by their corners.
            if i % SIZE + i / SIZE == 66 {
                river.sites[i].fuel = fuel::WATER;
            }
            if i % SIZE > 30 {
                shrub.sites[i].fuel = fuel::LITTER_CONIFER;
            }
        }
        let caught = steps(&river, &[wind(0.0, 0)], 1e5);
        assert!((0..SIZE * SIZE).all(|i| (i % SIZE + i / SIZE < 66) == caught[i].is_finite()));
        let [east, _, west, _] = reach(&steps(&shrub, &[wind(0.0, 0)], 300.0));
        assert!(2 * east < west, "litter in the east {east}, brush in the west {west}");
        assert!(steps(&flat(fuel::BARE), &[wind(20.0, 0)], 500.0).iter().all(|t| t.is_infinite()));
    }

    #[test]
    fn each_interval_obeys_its_own_row() {
        let window = flat(fuel::GRASS_SHRUB);
        let turned = steps(&window, &[wind(12.0, 270), wind(12.0, 180)], 40.0);
        let straight = steps(&window, &[wind(12.0, 270), wind(12.0, 270)], 40.0);
        let whole = steps(&window, &[wind(12.0, 270)], 80.0);
        // Cutting the time in two under the same wind changes nothing but which of two equal ways is taken, and so through
        // which cells it passes.
        let burned = |caught: &[f32], by: f32| caught.iter().filter(|&&t| t <= by).count() as f64;
        for by in [20.0, 40.0, 60.0, 80.0] {
            let ratio = burned(&straight, by) / burned(&whole, by);
            assert!((ratio - 1.0).abs() < 0.02, "after {by} minutes {ratio}");
        }
        assert!((burned(&turned, 36.0) / burned(&straight, 36.0) - 1.0).abs() < 0.05);
        assert!(reach(&turned)[1] > reach(&straight)[1] + 2 && reach(&turned)[0] < reach(&straight)[0]);
    }

    #[test]
    fn it_stops_beyond_the_limit() {
        assert!(burn(&flat(fuel::GRASS_LOW), &[CENTRE], &[600.0], &[wind(20.0, 0)], 50).is_none());
    }
}
