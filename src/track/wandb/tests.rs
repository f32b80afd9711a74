use super::*;
use crate::train::metrics::Evaluation;
use crate::train::stopping::Stopping;

fn settings() -> Settings {
    Settings {
        mode: Mode::Offline,
        project: "fires".into(),
        entity: None,
        name: "a".into(),
        group: None,
        job_type: None,
        notes: None,
        tags: vec!["x".into()],
        auto_tags: false,
        pictures: 1,
        artifacts: true,
        dir: None,
        run_id: None,
    }
}

/// A run's folder as it is when tracking begins.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("config.yaml", "a: 1\n"), ("split.json", "{}"), ("result.json", "{}")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn row(i: u64) -> Metrics {
    let row = json!({"step": i + 1, "epoch": 0, "train/loss_step": 0.5 + i as f64, "train/bce_step": null});
    row.as_object().unwrap().clone()
}

fn open(folder: &Path, kept: u64) -> Wandb {
    let kept: Vec<Metrics> = (0..kept).map(row).collect();
    Wandb::open(folder, settings(), &json!({"train": {"epochs": 2}}), &kept).unwrap()
}

fn steps(wandb: &mut Wandb, lines: std::ops::Range<u64>) {
    for index in lines {
        wandb.step(&Line { index, row: &row(index) }).unwrap();
    }
}

/// The records of every part in order.
fn records(folder: &Path) -> Vec<Vec<Record>> {
    let id = identity(folder, None).unwrap();
    let parts = parts(&folder.join("wandb"), &id).unwrap();
    parts.iter().map(|path| log::read(path).unwrap().records).collect()
}

fn values(items: &[Item]) -> std::collections::BTreeMap<String, String> {
    items.iter().map(|item| (item.nested_key.join(" "), item.value_json.clone())).collect()
}

/// The `_step` of every history row of all parts.
fn history(parts: &[Vec<Record>]) -> Vec<String> {
    let rows = parts.iter().flatten().filter_map(|record| record.history.as_ref());
    rows.map(|row| values(&row.item)["_step"].clone()).collect()
}

const END: End = End { step: 9, failed: false, result: None };

#[test]
fn a_part_begins_with_the_run_and_ends_with_its_exit() {
    let folder = folder();
    let mut wandb = open(folder.path(), 0);
    steps(&mut wandb, 0..2);
    let picture = |name: &str| Picture { name: name.into(), png: vec![1, 2, 3], width: 8, height: 4, channels: 3 };
    let (row, validation) = (json!({"step": 2, "epoch": 0, "val/f1_epoch": 0.75}), Evaluation::default());
    let stopping = Stopping { best: Some(0.75), best_epoch: Some(0), ..Stopping::default() };
    let row = row.as_object().unwrap();
    let end = EpochEnd {
        epoch: 0,
        row,
        validation: &validation,
        best: true,
        stopping: &stopping,
        train_time: Duration::ZERO,
        validation_time: Duration::ZERO,
        time: Duration::ZERO,
    };
    wandb.epoch(&Line { index: 2, row }, &end, &[picture("sheet"), picture("one too many")]).unwrap();
    wandb.log("a line").unwrap();
    wandb.finish(&END).unwrap();

    let parts = records(folder.path());
    let [records] = parts.as_slice() else { panic!("{} parts", parts.len()) };
    let run = records[0].run.as_ref().unwrap();
    assert!(records[0].control.is_some() && !run.resume);
    assert_eq!((run.project.as_str(), run.display_name.as_str(), &run.tags), ("fires", "a", &vec!["x".to_string()]));
    assert_eq!(values(&run.config.as_ref().unwrap().update)["train"], "{\"epochs\":2}");
    assert_eq!(records.last().unwrap().exit.unwrap().exit_code, 0);
    assert!(records.iter().enumerate().all(|(i, record)| record.num == i as i64 + 1));
    assert!(records.iter().any(|record| record.output_raw.as_ref().is_some_and(|output| output.line == "a line\n")));
    assert!(records.iter().any(|record| record.stats.as_ref().is_some_and(|stats| !stats.item.is_empty())));

    let rows: Vec<&History> = records.iter().filter_map(|record| record.history.as_ref()).collect();
    assert_eq!(rows.len(), 3);
    let first = values(&rows[0].item);
    assert_eq!((first["train/loss_step"].as_str(), first.get("train/bce_step")), ("0.5", None));
    let last = values(&rows[2].item);
    assert_eq!((last["_step"].as_str(), last["val/f1_epoch"].as_str()), ("2", "0.75"));
    let path: String = serde_json::from_str(&last["preview/sheet path"]).unwrap();
    let part = parts_folder(folder.path());
    assert_eq!(std::fs::read(part.join("files").join(&path)).unwrap(), [1, 2, 3]);
    assert!(path.starts_with("media/images/preview/sheet_2_039058c6f2c0cb492c53"), "{path}");
    assert!(!last.keys().any(|key| key.contains("many")));
    let files = records.iter().filter_map(|record| record.files.as_ref()).flat_map(|files| &files.files);
    assert!(files.filter(|file| file.path == path && file.kind == 2).count() == 1);

    let metrics: Vec<_> = records.iter().filter_map(|record| record.metric.as_ref()).collect();
    let over = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap().step_metric.clone();
    assert_eq!([over("train/loss_step"), over("val/f1_epoch"), over("epoch")], ["step", "epoch", ""]);
    let summary = records.iter().rev().find_map(|record| record.summary.as_ref()).unwrap();
    let summary = values(&summary.update);
    assert_eq!((summary["train/loss_step"].as_str(), summary["best/epoch"].as_str()), ("1.5", "0"));
    assert!(summary.contains_key("_wandb runtime"));
}

fn parts_folder(run: &Path) -> PathBuf {
    let id = identity(run, None).unwrap();
    parts(&run.join("wandb"), &id).unwrap()[0].parent().unwrap().to_path_buf()
}

#[test]
fn steps_are_neither_missing_nor_twice_after_a_resume() {
    let folder = folder();
    // Killed after line 6, of which the checkpoint knows 4.
    let mut first = open(folder.path(), 0);
    steps(&mut first, 0..6);
    drop(first);
    let path = parts_folder(folder.path());
    let path = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&bytes[..], b"\x01\x02\x03\x04\x05\x00\x01half a record"].concat()).unwrap();

    let mut second = open(folder.path(), 4);
    steps(&mut second, 4..9);
    second.finish(&END).unwrap();
    let parts = records(folder.path());
    assert_eq!(parts.len(), 2);
    let expected: Vec<String> = (0..9).map(|i: u64| i.to_string()).collect();
    assert_eq!(history(&parts), expected);
    assert_eq!(parts[0].last().unwrap().exit.unwrap().exit_code, 1, "an interrupted part gets its end");
    let runs: Vec<_> = parts.iter().map(|part| part[0].run.clone().unwrap()).collect();
    assert!(runs[0].run_id == runs[1].run_id && !runs[0].resume && runs[1].resume);
    let summary = parts[1].iter().rev().find_map(|record| record.summary.clone()).unwrap();
    assert_eq!(values(&summary.update)["_step"], "8");

    // Lines that no part has, because tracking had failed meanwhile, come from metrics.jsonl.
    let mut third = open(folder.path(), 12);
    steps(&mut third, 12..13);
    let parts = records(folder.path());
    let expected: Vec<String> = (0..13).map(|i: u64| i.to_string()).collect();
    assert_eq!((parts.len(), history(&parts)), (3, expected));
}

#[test]
fn another_identity_is_another_run() {
    let folder = folder();
    let elsewhere = tempfile::tempdir().unwrap();
    steps(&mut open(folder.path(), 0), 0..3);
    let settings = Settings { run_id: Some("other-1".into()), dir: Some(elsewhere.path().into()), ..settings() };
    drop(Wandb::open(folder.path(), settings, &json!({}), &[row(0), row(1), row(2)]).unwrap());
    let parts = parts(&elsewhere.path().join("wandb"), "other-1").unwrap();
    let contents = log::read(&parts[0]).unwrap().records;
    assert_eq!(history(&[contents]), ["0", "1", "2"]);
    assert_eq!(identity(folder.path(), None).unwrap(), "other-1");
}

#[test]
fn no_password_leaves_the_machine() {
    assert_eq!(without_password("https://me:secret@host.org/a/b@c.git"), "https://host.org/a/b@c.git");
    assert_eq!(without_password("https://token@host.org"), "https://host.org/");
    assert_eq!(without_password("git@host.org:a/b.git"), "git@host.org:a/b.git");
}
