//! The packed store, with checksums made to fit: opening it and reading all that it offers.
#![no_main]

use emberformer::data::augment::Augment;
use emberformer::data::batch::assemble;
use emberformer::data::sampler::{Sampler, SamplerSettings};
use emberformer::data::store::{Store, seal};
use emberformer_fuzz::file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Half of the runs as they are, half with checksums that fit: the last bit of the input says which.
    let Some((choice, bytes)) = data.split_last() else { return };
    let sealed = if choice & 1 == 1 { seal(bytes) } else { None };
    let path = file("store", sealed.as_deref().unwrap_or(bytes));
    let Ok(store) = Store::open(&path) else { return };
    let words = store.grid().patches() * store.grid().words();
    for (i, sequence) in store.sequences().iter().enumerate() {
        for t in 0..sequence.frames {
            assert_eq!((store.frame(i, t).len(), store.isochrone(i, t).len()), (words, words));
        }
        assert_eq!(store.wind(i).len(), sequence.frames);
        assert_eq!(store.statics(i).len(), store.grid().patches() * store.static_channels());
    }
    assert_eq!(store.valid_patches().len(), store.grid().patches());
    assert_eq!(store.band_ranges().len(), store.static_channels());
    let ids: Vec<String> = store.sequences().iter().map(|s| s.id.clone()).collect();
    let settings = SamplerSettings {
        batch_size: 2,
        seed: 1,
        shuffle: true,
        drop_last: false,
        bucket_by_length: true,
        max_seq_len: 4,
    };
    let Ok(sampler) = Sampler::new(&store, &ids, settings) else { return };
    let turned = Augment::D4 { aspect_bands: store.band_names().iter().take(1).cloned().collect() };
    for samples in sampler.epoch(0).iter().take(2) {
        for augment in [&Augment::None, &turned] {
            assemble(&store, samples, 4, augment, (3, 0)).expect("a batch of the store's own samples");
        }
    }
});
