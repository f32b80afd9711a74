//! One fire: where it starts, how long a step is, and which frame each pixel first burns in.

use super::spread::{Window, burn};
use super::vegetation::Landscape;
use super::weather::{Row, Weather, normal};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Rows of a weather file: more than the longest sequence has frames.
pub const WEATHER_ROWS: usize = 24;
/// Shortest and longest step in seconds.
const STEP: [u64; 2] = [60, 3 * 3600];
/// Tried again with other ignitions where a fire dies or will not come near the wanted size.
const TRIES: usize = 12;

/// What a sequence is to be, drawn before the fires so that the data set's statistics hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Number of the sequence, from 1.
    pub number: usize,
    /// Frames, 2 to 20.
    pub frames: usize,
    /// Burned share of the window to come near, averaged over the frames.
    pub share: f64,
    /// First row and column of the window in the landscape.
    pub corner: [usize; 2],
}

/// A simulated fire.
#[derive(Debug, Clone)]
pub struct Fire {
    /// What was wanted.
    pub plan: Plan,
    /// Seconds between frames.
    pub step: u64,
    /// The weather, [`WEATHER_ROWS`] rows a step apart.
    pub weather: Vec<Row>,
    /// Places in the window (row, column) at which it starts.
    pub ignitions: Vec<[usize; 2]>,
    /// The first frame in which each pixel burns, 255 where it does not. `[size²]`
    pub first_frame: Vec<u8>,
    /// Burned pixels of each frame.
    pub burned: Vec<usize>,
}

impl Fire {
    /// Simulates the planned fire; all that is random comes from `rng`. `None` where the window holds no place from
    /// which a fire grows.
    ///
    /// The mean burned share comes near the planned one by the choice of the step's duration: longer steps, larger fires.
    /// Frame 0 shows the fire one to three steps after it started; row 0 of the weather rules until frame 1.
    pub fn simulate(landscape: &Landscape, size: usize, plan: Plan, rng: &mut ChaCha8Rng) -> Option<Self> {
        let mut window = cut(landscape, size, plan.corner);
        let mut best: Option<(f64, Self)> = None;
        for _ in 0..TRIES {
            window.texture.fill_with(|| (0.10 * normal(rng)).exp() as f32);
            let weather = Weather::draw(rng, WEATHER_ROWS);
            let head_start = rng.random_range(1.0..3.0);
            let ignitions = ignite(&window, rng);
            let Some(fire) = Self::with_fitting_step(&window, plan, &weather, head_start, &ignitions) else { continue };
            let error = (fire.mean_share(size) / plan.share).ln().abs();
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                best = Some((error, fire));
            }
            if error < 0.25 {
                break;
            }
        }
        best.map(|(_, fire)| fire)
    }

    /// Searches for the step's duration that makes the fire as large as planned, by bisection of its logarithm. The
    /// burned area grows with the duration, if not quite steadily, as the wind between the rows changes with it.
    fn with_fitting_step(
        window: &Window,
        plan: Plan,
        weather: &Weather,
        head_start: f64,
        at: &[usize],
    ) -> Option<Self> {
        let mut range = STEP.map(|s| (s as f64).ln());
        let mut best: Option<(f64, Self)> = None;
        // The guess: fires run at about 8 m/min.
        let radius = (plan.share * (window.size * window.size) as f64 / 3.0).sqrt() * window.cell;
        let mut guess = (60.0 * radius / 8.0 / (head_start + 0.6 * plan.frames as f64)).ln();
        for _ in 0..9 {
            guess = guess.clamp(range[0], range[1]);
            let step = guess.exp().round() as u64;
            let error = match Self::with_step(window, plan, weather, head_start, at, step) {
                None => f64::INFINITY, // far too large
                Some(fire) => {
                    let error = (fire.mean_share(window.size) / plan.share).ln();
                    let grows = fire.burned.first() < fire.burned.last();
                    if grows && best.as_ref().is_none_or(|(least, _)| error.abs() < *least) {
                        best = Some((error.abs(), fire));
                    }
                    error
                }
            };
            if error.abs() < 0.08 || range[1] - range[0] < 0.02 {
                break;
            }
            range[usize::from(error > 0.0)] = guess;
            let middle = 0.5 * (range[0] + range[1]);
            // Area goes with about the square of time: aim there while it lies inside what is left.
            let aimed = guess - 0.55 * error;
            guess = if aimed > range[0] && aimed < range[1] { aimed } else { middle };
        }
        best.map(|(_, fire)| fire)
    }

    fn with_step(
        window: &Window,
        plan: Plan,
        weather: &Weather,
        head_start: f64,
        at: &[usize],
        step: u64,
    ) -> Option<Self> {
        let rows = weather.rows(step);
        let minutes = step as f64 / 60.0;
        let frame_time = |t: usize| (head_start + t as f64) * minutes;
        let ends: Vec<f64> = (1..plan.frames).map(frame_time).collect();
        let cells = window.size * window.size;
        let limit = ((6.0 * plan.share).min(0.7) * cells as f64) as usize;
        let caught = burn(window, at, &ends, &rows, limit.max(16))?;
        let times: Vec<f32> = (0..plan.frames).map(|t| frame_time(t) as f32).collect();
        // The frame after all whose time is before the pixel's own.
        let first_frame: Vec<u8> = caught
            .iter()
            .map(|&time| match times.partition_point(|&t| t < time) {
                t if t < times.len() => t as u8,
                _ => u8::MAX,
            })
            .collect();
        let burned =
            (0..plan.frames).map(|t| first_frame.iter().filter(|&&first| usize::from(first) <= t).count()).collect();
        let ignitions = at.iter().map(|&i| [i / window.size, i % window.size]).collect();
        Some(Self { plan, step, weather: rows, ignitions, first_frame, burned })
    }

    /// Burned share of the window, averaged over the frames.
    pub fn mean_share(&self, size: usize) -> f64 {
        self.burned.iter().sum::<usize>() as f64 / (self.burned.len() * size * size).max(1) as f64
    }
}

fn cut(landscape: &Landscape, size: usize, [y0, x0]: [usize; 2]) -> Window {
    let width = landscape.terrain.width;
    let rows = (y0..y0 + size).map(|y| y * width + x0..y * width + x0 + size);
    Window {
        size,
        cell: landscape.terrain.cell,
        sites: rows.clone().flat_map(|r| landscape.sites[r].iter().copied()).collect(),
        elevation: rows.clone().flat_map(|r| landscape.terrain.elevation[r].iter().copied()).collect(),
        uphill: rows.flat_map(|r| landscape.terrain.uphill[r].iter().copied()).collect(),
        texture: vec![1.0; size * size],
    }
}

/// One to four places in the middle of the window, the further ones near the first, as sparks of one cause are.
fn ignite(window: &Window, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let wanted = match rng.random::<f64>() {
        u if u < 0.55 => 1,
        u if u < 0.82 => 2,
        u if u < 0.95 => 3,
        _ => 4,
    };
    let size = window.size as f64;
    let mut places: Vec<usize> = Vec::new();
    let mut near = None;
    for _ in 0..60 {
        let (cy, cx, reach) = near.unwrap_or((0.5 * size, 0.5 * size, 0.17 * size));
        let mut coordinate = |centre: f64| (centre + rng.random_range(-reach..=reach)).clamp(0.0, size - 1.0) as usize;
        let (y, x) = (coordinate(cy), coordinate(cx));
        let place = y * window.size + x;
        if window.sites[place].burns() && !places.contains(&place) {
            places.push(place);
            near = near.or(Some((y as f64, x as f64, 0.15 * size)));
        }
        if places.len() == wanted {
            break;
        }
    }
    places
}
