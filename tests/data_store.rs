//! The packed store: what is in it, that it is the same always, and that it knows when it was damaged.

mod data_fixture;

use data_fixture::{COLUMNS, Fixture, band, burns, copy, mini, pixel, settings, write_png};
use emberformer::data::raw::{PadMode, image};
use emberformer::data::store::{Store, StoreSettings};
use indicatif::ProgressBar;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn build(settings: &StoreSettings, path: &Path) -> emberformer::data::store::BuildSummary {
    Store::build(settings, path, &ProgressBar::hidden()).unwrap_or_else(|e| panic!("{e}"))
}

/// Builds on so many threads and returns the bytes.
fn bytes_of(settings: &StoreSettings, path: &Path, threads: usize) -> Vec<u8> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| build(settings, path));
    fs::read(path).unwrap()
}

#[test]
fn real_fires_are_what_other_readers_see() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("store");
    let summary = build(&settings(&mini(), 8, PadMode::Strict), &path);
    assert_eq!((summary.sequences, summary.images, summary.decoded, summary.reused), (6, 46, 46, false));
    let store = Store::open(&path).unwrap();
    let ids: Vec<&str> = store.sequences().iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["sequence_002", "sequence_014", "sequence_018", "sequence_030", "sequence_037", "sequence_038"]);
    assert_eq!((store.window(), store.grid().rows, store.grid().cols, store.static_channels()), ((64, 64), 8, 8, 8));
    assert_eq!(store.band_names()[4], "elevation");
    assert!(store.valid_patches().iter().all(|&valid| valid) && store.valid_patches().len() == 64);

    // Every image against the image crate.
    for (s, sequence) in store.sequences().iter().enumerate() {
        for t in 0..sequence.frames {
            for (bits, part, name) in
                [(store.frame(s, t), "fire_frames", "fire"), (store.isochrone(s, t), "isochrones", "iso")]
            {
                let png = mini().join(part).join(&sequence.id).join(format!("{name}_{t:03}.png"));
                let picture = ::image::open(&png).unwrap().to_rgb8();
                let mask: Vec<u8> = picture.pixels().map(|p| u8::from(p.0[1] == 231)).collect();
                assert_eq!(store.grid().unpack(bits), mask, "{}", png.display());
            }
        }
        assert!(store.frame(s, sequence.frames).is_empty() && store.isochrone(99, 0).is_empty());
    }

    // Burned pixels, and the copy-last baseline, as counted with NumPy.
    let count = |bits: &[u64]| bits.iter().map(|w| w.count_ones()).sum::<u32>();
    let (mut burned, mut hit, mut extra, mut missed) = ([0, 0], 0, 0, 0);
    for (s, sequence) in store.sequences().iter().enumerate() {
        for t in 0..sequence.frames {
            burned[0] += count(store.frame(s, t));
            burned[1] += count(store.isochrone(s, t));
        }
        for k in 0..sequence.frames - 1 {
            for (last, target) in store.frame(s, k).iter().zip(store.isochrone(s, k + 1)) {
                hit += (last & target).count_ones();
                extra += (last & !target).count_ones();
                missed += (!last & target).count_ones();
            }
        }
    }
    assert_eq!((burned, hit, extra, missed), ([2642, 2642], 1343, 0, 1033));

    // Wind from the CSV by hand: sequence 2 has weather35.csv.
    let history = fs::read_to_string(mini().join("landscape/WeatherHistory.csv")).unwrap();
    let name = history.lines().nth(1).unwrap().rsplit('/').next().unwrap();
    let csv = fs::read_to_string(mini().join("landscape/Weathers").join(name)).unwrap();
    let range = store.wind_range();
    for (t, wind) in store.wind(0).iter().enumerate() {
        let row: Vec<&str> = csv.lines().nth(t + 1).unwrap().split(',').collect();
        for (column, value, [low, high]) in [(2, wind[0], range.speed), (3, wind[1], range.direction)] {
            let back = low + value * (high - low);
            assert!((back - row[column].parse::<f32>().unwrap()).abs() < 1e-3, "step {t}: {back} for {}", row[column]);
            assert!((0.0..=1.0).contains(&value));
        }
    }
    assert_eq!(store.wind(0).len(), store.sequences()[0].frames);
    assert!(store.statics(0).iter().all(|v| (0.0..=1.0).contains(v)));
}

#[test]
fn static_tokens_are_means_of_scaled_bands() {
    let fixture = Fixture::new(&[(3, 1)], 16, 24);
    let store = fixture.build().unwrap();
    let lowest = -((70.0 * 80.0 - 1.0) / 4.0);
    let scales: Vec<(f64, f64)> = store.band_scales().iter().map(|s| (s.subtract, s.divide)).collect();
    assert_eq!(scales, [(-1.0, 99.0), (0.0, 1.0), (lowest, -lowest)], "no-data is −1, {{0, 1}} stays");
    let [y0, _, x0, _] = fixture.window(3);
    for (n, token) in store.statics(0).chunks_exact(3).enumerate() {
        for b in 0..3 {
            let at = |i: usize| (y0 + n / 3 * 8 + i / 8) * COLUMNS + x0 + n % 3 * 8 + i % 8;
            let mean = (0..64).map(|i| (f64::from(band(b, at(i))) - scales[b].0) / scales[b].1).sum::<f64>() / 64.0;
            assert!((mean - f64::from(token[b])).abs() < 1e-6, "band {b}, patch {n}");
        }
    }
}

#[test]
fn every_patch_side_and_padding() {
    let fixture = Fixture::new(&[(1, 3), (2, 2)], 20, 28);
    let out = tempfile::tempdir().unwrap();
    for (patch, pad) in [
        (4, PadMode::Strict),
        (8, PadMode::Edge),
        (8, PadMode::Constant),
        (16, PadMode::Edge),
        (16, PadMode::PadToMultiple),
    ] {
        let path = out.path().join("store");
        build(&fixture.settings(patch, pad), &path);
        let store = Store::open(&path).unwrap();
        let grid = store.grid();
        assert_eq!((grid.height(), grid.width()), (20usize.next_multiple_of(patch), 28usize.next_multiple_of(patch)));
        for (s, n) in [(0, 1), (1, 2)] {
            for t in 0..store.sequences()[s].frames {
                for (bits, isochrone) in [(store.frame(s, t), false), (store.isochrone(s, t), true)] {
                    let expected = grid.pack(|y, x| match pad {
                        PadMode::Edge => burns(n, t, isochrone, y.min(19), x.min(27)),
                        _ => y < 20 && x < 28 && burns(n, t, isochrone, y, x),
                    });
                    assert_eq!(bits, expected, "P {patch}, {pad:?}, sequence {n}, step {t}");
                }
            }
        }
        let valid: Vec<bool> = (0..grid.patches())
            .map(|i| (i / grid.cols + 1) * patch <= 20 && (i % grid.cols + 1) * patch <= 28)
            .collect();
        assert_eq!(store.valid_patches(), valid);
        // The corner patch's static token: its last row and column again, or zeros.
        let scale = store.band_scales()[2];
        let [y0, _, x0, _] = fixture.window(1);
        let (top, left) = (20 / patch * patch, 28 / patch * patch);
        if pad != PadMode::Strict && top < 20 && left < 28 {
            let mean: f64 = (0..patch * patch)
                .map(|i| {
                    let (y, x) = (top + i / patch, left + i % patch);
                    if pad != PadMode::Edge && (y >= 20 || x >= 28) {
                        return 0.0;
                    }
                    let value = band(2, (y0 + y.min(19)) * COLUMNS + x0 + x.min(27));
                    (f64::from(value) - scale.subtract) / scale.divide
                })
                .sum::<f64>()
                / (patch * patch) as f64;
            assert!((mean - f64::from(*store.statics(0).last().unwrap())).abs() < 1e-6, "P {patch}, {pad:?}");
        }
    }
}

#[test]
fn every_kind_of_png_gives_the_same_bits() {
    use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let burns = |y: usize, x: usize| (y * 5 + x).is_multiple_of(3);
    let grid = image::grid(16, 24, 8, PadMode::Strict).unwrap();
    let packer = image::Packer { window: (16, 24), grid, pad: PadMode::Strict };
    for color in [Rgb, Rgba, Indexed, Grayscale, GrayscaleAlpha] {
        write_png(&path, 16, 24, color, &burns);
        let bits = packer.pack_png(&path, &fs::read(&path).unwrap(), 1, 231).unwrap();
        assert_eq!(bits, grid.pack(burns), "{color:?}");
    }
    // Alpha is a channel too.
    write_png(&path, 16, 24, Rgba, &burns);
    let bits = packer.pack_png(&path, &fs::read(&path).unwrap(), 3, 255).unwrap();
    assert_eq!(bits, grid.pack(burns));
    fs::write(&path, interlaced(16, 24, &burns)).unwrap();
    let bits = packer.pack_png(&path, &fs::read(&path).unwrap(), 1, 231).unwrap();
    assert_eq!(bits, grid.pack(burns), "interlaced");
}

/// An RGB PNG with Adam7 interlacing, stored without compression.
fn interlaced(height: usize, width: usize, burns: &dyn Fn(usize, usize) -> bool) -> Vec<u8> {
    let passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)];
    let mut raw = Vec::new();
    for (y0, x0, dy, dx) in passes {
        for y in (y0..height).step_by(dy) {
            raw.push(0); // No filter.
            (x0..width).step_by(dx).for_each(|x| raw.extend(pixel(png::ColorType::Rgb, burns(y, x))));
        }
    }
    let sums = raw.iter().fold((1u32, 0u32), |(a, b), &v| ((a + u32::from(v)) % 65521, (a + u32::from(v) + b) % 65521));
    let length = u16::try_from(raw.len()).unwrap();
    let mut zlib = vec![0x78, 0x01, 1];
    zlib.extend(length.to_le_bytes());
    zlib.extend((!length).to_le_bytes());
    zlib.extend(raw);
    zlib.extend((sums.1 << 16 | sums.0).to_be_bytes());
    let mut out = Vec::new();
    let mut info = png::Info::with_size(width as u32, height as u32);
    info.color_type = png::ColorType::Rgb;
    info.interlaced = true;
    let mut writer = png::Encoder::with_info(&mut out, info).unwrap().write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &zlib).unwrap();
    drop(writer);
    out
}

#[test]
fn the_same_bytes_on_any_number_of_threads_and_in_any_place() {
    let (out, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = bytes_of(&settings(&mini(), 8, PadMode::Strict), &out.path().join("1"), 1);
    let many = bytes_of(&settings(&mini(), 8, PadMode::Strict), &out.path().join("7"), 7);
    assert!(one == many);
    copy(&mini(), copied.path());
    let elsewhere = bytes_of(&settings(copied.path(), 8, PadMode::Strict), &out.path().join("copy"), 2);
    assert!(one == elsewhere, "the place and the files' times do not count");
}

#[test]
fn max_sequences_takes_the_first() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("store");
    let settings = StoreSettings { max_sequences: Some(2), ..settings(&mini(), 8, PadMode::Strict) };
    build(&settings, &path);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.sequences().iter().map(|s| &*s.id).collect::<Vec<_>>(), ["sequence_002", "sequence_014"]);
    assert_eq!(store.settings_for(mini()), settings);
}

#[test]
fn a_killed_build_goes_on() {
    let fixture = Fixture::new(&(1..=9).map(|n| (n, 12)).collect::<Vec<_>>(), 48, 56);
    let folder = tempfile::tempdir().unwrap();
    let settings = fixture.settings(8, PadMode::Strict);
    let expected = bytes_of(&settings, &folder.path().join("expected"), 2);
    let path = folder.path().join("killed");
    let journal = folder.path().join("killed.journal");
    let noted = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count().saturating_sub(1));

    // A machine may be too fast to be interrupted: try until one was.
    let interrupted = (0..50).any(|_| {
        let _ = fs::remove_file(&path);
        let mut child = Command::new(env!("CARGO_BIN_EXE_emberformer"))
            .args(["cache", "--jobs", "1", "--data"])
            .arg(fixture.root())
            .arg("--out")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while noted() == 0 && child.try_wait().unwrap().is_none() {}
        child.kill().unwrap();
        child.wait().unwrap();
        !path.exists() && (1..9).contains(&noted())
    });
    assert!(interrupted);
    assert!(!path.exists() && folder.path().join("killed.partial").exists());
    let finished = noted();
    let summary = build(&settings, &path);
    assert_eq!(summary.decoded, (9 - finished) * 24, "{finished} sequences were finished");
    assert!(fs::read(&path).unwrap() == expected);
    let left: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.ends_with(".partial") || name.ends_with(".journal")), "{left:?}");
}

#[test]
fn two_builders_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let settings = settings(&mini(), 8, PadMode::Strict);
    let mut summaries = std::thread::scope(|scope| {
        let builders: Vec<_> = (0..3).map(|_| scope.spawn(|| build(&settings, &path))).collect();
        builders.into_iter().map(|b| b.join().unwrap()).collect::<Vec<_>>()
    });
    summaries.sort_by_key(|s| s.reused);
    assert_eq!(
        summaries.iter().map(|s| (s.decoded, s.reused)).collect::<Vec<_>>(),
        [(46, false), (0, true), (0, true)]
    );
}

#[test]
fn a_store_is_kept_while_it_is_current() {
    let fixture = Fixture::new(&[(1, 2), (2, 3)], 16, 24);
    let cache = tempfile::tempdir().unwrap();
    let settings = fixture.settings(8, PadMode::Strict);
    let path = Store::default_path(&settings, cache.path());
    let hidden = ProgressBar::hidden();
    let first = Store::open_or_build(&settings, cache.path(), &hidden).unwrap().fingerprint().to_string();
    assert!(build(&settings, &path).reused);

    // Other times, same bytes: still current.
    let frame = fixture.image(1, 1, false);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    fs::File::options().write(true).open(&frame).unwrap().set_modified(later).unwrap();
    assert!(build(&settings, &path).reused);

    // Another picture: rebuilt. Other settings: another store.
    write_png(&frame, 16, 24, png::ColorType::Rgba, &|_, _| true);
    let store = Store::open_or_build(&settings, cache.path(), &hidden).unwrap();
    assert_ne!(store.fingerprint(), first);
    assert_eq!(store.frame(0, 1), [u64::MAX; 6]);
    let other = fixture.settings(4, PadMode::Strict);
    assert_ne!(Store::default_path(&other, cache.path()), path);

    // A file that lost its end is built again; so is a foreign one under the name that is ours.
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 100]).unwrap();
    assert!(!build(&settings, &path).reused);
    fs::write(&path, "rubbish").unwrap();
    Store::open_or_build(&settings, cache.path(), &hidden).unwrap();
    assert!(fs::read(&path).unwrap() == whole);
}

#[test]
fn any_altered_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let fixture = Fixture::new(&[(1, 2), (2, 3)], 16, 24);
    build(&fixture.settings(8, PadMode::Strict), &path);
    let whole = fs::read(&path).unwrap();
    assert!(Store::open(&path).is_ok());
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let text = Store::open(&path).expect_err("an error").to_string();
        assert!(text.contains("store") && text.contains("build it again"), "{text}");
        text
    };
    for i in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[i] ^= 1 << (i % 8);
        refused(&bytes);
    }
    for length in (0..whole.len()).step_by(101) {
        let text = refused(&whole[..length]);
        assert!(length < 8 || text.contains("truncated"), "{text}");
    }
    assert!(refused(&[&whole[..], b"more"].concat()).contains("4 bytes follow its end"));
    let version = whole.windows(13).position(|w| w == b"\"version\":\"1\"").unwrap();
    let mut bytes = whole.clone();
    bytes[version + 11] = b'9';
    assert!(refused(&bytes).contains("a store of version \"9\"; this program reads version \"1\""));
    assert!(Store::open(&folder.path().join("absent")).unwrap_err().to_string().contains("check the path"));
}

#[test]
fn python_reads_it_as_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    build(&settings(&mini(), 8, PadMode::Strict), &path);
    let store = Store::open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let frames = tensors.tensor("frames").unwrap();
    assert_eq!((frames.dtype(), frames.shape()), (safetensors::Dtype::U64, &[23, 64, 1][..]));
    assert_eq!(frames.data()[..8], store.frame(0, 0)[0].to_le_bytes());
    assert_eq!(tensors.tensor("statics").unwrap().shape(), [6, 64, 8]);
    assert_eq!(tensors.tensor("wind").unwrap().shape(), [23, 2]);
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!((&*metadata["format"], &*metadata["version"]), ("emberformer-store", "1"));
    assert_eq!(metadata["fingerprint"], store.fingerprint());
}

/// Random bytes that begin as a store does, or a store with a few bytes changed and its head checksum made right.
fn hostile(whole: &[u8], changes: &[(prop::sample::Index, u8)], mend: bool) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for (place, byte) in changes {
        let place = if mend { header + 8 + place.index(256) } else { place.index(bytes.len()) };
        bytes[place] = *byte;
    }
    if mend {
        // Tables that lie, with the right checksum: two sequences and three bands.
        let tables = header + 8..header + 8 + 64 + 24 + 64 + 48 + 16;
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(&bytes[..header]);
        hash.update(&bytes[tables]);
        bytes[header..header + 8].copy_from_slice(&hash.digest().to_le_bytes());
    }
    bytes
}

#[test]
fn hostile_stores_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let fixture = Fixture::new(&[(1, 2), (2, 3)], 16, 24);
    build(&fixture.settings(8, PadMode::Strict), &path);
    let whole = fs::read(&path).unwrap();
    assert_eq!(hostile(&whole, &[], true), whole, "the checksum is made as the store makes it");
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    proptest!(ProptestConfig { cases: 400, ..ProptestConfig::default() }, |(changes in changes, mend in any::<bool>())| {
        fs::write(&path, hostile(&whole, &changes, mend)).unwrap();
        if let Ok(store) = Store::open(&path) {
            let _ = (store.frame(1, 2), store.isochrone(0, 0), store.wind(1), store.statics(1));
        }
    });
    let random = prop::collection::vec(any::<u8>(), 0..200);
    proptest!(ProptestConfig { cases: 200, ..ProptestConfig::default() }, |(length in 0u64..300, rest in random)| {
        fs::write(&path, [&length.to_le_bytes()[..], b"{\"__metadata__\":{\"format\":\"emberformer-store\"", &rest].concat()).unwrap();
        prop_assert!(Store::open(&path).is_err());
    });
}
