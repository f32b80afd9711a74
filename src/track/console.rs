//! What a person sees while a run goes on: a bar where there is a terminal, plain lines elsewhere.

use indicatif::{FormattedDuration, HumanBytes, ProgressBar, ProgressStyle};
use std::io::Write;
use std::time::{Duration, Instant};

/// Seconds between two lines about steps where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(20);

/// How far something has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What it is, as in `epoch 1/20`.
    pub what: &'a str,
    /// How much is done.
    pub done: u64,
    /// How much there is.
    pub all: u64,
    /// Samples seen since it began.
    pub samples: u64,
    /// The loss, where it is known.
    pub loss: Option<f64>,
    /// The most bytes that were in use on the GPU, where there is one.
    pub memory: Option<usize>,
}

/// When something began, and how far it had come after its first piece, which may have taken longer than others.
#[derive(Debug, Clone)]
struct Phase {
    what: String,
    began: Instant,
    done: u64,
    samples: u64,
    /// How far it has come since.
    last: u64,
}

/// Lines on standard output, progress on standard error.
pub struct Console {
    quiet: bool,
    bar: Option<ProgressBar>,
    phase: Option<Phase>,
    last_plain: Instant,
}

impl Console {
    /// A console; a quiet one shows warnings only.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bar: None, phase: None, last_plain: Instant::now() }
    }

    /// A line.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            // A reader that went away, as in `... | head`, is no reason to stop training.
            self.above_bar(|| drop(writeln!(std::io::stdout(), "{text}")));
        }
    }

    /// A line that a quiet console shows too.
    pub fn warn(&self, text: &str) {
        self.above_bar(|| drop(writeln!(std::io::stderr(), "warning: {text}")));
    }

    fn above_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Shows how far something has come.
    pub fn progress(&mut self, progress: &Progress) {
        if self.quiet {
            return;
        }
        let Progress { what, done, all, samples, .. } = *progress;
        if self.phase.as_ref().is_none_or(|phase| phase.what != what || phase.last > done) {
            self.clear();
            self.phase = Some(Phase { what: what.to_string(), began: Instant::now(), done, samples, last: done });
        }
        let Some(phase) = &mut self.phase else { return };
        phase.last = done;
        let remark = remark(progress, phase, phase.began.elapsed());
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix:>14} {wide_bar} {pos}/{len} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(all).with_style(style).with_prefix(what.to_string())
        });
        if bar.is_hidden() {
            if self.last_plain.elapsed() >= PLAIN_EVERY {
                self.last_plain = Instant::now();
                drop(writeln!(std::io::stderr(), "{what}: {done}/{all}, {remark}"));
            }
            return;
        }
        bar.set_message(remark);
        bar.set_position(done);
    }

    /// Removes the bar.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Loss, speed, memory and the time that is left, as far as they are known `elapsed` after the phase began.
fn remark(progress: &Progress, phase: &Phase, elapsed: Duration) -> String {
    let Progress { done, all, samples, loss, memory, .. } = *progress;
    let mut parts: Vec<String> = loss.iter().map(|loss| format!("loss {loss:.4}")).collect();
    let seconds = elapsed.as_secs_f64();
    if samples > phase.samples && seconds > 0.0 {
        parts.push(format!("{:.1} samples/s", (samples - phase.samples) as f64 / seconds));
    }
    parts.extend(memory.map(|bytes| format!("GPU {}", HumanBytes(bytes as u64))));
    if done > phase.done {
        let left = seconds * all.saturating_sub(done) as f64 / (done - phase.done) as f64;
        parts.push(format!("{} to go", FormattedDuration(Duration::from_secs_f64(left.round()))));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_time_left_are_those_since_the_first_piece() {
        let phase = Phase { what: "epoch 1/2".into(), began: Instant::now(), done: 10, samples: 4, last: 10 };
        let mut progress =
            Progress { what: "epoch 1/2", done: 10, all: 110, samples: 4, loss: Some(0.5), memory: None };
        assert_eq!(remark(&progress, &phase, Duration::ZERO), "loss 0.5000");
        progress = Progress { done: 30, samples: 84, memory: Some(3 << 30), ..progress };
        let text = remark(&progress, &phase, Duration::from_secs(20));
        assert_eq!(text, "loss 0.5000, 4.0 samples/s, GPU 3.00 GiB, 00:01:20 to go");
    }
}
