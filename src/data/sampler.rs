//! The order in which samples are visited.

use super::batch::FrameSource;
use super::shuffle::{generator, shuffle};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// One sample: frames 0..=k of a sequence as history, isochrone k + 1 as target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleId {
    /// The sequence's place in the store.
    pub sequence: usize,
    /// Index of the last frame of the history.
    pub k: usize,
}

/// How samples become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerSettings {
    /// Samples in a batch.
    pub batch_size: usize,
    /// Together with the epoch it decides the order.
    pub seed: u64,
    /// Whether the order changes from epoch to epoch.
    pub shuffle: bool,
    /// Whether training leaves out the samples that fill no whole batch (a set smaller than one batch stays whole).
    pub drop_last: bool,
    /// Whether samples of like history share a batch, which saves the work on padding.
    pub bucket_by_length: bool,
    /// Frames of history at most; longer ones keep their most recent frames.
    pub max_seq_len: usize,
}

/// The samples of one part of the split.
#[derive(Debug, Clone)]
pub struct Sampler {
    samples: Vec<SampleId>,
    settings: SamplerSettings,
}

/// Batches whose samples are sorted by length together: enough for little padding, few enough to keep epochs different.
const BATCHES_IN_A_CHUNK: usize = 64;

impl Sampler {
    /// The samples of the sequences `ids`.
    ///
    /// # Errors
    /// An id that the source does not have; no sample at all; a batch size or history of 0.
    pub fn new(source: &impl FrameSource, ids: &[String], settings: SamplerSettings) -> Result<Sampler> {
        let place: HashMap<&str, usize> = (0..source.sequences()).map(|i| (source.id(i), i)).collect();
        let mut sequences = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(&i) = place.get(id.as_str()) else {
                let problem = format!("{id} is not among the {} sequences of the data set", place.len());
                return Err(Error::failed("split", problem, "use the split of this data set"));
            };
            sequences.push((i, source.frames(i)));
        }
        Self::of(sequences, settings)
    }

    /// The samples of sequences given as (place in the store, frames).
    fn of(mut sequences: Vec<(usize, usize)>, settings: SamplerSettings) -> Result<Sampler> {
        if settings.batch_size == 0 || settings.max_seq_len == 0 {
            return Err(Error::usage("sampler", "a batch size or a history of 0", "give 1 or more"));
        }
        sequences.sort_unstable();
        let samples: Vec<SampleId> = sequences
            .iter()
            .flat_map(|&(sequence, frames)| (0..frames.saturating_sub(1)).map(move |k| SampleId { sequence, k }))
            .collect();
        if samples.is_empty() {
            let problem = format!("{} sequences hold no sample", sequences.len());
            return Err(Error::failed("split", problem, "give sequences of two frames or more"));
        }
        Ok(Sampler { samples, settings })
    }

    /// All samples in order of sequence and k.
    pub fn samples(&self) -> &[SampleId] {
        &self.samples
    }

    /// The training batches of an epoch: a pure function of seed and epoch, so that a resumed run needs no state.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<SampleId>> {
        let SamplerSettings { batch_size, seed, .. } = self.settings;
        let mut rng = generator([seed, epoch, 0, u64::from_le_bytes(*b"sampler ")]);
        let mut samples = self.samples.clone();
        if self.settings.shuffle {
            shuffle(&mut samples, &mut rng);
        }
        // Before the sorting, or it would always be the longest histories that are left out.
        if self.settings.drop_last && samples.len() > batch_size {
            samples.truncate(samples.len() / batch_size * batch_size);
        }
        if self.settings.bucket_by_length {
            for chunk in samples.chunks_mut(batch_size.saturating_mul(BATCHES_IN_A_CHUNK)) {
                chunk.sort_by_key(|sample| self.history(sample));
            }
        }
        let mut batches: Vec<_> = samples.chunks(batch_size).map(<[_]>::to_vec).collect();
        if self.settings.bucket_by_length && self.settings.shuffle {
            shuffle(&mut batches, &mut rng);
        }
        batches
    }

    /// Every sample once, in order: the batches of an evaluation.
    pub fn in_order(&self) -> Vec<Vec<SampleId>> {
        self.samples.chunks(self.settings.batch_size).map(<[_]>::to_vec).collect()
    }

    /// Every sample once, in order, each in a batch of its own: for what is told apart by sample.
    pub fn singly(&self) -> Vec<Vec<SampleId>> {
        self.samples.iter().map(|sample| vec![*sample]).collect()
    }

    /// Frames of a sample's history.
    fn history(&self, sample: &SampleId) -> usize {
        (sample.k + 1).min(self.settings.max_seq_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> SamplerSettings {
        SamplerSettings {
            batch_size: 4,
            seed: 7,
            shuffle: true,
            drop_last: false,
            bucket_by_length: false,
            max_seq_len: 32,
        }
    }

    fn lengths(batches: &[Vec<SampleId>]) -> Vec<Vec<usize>> {
        batches.iter().map(|b| b.iter().map(|s| s.k + 1).collect()).collect()
    }

    #[test]
    fn a_sequence_gives_one_sample_less_than_frames_in_order() {
        let sampler = Sampler::of(vec![(5, 3), (2, 2), (9, 1)], settings()).unwrap();
        let expected = [(2, 0), (5, 0), (5, 1)].map(|(sequence, k)| SampleId { sequence, k });
        assert_eq!(sampler.samples(), expected);
        assert_eq!(sampler.in_order(), [expected]);
    }

    #[test]
    fn nothing_to_visit_is_an_error() {
        assert!(Sampler::of(vec![(0, 1)], settings()).unwrap_err().to_string().contains("1 sequences hold no sample"));
        assert!(Sampler::of(vec![(0, 5)], SamplerSettings { batch_size: 0, ..settings() }).is_err());
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let sampler = Sampler::of(vec![(0, 20), (1, 7)], settings()).unwrap();
        assert_eq!(sampler.epoch(3), sampler.epoch(3));
        assert_ne!(sampler.epoch(3), sampler.epoch(4));
        let other = Sampler::of(vec![(0, 20), (1, 7)], SamplerSettings { seed: 8, ..settings() }).unwrap();
        assert_ne!(sampler.epoch(3), other.epoch(3));
        let fixed = Sampler::of(vec![(0, 20), (1, 7)], SamplerSettings { shuffle: false, ..settings() }).unwrap();
        assert_eq!(fixed.epoch(3), fixed.in_order());
    }

    #[test]
    fn buckets_share_a_length_where_they_can() {
        let sequences: Vec<_> = (0..8).map(|i| (i, 6)).collect();
        let sampler = Sampler::of(sequences, SamplerSettings { bucket_by_length: true, ..settings() }).unwrap();
        let lengths = lengths(&sampler.epoch(0));
        assert!(lengths.iter().all(|batch| batch.iter().all(|l| *l == batch[0])), "{lengths:?}");
        let firsts: Vec<_> = lengths.iter().map(|batch| batch[0]).collect();
        assert!(!firsts.is_sorted(), "batches are shuffled: {firsts:?}");
    }

    /// Share of an epoch's steps that are padding.
    fn padding(sequences: &[usize], batch_size: usize, bucket_by_length: bool) -> f64 {
        let settings = SamplerSettings { batch_size, bucket_by_length, ..settings() };
        let sampler = Sampler::of(sequences.iter().copied().enumerate().collect(), settings).unwrap();
        let (mut real, mut all) = (0, 0);
        for batch in sampler.epoch(0) {
            let histories: Vec<usize> = batch.iter().map(|sample| sampler.history(sample)).collect();
            real += histories.iter().sum::<usize>();
            all += batch.len() * histories.iter().max().unwrap();
        }
        1.0 - real as f64 / all as f64
    }

    #[test]
    fn buckets_leave_little_padding() {
        // Fires of 2 to 25 frames, more than half of them of at most 6, as in the original data set.
        let sequences: Vec<usize> = (0..400).map(|i| if i % 7 < 4 { 2 + i % 5 } else { 7 + i % 19 }).collect();
        for batch_size in [4, 16] {
            let (with, without) = (padding(&sequences, batch_size, true), padding(&sequences, batch_size, false));
            assert!(without > 0.4 && with < 0.03, "batches of {batch_size}: {with:.3} with, {without:.3} without");
        }
    }

    proptest! {
        #[test]
        fn an_epoch_visits_every_sample_once(
            frames in prop::collection::vec(2usize..12, 1..20),
            (seed, epoch) in any::<(u64, u64)>(), (batch_size, max_seq_len) in (1usize..9, 1usize..9),
            (shuffle, drop_last, bucket_by_length) in any::<(bool, bool, bool)>(),
        ) {
            let settings = SamplerSettings { batch_size, seed, shuffle, drop_last, bucket_by_length, max_seq_len };
            let sampler = Sampler::of(frames.into_iter().enumerate().collect(), settings).unwrap();
            let n = sampler.samples().len();
            let batches = sampler.epoch(epoch);
            let mut seen = batches.concat();
            seen.sort_unstable();
            let expected = if drop_last && n > batch_size { n / batch_size * batch_size } else { n };
            prop_assert_eq!(seen.len(), expected);
            seen.dedup();
            prop_assert_eq!(seen.len(), expected, "a sample came twice");
            prop_assert!(batches.iter().all(|b| b.len() <= batch_size && !b.is_empty()));
            prop_assert!(batches.iter().filter(|b| b.len() < batch_size).count() <= 1);
        }
    }
}
