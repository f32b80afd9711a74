//! The sections of a configuration. Each field states its meaning, its default and what it may hold, in one place: the
//! checks, the defaults and the reference table all come from here.

use super::rule::{self, Rule};
use crate::data::raw::{PadMode, WindDirection};
use crate::data::resident::Residency;
use crate::model::FireEmbedding;
use crate::track::wandb;
use crate::train::stopping::{Mode, Monitor};
use serde::{Deserialize, Serialize};
use serde_yaml::Value;
use std::path::PathBuf;

/// A key of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Its path, as in `train.early_stopping.patience`.
    pub(super) path: String,
    /// What it means.
    pub(super) meaning: String,
    /// What it may hold.
    pub(super) rule: Rule,
}

/// A struct whose fields are keys or sections of their own.
pub(super) trait Section {
    /// Appends the keys below `path`.
    fn list(path: &str, keys: &mut Vec<Key>);
}

/// The path of a field within a section.
fn join(path: &str, field: &str) -> String {
    let field = field.trim_start_matches("r#");
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $($(#[doc = $meaning:literal])+ $field:ident: $type:ty = $default:expr => $rule:expr;)*
            $(sections { $($(#[doc = $part_about:literal])+ $part:ident: $part_type:ty;)+ })?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $meaning])+ pub $field: $type,)*
            $($($(#[doc = $part_about])+ pub $part: $part_type,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* $($($part: Default::default(),)+)? }
            }
        }

        impl Section for $name {
            fn list(path: &str, keys: &mut Vec<Key>) {
                $(keys.push(Key {
                    path: join(path, stringify!($field)),
                    meaning: concat!($($meaning),+).trim().to_owned(),
                    rule: $rule,
                });)*
                $($(<$part_type as Section>::list(&join(path, stringify!($part)), keys);)+)?
            }
        }
    };
}

section! {
    /// A whole configuration.
    Config {
        sections {
            /// Seed of the run.
            global: Global;
            /// The data set and how it becomes batches.
            data: Data;
            /// What burns in the images.
            encoding: EncodingSection;
            /// Names and notes of the run.
            wandb: Wandb;
            /// The network, its loss and its metrics.
            model: Model;
            /// Optimiser, length of the run, checkpoints.
            train: Train;
            /// The packed store.
            patchify_on_disk: Patchify;
            /// Which sequences train, validate and test.
            split: SplitSection;
            /// What the run is expected to reach.
            expected: Expected;
        }
    }
}

section! {
    /// Seed of the run.
    Global {
        /// Seed of initial weights, dropout, sample order and augmentation.
        seed: u64 = 42 => rule::at_least(0);
        /// Setting of another engine.
        cudnn_benchmark: bool = false => rule::flag().without_effect();
    }
}

section! {
    /// The data set and how it becomes batches.
    Data {
        /// Root of a data set in the Deep Crown layout; null: the simulated one, made where it is missing.
        data_dir: Option<PathBuf> = None => rule::path().or_null();
        /// Samples in a batch.
        batch_size: usize = 4 => rule::whole(1, 65_536);
        /// Setting of another engine: all cores are used.
        num_workers: u64 = 0 => rule::at_least(0).without_effect();
        /// Setting of another engine.
        pin_memory: bool = false => rule::flag().without_effect();
        /// Whether training leaves out the samples that fill no whole batch.
        drop_last: bool = false => rule::flag();
        /// Whether the order of the training samples changes from epoch to epoch.
        shuffle: bool = true => rule::flag();
        /// Setting of another engine: a sample has its whole history, up to model.temporal.max_seq_len.
        sequence_length: Option<u64> = None => rule::at_least(0).or_null().without_effect();
        /// Only the first so many sequences, by number.
        max_sequences: Option<usize> = None => rule::whole(1, u32::MAX as u64).or_null();
        /// Whether the weather's WD is where the wind comes from or where it goes to: turns the arrow in pictures of predictions; the network learns either as it stands.
        wind_direction: WindDirection = WindDirection::From => rule::choice(&["from", "to"]);
        /// Flips and rotations of training samples: none or all eight of the square.
        augment: AugmentKind = AugmentKind::None => rule::choice(&["none", "d4"]);
        /// Static bands that hold an aspect in degrees clockwise from north, turned by d4 too.
        aspect_bands: Vec<String> = Vec::new() => rule::text().list(None);
        /// Where the packed data lies while a GPU trains: in its memory, in the host's from where it streams ahead of each step, or (auto) in the GPU's where it takes at most half of what is free.
        residency: Residency = Residency::Auto => rule::choice(&["auto", "device", "stream"]);
        /// MiB of the GPU's memory that the packed data may take at most; null: not limited. Less than it needs forces auto to stream.
        device_budget_mb: Option<u64> = None => rule::whole(0, u32::MAX as u64).or_null();
        /// Whether samples of like history share a batch, which saves work on padding.
        bucket_by_length: bool = true => rule::flag();
    }
}

section! {
    /// What burns in the images: a pixel whose channel (0 red, 1 green, 2 blue, 3 alpha) has the value.
    EncodingSection {
        /// Channel of the fire frames that tells what burns: 0 red, 1 green, 2 blue, 3 alpha.
        fire_channel: usize = 1 => rule::whole(0, 3);
        /// Its value where a pixel burns.
        fire_value: u8 = 231 => rule::whole(0, 255);
        /// Channel of the isochrones that tells what burns.
        isochrone_channel: usize = 1 => rule::whole(0, 3);
        /// Its value where a pixel burns.
        isochrone_value: u8 = 231 => rule::whole(0, 255);
    }
}

section! {
    /// Names and notes of the run, and how it goes to Weights & Biases. The variables WANDB_MODE, WANDB_PROJECT,
    /// WANDB_ENTITY, WANDB_NAME, WANDB_RUN_GROUP, WANDB_JOB_TYPE, WANDB_TAGS and WANDB_NOTES go before these keys.
    Wandb {
        /// Whether the run is also written for Weights & Biases.
        enabled: bool = false => rule::flag();
        /// offline: for `wandb sync`; online: uploaded by the client `wandb` meanwhile; disabled: not at all; null: offline.
        mode: Option<wandb::Mode> = None => rule::choice(&["offline", "online", "disabled"]).or_null();
        /// Project that the run belongs to; null: emberformer.
        project: Option<String> = None => rule::text().or_null();
        /// Owner of the project; null: the user's default.
        entity: Option<String> = None => rule::text().or_null();
        /// Name of the run.
        run_name: Option<String> = None => rule::text().or_null();
        /// Pattern of the name where none is given.
        run_name_template: Option<String> = None => rule::text().or_null();
        /// Tags of the run.
        tags: Option<Vec<String>> = None => rule::text().list(None).or_null();
        /// Whether loss, fire embedding, device, precision, data set and git commit become tags too; null: they do.
        auto_tags: Option<bool> = None => rule::flag().or_null();
        /// Notes about the run.
        notes: Option<String> = None => rule::text().or_null();
        /// Group of runs that belong together.
        group: Option<String> = None => rule::text().or_null();
        /// Kind of run.
        job_type: Option<String> = None => rule::text().or_null();
        /// Whether previews are logged; null: they are.
        log_batch_preview: Option<bool> = None => rule::flag().or_null();
        /// Previews of an epoch at most; null: all.
        max_preview_images: Option<usize> = None => rule::whole(0, 1_000_000).or_null();
        /// Size of a picture.
        preview_size: Value = Value::Null => rule::anything();
        /// Whether weights and gradients are logged.
        watch: Value = Value::Null => rule::anything();
        /// Whether the best checkpoint is logged as an artifact; null: it is not.
        log_artifacts: Option<bool> = None => rule::flag().or_null();
    }
}

section! {
    /// The network, its loss and its metrics.
    Model {
        sections {
            /// Token embedder and temporal transformer.
            temporal: Temporal;
            /// Spatial decoder.
            spatial: Spatial;
            /// Refinement decoder.
            refinement: Refinement;
            /// Thresholds and class weight.
            metrics: Metrics;
            /// The loss.
            loss: Loss;
        }
    }
}

section! {
    /// Token embedder and temporal transformer.
    Temporal {
        /// Model width d, an even number.
        d_model: usize = 64 => rule::whole(2, 4096);
        /// Attention heads; divides d_model.
        nhead: usize = 4 => rule::whole(1, 4096);
        /// Encoder layers.
        num_layers: usize = 3 => rule::whole(1, 256);
        /// Width of the feed-forward layers.
        dim_feedforward: usize = 256 => rule::whole(1, 65_536);
        /// Dropout of the encoder.
        dropout: f64 = 0.1 => rule::below_one();
        /// Frames of history at most; longer histories keep their most recent frames.
        max_seq_len: usize = 32 => rule::whole(1, 65_536);
        /// Whether the wind is an input.
        use_wind: bool = true => rule::flag();
        /// Whether the static bands are an input.
        use_static: bool = true => rule::flag();
        /// What a fire token is made from: the patch's burned fraction or its own pixels.
        fire_embedding: FireEmbedding = FireEmbedding::Mean => rule::choice(&["mean", "pixels"]);
    }
}

section! {
    /// Spatial decoder.
    Spatial {
        /// Kind of decoder; there is one.
        decoder_type: String = "segformer".to_owned() => rule::choice(&["segformer"]);
        /// Whether the decode head starts from published weights, read from pretrained_path.
        pretrained: bool = false => rule::flag();
        /// Variant of the decode head: a name with b0, b1 or b2 in it, as nvidia/segformer-b0-finetuned-ade-512-512 or mit-b0.
        model_name: String = "nvidia/segformer-b0-finetuned-ade-512-512".to_owned() => rule::text();
        /// Whether the decoder learns nothing during the first epochs.
        freeze_initially: bool = false => rule::flag();
        /// How many epochs that are.
        freeze_epochs: u64 = 0 => rule::at_least(0);
        /// Base channels of the refinement stages (model.refinement.base_channels, where given, goes before).
        base_channels: usize = 32 => rule::whole(1, 4096);
        /// Safetensors file with published weights of the decode head.
        pretrained_path: Option<PathBuf> = None => rule::path().or_null();
        /// Channels of the four levels; null: those of the variant.
        hidden_sizes: Option<[usize; 4]> = None => rule::whole(1, 16_384).list(Some(4)).or_null();
        /// Width of the decode head; null: that of the variant.
        decoder_width: Option<usize> = None => rule::whole(1, 16_384).or_null();
    }
}

section! {
    /// Refinement decoder.
    Refinement {
        /// Whether the last frame's mask joins the last refinement stage.
        last_frame_skip: bool = false => rule::flag();
        /// Whether a 1×1 convolution precedes the refinement stages.
        input_projection: bool = false => rule::flag();
        /// Base channels of the refinement stages; null: model.spatial.base_channels.
        base_channels: Option<usize> = None => rule::whole(1, 4096).or_null();
        /// Learning rate of the refinement decoder; train.lr_refinement, where given, goes before.
        lr: Option<f64> = None => rule::above_zero().or_null();
    }
}

section! {
    /// Thresholds and class weight.
    Metrics {
        /// A pixel is predicted to burn where its probability is above this.
        pred_thresh: f64 = 0.5 => rule::inside_one();
        /// A pixel of the target burns where it is above this.
        target_thresh: f64 = 0.05 => rule::inside_one();
        /// Weight of burning pixels in the cross-entropy while training; auto: not burning by burning pixels of the batch; null: 1.
        pos_weight: Option<PosWeightKey> = Some(PosWeightKey::Auto(Auto::Auto)) => rule::above_zero().or_auto().or_null();
    }
}

section! {
    /// The loss.
    Loss {
        /// Focal + Tversky or cross-entropy + Dice.
        r#type: LossType = LossType::FocalTversky => rule::choice(&["focal_tversky", "bce_dice"]);
        /// Whether bce_dice has its Dice term.
        use_dice: bool = true => rule::flag();
        /// Weight of the cross-entropy in bce_dice.
        bce_weight: f64 = 0.9 => rule::not_negative();
        /// Weight of the Dice term in bce_dice.
        dice_weight: f64 = 0.1 => rule::not_negative();
        /// Weight of the focal term in focal_tversky.
        focal_weight: f64 = 0.7 => rule::not_negative();
        /// Weight of the Tversky term in focal_tversky.
        tversky_weight: f64 = 0.3 => rule::not_negative();
        /// Weight of burning pixels in the focal term; the others weigh the rest to 1.
        focal_alpha: f64 = 0.25 => rule::fraction();
        /// Focusing exponent of the focal term.
        focal_gamma: f64 = 2.0 => rule::not_negative();
        /// Weight of false positives in the Tversky term.
        tversky_alpha: f64 = 0.7 => rule::not_negative();
        /// Weight of false negatives in the Tversky term.
        tversky_beta: f64 = 0.3 => rule::not_negative();
    }
}

section! {
    /// Optimiser, length of the run, checkpoints.
    Train {
        /// The network; there is one.
        model: String = "emberformer".to_owned() => rule::choice(&["emberformer"]);
        /// Epochs at most.
        epochs: u64 = 20 => rule::whole(1, 1_000_000);
        /// Learning rate of the parts whose own rate is not given.
        lr: Option<f64> = None => rule::above_zero().or_null();
        /// Learning rate of embedder and transformer; null: train.lr, else 0.001.
        lr_temporal: Option<f64> = None => rule::above_zero().or_null();
        /// Learning rate of the spatial decoder; null: train.lr, else 0.0001.
        lr_spatial: Option<f64> = None => rule::above_zero().or_null();
        /// Learning rate of the refinement decoder; null: model.refinement.lr, else train.lr, else 0.001.
        lr_refinement: Option<f64> = None => rule::above_zero().or_null();
        /// Adam's weight decay, added to the gradient.
        weight_decay: f64 = 1e-4 => rule::not_negative();
        /// Largest norm of the whole gradient; null: not limited.
        grad_clip: Option<f64> = None => rule::above_zero().or_null();
        /// What the forward and backward compute in; parameters, sums and statistics are float32. auto: bfloat16 on a GPU.
        precision: Precision = Precision::Auto => rule::choice(&["auto", "float32", "bfloat16"]);
        /// Epochs between two pictures of the validation; 0: none.
        log_images_every: u64 = 5 => rule::at_least(0);
        /// Steps between two lines of step metrics; 0: none.
        log_metrics_every: u64 = 10 => rule::at_least(0);
        /// Whether checkpoints are written.
        save_checkpoints: bool = true => rule::flag();
        /// Folder in which each run gets a folder of its own.
        checkpoint_dir: PathBuf = PathBuf::from("runs") => rule::path();
        /// Steps between two writings of the last checkpoint within an epoch; 0: only after each epoch.
        checkpoint_every: u64 = 0 => rule::at_least(0);
        sections {
            /// How the learning rates change over the run.
            schedule: ScheduleSection;
            /// When to stop before the last epoch.
            early_stopping: EarlyStopping;
        }
    }
}

section! {
    /// How the learning rates change over the run. `schedule: cosine` is short for `schedule: {type: cosine}`.
    ScheduleSection {
        /// Rates as given throughout, or a warm-up followed by half a cosine down to min_factor.
        r#type: ScheduleType = ScheduleType::Constant => rule::choice(&["constant", "cosine"]);
        /// Steps over which the rates rise from 0 (cosine only).
        warmup_steps: u64 = 0 => rule::at_least(0);
        /// Fraction of the rates that is left at the end (cosine only).
        min_factor: f64 = 0.0 => rule::fraction();
    }
}

section! {
    /// When to stop before the last epoch.
    EarlyStopping {
        /// Whether a run may end early; the best checkpoint is chosen either way.
        enabled: bool = true => rule::flag();
        /// Epochs in a row that may be no better.
        patience: u64 = 3 => rule::whole(1, 1_000_000);
        /// How much better than the best counts as better.
        min_delta: f64 = 0.002 => rule::not_negative();
        /// Which direction is better; null: the one that fits what is watched.
        mode: Option<Mode> = None => rule::choice(&["max", "min"]).or_null();
        /// Value of the validation that is watched.
        monitor: Monitor = Monitor::F1 => rule::choice(&["val/f1", "val/iou", "val/loss"]);
    }
}

section! {
    /// The packed store.
    Patchify {
        /// Setting of another engine: the packed store is always used.
        enabled: bool = true => rule::flag().without_effect();
        /// Folder of the packed stores.
        cache_dir: PathBuf = PathBuf::from("data/cache") => rule::path();
        /// Side of a patch in pixels: 4, 8 or 16.
        patch_size: usize = 8 => rule::whole(4, 16);
        /// Step from patch to patch; the same as patch_size, or null.
        stride: Option<usize> = None => rule::whole(1, 16).or_null();
        /// What happens to windows whose sides are no multiples of patch_size.
        pad_mode: PadMode = PadMode::Strict => rule::choice(&["strict", "edge", "constant", "pad_to_multiple"]);
        /// Whether the store is logged.
        log_artifact: Value = Value::Null => rule::anything();
        /// Setting of another engine.
        progress_use_tqdm: Value = Value::Null => rule::anything();
        /// Setting of another engine.
        progress_log_every: Value = Value::Null => rule::anything();
        /// Setting of another engine.
        progress_log_to_wandb: Value = Value::Null => rule::anything();
        /// Pictures of the store.
        preview_n: Value = Value::Null => rule::anything();
    }
}

section! {
    /// Which sequences train, validate and test.
    SplitSection {
        /// Fraction of the sequences that trains.
        train: f64 = 0.8 => rule::fraction();
        /// Fraction that validates.
        val: f64 = 0.1 => rule::fraction();
        /// Fraction that tests; in fact the test gets all that is left.
        test: f64 = 0.1 => rule::fraction();
        /// Seed of the draw.
        seed: u64 = 42 => rule::at_least(0);
        /// A split file to use instead of a draw.
        file: Option<PathBuf> = None => rule::path().or_null();
    }
}

section! {
    /// What the run is expected to reach; `compare` shows it beside the measured values.
    Expected {
        /// Precision on the test sequences.
        precision: Option<f64> = None => rule::fraction().or_null();
        /// Recall.
        recall: Option<f64> = None => rule::fraction().or_null();
        /// F1.
        f1: Option<f64> = None => rule::fraction().or_null();
        /// Intersection over union.
        iou: Option<f64> = None => rule::fraction().or_null();
        /// Average precision.
        ap: Option<f64> = None => rule::fraction().or_null();
    }
}

/// Flips and rotations of training samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AugmentKind {
    /// None.
    None,
    /// The eight of the square.
    D4,
}

/// Weight of burning pixels: a number or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PosWeightKey {
    /// From the batch.
    Auto(Auto),
    /// As given.
    Value(f64),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// The word.
    Auto,
}

/// Type of the activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bfloat16 on a GPU, float32 on the CPU.
    Auto,
    /// Single precision.
    Float32,
    /// Half precision with float32's range.
    Bfloat16,
}

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Focal + Tversky.
    FocalTversky,
    /// Cross-entropy + Dice.
    BceDice,
}

/// Which schedule of the learning rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleType {
    /// As given throughout.
    Constant,
    /// Warm-up, then half a cosine.
    Cosine,
}

/// Every key, section by section.
pub(super) fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    Config::list("", &mut keys);
    keys
}
