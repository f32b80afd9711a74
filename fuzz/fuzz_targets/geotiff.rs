//! A GeoTIFF: its tags, windows of it, and its georeference written into another file.
#![no_main]

use emberformer::data::geotiff::{GeoTiff, write_geotiff};
use emberformer::data::raw::{Landscape, PadMode, image};
use emberformer_fuzz::file;
use libfuzzer_sys::fuzz_target;

/// The reader catches panics of the `tiff` crate on purpose; libFuzzer would end the process at any.
fn forgive_tiff() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("/tiff-")) {
            abort(info);
        }
    }));
}

fuzz_target!(init: forgive_tiff(), |data: &[u8]| {
    let path = file("landscape.tif", data);
    let Ok(mut tiff) = GeoTiff::open(&path) else { return };
    let (height, width) = (tiff.height(), tiff.width());
    assert_eq!(tiff.band_names().len(), tiff.bands());
    let side = 16;
    for (y, x) in [(0, 0), (height.saturating_sub(side), width.saturating_sub(side))] {
        let window = (y, (y + side).min(height), x, (x + side).min(width));
        if let Ok(values) = tiff.read_window(window.0, window.1, window.2, window.3) {
            assert_eq!(values.len(), tiff.bands() * (window.1 - window.0) * (window.3 - window.2));
        }
    }
    let geo = tiff.georeference().shifted(3, 4);
    let _ = write_geotiff(&path.with_file_name("copy.tif"), 2, 1, &[&[0.5, 1.0]], &["band"], tiff.no_data(), &geo);
    if height.saturating_mul(width).saturating_mul(tiff.bands()) > 1 << 18 {
        return;
    }
    let Ok(mut landscape) = Landscape::open(&path) else { return };
    let (Ok(scales), Ok(grid)) = (landscape.scales(), image::grid(8, 12, 8, PadMode::Edge)) else { return };
    if landscape.check_window("sequence_001", [0, 8, 0, 12]).is_ok() {
        let _ = landscape.tokens(&scales, [0, 8, 0, 12], grid, PadMode::Edge);
    }
});
