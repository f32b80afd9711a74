//! Wrong input: one error each, which names the file, the place and the remedy.

mod data_fixture;

use assert_cmd::Command;
use data_fixture::{COLUMNS, Fixture, ROWS, band, write_png};
use emberformer::data::raw::{DataSet, PadMode, image};
use emberformer::data::store::Store;
use indicatif::ProgressBar;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// Spoils a data set of sequences 1 (3 frames) and 2 (2 frames), and expects the error of a build to have all `parts`.
fn spoilt(spoil: impl FnOnce(&Fixture), parts: &[&str]) {
    let fixture = Fixture::new(&[(1, 3), (2, 2)], 16, 24);
    spoil(&fixture);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("store");
    let result = Store::build(&fixture.settings(8, PadMode::Strict), &path, &ProgressBar::hidden());
    let text = result.expect_err("an error").to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    let left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == ".store.lock"), "left behind: {left:?}");
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

#[test]
fn a_missing_or_empty_data_set() {
    spoilt(|f| remove(f.root()), &["the folder does not exist", "give the folder that holds fire_frames/"]);
    for part in ["fire_frames", "isochrones", "landscape"] {
        spoilt(|f| remove(&f.path(part)), &[&format!("{part}/ is missing")]);
    }
    spoilt(
        |f| {
            remove(&f.path("fire_frames"));
            fs::create_dir(f.path("fire_frames")).unwrap();
        },
        &["fire_frames: empty: no folder of a sequence"],
    );
    for file in ["indices.json", "WeatherHistory.csv", "Input_Geotiff.tif", "Weathers"] {
        spoilt(|f| remove(&f.path("landscape").join(file)), &[file, "cannot read", "check the path"]);
    }
    spoilt(
        |f| {
            remove(&f.path("landscape/Weathers"));
            fs::create_dir(f.path("landscape/Weathers")).unwrap();
        },
        &["Weathers: empty: no weather"],
    );
}

#[test]
fn sequences_and_frames_that_do_not_match() {
    spoilt(|f| remove(&f.image(2, 1, true)), &["sequence_002", "frame counts differ: 2 fire frames, 1 isochrones"]);
    spoilt(
        |f| remove(&f.path("isochrones/sequence_002")),
        &["isochrones: no folder for sequence_002", "add the isochrones"],
    );
    spoilt(|f| remove(&f.path("fire_frames/sequence_001")), &["fire_frames: no folder for sequence_001"]);
    spoilt(|f| remove(&f.image(1, 1, false)), &["frame counts differ"]);
    spoilt(
        |f| {
            fs::rename(f.image(1, 2, false), f.path("fire_frames/sequence_001/fire_004.png")).unwrap();
        },
        &["sequence_001: frame 2 is missing: frame 4 follows 1"],
    );
    spoilt(
        |f| fs::create_dir(f.path("fire_frames/sequence_1")).unwrap(),
        &["sequence_001 and sequence_1 have the same number"],
    );
    spoilt(
        |f| {
            fs::create_dir(f.path("fire_frames/sequence_3")).unwrap();
            fs::create_dir(f.path("isochrones/sequence_3")).unwrap();
        },
        &["sequence_3: empty: no PNG"],
    );
}

#[test]
fn windows_that_are_wrong() {
    let indices = |text: &'static str| move |f: &Fixture| f.write("landscape/indices.json", text);
    spoilt(
        indices(r#"{"1": [0, 16, 0, 24]}"#),
        &["indices.json: no entry 2 for sequence_002", "add \"2\": [y0, y1, x0, x1]"],
    );
    spoilt(
        indices(r#"{"1": [0, 16, 0, 24], "2": [60, 76, 0, 24]}"#),
        &["Input_Geotiff.tif", "[60, 76, 0, 24] of sequence_002 is outside the landscape of 70 rows and 80 columns"],
    );
    spoilt(
        indices(r#"{"1": [0, 16, 0, 24], "2": [0, 16, 0, 16]}"#),
        &["sizes differ", "sequence_001", "16×24", "sequence_002", "16×16"],
    );
    spoilt(
        indices(r#"{"1": [0, 8, 0, 24], "2": [0, 8, 0, 24]}"#),
        &["sizes differ: 16×24 pixels, but its window has 8×24", ".png"],
    );
    spoilt(indices(r#"{"1": [0, 16, 0, 24], "2": [-1, 15, 0, 24]}"#), &["negative corner"]);
    spoilt(indices(r#"{"1": [0, 16, 0, 24], "2": [5, 5, 0, 24]}"#), &["[5, 5, 0, 24] of \"2\" is empty"]);
    spoilt(indices(r#"{"1": [0, 99999999, 0, 99999999]}"#), &["has more than"]);
    spoilt(indices(r#"{"1": [0, 16, 0, 24], "01": [0, 16, 0, 24]}"#), &["two windows for sequence 1"]);
    spoilt(indices(r#"{"1": [0, 16, 0"#), &["indices.json: not the expected JSON", "line 1", "y0, y1, x0, x1"]);
    spoilt(indices(r#"{"one": [0, 16, 0, 24]}"#), &["\"one\" is not a sequence's number"]);
}

#[test]
fn sizes_not_divisible_in_strict_mode() {
    let fixture = Fixture::new(&[(1, 2)], 20, 24);
    let text = fixture.build().unwrap_err().to_string();
    assert!(text.contains("20×24") && text.contains("patch size 8") && text.contains("pad_mode"), "{text}");
    let text = image::grid(16, 16, 5, PadMode::Edge).unwrap_err().to_string();
    assert!(text.contains("choose 4, 8 or 16"), "{text}");
}

#[test]
fn images_that_are_broken() {
    let cut = |keep: fn(usize) -> usize| {
        move |f: &Fixture| {
            let bytes = fs::read(f.image(1, 1, false)).unwrap();
            fs::write(f.image(1, 1, false), &bytes[..keep(bytes.len())]).unwrap();
        }
    };
    for keep in [|_| 0, |_| 20, |n| n / 2, |n| n - 13, |n| n - 1] {
        spoilt(cut(keep), &["fire_001.png: truncated PNG", "copy or render the image again"]);
    }
    spoilt(|f| fs::write(f.image(1, 1, true), "not a PNG").unwrap(), &["iso_001.png: broken PNG"]);
    spoilt(
        |f| {
            let mut bytes = fs::read(f.image(1, 1, true)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(f.image(1, 1, true), bytes).unwrap();
        },
        &["iso_001.png: broken PNG"],
    );
    spoilt(
        |f| write_png(&f.image(2, 1, false), 16, 16, png::ColorType::Rgb, &|_, _| false),
        &["sequence_002/fire_001.png: sizes differ: 16×16 pixels, but its window has 16×24"],
    );
    // Claimed dimensions are compared before anything is allocated.
    spoilt(
        |f| {
            let mut bytes = fs::read(f.image(1, 0, false)).unwrap();
            bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
            let crc = crc(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&crc.to_be_bytes());
            fs::write(f.image(1, 0, false), bytes).unwrap();
        },
        &["fire_000.png: sizes differ: 2147483647×2147483647"],
    );
    let mut fixture = Fixture::new(&[(1, 1)], 8, 8).settings(8, PadMode::Strict);
    let data = Fixture::new(&[(1, 1)], 8, 8);
    fixture.data_dir = data.root().into();
    fixture.encoding.isochrone_channel = 3;
    let out = tempfile::tempdir().unwrap();
    let text = Store::build(&fixture, &out.path().join("s"), &ProgressBar::hidden()).unwrap_err().to_string();
    assert!(text.contains("iso_000.png: no channel 3 in an image of 3") && text.contains("encoding"), "{text}");
}

/// PNG's CRC-32.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn landscapes_that_are_broken() {
    let spoil = |band_at: usize, value: f32| {
        move |f: &Fixture| {
            let mut bands: Vec<Vec<f32>> = (0..3).map(|b| (0..ROWS * COLUMNS).map(|i| band(b, i)).collect()).collect();
            bands[band_at][69 * COLUMNS + 3] = value;
            f.write_landscape(&bands);
        }
    };
    spoilt(spoil(2, f32::NAN), &["Input_Geotiff.tif", "band 3 (height) is NaN at row 69, column 3", "no-data"]);
    spoilt(spoil(0, f32::INFINITY), &["band 1 (fuel) is inf at row 69, column 3"]);
    spoilt(
        |f| {
            let path = f.path("landscape/Input_Geotiff.tif");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        },
        &["Input_Geotiff.tif: truncated"],
    );
}

#[test]
fn weather_that_is_wrong() {
    let file = |text: &'static str| move |f: &Fixture| f.write("landscape/Weathers/w1.csv", text);
    spoilt(file("WS,WD\n1,2\n1,2\n"), &["w1.csv: 2 rows of weather, but sequence_001 has 3 frames"]);
    spoilt(file("WS,TMP\n1,2\n"), &["w1.csv: no column WD; it has WS, TMP"]);
    spoilt(file("speed,WD\n1,2\n"), &["no column WS"]);
    spoilt(file("WS,WD\n1,2\nNaN,3\n"), &["w1.csv: line 3: WS is \"NaN\", not a finite number"]);
    spoilt(file("WS,WD\n1,2\n3,inf\n"), &["line 3: WD is \"inf\""]);
    // Numbers whose range is no number any more.
    spoilt(file("WS,WD\n-3e38,2\n3e38,3\n3,3\n"), &["line 2: WS is \"-3e38\", impossibly large"]);
    spoilt(file("WS,WD\n1,\n"), &["line 2: WD is \"\""]);
    spoilt(file("WS,WD\n1,2\n3\n"), &["w1.csv: not CSV"]);
    let history = |text: &'static str| move |f: &Fixture| f.write("landscape/WeatherHistory.csv", text);
    spoilt(history("Weathers/w1.csv\n"), &["WeatherHistory.csv: 1 rows, none for sequence_002", "row 2"]);
    spoilt(
        history("Weathers/w1.csv\nWeathers/w7.csv\n"),
        &["line 2 names \"w7.csv\" for sequence_002, which does not exist"],
    );
    for path in
        ["Weathers/../indices.csv", "Weathers/a/../../w1.csv", "Weathers//etc/passwd", "..\\Weathers\\..\\w1.csv"]
    {
        let text: &'static str = format!("Weathers/w1.csv\n{path}\n").leak();
        spoilt(history(text), &["line 2 names", "which leaves the folder Weathers"]);
    }
}

#[test]
fn the_command_line_says_it_with_an_exit_code() {
    let fixture = Fixture::new(&[(1, 2), (2, 3)], 16, 24);
    let out = fixture.path("fires.safetensors");
    let cache = |more: &[&str]| {
        let mut command = Command::cargo_bin("emberformer").unwrap();
        command.arg("cache").arg("--out").arg(&out).args(more);
        command
    };
    let data = fixture.root().to_str().unwrap();
    let built = cache(&["--data", data]).assert().success();
    let text = String::from_utf8_lossy(&built.get_output().stdout).into_owned();
    assert!(text.contains("packed 10 of 10 images") && text.contains("16×24 pixels"), "{text}");
    cache(&["--check"]).assert().success().stdout(predicates::str::contains("intact"));
    cache(&["--data", data]).assert().success().stdout(predicates::str::contains("up to date"));

    let mut bytes = fs::read(&out).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&out, bytes).unwrap();
    cache(&["--check"]).assert().code(1).stderr(predicates::str::contains("static tokens of sequence_002"));
    fs::write(&out, "a letter").unwrap();
    cache(&["--data", data]).assert().code(2).stderr(predicates::str::contains("is not a packed store"));
    assert_eq!(fs::read(&out).unwrap(), b"a letter");
    cache(&["--data", data, "--pad-mode", "round"]).assert().code(2);
    cache(&["--data", data, "--jobs", "0"]).assert().code(2);
}

/// A limit on file sizes stands for a full disk: writing fails in the same place.
#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_leaves_nothing_behind() {
    let fixture = Fixture::new(&[(1, 8)], 48, 56);
    let out = tempfile::tempdir().unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec {} cache --data {} --out {}",
        env!("CARGO_BIN_EXE_emberformer"),
        fixture.root().display(),
        out.path().join("store").display()
    );
    let failed = Command::new("sh").args(["-c", &script]).assert().code(1);
    let text = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
    assert!(text.contains("store.partial: cannot write"), "{text}");
    let left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".store.lock"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn altered_images_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), mend in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write_png(&path, 16, 24, png::ColorType::Rgba, &|y, x| (y * x).is_multiple_of(5));
        let mut bytes = fs::read(&path).unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if mend {
            // The header's checksum is made right again, so that what it claims is looked at.
            let crc = crc(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        }
        let grid = image::grid(16, 24, 8, PadMode::Strict).unwrap();
        let packer = image::Packer { window: (16, 24), grid, pad: PadMode::Strict };
        if let Ok(bits) = packer.pack_png(&path, &bytes, 1, 231) {
            prop_assert_eq!(bits.len(), 6);
        }
    }
}

#[test]
fn altered_text_never_panics() {
    let fixture = Fixture::new(&[(1, 1)], 8, 8);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5);
    for file in ["indices.json", "WeatherHistory.csv", "Weathers/w1.csv"] {
        let path = fixture.path("landscape").join(file);
        let whole = fs::read(&path).unwrap();
        proptest!(ProptestConfig { cases: 100, ..ProptestConfig::default() }, |(changes in changes.clone())| {
            let mut bytes = whole.clone();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            fs::write(&path, bytes).unwrap();
            let _ = DataSet::scan(fixture.root(), None);
        });
        fs::write(&path, whole).unwrap();
    }
}
