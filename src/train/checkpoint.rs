//! Checkpoints: one safetensors file with the weights and running statistics under the names of SPEC §2, Adam's moments
//! as `optimizer.exp_avg.<name>` and `optimizer.exp_avg_sq.<name>`, and everything else that a run needs to go on to the
//! same bytes as JSON in the metadata entry `emberformer`: `{"format_version", "checksum", "state"}`.
//!
//! Batch norms also get PyTorch's `num_batches_tracked`, so that without its `optimizer.` entries a file loads strictly
//! into the PyTorch model. The checksum is the XXH3-128 of the state's text and of every tensor's name, shape and bytes.

use crate::extent::Defect;
use crate::model::ModelSettings;
use crate::storage::write_whole;
use crate::train::metrics::{Metrics, Totals};
use crate::train::stopping::Stopping;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// The format that this program writes, and the only one it reads.
pub const FORMAT_VERSION: u64 = 1;

const METADATA_KEY: &str = "emberformer";
const FIRST_MOMENT: &str = "optimizer.exp_avg.";
const SECOND_MOMENT: &str = "optimizer.exp_avg_sq.";
const RUNNING_MEAN: &str = ".running_mean";
const BATCHES_TRACKED: &str = ".num_batches_tracked";

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
}

/// What a run needs besides tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The network's settings.
    pub model: ModelSettings,
    /// What the network was trained on.
    pub data: DataDescription,
    /// Where the run stands.
    pub progress: Progress,
    /// Early stopping.
    pub stopping: Stopping,
    /// The metrics of each finished epoch.
    pub history: Vec<Metrics>,
    /// The settings that decide the result; a run can only be resumed with the same ones.
    pub recipe: serde_json::Value,
    /// The resolved configuration, as its YAML text.
    pub config: String,
}

impl State {
    /// Whether later sums with its numbers cannot overflow; what is wrong where they can.
    fn check(&self) -> std::result::Result<(), String> {
        self.model.check().map_err(|e| format!("its settings: {e}"))?;
        // Any seed is a good one.
        let counters = serde_json::to_value((Progress { seed: 0, ..self.progress }, self.stopping));
        match counters.ok().as_ref().and_then(largest) {
            Some(n) if n > LARGEST_COUNTER => Err(format!("it counts {n} of something")),
            _ => Ok(()),
        }
    }
}

/// No run counts this many of anything.
const LARGEST_COUNTER: u64 = 1 << 53;

/// The largest whole number in a value.
fn largest(value: &serde_json::Value) -> Option<u64> {
    match value {
        serde_json::Value::Array(items) => items.iter().filter_map(largest).max(),
        serde_json::Value::Object(entries) => entries.values().filter_map(largest).max(),
        other => other.as_u64(),
    }
}

/// What the network was trained on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataDescription {
    /// Names of the static bands in order.
    pub band_names: Vec<String>,
    /// How each band was scaled: what was subtracted, and what the difference was divided by.
    pub band_scales: Vec<[f64; 2]>,
    /// Minimum and maximum of wind speed and of wind direction, which are scaled to [0, 1].
    pub wind_range: [[f32; 2]; 2],
    /// The packed store's fingerprint of source files and settings.
    pub fingerprint: String,
}

/// Where a run stands. All randomness is a pure function of seed, epoch and step, so this is also the sampler's and the
/// random generators' state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Seed of the run.
    pub seed: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// The epoch that is under way, from 0; equal to the number of finished epochs.
    pub epoch: u64,
    /// Steps done within that epoch.
    pub position: u64,
    /// Updates that Adam has made to each parameter group, in the order of [`crate::model::Group`].
    pub optimizer_updates: [u64; 3],
    /// Lines of metrics.jsonl written.
    pub rows: u64,
    /// Losses and counts of the epoch so far.
    pub totals: Totals,
}

/// A checkpoint in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Everything but tensors.
    pub state: State,
    /// Weights and running statistics by name.
    pub weights: BTreeMap<String, HostTensor>,
    /// Adam's first and second moments by the weight's name.
    pub moments: BTreeMap<String, (HostTensor, HostTensor)>,
}

#[derive(Serialize)]
struct EnvelopeOut<'a> {
    format_version: u64,
    checksum: String,
    state: &'a RawValue,
}

#[derive(Deserialize)]
struct EnvelopeIn<'a> {
    checksum: String,
    #[serde(borrow)]
    state: &'a RawValue,
}

/// Just the version, which is looked at before anything else.
#[derive(Deserialize)]
struct Version {
    format_version: u64,
}

/// Sums the state's text and the tensors. Lengths go in first, so that nothing can move between neighbours.
struct Checksum(Xxh3);

impl Checksum {
    fn new(state: &str) -> Self {
        let mut sum = Self(Xxh3::new());
        sum.part(state.as_bytes());
        sum
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn tensor(&mut self, name: &str, view: &TensorView) {
        self.part(name.as_bytes());
        self.part(view.dtype().to_string().as_bytes());
        for &size in view.shape() {
            self.0.update(&(size as u64).to_le_bytes());
        }
        self.part(view.data());
    }

    fn hex(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}

impl Checkpoint {
    /// The file's bytes; the same checkpoint gives the same bytes.
    ///
    /// # Errors
    /// A tensor whose values do not fill its shape.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut add = |name: String, tensor: &HostTensor| {
            let bytes = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.push((name, Dtype::F32, tensor.shape.clone(), bytes));
        };
        for (name, tensor) in &self.weights {
            add(name.clone(), tensor);
        }
        for (name, (first, second)) in &self.moments {
            add(format!("{FIRST_MOMENT}{name}"), first);
            add(format!("{SECOND_MOMENT}{name}"), second);
        }
        for name in self.weights.keys().filter_map(|name| name.strip_suffix(RUNNING_MEAN)) {
            let batches = self.state.progress.step.to_le_bytes().to_vec();
            tensors.push((format!("{name}{BATCHES_TRACKED}"), Dtype::I64, vec![], batches));
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));

        let broken = |e: &dyn std::fmt::Display| Error::failed("checkpoint", e, "this is a defect; please report it");
        let state = serde_json::to_string(&self.state).map_err(|e| broken(&e))?;
        let mut sum = Checksum::new(&state);
        let mut views = Vec::with_capacity(tensors.len());
        for (name, dtype, shape, bytes) in &tensors {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| broken(&e))?;
            sum.tensor(name, &view);
            views.push((name, view));
        }
        let state = RawValue::from_string(state).map_err(|e| broken(&e))?;
        let envelope = EnvelopeOut { format_version: FORMAT_VERSION, checksum: sum.hex(), state: &state };
        let envelope = serde_json::to_string(&envelope).map_err(|e| broken(&e))?;
        let metadata = HashMap::from([(METADATA_KEY.to_string(), envelope)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| broken(&e))
    }

    /// Writes the file whole or not at all; a file that was there is replaced.
    ///
    /// # Errors
    /// What the disk says, naming the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_bytes()?)
    }

    /// Reads a file, checking everything that can be checked without a model.
    ///
    /// # Errors
    /// A file that is missing, truncated, altered, of another kind or of another version; each names the file and says
    /// what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).map_err(|e| Error::io(path, "cannot read the checkpoint", &e))?;
        if !about.is_file() {
            return Err(Error::failed(path.display(), "is not a file", "name a checkpoint, such as best.safetensors"));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "cannot read the checkpoint", &e))?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads a file's bytes; `path` is for the errors. Allocates no more than a small multiple of their number.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let fail = |problem: String, remedy: &str| Error::failed(path.display(), problem, remedy);
        let altered = |what: &str| fail(format!("was altered or damaged: {what}"), RESTORE);
        check_extent(bytes, path)?;
        let foreign = |e: &dyn std::fmt::Display| {
            fail(format!("is not a checkpoint: {e}"), "name a file that `emberformer train` wrote")
        };
        let file = SafeTensors::deserialize(bytes).map_err(|e| foreign(&e))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| foreign(&e))?;
        let envelope = header.metadata().as_ref().and_then(|m| m.get(METADATA_KEY));
        let envelope = envelope.ok_or_else(|| foreign(&"it is a safetensors file without the entry `emberformer`"))?;

        let version: Version = serde_json::from_str(envelope).map_err(|e| altered(&format!("its metadata: {e}")))?;
        if version.format_version != FORMAT_VERSION {
            return Err(fail(
                format!("has checkpoint format {}, this program reads {FORMAT_VERSION}", version.format_version),
                "use the release of emberformer that wrote it, or train again",
            ));
        }
        let envelope: EnvelopeIn =
            serde_json::from_str(envelope).map_err(|e| altered(&format!("its metadata: {e}")))?;

        let mut tensors: Vec<(&str, TensorView)> = file.iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(b.0));
        let mut sum = Checksum::new(envelope.state.get());
        for (name, view) in &tensors {
            sum.tensor(name, view);
        }
        if sum.hex() != envelope.checksum {
            return Err(altered("its checksum does not fit its content"));
        }
        let state: State =
            serde_json::from_str(envelope.state.get()).map_err(|e| altered(&format!("its state: {e}")))?;
        state.check().map_err(|what| altered(&what))?;

        let mut checkpoint = Self { state, weights: BTreeMap::new(), moments: BTreeMap::new() };
        let mut second_moments = BTreeMap::new();
        let mut first_moments = BTreeMap::new();
        for (name, view) in tensors {
            if name.ends_with(BATCHES_TRACKED) {
                continue;
            }
            if view.dtype() != Dtype::F32 {
                return Err(altered(&format!("tensor {name} is {}, not F32", view.dtype())));
            }
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let tensor = HostTensor { shape: view.shape().to_vec(), values };
            if let Some(weight) = name.strip_prefix(FIRST_MOMENT) {
                first_moments.insert(weight.to_string(), tensor);
            } else if let Some(weight) = name.strip_prefix(SECOND_MOMENT) {
                second_moments.insert(weight.to_string(), tensor);
            } else {
                checkpoint.weights.insert(name.to_string(), tensor);
            }
        }
        for (name, first) in first_moments {
            let second = second_moments.remove(&name);
            let second = second.ok_or_else(|| altered(&format!("{SECOND_MOMENT}{name} is missing")))?;
            checkpoint.moments.insert(name, (first, second));
        }
        match second_moments.keys().next() {
            Some(name) => Err(altered(&format!("{FIRST_MOMENT}{name} is missing"))),
            None => Ok(checkpoint),
        }
    }

    /// The weight or running statistic of this name, which must have this shape.
    ///
    /// # Errors
    /// It is missing or has another shape; `path` names the file.
    pub fn weight(&self, name: &str, shape: &[usize], path: &Path) -> Result<&HostTensor> {
        let tensor = self.weights.get(name).ok_or_else(|| {
            Error::failed(path.display(), format!("has no tensor {name}, which the model needs"), OTHER_MODEL)
        })?;
        expect_shape(path, name, shape, tensor)?;
        Ok(tensor)
    }

    /// Adam's moments of this weight, which must have this shape; none where it has not moved yet.
    ///
    /// # Errors
    /// They have another shape; `path` names the file.
    pub fn moments(&self, name: &str, shape: &[usize], path: &Path) -> Result<Option<&(HostTensor, HostTensor)>> {
        if let Some((first, second)) = self.moments.get(name) {
            expect_shape(path, &format!("{FIRST_MOMENT}{name}"), shape, first)?;
            expect_shape(path, &format!("{SECOND_MOMENT}{name}"), shape, second)?;
        }
        Ok(self.moments.get(name))
    }
}

/// The same file with a checksum that fits. It tests what stands behind the checksum, which keeps out accidents but nobody
/// who computes it. `None` where there is no checksum to replace.
#[cfg(any(test, fuzzing))]
pub fn seal(bytes: &[u8]) -> Option<Vec<u8>> {
    crate::extent::check(bytes).ok()?;
    let file = SafeTensors::deserialize(bytes).ok()?;
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let envelope: EnvelopeIn = serde_json::from_str(header.metadata().as_ref()?.get(METADATA_KEY)?).ok()?;
    let mut tensors: Vec<(&str, TensorView)> = file.iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(b.0));
    let mut sum = Checksum::new(envelope.state.get());
    tensors.iter().for_each(|(name, view)| sum.tensor(name, view));
    let (old, new) = (envelope.checksum, sum.hex());
    let at = bytes.windows(new.len()).position(|w| w == old.as_bytes())?;
    let mut sealed = bytes.to_vec();
    sealed[at..at + new.len()].copy_from_slice(new.as_bytes());
    Some(sealed)
}

const RESTORE: &str = "restore it from a copy, or use the run's other checkpoint";
const OTHER_MODEL: &str = "use the checkpoint with the configuration that it was trained with";

fn expect_shape(path: &Path, name: &str, shape: &[usize], tensor: &HostTensor) -> Result<()> {
    if tensor.shape == shape {
        return Ok(());
    }
    let problem = format!("tensor {name} has shape {:?}, the model needs {shape:?}", tensor.shape);
    Err(Error::failed(path.display(), problem, OTHER_MODEL))
}

/// Compares the file's length with what its header promises, as [`crate::extent`] does.
pub(crate) fn check_extent(bytes: &[u8], path: &Path) -> Result<()> {
    crate::extent::check(bytes).map_err(|defect| match defect {
        Defect::Truncated(what) => Error::failed(path.display(), format_args!("is truncated: {what}"), RESTORE),
        Defect::Foreign(what) => {
            let problem = format!("is not a checkpoint: {what}");
            Error::failed(path.display(), problem, "name a file that `emberformer train` wrote")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn sample() -> Checkpoint {
        let tensor = |shape: &[usize], first: f32| HostTensor {
            shape: shape.to_vec(),
            values: (0..shape.iter().product::<usize>()).map(|i| first + i as f32 / 3.0).collect(),
        };
        let model = ModelSettings {
            d_model: 8,
            heads: 2,
            layers: 1,
            feedforward: 16,
            dropout: 0.1,
            head_dropout: 0.1,
            patch: 8,
            static_channels: 3,
            use_wind: true,
            use_static: true,
            fire_embedding: crate::model::FireEmbedding::Pixels,
            hidden_sizes: [4, 8, 8, 8],
            decoder_width: 8,
            base_channels: 4,
            input_projection: false,
            last_frame_skip: true,
        };
        let mut history = Metrics::new();
        history.insert("val/f1_epoch".into(), 0.1f64.into());
        let state = State {
            model,
            data: DataDescription {
                band_names: vec!["elevation".into()],
                band_scales: vec![[-1.0, 2345.5]],
                wind_range: [[0.1, 12.0], [0.0, 359.0]],
                fingerprint: "f00d".into(),
            },
            progress: Progress { seed: 42, step: 7, epoch: 1, position: 3, rows: 8, ..Progress::default() },
            stopping: Stopping { best: Some(0.1 + 0.2), ..Stopping::default() },
            history: vec![history],
            recipe: serde_json::json!({"seed": 42}),
            config: "global:\n  seed: 42\n".into(),
        };
        let weights = BTreeMap::from([
            ("norm.weight".to_string(), tensor(&[4], 1.0)),
            ("norm.running_mean".to_string(), tensor(&[4], f32::MIN_POSITIVE)),
            ("linear.weight".to_string(), tensor(&[2, 3], -0.5)),
        ]);
        let moments = BTreeMap::from([("linear.weight".to_string(), (tensor(&[2, 3], 1e-9), tensor(&[2, 3], 1e-20)))]);
        Checkpoint { state, weights, moments }
    }

    fn read(bytes: &[u8]) -> Result<Checkpoint> {
        Checkpoint::from_bytes(bytes, Path::new("runs/a/last.safetensors"))
    }

    fn message(bytes: &[u8]) -> String {
        let text = read(bytes).expect_err("an error").to_string();
        assert!(text.starts_with("runs/a/last.safetensors: "), "{text}");
        text
    }

    #[test]
    fn a_checkpoint_survives_and_its_bytes_are_always_the_same() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(read(&bytes).unwrap(), sample());
        assert_eq!(read(&bytes).unwrap().to_bytes().unwrap(), bytes);
    }

    #[test]
    fn others_find_the_names_of_the_specification() {
        let bytes = sample().to_bytes().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut names = file.names();
        names.sort();
        assert_eq!(
            names,
            [
                "linear.weight",
                "norm.num_batches_tracked",
                "norm.running_mean",
                "norm.weight",
                "optimizer.exp_avg.linear.weight",
                "optimizer.exp_avg_sq.linear.weight"
            ]
        );
        assert_eq!(file.tensor("norm.num_batches_tracked").unwrap().data(), 7i64.to_le_bytes());
    }

    #[test]
    fn writing_replaces_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints/last.safetensors");
        sample().write(&path).unwrap();
        let mut second = sample();
        second.state.progress.step = 8;
        second.write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), second);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn every_wrong_file_has_its_own_error() {
        let bytes = sample().to_bytes().unwrap();
        for length in [0, 3, 8, 100, bytes.len() / 2, bytes.len() - 1] {
            let text = message(&bytes[..length]);
            assert!(text.contains("is truncated") && text.contains("restore it"), "{length}: {text}");
        }
        for position in [bytes.len() - 1, bytes.len() - 200] {
            let mut altered = bytes.clone();
            altered[position] ^= 1;
            assert!(message(&altered).contains("was altered"), "{position}");
        }
        let replace = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut changed = bytes.clone();
            changed[at..at + to.len()].copy_from_slice(to.as_bytes());
            changed
        };
        let text = message(&replace(r#"format_version\":1"#, r#"format_version\":2"#));
        assert!(text.contains("has checkpoint format 2, this program reads 1"), "{text}");
        assert!(message(&replace(r#"\"step\":7"#, r#"\"step\":9"#)).contains("was altered"));
        assert!(message(&replace("linear.weight", "linear.weighs")).contains("was altered"));

        let plain = safetensors::serialize(Vec::<(&str, TensorView)>::new(), None).unwrap();
        assert!(message(&plain).contains("is not a checkpoint"));
        assert!(message(b"not a checkpoint at all, only text").contains("is truncated"));
        let mut text = 20u64.to_le_bytes().to_vec();
        text.extend(b"twenty letters of it");
        assert!(message(&text).contains("is not a checkpoint"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.safetensors");
        assert!(Checkpoint::read(&path).unwrap_err().to_string().contains("cannot read the checkpoint"));
        assert!(Checkpoint::read(folder.path()).unwrap_err().to_string().contains("is not a file"));
    }

    /// The checkpoint's bytes with `from` replaced by `to` in the header, sealed.
    fn sealed_with(from: &str, to: &str) -> Vec<u8> {
        let bytes = sample().to_bytes().unwrap();
        let end = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..end]).unwrap();
        assert!(header.contains(from), "{from} is not in {header}");
        let header = header.replace(from, to);
        let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[end..]].concat();
        seal(&whole).unwrap()
    }

    #[test]
    fn a_checksum_that_fits_excuses_nothing() {
        assert_eq!(seal(&sample().to_bytes().unwrap()).unwrap(), sample().to_bytes().unwrap());
        let most = u64::MAX.to_string();
        for (from, to, expected) in [
            (r#"\"step\":7"#, format!(r#"\"step\":{most}"#), "counts 18446744073709551615"),
            (r#"\"waited\":0"#, format!(r#"\"waited\":{most}"#), "counts 18446744073709551615"),
            (r#"\"tp\":0"#, format!(r#"\"tp\":{most}"#), "counts 18446744073709551615"),
            (r#"\"layers\":1"#, format!(r#"\"layers\":{most}"#), "a size of 18446744073709551615"),
            (r#"\"heads\":2"#, r#"\"heads\":0"#.into(), "0 heads"),
            (r#"\"patch\":8"#, r#"\"patch\":0"#.into(), "patches of 0 pixels"),
            (r#"\"dropout\":0.1"#, r#"\"dropout\":-1"#.into(), "a dropout outside"),
            (r#"\"model\":{"#, r#"\"mode\":{"#.into(), "missing field `model`"),
        ] {
            let text = message(&sealed_with(from, &to));
            assert!(text.contains(expected), "{to}: {text}");
        }
        // Settings of a network far larger than the file are refused before any of it is made.
        let checkpoint = read(&sealed_with(r#"\"layers\":1"#, r#"\"layers\":65536"#)).unwrap();
        let device = crate::device::Device::cpu();
        let model = crate::train::engine::load_model(
            &checkpoint,
            &device,
            crate::tensor::DType::F32,
            Path::new("best.safetensors"),
        );
        let text = model.err().unwrap().to_string();
        assert!(text.contains("best.safetensors: holds 14 values, its own model settings call for"), "{text}");
    }

    #[test]
    fn offsets_that_overflow_are_an_error() {
        let size = u64::MAX / 8 + 1;
        let entries: Vec<String> = (0..8u64)
            .map(|i| {
                let end = size.wrapping_mul(i + 1).wrapping_sub((i == 7) as u64);
                let n = end - size.wrapping_mul(i);
                format!(r#""t{i}":{{"dtype":"U8","shape":[{n}],"data_offsets":[{},{end}]}}"#, size.wrapping_mul(i))
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        assert!(message(&bytes).contains("is truncated"));
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(message(&bytes).contains("is truncated"));
    }

    #[test]
    fn another_shape_names_the_tensor_and_both_shapes() {
        let checkpoint = sample();
        let path = PathBuf::from("best.safetensors");
        assert!(checkpoint.weight("norm.weight", &[4], &path).is_ok());
        let text = checkpoint.weight("norm.weight", &[5], &path).unwrap_err().to_string();
        assert!(text.contains("norm.weight has shape [4], the model needs [5]"), "{text}");
        let text = checkpoint.weight("classifier.weight", &[5], &path).unwrap_err().to_string();
        assert!(text.contains("has no tensor classifier.weight"), "{text}");
        assert!(checkpoint.moments("linear.weight", &[3, 2], &path).is_err());
        assert!(checkpoint.moments("norm.weight", &[4], &path).unwrap().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn mutated_bytes_are_an_error_or_the_same_checkpoint(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<Option<prop::sample::Index>>(),
        ) {
            let mut bytes = sample().to_bytes().unwrap();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(checkpoint) = read(&bytes) {
                prop_assert_eq!(checkpoint, sample());
            }
        }

        #[test]
        fn altered_and_sealed_bytes_never_panic(
            header in proptest::collection::vec((any::<prop::sample::Index>(), "[0-9]{1,20}|[]\\[\\\\{},:\"]|[ -~]{0,2}"), 1..4),
            body in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let bytes = sample().to_bytes().unwrap();
            let end = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            let (mut json, mut data) = (bytes[8..end].to_vec(), bytes[end..].to_vec());
            for (index, text) in header {
                let at = index.index(json.len());
                json.splice(at..(at + text.len()).min(json.len()), text.bytes());
            }
            for (index, byte) in body {
                let at = index.index(data.len());
                data[at] = byte;
            }
            let whole = [&(json.len() as u64).to_le_bytes()[..], &json, &data].concat();
            let whole = seal(&whole).unwrap_or(whole);
            if let Ok(checkpoint) = read(&whole) {
                checkpoint.state.model.parameter_counts().total();
                let device = crate::device::Device::cpu();
                let _ = crate::train::engine::load_model(&checkpoint, &device, crate::tensor::DType::F32, Path::new("last.safetensors"));
                // Bytes, as values that are not numbers equal nothing.
                let again = checkpoint.to_bytes().unwrap();
                prop_assert_eq!(read(&again).unwrap().to_bytes().unwrap(), again);
            }
        }

        #[test]
        fn any_header_is_an_error(header in "\\{\"[a-z_]{1,12}\":\\{(\"dtype\":\"(F32|U8|I64)\",)?\"shape\":\\[[0-9]{1,20}(,[0-9]{1,20})?\\],\"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\}\\}", tail in 0usize..64) {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.extend(vec![0; tail]);
            prop_assert!(read(&bytes).is_err());
        }
    }
}
