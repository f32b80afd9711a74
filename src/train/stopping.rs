//! Early stopping (SPEC §4): patience counts epochs that are not better than the best by more than `min_delta`; the
//! best checkpoint goes by the monitored value alone.

use serde::{Deserialize, Serialize};

/// The value of an epoch that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Monitor {
    /// Validation F1.
    #[serde(rename = "val/f1")]
    F1,
    /// Validation intersection over union.
    #[serde(rename = "val/iou")]
    Iou,
    /// Validation loss.
    #[serde(rename = "val/loss")]
    Loss,
}

impl Monitor {
    /// The metric's name in metrics.jsonl.
    pub fn metric(self) -> &'static str {
        match self {
            Monitor::F1 => "val/f1_epoch",
            Monitor::Iou => "val/iou_epoch",
            Monitor::Loss => "val/loss_epoch",
        }
    }
}

/// Whether a higher or a lower value is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Higher is better.
    Max,
    /// Lower is better.
    Min,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StoppingSettings {
    /// Whether a run may end before its last epoch; the best checkpoint is chosen either way.
    pub enabled: bool,
    /// What is watched.
    pub monitor: Monitor,
    /// Which direction is better.
    pub mode: Mode,
    /// Epochs in a row that may be no better before the run stops; at least 1.
    pub patience: u64,
    /// How much better than the best counts as better.
    pub min_delta: f64,
}

/// What has been seen; part of the checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stopping {
    /// The value that the next one has to beat by more than `min_delta`.
    pub reference: Option<f64>,
    /// Epochs since the reference was set.
    pub waited: u64,
    /// The best value of all, which the best checkpoint holds.
    pub best: Option<f64>,
    /// The epoch of the best value.
    pub best_epoch: Option<u64>,
    /// Whether the run was told to stop.
    pub stopped: bool,
}

impl Stopping {
    /// Takes an epoch's value; returns whether it is the best so far. A value that is not a number never is.
    pub fn update(&mut self, settings: &StoppingSettings, epoch: u64, value: f64) -> bool {
        let beats = |other: Option<f64>, delta: f64| match (other, settings.mode) {
            (None, _) => !value.is_nan(),
            (Some(other), Mode::Max) => value > other + delta,
            (Some(other), Mode::Min) => value < other - delta,
        };
        if beats(self.reference, settings.min_delta) {
            self.reference = Some(value);
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        self.stopped = settings.enabled && self.waited >= settings.patience.max(1);
        let best = beats(self.best, 0.0);
        if best {
            self.best = Some(value);
            self.best_epoch = Some(epoch);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F1: StoppingSettings =
        StoppingSettings { enabled: true, monitor: Monitor::F1, mode: Mode::Max, patience: 3, min_delta: 0.002 };

    /// Runs over the values; returns the epoch after which it stops, and the state.
    fn run(settings: &StoppingSettings, values: &[f64]) -> (Option<usize>, Stopping) {
        let mut state = Stopping::default();
        for (epoch, &value) in values.iter().enumerate() {
            state.update(settings, epoch as u64, value);
            if state.stopped {
                return (Some(epoch), state);
            }
        }
        (None, state)
    }

    #[test]
    fn stops_after_patience_epochs_without() {
        assert_eq!(run(&F1, &[0.5, 0.4, 0.4, 0.4, 0.9]).0, Some(3));
        assert_eq!(run(&F1, &[0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5]).0, Some(6));
        assert_eq!(run(&F1, &[0.0, 0.0, 0.0, 0.0]).0, Some(3));
    }

    #[test]
    fn a_gain_of_min_delta_is_not_enough_but_makes_the_best_checkpoint() {
        let (stop, state) = run(&F1, &[0.5, 0.501, 0.502, 0.5015]);
        assert_eq!(stop, Some(3));
        assert_eq!((state.best, state.best_epoch), (Some(0.502), Some(2)));
        // Small gains add up: they are held against the last value that counted.
        assert_eq!(run(&F1, &[0.5, 0.501, 0.5025, 0.5030, 0.5035]).0, None);
    }

    #[test]
    fn loss_is_better_when_lower() {
        let settings = StoppingSettings { monitor: Monitor::Loss, mode: Mode::Min, patience: 1, ..F1 };
        let (stop, state) = run(&settings, &[0.5, 0.4, 0.399, 0.1]);
        assert_eq!((stop, state.best), (Some(2), Some(0.399)));
    }

    #[test]
    fn switched_off_it_never_stops_but_knows_the_best() {
        let (stop, state) = run(&StoppingSettings { enabled: false, ..F1 }, &[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]);
        assert_eq!((stop, state.best_epoch), (None, Some(0)));
    }

    #[test]
    fn not_a_number_is_never_better() {
        let (stop, state) = run(&F1, &[f64::NAN, f64::NAN, f64::NAN]);
        assert_eq!((stop, state.best), (Some(2), None));
        assert_eq!(run(&F1, &[0.5, f64::NAN, 0.6]).1.best, Some(0.6));
    }

    #[test]
    fn the_state_survives_json() {
        let (_, state) = run(&F1, &[0.1, 0.30000000000000004, 0.2]);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<Stopping>(&text).unwrap(), state);
        assert_eq!(serde_json::to_string(&Monitor::F1).unwrap(), "\"val/f1\"");
    }
}
