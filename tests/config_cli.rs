//! `emberformer config` and `emberformer doctor` as a user sees them.

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

fn emberformer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberformer"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

#[test]
fn config_shows_defaults_parameters_and_keys_without_effect() {
    let run = emberformer().args(["config", "tests/fixtures/published.yaml", "--set", "train.epochs=5"]).assert();
    let run = run.success().stdout(contains("\n  epochs: 5\n").and(contains("last_frame_skip: false")));
    let run = run.stdout(contains("# Without effect here: global.cudnn_benchmark, data.num_workers"));
    run.stdout(contains("#   embedder         2,912\n").and(contains("#   total        1,072,578\n")));
}

#[test]
fn config_prints_a_configuration_that_loads_again() {
    let first = emberformer().args(["config", "configs/emberformer_pixel.yaml"]).assert().success();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("complete.yaml");
    std::fs::write(&path, &first.get_output().stdout).unwrap();
    let json = |path: &str| -> serde_json::Value {
        let run = emberformer().args(["config", path, "--json"]).assert().success();
        serde_json::from_slice(&run.get_output().stdout).unwrap()
    };
    let (before, after) = (json("configs/emberformer_pixel.yaml"), json(path.to_str().unwrap()));
    assert_eq!(before["config"], after["config"]);
    assert_eq!(before["parameters"]["total"], 1_076_899);
}

#[test]
fn config_refuses_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("typo.yaml");
    std::fs::write(&path, "train:\n  epoch: 3\n").unwrap();
    let run = emberformer().arg("config").arg(&path).assert().code(2);
    run.stderr(contains("typo.yaml, line 2: unknown key train.epoch; the nearest known key is train.epochs;"));
    let run = emberformer().args(["config", "--set", "train.epochs=0"]).assert().code(2);
    run.stderr(contains("--set train.epochs=0: train.epochs is 0; give a whole number"));
    emberformer().args(["config", "nowhere.yaml"]).assert().code(2).stderr(contains("nowhere.yaml: cannot read"));
}

#[test]
fn doctor_says_what_a_run_would_use() {
    let run = emberformer().arg("doctor").assert().success();
    run.stdout(contains("--device auto takes ").and(contains("memory")).and(contains("kernels")));
    let run = emberformer().args(["doctor", "--json"]).assert().success();
    let report: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert!(report["cores"].as_u64().unwrap() >= 1 && report["nvidia"]["gpus"].is_array(), "{report}");
}
