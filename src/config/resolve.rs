//! What several keys decide together, and the settings that the lower rooms ask for.

use super::sections::*;
use super::source::Source;
use crate::Result;
use crate::data::augment::Augment;
use crate::data::raw::Encoding;
use crate::data::resident::ResidencySettings;
use crate::data::sampler::SamplerSettings;
use crate::data::split::Split;
use crate::data::store::StoreSettings;
use crate::device::Device;
use crate::model::ModelSettings;
use crate::ops::loss::{LossSettings, PosWeight, Thresholds};
use crate::optim::{AdamSettings, LearningRates, Schedule};
use crate::tensor::DType;
use crate::track::wandb;
use crate::train::settings::{Recipe, TrainSettings};
use crate::train::stopping::{Mode, Monitor, StoppingSettings};
use std::path::PathBuf;

/// Where the simulated data set lies when `data.data_dir` names none.
pub const SIMULATED_DATA: &str = ".cache/simulated";

/// Dropout of the decode head (SPEC §2).
const HEAD_DROPOUT: f64 = 0.1;

/// Fractions of a split may miss a sum of 1 by this much of rounding.
const ROUNDING: f64 = 1e-9;

/// The decode head's level channels and width, by variant.
const VARIANTS: [(&str, [usize; 4], usize); 3] =
    [("b0", [32, 64, 160, 256], 256), ("b1", [64, 128, 320, 512], 256), ("b2", [64, 128, 320, 512], 768)];

impl Config {
    /// Checks what one key alone cannot show, and fills in the keys whose default depends on others.
    pub(super) fn resolved(mut self, source: &Source) -> Result<Config> {
        let temporal = &self.model.temporal;
        if !temporal.d_model.is_multiple_of(2) {
            return Err(source.refuse(
                "model.temporal.d_model",
                format_args!("is {}, an odd number", temporal.d_model),
                "give an even number: half of it embeds the wind",
            ));
        }
        if !temporal.d_model.is_multiple_of(temporal.nhead) {
            return Err(source.refuse(
                "model.temporal.nhead",
                format_args!("is {}, which does not divide d_model {}", temporal.nhead, temporal.d_model),
                "give a number of heads that divides d_model",
            ));
        }

        let patchify = &mut self.patchify_on_disk;
        let patch = patchify.patch_size;
        if ![4, 8, 16].contains(&patch) {
            return Err(source.refuse("patchify_on_disk.patch_size", format_args!("is {patch}"), "give 4, 8 or 16"));
        }
        if let Some(stride) = patchify.stride.filter(|&stride| stride != patch) {
            return Err(source.refuse(
                "patchify_on_disk.stride",
                format_args!("is {stride} where patch_size is {patch}; patches neither overlap nor leave gaps"),
                format_args!("give {patch} or null"),
            ));
        }
        patchify.stride = Some(patch);

        self.resolve_decode_head(source)?;
        self.check_loss(source)?;
        self.check_split(source)?;

        let refinement = &mut self.model.refinement;
        refinement.base_channels = refinement.base_channels.or(Some(self.model.spatial.base_channels));

        let train = &mut self.train;
        let rate = |own: Option<f64>, usual: f64| own.or(train.lr).or(Some(usual));
        (train.lr_temporal, train.lr_spatial, train.lr_refinement) = (
            rate(train.lr_temporal, 1e-3),
            rate(train.lr_spatial, 1e-4),
            rate(train.lr_refinement.or(refinement.lr), 1e-3),
        );
        refinement.lr = train.lr_refinement;

        let stopping = &mut train.early_stopping;
        let fitting = match stopping.monitor {
            Monitor::F1 | Monitor::Iou => Mode::Max,
            Monitor::Loss => Mode::Min,
        };
        if stopping.mode.is_some_and(|mode| mode != fitting) {
            let (better, word) = if fitting == Mode::Max { ("higher", "max") } else { ("lower", "min") };
            return Err(source.refuse(
                "train.early_stopping.mode",
                format_args!("does not fit what is watched, {}", stopping.monitor.metric()),
                format_args!("give {word} or null: {better} is better"),
            ));
        }
        stopping.mode = Some(fitting);
        Ok(self)
    }

    fn resolve_decode_head(&mut self, source: &Source) -> Result<()> {
        let spatial = &mut self.model.spatial;
        if spatial.hidden_sizes.is_none() || spatial.decoder_width.is_none() {
            let name = spatial.model_name.to_lowercase();
            let named = |variant: &str| name.split(|c: char| !c.is_alphanumeric()).any(|word| word == variant);
            let Some(&(_, sizes, width)) = VARIANTS.iter().find(|(variant, ..)| named(variant)) else {
                return Err(source.refuse(
                    "model.spatial.model_name",
                    format_args!("is {:?}, which names none of the variants b0, b1 and b2", spatial.model_name),
                    "give a name such as nvidia/segformer-b0-finetuned-ade-512-512, or hidden_sizes and decoder_width",
                ));
            };
            spatial.hidden_sizes = spatial.hidden_sizes.or(Some(sizes));
            spatial.decoder_width = spatial.decoder_width.or(Some(width));
        }
        if spatial.pretrained && spatial.pretrained_path.is_none() {
            return Err(source.refuse(
                "model.spatial.pretrained",
                "is true, but no file with the published weights is named, and none is ever downloaded",
                format_args!(
                    "download model.safetensors of {} and name it in model.spatial.pretrained_path, or set pretrained: false",
                    spatial.model_name
                ),
            ));
        }
        Ok(())
    }

    fn check_loss(&self, source: &Source) -> Result<()> {
        let sum = match self.loss_settings() {
            LossSettings::FocalTversky { focal_weight, tversky_weight, .. } => focal_weight + tversky_weight,
            LossSettings::BceDice { bce_weight, dice_weight, .. } => bce_weight + dice_weight,
        };
        if sum > 0.0 {
            return Ok(());
        }
        Err(source.refuse(
            "model.loss.type",
            "has a weight of 0 for all of its terms",
            "give one of them a weight above 0",
        ))
    }

    fn check_split(&self, source: &Source) -> Result<()> {
        let SplitSection { train, val, test, .. } = &self.split;
        for (path, value) in [("split.train", *train), ("split.val", *val)] {
            if value == 0.0 {
                let remedy = "give a fraction above 0: training and validation both need sequences";
                return Err(source.refuse(path, "is 0", remedy));
            }
        }
        let sum = train + val + test;
        if sum > 1.0 + ROUNDING {
            return Err(source.refuse(
                "split",
                format_args!("asks for train {train} + val {val} + test {test} = {sum:.4} of the sequences"),
                "give fractions whose sum is 1 at most",
            ));
        }
        Ok(())
    }

    /// Root of the data set: as given, or where the simulated one lies.
    pub fn data_dir(&self) -> PathBuf {
        self.data.data_dir.clone().unwrap_or_else(|| SIMULATED_DATA.into())
    }

    /// Whether the data set is the simulated one, which may be made where it is missing.
    pub fn is_simulated(&self) -> bool {
        self.data.data_dir.is_none()
    }

    /// What decides the packed store's bytes.
    pub fn store_settings(&self) -> StoreSettings {
        let EncodingSection { fire_channel, fire_value, isochrone_channel, isochrone_value } = self.encoding;
        StoreSettings {
            data_dir: self.data_dir(),
            encoding: Encoding { fire_channel, fire_value, isochrone_channel, isochrone_value },
            patch: self.patchify_on_disk.patch_size,
            pad_mode: self.patchify_on_disk.pad_mode,
            max_sequences: self.data.max_sequences,
        }
    }

    /// The network for a data set with so many static bands.
    pub fn model_settings(&self, static_channels: usize) -> ModelSettings {
        let Model { temporal, spatial, refinement, .. } = &self.model;
        let (_, sizes, width) = VARIANTS[0];
        ModelSettings {
            d_model: temporal.d_model,
            heads: temporal.nhead,
            layers: temporal.num_layers,
            feedforward: temporal.dim_feedforward,
            dropout: temporal.dropout,
            head_dropout: HEAD_DROPOUT,
            patch: self.patchify_on_disk.patch_size,
            static_channels,
            use_wind: temporal.use_wind,
            use_static: temporal.use_static,
            fire_embedding: temporal.fire_embedding,
            hidden_sizes: spatial.hidden_sizes.unwrap_or(sizes),
            decoder_width: spatial.decoder_width.unwrap_or(width),
            base_channels: refinement.base_channels.unwrap_or(spatial.base_channels),
            input_projection: refinement.input_projection,
            last_frame_skip: refinement.last_frame_skip,
        }
    }

    /// What the network computes in on `device`.
    pub fn precision(&self, device: &Device) -> DType {
        match (self.train.precision, device) {
            (Precision::Auto, Device::Gpu(_)) | (Precision::Bfloat16, _) => DType::BF16,
            (Precision::Auto, Device::Cpu(_)) | (Precision::Float32, _) => DType::F32,
        }
    }

    /// The loss. Without `use_dice` the Dice term weighs 0.
    pub fn loss_settings(&self) -> LossSettings {
        let loss = &self.model.loss;
        match loss.r#type {
            LossType::FocalTversky => LossSettings::FocalTversky {
                focal_weight: loss.focal_weight,
                tversky_weight: loss.tversky_weight,
                focal_alpha: loss.focal_alpha,
                focal_gamma: loss.focal_gamma,
                tversky_alpha: loss.tversky_alpha,
                tversky_beta: loss.tversky_beta,
            },
            LossType::BceDice => LossSettings::BceDice {
                bce_weight: loss.bce_weight,
                dice_weight: if loss.use_dice { loss.dice_weight } else { 0.0 },
                pos_weight: match self.model.metrics.pos_weight {
                    None => PosWeight::None,
                    Some(PosWeightKey::Auto(_)) => PosWeight::Auto,
                    Some(PosWeightKey::Value(weight)) => PosWeight::Value(weight),
                },
            },
        }
    }

    /// When a pixel counts as burning.
    pub fn thresholds(&self) -> Thresholds {
        let Metrics { pred_thresh, target_thresh, .. } = self.model.metrics;
        Thresholds { prediction: pred_thresh, target: target_thresh }
    }

    /// The optimiser.
    pub fn adam(&self) -> AdamSettings {
        AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: self.train.weight_decay }
    }

    /// Learning rates of the three groups.
    pub fn learning_rates(&self) -> LearningRates {
        let train = &self.train;
        LearningRates {
            temporal: train.lr_temporal.unwrap_or(1e-3),
            spatial: train.lr_spatial.unwrap_or(1e-4),
            refinement: train.lr_refinement.unwrap_or(1e-3),
        }
    }

    /// How the learning rates change.
    pub fn schedule(&self) -> Schedule {
        let ScheduleSection { r#type, warmup_steps, min_factor } = self.train.schedule;
        match r#type {
            ScheduleType::Constant => Schedule::Constant,
            ScheduleType::Cosine => Schedule::Cosine { warmup_steps, min_factor },
        }
    }

    /// Symmetries of training samples.
    pub fn augment(&self) -> Augment {
        match self.data.augment {
            AugmentKind::None => Augment::None,
            AugmentKind::D4 => Augment::D4 { aspect_bands: self.data.aspect_bands.clone() },
        }
    }

    /// How samples become batches.
    pub fn sampler_settings(&self) -> SamplerSettings {
        SamplerSettings {
            batch_size: self.data.batch_size,
            seed: self.global.seed,
            shuffle: self.data.shuffle,
            drop_last: self.data.drop_last,
            bucket_by_length: self.data.bucket_by_length,
            max_seq_len: self.model.temporal.max_seq_len,
        }
    }

    /// How the run `name` goes to Weights & Biases; none where it does not.
    ///
    /// # Errors
    /// As [`wandb::Settings::with_environment`].
    pub fn wandb_settings(
        &self,
        name: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<wandb::Settings>> {
        let section = &self.wandb;
        if !section.enabled {
            return Ok(None);
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let settings = wandb::Settings {
            mode: section.mode.unwrap_or(wandb::Mode::Offline),
            project: given(&section.project).unwrap_or_else(|| "emberformer".into()),
            entity: given(&section.entity),
            name: name.to_string(),
            group: given(&section.group),
            job_type: given(&section.job_type),
            notes: given(&section.notes),
            tags: section.tags.clone().unwrap_or_default(),
            auto_tags: section.auto_tags.unwrap_or(true),
            pictures: match section.log_batch_preview {
                Some(false) => 0,
                _ => section.max_preview_images.unwrap_or(usize::MAX),
            },
            artifacts: section.log_artifacts.unwrap_or(false),
            dir: None,
            run_id: None,
        };
        let settings = settings.with_environment(variable)?;
        Ok((settings.mode != wandb::Mode::Disabled).then_some(settings))
    }

    /// Where the packed data lies while a GPU trains.
    pub fn residency(&self) -> ResidencySettings {
        let budget = self.data.device_budget_mb.map(|mib| usize::try_from(mib << 20).unwrap_or(usize::MAX));
        ResidencySettings { residency: self.data.residency, budget }
    }

    /// The split of these sequences (sorted by number): read from `split.file`, or drawn.
    ///
    /// # Errors
    /// As [`Split::read`] and [`Split::draw`].
    pub fn split(&self, ids: &[String]) -> Result<Split> {
        match &self.split.file {
            Some(file) => Split::read(file, ids),
            None => Split::draw(ids, self.split.train, self.split.val, self.split.seed),
        }
    }

    /// The training loop, paused after `max_steps` where given.
    pub fn train_settings(&self, device: &Device, max_steps: Option<u64>) -> TrainSettings {
        let (train, spatial) = (&self.train, &self.model.spatial);
        let stopping = &train.early_stopping;
        TrainSettings {
            recipe: Recipe {
                seed: self.global.seed,
                loss: self.loss_settings(),
                thresholds: self.thresholds(),
                adam: self.adam(),
                rates: self.learning_rates(),
                schedule: self.schedule(),
                grad_clip: train.grad_clip,
                frozen_epochs: if spatial.freeze_initially { spatial.freeze_epochs } else { 0 },
                augment: self.augment(),
                max_seq_len: self.model.temporal.max_seq_len,
                precision: self.precision(device),
                stopping: StoppingSettings {
                    enabled: stopping.enabled,
                    monitor: stopping.monitor,
                    mode: stopping.mode.unwrap_or(Mode::Max),
                    patience: stopping.patience,
                    min_delta: stopping.min_delta,
                },
            },
            epochs: train.epochs,
            max_steps,
            checkpoint_every: train.checkpoint_every,
            log_metrics_every: train.log_metrics_every,
            log_images_every: train.log_images_every,
            save_checkpoints: train.save_checkpoints,
        }
    }
}
