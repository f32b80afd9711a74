//! Batches of samples from the store, with augmentation on the fly.

use super::augment::{Augment, ScaledDirection, Symmetry};
use super::sampler::SampleId;
use super::store::Store;
use crate::model::{Inputs, Target};
use crate::patch::Grid;
use crate::{Error, Result};

/// What batches are made from: the packed store, or a few frames in memory in a test. Shapes are those of the store;
/// a sequence is named by its place, 0..`sequences()`.
pub trait FrameSource {
    /// The patch grid of all windows.
    fn grid(&self) -> Grid;
    /// Number of sequences.
    fn sequences(&self) -> usize;
    /// A sequence's folder name, such as `sequence_007`.
    fn id(&self, sequence: usize) -> &str;
    /// A sequence's number of frames.
    fn frames(&self, sequence: usize) -> usize;
    /// Burned area of step t, [N, words].
    fn frame(&self, sequence: usize, t: usize) -> &[u64];
    /// Ground truth of step t, [N, words].
    fn isochrone(&self, sequence: usize, t: usize) -> &[u64];
    /// Scaled wind speed and direction of every step, `[frames]`.
    fn wind(&self, sequence: usize) -> &[[f32; 2]];
    /// Static tokens, [N, Cs].
    fn statics(&self, sequence: usize) -> &[f32];
    /// Patches wholly inside the original window, `[N]`.
    fn valid_patches(&self) -> &[bool];
    /// Names of the static bands, `[Cs]`.
    fn band_names(&self) -> &[String];
    /// Minimum and maximum that a static band was scaled with; `[0, 1]` where it was left as it is.
    fn band_range(&self, band: usize) -> [f32; 2];
    /// Minimum and maximum of the wind direction, degrees.
    fn direction_range(&self) -> [f32; 2];
}

impl FrameSource for Store {
    fn grid(&self) -> Grid {
        self.grid()
    }
    fn sequences(&self) -> usize {
        self.sequences().len()
    }
    fn id(&self, sequence: usize) -> &str {
        &self.sequences()[sequence].id
    }
    fn frames(&self, sequence: usize) -> usize {
        self.sequences()[sequence].frames
    }
    fn frame(&self, sequence: usize, t: usize) -> &[u64] {
        self.frame(sequence, t)
    }
    fn isochrone(&self, sequence: usize, t: usize) -> &[u64] {
        self.isochrone(sequence, t)
    }
    fn wind(&self, sequence: usize) -> &[[f32; 2]] {
        self.wind(sequence)
    }
    fn statics(&self, sequence: usize) -> &[f32] {
        self.statics(sequence)
    }
    fn valid_patches(&self) -> &[bool] {
        self.valid_patches()
    }
    fn band_names(&self) -> &[String] {
        self.band_names()
    }
    fn band_range(&self, band: usize) -> [f32; 2] {
        self.band_ranges().get(band).copied().unwrap_or([0.0, 1.0])
    }
    fn direction_range(&self) -> [f32; 2] {
        self.wind_range().direction
    }
}

/// A batch on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// What it is made of, in order.
    pub samples: Vec<SampleId>,
    /// Histories, padded on the left to the longest.
    pub inputs: Inputs,
    /// Ground truth.
    pub target: Target,
}

/// Puts samples together. Histories longer than `max_seq_len` keep their most recent frames. The symmetry of a sample is
/// a pure function of `key` (seed, epoch) and the sample.
///
/// # Errors
/// No samples; a sample that the source does not have; an aspect band that it does not have.
pub fn assemble(
    source: &impl FrameSource,
    samples: &[SampleId],
    max_seq_len: usize,
    augment: &Augment,
    key: (u64, u64),
) -> Result<Batch> {
    let history = longest_history(source, samples, max_seq_len)?;
    let turning = Turning::new(source, augment)?;

    let grid = source.grid();
    let (patches, frame_words) = (grid.patches(), grid.patches() * grid.words());
    let channels = source.band_names().len();
    let batch = samples.len();
    let mut inputs = Inputs {
        batch,
        history,
        grid,
        frames: vec![0; batch * history * frame_words],
        wind: vec![0.0; batch * history * 2],
        statics: vec![0.0; batch * patches * channels],
        valid_steps: vec![false; batch * history],
    };
    let mut target = Target { bits: vec![0; batch * frame_words], valid_patches: vec![false; batch * patches] };

    for (b, &sample) in samples.iter().enumerate() {
        let SampleId { sequence, k } = sample;
        let symmetry = symmetry_of(sample, augment, grid, key);
        let frames = |from: &[u64], to: &mut [u64]| match symmetry {
            Symmetry::IDENTITY => to.copy_from_slice(from),
            _ => symmetry.bits(grid, from, to),
        };
        let real = history_of(sample, max_seq_len);
        for step in 0..real {
            let t = k + 1 - real + step;
            let row = b * history + history - real + step; // of [B, T]
            frames(source.frame(sequence, t), &mut inputs.frames[row * frame_words..][..frame_words]);
            inputs.wind[row * 2..][..2].copy_from_slice(&turning.wind(source.wind(sequence)[t], symmetry));
            inputs.valid_steps[row] = true;
        }
        let statics = &mut inputs.statics[b * patches * channels..][..patches * channels];
        symmetry.patches(grid, channels, source.statics(sequence), statics);
        for &(band, aspect) in &turning.bands {
            for value in statics.iter_mut().skip(band).step_by(channels) {
                *value = aspect.turn_aspect(*value, symmetry);
            }
        }
        frames(source.isochrone(sequence, k + 1), &mut target.bits[b * frame_words..][..frame_words]);
        symmetry.patches(grid, 1, source.valid_patches(), &mut target.valid_patches[b * patches..][..patches]);
    }
    Ok(Batch { samples: samples.to_vec(), inputs, target })
}

/// Frames of a sample's history.
pub(super) fn history_of(sample: SampleId, max_seq_len: usize) -> usize {
    sample.k.saturating_add(1).min(max_seq_len)
}

/// The longest history of a batch, which must have samples, all of them of this data set.
pub(super) fn longest_history(source: &impl FrameSource, samples: &[SampleId], max_seq_len: usize) -> Result<usize> {
    for sample in samples {
        let inside =
            sample.sequence < source.sequences() && sample.k.saturating_add(1) < source.frames(sample.sequence);
        if !inside {
            let problem = format!("sequence {} has no sample {}", sample.sequence, sample.k);
            return Err(Error::failed("batch", problem, "use the samples of this data set"));
        }
    }
    let longest = samples.iter().map(|sample| history_of(*sample, max_seq_len)).max();
    longest.filter(|&h| h > 0).ok_or_else(|| {
        let remedy = "give samples and max_seq_len of 1 or more";
        Error::failed("batch", "it has no samples or no history", remedy)
    })
}

/// The symmetry of a sample, a pure function of seed and epoch in `key`.
pub(super) fn symmetry_of(sample: SampleId, augment: &Augment, grid: Grid, key: (u64, u64)) -> Symmetry {
    match augment {
        Augment::None => Symmetry::IDENTITY,
        Augment::D4 { .. } => Symmetry::draw(grid, [key.0, key.1, sample.sequence as u64, sample.k as u64]),
    }
}

/// What turns with the picture beside the pixels: the wind and the bands that hold an aspect.
pub(super) struct Turning {
    direction: ScaledDirection,
    /// Aspect bands with their scales; none where nothing is turned.
    pub bands: Vec<(usize, ScaledDirection)>,
}

impl Turning {
    /// Of a data set and what is done to its samples.
    pub fn new(source: &impl FrameSource, augment: &Augment) -> Result<Self> {
        let known = source.band_names();
        let mut bands: Vec<(usize, ScaledDirection)> = Vec::new();
        let names: &[String] = match augment {
            Augment::None => &[],
            Augment::D4 { aspect_bands } => aspect_bands,
        };
        for name in names {
            let Some(band) = known.iter().position(|band| band == name) else {
                return Err(Error::usage(
                    "data.aspect_bands",
                    format_args!("{name} is no band of the landscape"),
                    format_args!("name one of {}", known.join(", ")),
                ));
            };
            if bands.iter().all(|(other, _)| *other != band) {
                bands.push((band, ScaledDirection::new(source.band_range(band))));
            }
        }
        Ok(Self { direction: ScaledDirection::new(source.direction_range()), bands })
    }

    /// A step's speed and direction.
    pub fn wind(&self, [speed, direction]: [f32; 2], symmetry: Symmetry) -> [f32; 2] {
        [speed, self.direction.turn(direction, symmetry)]
    }

    /// The aspects [N, A] among static tokens [N, Cs], turned; patches stay where they are.
    pub fn aspects(&self, statics: &[f32], channels: usize, symmetry: Symmetry, to: &mut [f32]) {
        for (a, &(band, aspect)) in self.bands.iter().enumerate() {
            let from = statics.iter().skip(band).step_by(channels);
            let to = to.iter_mut().skip(a).step_by(self.bands.len());
            to.zip(from).for_each(|(to, from)| *to = aspect.turn_aspect(*from, symmetry));
        }
    }

    /// Which of the aspects each band is, −1 for none: `[Cs]`.
    pub fn aspect_of(&self, channels: usize) -> Vec<i32> {
        let place = |band| self.bands.iter().position(|(aspect, _)| *aspect == band);
        (0..channels).map(|band| place(band).map_or(-1, |i| i as i32)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequences of a 2×2 grid of 4×4 patches whose step t burns the first t + 1 pixels.
    struct Fake {
        frames: Vec<Vec<u64>>,
        wind: Vec<[f32; 2]>,
        statics: Vec<f32>,
        bands: Vec<String>,
        valid: Vec<bool>,
    }

    const GRID: Grid = Grid { rows: 2, cols: 2, patch: 4 };

    impl Fake {
        fn new() -> Self {
            Self {
                frames: (0..6).map(|t| GRID.pack(|y, x| y * 8 + x <= t)).collect(),
                wind: (0..6).map(|t| [t as f32 / 10.0, t as f32 / 8.0]).collect(),
                statics: vec![0.0, 0.25, 0.1, 0.5, 0.2, 0.0, 0.3, 1.0],
                bands: vec!["fuel".into(), "aspect".into()],
                valid: vec![true, true, true, false],
            }
        }
    }

    impl FrameSource for Fake {
        fn grid(&self) -> Grid {
            GRID
        }
        fn sequences(&self) -> usize {
            3
        }
        fn id(&self, sequence: usize) -> &str {
            ["a", "b", "c"][sequence]
        }
        fn frames(&self, _sequence: usize) -> usize {
            self.frames.len()
        }
        fn frame(&self, _sequence: usize, t: usize) -> &[u64] {
            &self.frames[t]
        }
        fn isochrone(&self, sequence: usize, t: usize) -> &[u64] {
            self.frame(sequence, t)
        }
        fn wind(&self, _sequence: usize) -> &[[f32; 2]] {
            &self.wind
        }
        fn statics(&self, _sequence: usize) -> &[f32] {
            &self.statics
        }
        fn valid_patches(&self) -> &[bool] {
            &self.valid
        }
        fn band_names(&self) -> &[String] {
            &self.bands
        }
        fn band_range(&self, _band: usize) -> [f32; 2] {
            [0.0, 360.0]
        }
        fn direction_range(&self) -> [f32; 2] {
            [0.0, 360.0]
        }
    }

    fn sample(k: usize) -> SampleId {
        SampleId { sequence: 0, k }
    }

    fn d4(bands: &[&str]) -> Augment {
        Augment::D4 { aspect_bands: bands.iter().map(|&b| b.to_owned()).collect() }
    }

    #[test]
    fn histories_are_padded_on_the_left_and_cut_at_the_front() {
        let source = Fake::new();
        let batch = assemble(&source, &[sample(0), sample(4)], 3, &Augment::None, (0, 0)).unwrap();
        let inputs = &batch.inputs;
        assert_eq!((inputs.batch, inputs.history), (2, 3));
        assert_eq!(inputs.valid_steps, [false, false, true, true, true, true]);
        let zero = vec![0; 4];
        let frame = |t: usize| source.frames[t].clone();
        assert_eq!(inputs.frames, [zero.clone(), zero, frame(0), frame(2), frame(3), frame(4)].concat());
        assert_eq!(inputs.wind, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.25, 0.3, 0.375, 0.4, 0.5]);
        assert_eq!(inputs.statics, [source.statics.clone(), source.statics.clone()].concat());
        assert_eq!(batch.target.bits, [frame(1), frame(5)].concat());
        assert_eq!(batch.target.valid_patches, [source.valid.clone(), source.valid.clone()].concat());
    }

    #[test]
    fn a_sample_is_the_same_in_any_batch() {
        let source = Fake::new();
        let alone = assemble(&source, &[sample(1)], 9, &d4(&[]), (3, 4)).unwrap();
        let beside = assemble(&source, &[sample(4), sample(1)], 9, &d4(&[]), (3, 4)).unwrap();
        assert_eq!(alone.inputs.frames, beside.inputs.frames[beside.inputs.frames.len() - 8..]);
        assert_eq!(alone.inputs.wind, beside.inputs.wind[beside.inputs.wind.len() - 4..]);
        assert_eq!(alone.target.bits, beside.target.bits[4..]);
    }

    #[test]
    fn everything_of_a_sample_turns_together_and_anew_each_epoch() {
        let source = Fake::new();
        let mut seen = std::collections::HashSet::new();
        for epoch in 0..60 {
            let key = (11, epoch);
            let batch = assemble(&source, &[sample(2)], 9, &d4(&["aspect"]), key).unwrap();
            assert_eq!(batch, assemble(&source, &[sample(2)], 9, &d4(&["aspect"]), key).unwrap());
            let symmetry = Symmetry::draw(GRID, [11, epoch, 0, 2]);
            let turn = |from: &[u64]| {
                let mut to = vec![0; 4];
                symmetry.bits(GRID, from, &mut to);
                to
            };
            assert_eq!(batch.inputs.frames, source.frames[..3].iter().flat_map(|f| turn(f)).collect::<Vec<_>>());
            assert_eq!(batch.target.bits, turn(&source.frames[3]));
            let corner = batch.target.valid_patches.iter().position(|valid| !valid).unwrap();
            // The invalid patch carries the fuel 0.3 and the aspect 360 degrees wherever it goes.
            assert_eq!(batch.inputs.statics[corner * 2], 0.3);
            let degrees = |scaled: f32| (f64::from(scaled) * 360.0).rem_euclid(360.0);
            assert_eq!(degrees(batch.inputs.statics[corner * 2 + 1]), symmetry.degrees(0.0).rem_euclid(360.0));
            assert_eq!(degrees(batch.inputs.wind[5]), symmetry.degrees(90.0).rem_euclid(360.0));
            assert_eq!(batch.inputs.wind[4], 0.2, "the speed stays");
            seen.insert(batch.target.bits);
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let source = Fake::new();
        let failure = |samples: &[SampleId], augment: &Augment| {
            assemble(&source, samples, 8, augment, (0, 0)).unwrap_err().to_string()
        };
        assert!(failure(&[], &Augment::None).contains("no samples"));
        assert!(failure(&[sample(5)], &Augment::None).contains("sequence 0 has no sample 5"));
        assert!(failure(&[SampleId { sequence: 3, k: 0 }], &Augment::None).contains("sequence 3 has no sample 0"));
        assert_eq!(
            failure(&[sample(0)], &d4(&["slope"])),
            "data.aspect_bands: slope is no band of the landscape; name one of fuel, aspect"
        );
    }
}
