//! A PNG into patch bits. The first two bytes choose window, patch side, padding and channel.
#![no_main]

use emberformer::data::raw::{PadMode, image};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, channel], bytes)) = data.split_first_chunk() else { return };
    // The header's own size, where it is small, so that what follows it is looked at.
    let size = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
            .filter(|n| (1..=256).contains(n))
    };
    let window = (size(20).unwrap_or(16), size(16).unwrap_or(24));
    let patch = [4, 8, 16, 8][usize::from(choice & 3)];
    let pad = [PadMode::Edge, PadMode::Constant, PadMode::Strict, PadMode::PadToMultiple][usize::from(choice >> 2 & 3)];
    let Ok(grid) = image::grid(window.0, window.1, patch, pad) else { return };
    let packer = image::Packer { window, grid, pad };
    if let Ok(bits) = packer.pack_png(Path::new("fire_000.png"), bytes, usize::from(channel), 231) {
        assert_eq!(bits.len(), grid.patches() * grid.words());
    }
});
