//! What the training loop needs to know.

use crate::data::augment::Augment;
use crate::data::sampler::SamplerSettings;
use crate::data::split::Split;
use crate::model::ModelSettings;
use crate::ops::loss::{LossSettings, Thresholds};
use crate::optim::{AdamSettings, LearningRates, Schedule};
use crate::tensor::DType;
use crate::train::stopping::StoppingSettings;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A run's settings beside those of model and data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// What decides the weights.
    pub recipe: Recipe,
    /// Epochs at most.
    pub epochs: u64,
    /// Pauses the run once it has done this many steps in all.
    pub max_steps: Option<u64>,
    /// Also saves the last checkpoint every so many steps within an epoch; 0: only after each epoch.
    pub checkpoint_every: u64,
    /// Logs the metrics of every n-th step; 0: of none.
    pub log_metrics_every: u64,
    /// Draws a preview of the validation set every n-th epoch; 0: never.
    pub log_images_every: u64,
    /// Whether checkpoints are written at all.
    pub save_checkpoints: bool,
}

/// The settings of the loop that decide the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Seed of initial values, order, augmentation and dropout.
    pub seed: u64,
    /// The loss.
    pub loss: LossSettings,
    /// When a pixel counts as burning.
    pub thresholds: Thresholds,
    /// The optimiser.
    pub adam: AdamSettings,
    /// Learning rates of the three groups.
    pub rates: LearningRates,
    /// How they change.
    pub schedule: Schedule,
    /// Gradients are scaled down to this norm at most.
    pub grad_clip: Option<f64>,
    /// The spatial decoder's weights stay as they are for so many epochs.
    pub frozen_epochs: u64,
    /// Symmetries of training samples.
    pub augment: Augment,
    /// Frames of history at most.
    pub max_seq_len: usize,
    /// Type of the activations.
    pub precision: DType,
    /// When to stop, and which epoch is the best.
    pub stopping: StoppingSettings,
}

/// Everything that decides a run's weights, to be kept in its checkpoints and compared before a run is resumed.
pub fn fingerprint(
    settings: &TrainSettings,
    model: &ModelSettings,
    sampler: &SamplerSettings,
    split: &Split,
    data: &str,
) -> Value {
    let mut value = serde_json::json!({
        "train": settings.recipe,
        "model": model,
        "sampler": sampler,
        "split": split,
        "data": data,
    });
    // Under a schedule with an end the number of epochs decides every learning rate.
    if settings.recipe.schedule != Schedule::Constant {
        value["epochs"] = settings.epochs.into();
    }
    value
}

/// Refuses to resume a run under other settings.
///
/// # Errors
/// Names the first setting that differs, with both values.
pub fn check_unchanged(then: &Value, now: &Value) -> Result<()> {
    match first_difference(then, now, "") {
        None => Ok(()),
        Some((key, then, now)) => Err(Error::usage(
            "--resume",
            format_args!("{key} was {then} when the run began and is {now} now"),
            "resume with the configuration of the run, or start another run with --name",
        )),
    }
}

fn first_difference(then: &Value, now: &Value, path: &str) -> Option<(String, String, String)> {
    let differ = |a: &Value, b: &Value| {
        let short = |value: &Value| {
            let text = value.to_string();
            if text.chars().count() > 60 { format!("{}...", text.chars().take(60).collect::<String>()) } else { text }
        };
        Some((path.to_string(), short(a), short(b)))
    };
    match (then, now) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            first_difference(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), &path)
        }),
        _ if then == now => None,
        _ => differ(then, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_changed_setting_is_named_with_both_values() {
        let then = json!({"train": {"seed": 42, "rates": {"temporal": 0.001}}, "data": "f00d"});
        assert!(check_unchanged(&then, &then.clone()).is_ok());
        let now = json!({"train": {"seed": 42, "rates": {"temporal": 0.01}}, "data": "f00d"});
        let text = check_unchanged(&then, &now).unwrap_err().to_string();
        assert!(text.contains("train.rates.temporal was 0.001 when the run began and is 0.01 now"), "{text}");
        let text = check_unchanged(&then, &json!({"train": then["train"], "data": "f00d", "epochs": 3})).unwrap_err();
        assert!(text.to_string().contains("epochs was null when the run began and is 3 now"), "{text}");
    }
}
