use super::*;
use crate::data::geotiff::GeoTiff;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn small(sequences: usize) -> SynthSettings {
    SynthSettings { sequences, size: 48, landscape: Some([260, 300]), cell: Some(90.0), seed: 5 }
}

fn run(settings: &SynthSettings, threads: usize) -> (tempfile::TempDir, PathBuf, SynthSummary) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("fires");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let summary = pool.install(|| generate(settings, &out, &ProgressBar::hidden())).unwrap();
    (folder, out, summary)
}

/// All files below a folder by their path in it.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn any_number_of_threads_writes_the_same_bytes_and_another_seed_does_not() {
    let settings = small(10);
    let (_a, one, _) = run(&settings, 1);
    let (_b, four, _) = run(&settings, 4);
    let (one, four) = (contents(&one), contents(&four));
    assert_eq!(one.keys().collect::<Vec<_>>(), four.keys().collect::<Vec<_>>());
    for (path, bytes) in &one {
        assert!(four[path] == *bytes, "{} differs", path.display());
    }
    let (_c, other, _) = run(&SynthSettings { seed: 6, ..settings }, 2);
    assert_ne!(contents(&other)[Path::new("landscape/indices.json")], one[Path::new("landscape/indices.json")]);
}

#[test]
fn lengths_and_burned_share_are_those_of_the_original_data() {
    let (_folder, out, summary) = run(&small(60), 2);
    assert!((0.03..0.08).contains(&summary.burned_share), "{}", summary.burned_share);
    assert!(summary.short_share > 0.5, "{}", summary.short_share);
    let count = |i: usize| std::fs::read_dir(out.join(format!("fire_frames/sequence_{i:03}"))).unwrap().count();
    let lengths: Vec<usize> = (1..=60).map(count).collect();
    assert!(lengths.iter().all(|n| (2..=20).contains(n)) && lengths.iter().any(|&n| n > 12), "{lengths:?}");
    assert_eq!(lengths.iter().sum::<usize>(), summary.frames);
}

/// Reads one picture back: whether each pixel's green is that of fire, after checking that nothing else comes near.
fn burned(path: &Path, size: u32) -> Vec<bool> {
    let picture = image::open(path).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (size, size));
    let burned = |p: &image::Rgb<u8>| {
        assert!(p.0 == write::BURNED || p.0 == write::UNBURNED, "{:?}", p.0);
        p.0[1] == 231
    };
    picture.pixels().map(burned).collect()
}

#[test]
fn every_sequence_reads_back_and_grows_from_its_ignitions_over_fuel_alone() {
    let settings = small(25);
    let (_folder, out, _) = run(&settings, 2);
    let size = settings.size;
    let mut map = GeoTiff::open(&out.join("landscape/Input_Geotiff.tif")).unwrap();
    assert_eq!((map.width(), map.height(), map.no_data()), (300, 260, Some(-9999.0)));
    assert_eq!(map.band_names(), vegetation::BAND_NAMES);
    assert_eq!(map.georeference().pixel_scale[..2], [90.0, 90.0]);
    let text = std::fs::read_to_string(out.join("landscape/indices.json")).unwrap();
    let indices: BTreeMap<String, [usize; 4]> = serde_json::from_str(&text).unwrap();
    let history = std::fs::read_to_string(out.join("landscape/WeatherHistory.csv")).unwrap();
    let notes: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("synth.json")).unwrap()).unwrap();
    assert_eq!((indices.len(), history.lines().count()), (25, 25));

    for (i, file) in history.lines().enumerate() {
        let name = format!("sequence_{:03}", i + 1);
        let [y0, y1, x0, x1] = indices[&(i + 1).to_string()];
        assert!(y1 - y0 == size && x1 - x0 == size && y1 <= 260 && x1 <= 300);
        let bands = map.read_window(y0, y1, x0, x1).unwrap();
        assert!(bands.iter().all(|v| v.is_finite()));
        let code = &bands[..size * size];

        let frames = std::fs::read_dir(out.join("fire_frames").join(&name)).unwrap().count();
        let masks: Vec<Vec<bool>> = (0..frames)
            .map(|t| burned(&out.join(format!("fire_frames/{name}/fire_{t:03}.png")), size as u32))
            .collect();
        for (t, mask) in masks.iter().enumerate() {
            assert!(*mask == burned(&out.join(format!("isochrones/{name}/iso_{t:03}.png")), size as u32));
            assert!(t == 0 || masks[t - 1].iter().zip(mask).all(|(before, now)| *before <= *now));
            assert!(mask.iter().zip(code).all(|(b, code)| !b || *code >= 100.0), "{name} burns what does not burn");
            let ignitions: Vec<[usize; 2]> = serde_json::from_value(notes["fires"][i]["ignitions"].clone()).unwrap();
            let joined = joined_to(mask, size, &ignitions);
            assert_eq!(joined, mask.iter().filter(|b| **b).count(), "{name}, frame {t}: fire apart from its ignitions");
        }
        let first = masks[0].iter().filter(|b| **b).count();
        assert!(first > 0 && first < masks[frames - 1].iter().filter(|b| **b).count(), "{name} does not grow");

        let mut table = csv::Reader::from_path(out.join(file)).unwrap();
        let header = table.headers().unwrap().clone();
        let column = |name: &str| header.iter().position(|h| h == name).unwrap();
        let (speed, direction) = (column("WS"), column("WD"));
        let rows: Vec<csv::StringRecord> = table.records().map(|r| r.unwrap()).collect();
        assert!(rows.len() > frames);
        for row in rows {
            let (speed, direction) = (row[speed].parse::<f64>().unwrap(), row[direction].parse::<f64>().unwrap());
            assert!(speed > 0.0 && (0.0..360.0).contains(&direction));
        }
    }
}

/// Burned pixels that can be reached from the ignitions over burned pixels, sides and corners.
fn joined_to(mask: &[bool], size: usize, ignitions: &[[usize; 2]]) -> usize {
    let mut seen = vec![false; mask.len()];
    let mut open: Vec<usize> = ignitions.iter().map(|[y, x]| y * size + x).filter(|&i| mask[i]).collect();
    open.iter().for_each(|&i| seen[i] = true);
    let mut count = 0;
    while let Some(i) = open.pop() {
        count += 1;
        let (y, x) = (i / size, i % size);
        for ny in y.saturating_sub(1)..=(y + 1).min(size - 1) {
            for nx in x.saturating_sub(1)..=(x + 1).min(size - 1) {
                let n = ny * size + nx;
                if mask[n] && !seen[n] {
                    seen[n] = true;
                    open.push(n);
                }
            }
        }
    }
    count
}

#[test]
fn a_folder_with_anything_in_it_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("fires");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine.txt"), "precious").unwrap();
    let error = generate(&small(2), &out, &ProgressBar::hidden()).unwrap_err();
    assert!(error.to_string().contains("fires: the folder is not empty"), "{error}");
    assert_eq!(std::fs::read_to_string(out.join("mine.txt")).unwrap(), "precious");
    let error = generate(&small(2), &out.join("mine.txt"), &ProgressBar::hidden()).unwrap_err();
    assert!(error.to_string().contains("not a folder"), "{error}");
    // Nothing half-written stays beside it either.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    std::fs::remove_file(out.join("mine.txt")).unwrap();
    generate(&small(2), &out, &ProgressBar::hidden()).unwrap();
    assert!(out.join("contact_sheet.png").is_file());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |settings: SynthSettings, option: &str| {
        let error = generate(&settings, &folder.path().join("fires"), &ProgressBar::hidden()).unwrap_err();
        assert!(error.kind() == crate::error::Kind::Usage && error.to_string().starts_with(option), "{error}");
    };
    refused(SynthSettings { sequences: 0, ..small(2) }, "--sequences");
    refused(SynthSettings { size: 15, ..small(2) }, "--size");
    refused(SynthSettings { landscape: Some([50, 300]), ..small(2) }, "--landscape");
    refused(SynthSettings { landscape: Some([usize::MAX, usize::MAX]), ..small(2) }, "--landscape");
    refused(SynthSettings { cell: Some(f64::NAN), ..small(2) }, "--cell");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
