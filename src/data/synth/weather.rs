//! Weather as a process in time: gusty wind that turns, a day's warmth, and the fuel moisture that follows.
//!
//! The logarithm of the wind speed and the wind direction each wander about a mean as an Ornstein-Uhlenbeck process
//! (Uhlenbeck and Ornstein 1930, *Phys. Rev.* 36); gusts come on top row by row, and now and then the mean direction
//! turns as when a front passes. Dead fuel follows air and humidity after Simard (1968), *The moisture content of
//! forest fuels*, as used by the National Fire Danger Rating System.

use super::behaviour::{Moisture, Wind};
use rand::{Rng, RngExt};
use std::f64::consts::TAU;

/// Minutes after which the wind has forgotten where it was.
const MEMORY: f64 = 90.0;
/// Spread of the logarithm of the wind speed about its mean.
const SPEED_SPREAD: f64 = 0.22;
/// Spread of the wind direction about its mean, degrees.
const DIRECTION_SPREAD: f64 = 17.0;
/// Spread of the logarithm of a row's gusts.
const GUST_SPREAD: f64 = 0.08;

/// One row of a weather file, with the precision at which it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Seconds from midnight of the first day.
    pub second: u64,
    /// Wind speed at 20 ft, km/h.
    pub speed: f64,
    /// Degrees clockwise from north from which the wind comes, 0 to 359.
    pub from: u16,
    /// Air temperature, °C.
    pub temperature: f64,
    /// Relative humidity, %.
    pub humidity: f64,
    /// Dead fuel moisture of the 1 h, 10 h and 100 h classes, as fractions.
    pub dead: [f64; 3],
    /// Moisture of live herbs, live wood and needles, as fractions.
    pub live: [f64; 3],
}

impl Row {
    /// The wind of this row.
    pub fn wind(&self) -> Wind {
        let (sin, cos) = (f64::from(self.from).to_radians()).sin_cos();
        // From the north-east means towards the south-west: (east, south) = (−sin, cos).
        Wind { speed: self.speed, toward: [-sin, cos] }
    }

    /// The moisture of fuel on a place that is damper than the weather station by this much.
    pub fn moisture(&self, dampness: f64) -> Moisture {
        Moisture {
            dead: self.dead.map(|m| (m + dampness).max(0.015)),
            live: [self.live[0], self.live[1]],
            foliar: self.live[2],
        }
    }
}

/// A day's weather before it is cut into steps: its means, and the random numbers that drive it. Rows are a smooth
/// function of the step's duration, which lets the simulator search for a duration.
#[derive(Debug, Clone)]
pub struct Weather {
    mean_speed: f64, // km/h
    mean_from: f64,  // degrees
    turn: f64,       // degrees an hour
    start: u64,      // second of the day
    warmest: f64,    // °C
    daily_range: f64,
    dryness: f64, // % humidity at the warmest hour
    live: [f64; 3],
    shocks: Vec<[f64; 5]>, // a row each: speed, direction, gust, temperature, humidity; all N(0, 1)
}

impl Weather {
    /// Draws a day of weather with this many rows.
    pub fn draw(rng: &mut impl Rng, rows: usize) -> Self {
        let mut uniform = |low: f64, high: f64| rng.random_range(low..high);
        let mean_speed = 11.0 + 35.0 * uniform(0.0, 1.0).powf(1.2);
        let mean_from = uniform(0.0, 360.0);
        let turn = if uniform(0.0, 1.0) < 0.35 { uniform(-30.0, 30.0) } else { uniform(-4.0, 4.0) };
        let start = 60 * (60.0 * uniform(10.0, 16.0)) as u64;
        let (warmest, daily_range, dryness) = (uniform(24.0, 38.0), uniform(9.0, 17.0), uniform(14.0, 38.0));
        let curing = uniform(0.0, 1.0);
        let live = [0.35 + 0.55 * curing, 0.65 + 0.40 * curing, 0.90 + 0.25 * curing].map(|m| round(m, 2));
        let shocks = (0..rows).map(|_| std::array::from_fn(|_| normal(rng))).collect();
        Self { mean_speed, mean_from, turn, start, warmest, daily_range, dryness, live, shocks }
    }

    /// The rows, one every `step` seconds.
    pub fn rows(&self, step: u64) -> Vec<Row> {
        let minutes = step as f64 / 60.0;
        let kept = (-minutes / MEMORY).exp();
        let fresh = (1.0 - kept * kept).sqrt();
        let mut state = [0.0; 2]; // standard deviations of speed and direction from their means
        let mut rows = Vec::with_capacity(self.shocks.len());
        for (k, shock) in self.shocks.iter().enumerate() {
            for (value, shock) in state.iter_mut().zip(shock) {
                *value = if k == 0 { *shock } else { kept * *value + fresh * shock };
            }
            let second = self.start + k as u64 * step;
            let hour = second as f64 / 3600.0;
            let day = (TAU * (hour - 15.0) / 24.0).cos(); // 1 at three in the afternoon
            let temperature = self.warmest - 0.5 * self.daily_range * (1.0 - day) + 0.4 * shock[3];
            let humidity = (self.dryness + 17.0 * (1.0 - day) + 1.2 * shock[4]).clamp(6.0, 100.0);
            let speed =
                self.mean_speed * (SPEED_SPREAD * state[0] + GUST_SPREAD * shock[2]).exp() * (0.85 + 0.15 * day);
            let from = self.mean_from + self.turn * k as f64 * minutes / 60.0 + DIRECTION_SPREAD * state[1];
            let fine = equilibrium_moisture(temperature, humidity);
            rows.push(Row {
                second,
                speed: round(speed.max(0.5), 1),
                from: from.round().rem_euclid(360.0) as u16,
                temperature: round(temperature, 1),
                humidity: round(humidity, 1),
                dead: [fine, fine + 0.011, fine + 0.032].map(|m| round(m, 3)),
                live: self.live,
            });
        }
        rows
    }
}

/// Moisture at which dead fuel neither dries nor wets, as a fraction, from °C and % (Simard 1968).
fn equilibrium_moisture(temperature: f64, humidity: f64) -> f64 {
    let (t, h) = (temperature * 1.8 + 32.0, humidity);
    let percent = if h < 10.0 {
        0.03229 + 0.281073 * h - 0.000578 * h * t
    } else if h < 50.0 {
        2.22749 + 0.160107 * h - 0.014784 * t
    } else {
        21.0606 + 0.005565 * h * h - 0.00035 * h * t - 0.483199 * h
    };
    // Standing fuel in the afternoon is a little above it.
    (percent + 0.7).max(1.5) / 100.0
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// A standard normal number (Box and Muller 1958).
pub fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn wind_from_the_north_blows_south_and_from_the_east_blows_west() {
        let row = Weather::draw(&mut ChaCha8Rng::seed_from_u64(1), 1).rows(600).remove(0);
        let toward = |from| Row { from, ..row.clone() }.wind().toward;
        assert!(toward(0)[1] > 0.999 && toward(90)[0] < -0.999 && toward(225)[0] > 0.7 && toward(225)[1] < -0.7);
    }

    #[test]
    fn neighbouring_rows_are_alike_and_far_rows_are_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (mut near, mut far, mut square) = (0.0, 0.0, 0.0);
        for _ in 0..400 {
            let weather = Weather::draw(&mut rng, 21);
            let logs: Vec<f64> = weather.rows(900).iter().map(|r| (r.speed / weather.mean_speed).ln()).collect();
            let mean = 0.0;
            near += (logs[0] - mean) * (logs[1] - mean);
            far += (logs[0] - mean) * (logs[20] - mean);
            square += logs[0] * logs[0];
        }
        assert!(near / square > 0.5, "one step apart {}", near / square);
        assert!(far / square < 0.5, "twenty steps apart {}", far / square);
    }

    #[test]
    fn rows_keep_to_their_ranges() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..50 {
            for row in Weather::draw(&mut rng, 24).rows(3600) {
                assert!(row.from < 360 && row.speed >= 0.5 && row.speed < 120.0);
                assert!(row.dead[0] > 0.01 && row.dead[0] < 0.4 && row.humidity <= 100.0);
            }
        }
    }
}
