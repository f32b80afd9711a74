//! The contact sheet: the landscape with its windows, and the fires by the frame in which they come.

use super::behaviour::fuel;
use super::sequence::Fire;
use super::vegetation::{Landscape, Site};
use image::{Rgb, RgbImage, imageops};

/// Longest side of the overview in pixels.
const OVERVIEW: u32 = 1400;
/// Side of a fire's tile in pixels.
const TILE: u32 = 230;
const GAP: u32 = 6;
const COLUMNS: u32 = 6;
const PAPER: Rgb<u8> = Rgb([250, 250, 248]);

/// From the first frame to the last: white-hot to dark red.
const HEAT: [[f64; 3]; 5] =
    [[255.0, 247.0, 150.0], [254.0, 196.0, 50.0], [240.0, 110.0, 20.0], [190.0, 25.0, 35.0], [90.0, 0.0, 50.0]];

/// Draws the landscape, hill-shaded and tinted by its fuels, with all windows, and below it the first `shown` fires.
pub fn draw(map: &Landscape, size: usize, fires: &[Fire], shown: usize) -> RgbImage {
    let (height, width) = (map.terrain.height as u32, map.terrain.width as u32);
    let ground = RgbImage::from_fn(width, height, |x, y| ground(map, y as usize, x as usize));
    let grid_width = COLUMNS * (TILE + GAP) + GAP;
    let scale = (f64::from(OVERVIEW.min(grid_width - 2 * GAP)) / f64::from(width.max(height))).min(4.0);
    let scaled = |n: u32| ((f64::from(n) * scale) as u32).max(1);
    let mut burned = ground.clone();
    for fire in fires {
        paint(&mut burned, fire, size, fire.plan.corner);
    }
    let mut overview = imageops::resize(&burned, scaled(width), scaled(height), imageops::FilterType::Triangle);
    for fire in fires {
        let [y, x] = fire.plan.corner.map(|v| scaled(v as u32));
        frame(&mut overview, x, y, scaled(size as u32));
    }

    let tiles = fires.len().min(shown) as u32;
    let rows = tiles.div_ceil(COLUMNS);
    let top = overview.height() + 2 * GAP;
    let mut sheet = RgbImage::from_pixel(grid_width, top + rows * (TILE + GAP), PAPER);
    imageops::replace(&mut sheet, &overview, i64::from(GAP), i64::from(GAP));
    for (i, fire) in fires.iter().take(shown).enumerate() {
        let [y0, x0] = fire.plan.corner.map(|v| v as u32);
        let mut tile = imageops::crop_imm(&ground, x0, y0, size as u32, size as u32).to_image();
        paint(&mut tile, fire, size, [0, 0]);
        for &[y, x] in &fire.ignitions {
            tile.put_pixel(x as u32, y as u32, Rgb([0, 0, 0]));
        }
        let filter = if size < TILE as usize { imageops::FilterType::Nearest } else { imageops::FilterType::Triangle };
        let mut tile = imageops::resize(&tile, TILE, TILE, filter);
        arrow(&mut tile, fire);
        let (column, row) = (i as u32 % COLUMNS, i as u32 / COLUMNS);
        let (x, y) = (GAP + column * (TILE + GAP), top + row * (TILE + GAP));
        imageops::replace(&mut sheet, &tile, i64::from(x), i64::from(y));
    }
    sheet
}

/// Paints a fire's pixels into an image in which its window begins at the corner (row, column).
fn paint(image: &mut RgbImage, fire: &Fire, size: usize, corner: [usize; 2]) {
    for (i, &first) in fire.first_frame.iter().enumerate().filter(|(_, first)| **first != u8::MAX) {
        let (y, x) = (corner[0] + i / size, corner[1] + i % size);
        image.put_pixel(x as u32, y as u32, heat(first, fire.plan.frames));
    }
}

fn heat(first: u8, frames: usize) -> Rgb<u8> {
    let place = f64::from(first) / frames.saturating_sub(1).max(1) as f64 * (HEAT.len() - 1) as f64;
    let low = (place as usize).min(HEAT.len() - 2);
    let part = place - low as f64;
    Rgb(std::array::from_fn(|c| (HEAT[low][c] + part * (HEAT[low + 1][c] - HEAT[low][c])) as u8))
}

/// Tint of the fuel under light from the north-west.
fn ground(map: &Landscape, y: usize, x: usize) -> Rgb<u8> {
    let i = y * map.terrain.width + x;
    let site = &map.sites[i];
    if site.unmapped {
        return Rgb([205, 205, 205]);
    }
    let [east, south] = map.terrain.uphill[i].map(f64::from);
    // The normal of the ground is (−east, −south, 1); light comes from (−1, −1, 1.4).
    let light = (east + south + 1.4) / (1.0 + east * east + south * south).sqrt() / 3.96f64.sqrt();
    let shade = 0.45 + 0.75 * light.max(0.0);
    Rgb(tint(site).map(|c| (c * shade).clamp(0.0, 255.0) as u8))
}

fn tint(site: &Site) -> [f64; 3] {
    match site.fuel {
        fuel::WATER => [70.0, 125.0, 190.0],
        fuel::URBAN => [120.0, 110.0, 115.0],
        fuel::FIELD => [205.0, 200.0, 150.0],
        fuel::BARE => [165.0, 158.0, 150.0],
        fuel::GRASS_SHORT | fuel::GRASS_LOW | fuel::GRASS_TALL => [192.0, 200.0, 125.0],
        fuel::GRASS_SHRUB_LOW | fuel::GRASS_SHRUB => [165.0, 185.0, 115.0],
        fuel::SHRUB_LOW | fuel::SHRUB_HIGH | fuel::SHRUB_DENSE => [135.0, 165.0, 105.0],
        _ => [90.0, 135.0, 90.0],
    }
}

fn frame(image: &mut RgbImage, x: u32, y: u32, side: u32) {
    for i in 0..side {
        for (px, py) in [(x + i, y), (x + i, y + side - 1), (x, y + i), (x + side - 1, y + i)] {
            if px < image.width() && py < image.height() {
                image.put_pixel(px, py, Rgb([30, 30, 30]));
            }
        }
    }
}

/// The mean wind of the fire's steps: an arrow in the corner that points where it blows, longer in stronger wind.
fn arrow(tile: &mut RgbImage, fire: &Fire) {
    let rows = &fire.weather[..fire.weather.len().min(fire.plan.frames - 1)];
    let mean = rows.iter().fold([0.0; 2], |sum, row| {
        let wind = row.wind();
        [sum[0] + wind.speed * wind.toward[0], sum[1] + wind.speed * wind.toward[1]]
    });
    let [x, y] = mean.map(|v| v / rows.len().max(1) as f64);
    let speed = x.hypot(y).max(1e-6);
    let length = (speed * 1.1).clamp(6.0, 48.0);
    let (ux, uy) = (x / speed, y / speed);
    let centre = 30.0;
    let mut dot = |px: f64, py: f64| {
        for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let (px, py) = (px as i64 + dx, py as i64 + dy);
            if (0..i64::from(TILE)).contains(&px) && (0..i64::from(TILE)).contains(&py) {
                tile.put_pixel(px as u32, py as u32, Rgb([10, 20, 120]));
            }
        }
    };
    for i in 0..100 {
        let t = (f64::from(i) / 99.0 - 0.5) * length;
        dot(centre + t * ux, centre + t * uy);
        // The barbs leave the tip at 30°.
        let back = f64::from(i) / 99.0 * 9.0;
        for turn in [2.6f64, -2.6] {
            let (sin, cos) = turn.sin_cos();
            dot(
                centre + 0.5 * length * ux + back * (cos * ux - sin * uy),
                centre + 0.5 * length * uy + back * (sin * ux + cos * uy),
            );
        }
    }
}
