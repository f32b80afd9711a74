//! GeoTIFF reading over every layout, writing, and what broken files say.

use emberformer::Result;
use emberformer::data::geotiff::{GeoTiff, Georeference, write_geotiff};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff")
}

/// What the fixtures hold.
fn value(band: usize, y: usize, x: usize) -> f32 {
    1000.0 * band as f32 + 10.0 * y as f32 + x as f32 / 8.0
}

fn check_window(tiff: &mut GeoTiff, [y0, y1, x0, x1]: [usize; 4], name: &str) {
    let read = tiff.read_window(y0, y1, x0, x1).unwrap();
    let mut expected = Vec::new();
    for band in 0..tiff.bands() {
        for y in y0..y1 {
            expected.extend((x0..x1).map(|x| value(band, y, x)));
        }
    }
    assert_eq!(read, expected, "{name}, window {y0}..{y1}, {x0}..{x1}");
}

/// The error of `result` as text.
fn error<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn every_layout_reads_the_same() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "tif") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut tiff = GeoTiff::open(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((tiff.bands(), tiff.height(), tiff.width()), (3, 13, 21), "{name}");
        assert_eq!(tiff.band_names(), ["band_1", "band_2", "band_3"]);
        assert_eq!(tiff.no_data(), None);
        for window in [[0, 13, 0, 21], [3, 12, 15, 21], [12, 13, 20, 21], [4, 6, 0, 17], [0, 13, 0, 21]] {
            check_window(&mut tiff, window, &name);
        }
        seen += 1;
    }
    assert_eq!(seen, 4 + 3 * 3 * 4 + 1, "none, and three codecs with three predictors, in four layouts each; BigTIFF");
}

fn planes(bands: usize, height: usize, width: usize) -> Vec<Vec<f32>> {
    (0..bands).map(|b| (0..height * width).map(|i| value(b, i / width, i % width)).collect()).collect()
}

fn write(path: &Path, bands: usize, height: usize, width: usize, names: &[&str], geo: &Georeference) {
    let planes = planes(bands, height, width);
    let planes: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
    write_geotiff(path, width, height, &planes, names, Some(-9999.0), geo).unwrap();
}

fn somewhere() -> Georeference {
    Georeference {
        pixel_scale: vec![80.0, 80.0, 0.0],
        tiepoints: vec![0.0, 0.0, 0.0, 300_000.0, 4_000_000.0, 0.0],
        transformation: vec![],
        keys: vec![1, 1, 0, 1, 1024, 0, 1, 1],
        doubles: vec![6_378_137.0],
        ascii: "WGS 84 / UTM zone 31N|".into(),
    }
}

#[test]
fn what_is_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    for (bands, height, width) in [(1, 1, 1), (1, 40, 7), (8, 33, 50), (3, 300, 500)] {
        let path = folder.path().join("written.tif");
        let names = ["a & <b>", "élévation", "c", "d", "e", "f", "g", "h"];
        write(&path, bands, height, width, &names[..bands], &somewhere());
        let mut tiff = GeoTiff::open(&path).unwrap();
        assert_eq!((tiff.bands(), tiff.height(), tiff.width()), (bands, height, width));
        assert_eq!(tiff.band_names(), names[..bands]);
        assert_eq!(tiff.no_data(), Some(-9999.0));
        assert_eq!(tiff.georeference(), somewhere());
        check_window(&mut tiff, [0, height, 0, width], "written");
        check_window(&mut tiff, [height / 2, height, width / 2, width], "written");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn bands_of_another_size_are_refused() {
    let path = Path::new("refused.tif");
    let refused = |bands: &[&[f32]], names: &[&str]| {
        error(write_geotiff(path, 2, 2, bands, names, None, &Georeference::default()))
    };
    assert!(refused(&[&[0.0; 4], &[0.0; 3]], &["a", "b"]).contains("band 2 has 3 pixels, not 2×2"));
    assert!(refused(&[&[0.0; 4]], &[]).contains("1 bands with 0 names"));
    assert!(!path.exists());
}

#[test]
fn a_window_outside_is_refused() {
    let mut tiff = GeoTiff::open(&fixtures().join("zstd_3_tiles_planar.tif")).unwrap();
    for (y0, y1, x0, x1) in [(0, 14, 0, 5), (0, 5, 20, 22), (5, 5, 0, 1), (6, 5, 0, 1), (0, usize::MAX, 0, 1)] {
        let text = error(tiff.read_window(y0, y1, x0, x1));
        assert!(
            text.contains("zstd_3_tiles_planar.tif") && text.contains("not inside its 13 rows and 21 columns"),
            "{text}"
        );
    }
    assert!(error(tiff.read_band(3, 0, 1, 0, 1)).contains("none of number 4"));
}

#[test]
fn broken_files_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.tif");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let text = error(GeoTiff::open(&path));
        assert!(text.contains("broken.tif"), "{text}");
        text
    };
    assert!(error(GeoTiff::open(&folder.path().join("absent.tif"))).contains("check the path"));
    assert!(open(b"").contains("cannot be decoded"));
    assert!(open(b"not a TIFF at all").contains("cannot be decoded"));

    write(&path, 2, 64, 64, &["a", "b"], &somewhere());
    let whole = std::fs::read(&path).unwrap();
    for cut in [9, whole.len() / 2, whole.len() - 1] {
        assert!(open(&whole[..cut]).contains("truncated"), "cut to {cut} of {}", whole.len());
    }

    use tiff::encoder::{TiffEncoder, colortype};
    let mut file = std::fs::File::create(&path).unwrap();
    TiffEncoder::new(&mut file).unwrap().write_image::<colortype::Gray32>(2, 2, &[1, 2, 3, 4]).unwrap();
    assert!(error(GeoTiff::open(&path)).contains("integers, not float32"));
    let mut file = std::fs::File::create(&path).unwrap();
    TiffEncoder::new(&mut file).unwrap().write_image::<colortype::Gray8>(2, 2, &[1, 2, 3, 4]).unwrap();
    assert!(error(GeoTiff::open(&path)).contains("gdal_translate -ot Float32"));
    let mut file = std::fs::File::create(&path).unwrap();
    TiffEncoder::new(&mut file).unwrap().write_image::<colortype::RGB32Float>(1, 1, &[1., 2., 3.]).unwrap();
    assert!(error(GeoTiff::open(&path)).contains("not float32 bands"));
}

/// The place in `bytes` of the value of a tag with one value, in a little-endian classic TIFF.
fn tag_value(bytes: &[u8], tag: u16) -> usize {
    let u16_at = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
    let directory = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let entries = (0..u16_at(directory) as usize).map(|i| directory + 2 + 12 * i);
    entries.into_iter().find(|&entry| u16_at(entry) == tag).expect("the tag") + 8
}

#[test]
fn claimed_sizes_are_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.tif");
    let (width, height, rows_per_strip) = (256, 257, 278);
    write(&path, 1, 64, 64, &["a"], &Georeference::default());
    let whole = std::fs::read(&path).unwrap();
    for tags in [vec![width], vec![height, rows_per_strip], vec![width, height, rows_per_strip]] {
        let mut bytes = whole.clone();
        for &tag in &tags {
            let at = tag_value(&bytes, tag);
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        }
        std::fs::write(&path, &bytes).unwrap();
        let text = error(GeoTiff::open(&path));
        assert!(text.contains("huge.tif"), "{text}");
    }
    let mut bytes = whole;
    let at = tag_value(&bytes, width);
    bytes[at..at + 4].copy_from_slice(&(1u32 << 19).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let opened = GeoTiff::open(&path).and_then(|mut tiff| tiff.read_window(0, 64, 0, 1 << 19));
    let text = error(opened);
    assert!(text.contains("strip or tile 0") && text.contains("copy or write the GeoTIFF again"), "{text}");
}

#[test]
fn strips_that_the_file_leaves_out_hold_no_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.tif");
    write(&path, 1, 4, 4, &["a"], &Georeference::default());
    let mut bytes = std::fs::read(&path).unwrap();
    let (offset, count) = (tag_value(&bytes, 273), tag_value(&bytes, 279));
    bytes[offset..offset + 4].fill(0);
    bytes[count..count + 4].fill(0);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(GeoTiff::open(&path).unwrap().read_window(0, 2, 0, 2).unwrap(), [-9999.0; 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn altered_bytes_never_panic(
        fixture in 0..4usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        near_the_tags in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let names = ["deflate_3_tiles_planar", "lzw_2_strips_chunky", "zstd_1_strips_planar", "big_endian_bigtiff"];
        let mut bytes = std::fs::read(fixtures().join(names[fixture]).with_extension("tif")).unwrap();
        for (place, byte) in changes {
            // tifffile writes the tags first: half of the runs alter nothing else.
            let length = if near_the_tags { 400.min(bytes.len()) } else { bytes.len() };
            bytes[place.index(length)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("altered.tif");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(mut tiff) = GeoTiff::open(&path) {
            let (height, width) = (tiff.height().min(64), tiff.width().min(64));
            let _ = tiff.read_window(0, height, 0, width);
        }
    }
}
