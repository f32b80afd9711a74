//! The small files of a data set and a split file: the first byte says which one the rest is.
#![no_main]

use emberformer::data::raw::DataSet;
use emberformer::data::split::Split;
use emberformer_fuzz::file;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::OnceLock;

const FILES: [(&str, &[u8]); 3] = [
    ("landscape/indices.json", br#"{"1": [0, 16, 0, 24], "2": [8, 24, 3, 27]}"#),
    ("landscape/WeatherHistory.csv", b"a/Weathers/w1.csv\nw1.csv\n"),
    ("landscape/Weathers/w1.csv", b"Instance,WS,WD\nx,1,2\ny,3,4\n"),
];

/// A data set that is complete but for its pixels.
fn data_set() -> PathBuf {
    for (name, bytes) in FILES {
        file(name, bytes);
    }
    let mut root = PathBuf::new();
    for (sequence, frame) in [(1, 0), (1, 1), (2, 0)] {
        for (folder, kind) in [("fire_frames", "fire"), ("isochrones", "iso")] {
            let image = file(&format!("{folder}/sequence_{sequence:03}/{kind}_{frame:03}.png"), b"");
            root = image.ancestors().nth(3).expect("the root").to_path_buf();
        }
    }
    root
}

fuzz_target!(|data: &[u8]| {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(data_set);
    let Some((choice, bytes)) = data.split_first() else { return };
    let Some((name, whole)) = FILES.get(usize::from(choice & 3)) else {
        let path = file("split.json", bytes);
        let ids = ["sequence_001".to_string(), "sequence_002".to_string()];
        if let Ok(split) = Split::read(&path, &ids) {
            split.write(&path).expect("what was read can be written");
            assert_eq!(Split::read(&path, &ids).ok(), Some(split));
        }
        return;
    };
    file(name, bytes);
    if let Ok(set) = DataSet::scan(root, None) {
        let range = set.weather().range();
        for sequence in set.sequences() {
            for wind in set.weather().wind(&sequence.weather) {
                assert!(range.scale(*wind).iter().all(|v| (0.0..=1.0).contains(v)), "{wind:?} of {range:?}");
            }
        }
    }
    file(name, whole);
});
