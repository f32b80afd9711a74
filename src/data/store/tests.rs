//! Stores whose checksums fit but whose claims do not: each is refused at once, whatever it promises.

use super::format::{Description, FORMAT, Layout, Sizes, VERSION, seal};
use super::*;
use proptest::prelude::*;

/// A store of two sequences of 2 and 3 frames, in memory: 16×24 pixels, one band.
struct Small {
    sizes: Sizes,
    description: Description,
    offsets: Vec<u64>,
    windows: Vec<[u64; 4]>,
}

impl Small {
    fn new() -> Self {
        let description = Description {
            format: FORMAT.into(),
            version: VERSION.into(),
            fingerprint: "f00d".into(),
            settings: format::json(&Stored {
                encoding: Encoding::default(),
                patch: 8,
                pad_mode: PadMode::Strict,
                max_sequences: None,
            }),
            sequence_ids: r#"["sequence_001","sequence_002"]"#.into(),
            band_names: r#"["elevation"]"#.into(),
        };
        Self {
            sizes: Sizes { sequences: 2, frames: 5, patches: 6, words: 1, bands: 1 },
            description,
            offsets: vec![0, 2, 5],
            windows: vec![[8, 24, 0, 24], [0, 16, 8, 32]],
        }
    }

    /// The file, sealed.
    fn bytes(&self) -> Vec<u8> {
        let layout = Layout::new(self.sizes, &self.description).unwrap();
        let mut bytes = layout.header.clone();
        bytes.resize(layout.bytes(), 0);
        let numbers = |values: &mut dyn Iterator<Item = u64>| values.flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
        let offsets = numbers(&mut self.offsets.iter().copied());
        bytes[layout.offsets][..offsets.len()].copy_from_slice(&offsets);
        let windows = numbers(&mut self.windows.iter().flatten().copied());
        bytes[layout.windows][..windows.len()].copy_from_slice(&windows);
        let frames = layout.frames.start..layout.wind.start;
        bytes[frames].iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        seal(&bytes).unwrap()
    }
}

fn open(bytes: &[u8]) -> Result<Store> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::write(&path, bytes).unwrap();
    Store::open(&path)
}

fn refused(spoil: impl FnOnce(&mut Small), expected: &str) {
    let mut small = Small::new();
    spoil(&mut small);
    let text = open(&small.bytes()).expect_err(expected).to_string();
    assert!(text.contains(expected) && text.contains("/store: "), "{text}");
}

/// Reads all that a store offers, and a few things that it does not.
fn read_all(store: &Store) {
    let words = store.grid().patches() * store.grid().words();
    for (i, sequence) in store.sequences().iter().enumerate() {
        for t in 0..sequence.frames {
            assert_eq!((store.frame(i, t).len(), store.isochrone(i, t).len()), (words, words));
        }
        assert!(store.frame(i, sequence.frames).is_empty());
        assert_eq!(store.wind(i).len(), sequence.frames);
        assert_eq!(store.statics(i).len(), store.grid().patches() * store.static_channels());
    }
    assert!(store.frame(store.sequences().len(), 0).is_empty());
    assert_eq!(store.valid_patches().len(), store.grid().patches());
    assert_eq!(store.band_ranges().len(), store.static_channels());
    let _ = store.wind_range();
}

#[test]
fn a_sealed_store_is_a_store() {
    let store = open(&Small::new().bytes()).unwrap();
    assert_eq!(store.sequences()[1].frames, 3);
    read_all(&store);
}

#[test]
fn sizes_that_no_byte_stands_behind() {
    // Without frames and bands nothing but the windows says how large a frame is.
    let huge = |s: &mut Small| {
        s.sizes = Sizes { frames: 0, patches: 1 << 58, bands: 0, ..s.sizes };
        s.description.band_names = "[]".into();
        s.offsets = vec![0, 0, 0];
        s.windows = vec![[0, 8 << 29, 0, 8 << 29]; 2];
    };
    refused(huge, "its table of frames");
    refused(|s| s.offsets = vec![0, 0, 5], "its table of frames");
    refused(|s| s.offsets = vec![0, 6, 5], "its table of frames");
    refused(|s| s.offsets = vec![1, 2, 5], "its table of frames");
    for window in [[8, 24, 24, 0], [24, 24, 0, 24], [0, u64::MAX, 0, 24], [0, 16, 0, 1 << 63]] {
        refused(|s| s.windows = vec![window; 2], "window");
    }
    refused(|s| s.windows[1] = [0, 24, 0, 16], "its windows do not fit");
    refused(
        |s| {
            s.windows = vec![[0, !7, 0, 0]; 2];
            s.sizes.patches = 0;
        },
        "its windows",
    );
    for patch in ["0", "3", "16", "18446744073709551615"] {
        refused(|s| s.description.settings = s.description.settings.replace(":8,", &format!(":{patch},")), "patch");
    }
}

#[test]
fn ids_that_would_leave_their_folder() {
    for ids in [r#"["..","a"]"#, r#"["a/b","a"]"#, r#"["/etc","a"]"#, r#"["","a"]"#, r#"["a/","a"]"#, r#"["a","a"]"#] {
        refused(|s| s.description.sequence_ids = ids.into(), "its sequences' ids");
    }
}

#[test]
fn a_header_that_claims_more_than_there_is_costs_nothing() {
    let small = Small::new();
    let bytes = small.bytes();
    for length in [100u64 << 20, (100 << 20) + 1, 1 << 60, u64::MAX] {
        let mut bytes = bytes.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(open(&bytes).is_err());
    }
    for sizes in [
        Sizes { frames: 1 << 40, ..small.sizes },
        Sizes { patches: 1 << 40, ..small.sizes },
        Sizes { frames: 1 << 30, patches: 1 << 20, ..small.sizes },
    ] {
        let header = Layout::new(sizes, &small.description).unwrap().header;
        let text = open(&[&header[..], &bytes[header.len().min(bytes.len())..]].concat()).unwrap_err().to_string();
        assert!(text.contains("truncated"), "{text}");
    }
    assert!(Layout::new(Sizes { frames: 1 << 62, ..small.sizes }, &small.description).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn sealed_or_not_altered_stores_never_panic(
        header in prop::collection::vec((any::<prop::sample::Index>(), "[0-9]{1,20}|[]\\[\\\\{},:\"]|[ -~]{0,2}"), 0..3),
        tables in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        body in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        double in prop::option::weighted(0.2, any::<(prop::sample::Index, prop::sample::Index)>()),
        sealed: bool,
    ) {
        let whole = Small::new().bytes();
        let end = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
        let (mut json, mut data) = (whole[8..end].to_vec(), whole[end..].to_vec());
        for (index, text) in header {
            let at = index.index(json.len());
            json.splice(at..(at + text.len()).min(json.len()), text.bytes());
        }
        for (index, byte) in tables {
            let at = index.index(200);
            data[at] = byte;
        }
        for (index, byte) in body {
            let at = index.index(data.len());
            data[at] = byte;
        }
        if let Some((from, to)) = double {
            let (from, to) = (from.index(data.len()), to.index(data.len()));
            let piece = data[from.min(to)..from.max(to)].to_vec();
            data.splice(from..from, piece);
        }
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json);
        bytes.extend(data);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if sealed {
            bytes = seal(&bytes).unwrap_or(bytes);
        }
        if let Ok(store) = open(&bytes) {
            prop_assert!(sealed || bytes == whole, "altered and opened");
            read_all(&store);
        }
    }
}
