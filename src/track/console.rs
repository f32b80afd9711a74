//! What a person sees while a run goes on: a bar where there is a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::time::{Duration, Instant};

/// Seconds between two lines about steps where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(20);

/// Lines on standard output, progress on standard error.
pub struct Console {
    quiet: bool,
    bar: Option<ProgressBar>,
    last_plain: Instant,
}

impl Console {
    /// A console; a quiet one shows nothing.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bar: None, last_plain: Instant::now() }
    }

    /// A line.
    pub fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        // A reader that went away, as in `... | head`, is no reason to stop training.
        let print = || drop(writeln!(std::io::stdout(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Shows that `done` of `all` are done, with a remark such as the loss.
    pub fn progress(&mut self, what: &str, done: u64, all: u64, remark: &str) {
        if self.quiet {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(all);
            let style = "{prefix:>12} {bar:32} {pos}/{len} {msg} ({elapsed} done, {eta} to go)";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        if bar.is_hidden() {
            if self.last_plain.elapsed() >= PLAIN_EVERY {
                self.last_plain = Instant::now();
                drop(writeln!(std::io::stderr(), "{what} {done}/{all} {remark}"));
            }
            return;
        }
        if bar.prefix() != what {
            bar.reset();
            bar.set_prefix(what.to_string());
        }
        bar.set_length(all);
        bar.set_message(remark.to_string());
        bar.set_position(done);
    }

    /// Removes the bar.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
