//! The comparison of finished runs: a table and a verdict (SPEC §4).

use crate::track::folder::{Expected, FinishedRun};
use crate::train::evaluate::{AtThreshold, Summary};
use crate::train::metrics::Scores;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

/// A run qualifies with a precision above this.
pub const MIN_PRECISION: f64 = 0.65;

/// Runs side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The runs in the order given.
    pub runs: Vec<ComparedRun>,
    /// The winner's name, where there is one.
    pub winner: Option<String>,
    /// Why it won, or why there is none.
    pub reason: String,
    /// What makes the runs hard to compare.
    pub warnings: Vec<String>,
}

/// One of the runs: its test results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedRun {
    /// The run's name.
    pub name: String,
    /// The part of the split that it was tested on.
    pub split: String,
    /// Its best checkpoint there.
    pub test: Summary,
    /// What its configuration expects.
    pub expected: Expected,
    /// The epoch of the best checkpoint, from 0.
    pub best_epoch: Option<u64>,
    /// Epochs that it trained.
    pub epochs: u64,
}

impl Comparison {
    /// Compares runs by their test results at the configured threshold.
    pub fn new(runs: &[FinishedRun]) -> Self {
        let runs: Vec<ComparedRun> = runs
            .iter()
            .map(|run| ComparedRun {
                name: run.name.clone(),
                split: run.result.split.clone(),
                test: run.result.test,
                expected: run.expected,
                best_epoch: run.result.best_epoch,
                epochs: run.result.epochs,
            })
            .collect();
        let (winner, reason) = verdict(&runs);
        let mut warnings = Vec::new();
        if let Some((first, rest)) = runs.split_first() {
            for run in rest {
                if (run.test.samples, run.test.copy_last) != (first.test.samples, first.test.copy_last) {
                    warnings.push(format!("{} and {} were not tested on the same samples", first.name, run.name));
                }
            }
        }
        Self { runs, winner, reason, warnings }
    }

    /// The table with the verdict below it, as text.
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        let header = ["run", "threshold", "precision", "recall", "F1", "IoU", "AP", "growth F1", "growth AP"];
        table.set_header(header.iter().enumerate().map(|(i, name)| aligned(i, (*name).to_string())));
        let mut row = |name: String, values: [Option<f64>; 8]| {
            let cell = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.4}"));
            let cells = std::iter::once(name).chain(values.into_iter().map(cell));
            table.add_row(cells.enumerate().map(|(i, text)| aligned(i, text)));
        };
        for run in &self.runs {
            let test = &run.test;
            let measured = |at: &AtThreshold| {
                let Scores { precision, recall, f1, iou, .. } = at.scores;
                [
                    Some(at.threshold),
                    Some(precision),
                    Some(recall),
                    Some(f1),
                    Some(iou),
                    Some(test.average_precision),
                    Some(at.growth.f1),
                    Some(test.growth_average_precision),
                ]
            };
            row(run.name.clone(), measured(&test.at_threshold));
            if run.expected != Expected::default() {
                let Expected { precision, recall, f1, iou, average_precision } = run.expected;
                row("  expected".into(), [None, precision, recall, f1, iou, average_precision, None, None]);
            }
            row("  at validation's best threshold".into(), measured(&test.at_best));
        }
        let mut baselines: Vec<(String, Scores)> = Vec::new();
        for run in &self.runs {
            if baselines.last().is_none_or(|(_, scores)| *scores != run.test.copy_last) {
                let of = if baselines.is_empty() { String::new() } else { format!(" ({})", run.name) };
                baselines.push((format!("copying the last frame{of}"), run.test.copy_last));
            }
        }
        for (name, Scores { precision, recall, f1, iou, .. }) in baselines {
            row(name, [None, Some(precision), Some(recall), Some(f1), Some(iou), None, Some(0.0), None]);
        }
        let winner = match &self.winner {
            Some(name) => format!("winner: {name}: {}", self.reason),
            None => format!("no winner: {}", self.reason),
        };
        let warnings: String = self.warnings.iter().map(|w| format!("warning: {w}\n")).collect();
        format!("{table}\n{warnings}{winner}")
    }
}

fn aligned(column: usize, text: String) -> Cell {
    Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
}

/// The run with the highest F1 among those whose precision is above [`MIN_PRECISION`], with the reason.
fn verdict(runs: &[ComparedRun]) -> (Option<String>, String) {
    let scores = |run: &ComparedRun| run.test.at_threshold.scores;
    let mut qualified: Vec<&ComparedRun> = runs.iter().filter(|run| scores(run).precision > MIN_PRECISION).collect();
    qualified.sort_by(|a, b| scores(b).f1.total_cmp(&scores(a).f1));
    let barred: Vec<String> = runs
        .iter()
        .filter(|run| scores(run).precision <= MIN_PRECISION)
        .map(|run| format!("{} has precision {:.4}", run.name, scores(run).precision))
        .collect();
    let barred_text = format!("{}, not above {MIN_PRECISION}", barred.join(" and "));
    match qualified.as_slice() {
        [] if runs.is_empty() => (None, "there are no runs".into()),
        [] => (None, barred_text),
        [only] if barred.is_empty() => (Some(only.name.clone()), "it is the only run".into()),
        [only] => (Some(only.name.clone()), format!("F1 {:.4}; {barred_text}", scores(only).f1)),
        [first, second, ..] if scores(first).f1 == scores(second).f1 => {
            (None, format!("{} and {} have the same F1, {:.4}", first.name, second.name, scores(first).f1))
        }
        [first, second, ..] => {
            let mut reason = format!("F1 {:.4} against {:.4}", scores(first).f1, scores(second).f1);
            reason += &format!(", precision {:.4} above {MIN_PRECISION}", scores(first).precision);
            if !barred.is_empty() {
                reason += &format!("; {barred_text}");
            }
            (Some(first.name.clone()), reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::loss::{Counts, LossSettings, PosWeight};
    use crate::train::evaluate::RunResult;
    use crate::train::metrics::Evaluation;

    fn run(name: &str, counts: Counts) -> FinishedRun {
        let mut evaluation = Evaluation::default();
        evaluation.totals.counts = counts;
        evaluation.totals.samples = 9;
        let summary = Summary::new(&evaluation, 0.5, 0.25);
        FinishedRun {
            format_version: 1,
            name: name.into(),
            device: "cpu".into(),
            parameters: 1,
            loss: LossSettings::BceDice { bce_weight: 0.9, dice_weight: 0.1, pos_weight: PosWeight::None },
            expected: Expected::default(),
            result: RunResult {
                split: "test".into(),
                steps: 10,
                epochs: 2,
                stopped_early: false,
                best_epoch: Some(1),
                monitor: "val/f1_epoch".into(),
                best_value: Some(0.5),
                validation: summary,
                test: summary,
            },
        }
    }

    /// Precision 0.9, F1 2·45/(90 + 5 + 55) = 0.6.
    const PRECISE: Counts = Counts { tp: 45, fp: 5, fn_: 55, tn: 0 };
    /// Precision 0.7, F1 0.7.
    const GOOD: Counts = Counts { tp: 70, fp: 30, fn_: 30, tn: 0 };
    /// Precision 13/20 = 0.65 exactly, F1 26/33 = 0.79.
    const LOOSE: Counts = Counts { tp: 13, fp: 7, fn_: 0, tn: 0 };

    #[test]
    fn the_higher_f1_wins_among_the_precise() {
        let compare = |a, b| Comparison::new(&[run("a", a), run("b", b)]);
        let both = compare(PRECISE, GOOD);
        assert_eq!(both.winner.as_deref(), Some("b"));
        assert_eq!(both.reason, "F1 0.7000 against 0.6000, precision 0.7000 above 0.65");
        let one = compare(LOOSE, PRECISE);
        assert_eq!(one.winner.as_deref(), Some("b"));
        assert!(one.reason.contains("a has precision 0.6500, not above 0.65"), "{}", one.reason);
        let none = compare(LOOSE, Counts::default());
        assert_eq!(none.winner, None);
        assert!(none.text().contains("no winner: a has precision 0.6500 and b has precision 0.0000"));
        let same = compare(GOOD, GOOD);
        assert_eq!((same.winner, same.warnings.len()), (None, 0));
        assert!(same.reason.contains("the same F1"));
    }

    #[test]
    fn the_table_has_expected_beside_measured_and_the_baseline() {
        let mut first = run("focal", GOOD);
        first.expected.f1 = Some(0.8123);
        let mut second = run("bce", PRECISE);
        second.result.test.copy_last.f1 = 0.5;
        let comparison = Comparison::new(&[first, second]);
        let text = comparison.text();
        for part in ["focal", "bce", "0.7000", "expected", "0.8123", "copying the last frame", "winner: focal"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.contains("focal and bce were not tested on the same samples"), "{text}");
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["winner"], "focal");
        assert_eq!(json["runs"][0]["expected"]["f1"], 0.8123);
        assert_eq!(json["runs"][1]["test"]["at_threshold"]["scores"]["precision"], 0.9);
    }
}
