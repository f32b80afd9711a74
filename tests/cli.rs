//! The main job through the command line, on the small real data set and with a tiny network.

use assert_cmd::Command;
use emberformer::data::geotiff::GeoTiff;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fires_64_mini");

/// A folder to work in, with a configuration of 12 training samples and a tiny network.
struct Workplace(tempfile::TempDir);

impl Workplace {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        place.write_config("tiny", "focal_tversky");
        place
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write_config(&self, name: &str, loss: &str) {
        let text = format!(
            "data: {{data_dir: {DATA:?}, batch_size: 3}}
model:
  temporal: {{d_model: 8, nhead: 2, num_layers: 1, dim_feedforward: 16, fire_embedding: pixels}}
  spatial: {{hidden_sizes: [4, 4, 4, 4], decoder_width: 8, base_channels: 4}}
  refinement: {{last_frame_skip: true}}
  loss: {{type: {loss}}}
train: {{epochs: 2, lr: 1e-2, log_metrics_every: 1, checkpoint_every: 1, log_images_every: 2}}
patchify_on_disk: {{cache_dir: cache}}
split: {{train: 0.5, val: 0.2, test: 0.3}}
expected: {{f1: 0.8123}}
"
        );
        std::fs::write(self.path(&format!("{name}.yaml")), text).expect("a configuration");
    }

    fn run(&self, arguments: &str) -> assert_cmd::assert::Assert {
        let mut command = Command::cargo_bin("emberformer").expect("the binary");
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).assert()
    }

    fn json(&self, arguments: &str) -> Value {
        let output = self.run(arguments).success().get_output().stdout.clone();
        serde_json::from_slice(&output).expect("JSON")
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    fn lines(&self, file: &str) -> Vec<Value> {
        let text = String::from_utf8(self.bytes(file)).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    fn assert_same_run(&self, a: &str, b: &str) {
        let files = ["metrics.jsonl", "evaluations.jsonl", "result.json", "split.json", "config.yaml"];
        for file in files.into_iter().chain(["checkpoints/last.safetensors", "checkpoints/best.safetensors"]) {
            assert!(self.bytes(&format!("{a}/tiny/{file}")) == self.bytes(&format!("{b}/tiny/{file}")), "{file}");
        }
    }
}

#[test]
fn train_then_look_at_it_with_every_command() {
    let place = Workplace::new();
    place
        .run("train --config tiny.yaml --runs-dir runs")
        .success()
        .stdout(contains("parameters").and(contains("epoch 2/2")).and(contains("copy-last F1")));
    place.write_config("other", "bce_dice");
    place.run("train --config other.yaml --runs-dir runs --quiet").success().stdout("");
    let previews: Vec<_> = std::fs::read_dir(place.path("runs/tiny/previews/epoch_001")).unwrap().collect();
    assert_eq!(previews.len(), 4);

    let rows = place.lines("runs/tiny/metrics.jsonl");
    let epochs: Vec<&Value> = rows.iter().filter(|row| row.get("val/f1_epoch").is_some()).collect();
    assert_eq!(epochs.len(), 2);
    assert_eq!(rows[0]["step"], 1);
    assert!(rows[0].get("train/focal_step").is_some() && rows[0].get("train/bce_step").is_none());

    // The last checkpoint on the validation sequences gives what the last epoch measured.
    let last = "--checkpoint runs/tiny/checkpoints/last.safetensors";
    let report = place.json(&format!("evaluate {last} --split val --json"));
    let scores = &report["summary"]["at_threshold"]["scores"];
    assert_eq!(scores["f1"], epochs[1]["val/f1_epoch"]);
    assert_eq!(scores["accuracy"], epochs[1]["val/acc_epoch"]);
    assert_eq!(report["summary"]["average_precision"], epochs[1]["val/ap_epoch"]);
    assert_eq!(report["summary"]["copy_last"]["f1"], epochs[1]["val/copy_last_f1_epoch"]);
    let loss = |value: &Value| value.as_f64().expect("a loss");
    assert!((loss(&report["summary"]["loss"]) - loss(&epochs[1]["val/loss_epoch"])).abs() < 1e-5);
    let samples: u64 = report["by_history"].as_object().unwrap().values().map(|p| p["samples"].as_u64().unwrap()).sum();
    assert_eq!(report["summary"]["samples"], samples);

    // The best threshold is one of the histogram's and gives validation's best F1 there.
    let best = place.json(&format!("evaluate {last} --split val --threshold best --json"));
    let f1 = |value: &Value| value.as_f64().expect("a score");
    let measured = f1(&best["summary"]["at_threshold"]["scores"]["f1"]);
    assert!((measured - f1(&epochs[1]["val/best_f1_epoch"])).abs() < 1e-6);
    place.run(&format!("evaluate {last}")).success().stdout(contains("growth").and(contains("frames of history")));
    place.run(&format!("evaluate {last} --threshold 2")).code(2).stderr(contains("2 is no probability"));

    let comparison = place.json("compare runs/tiny runs/other --json");
    assert_eq!(comparison["runs"][0]["name"], "tiny");
    assert_eq!(comparison["runs"][0]["expected"]["f1"], 0.8123);
    assert!(comparison["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_eq!(comparison["warnings"], serde_json::json!([]));
    place
        .run("compare runs/tiny runs/other")
        .success()
        .stdout(contains("expected").and(contains("copying the last frame")).and(contains("winner")));

    reports(&place);

    let inspected = place.json("inspect runs/tiny/checkpoints/best.safetensors --json");
    let parts = inspected["parameters"].as_object().unwrap();
    let total: u64 = parts.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(inspected["total_parameters"], total);
    let weights: u64 = inspected["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|tensor| !tensor["name"].as_str().unwrap().contains(".running_"))
        .map(|tensor| tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>())
        .sum();
    assert_eq!(weights, total);
    place.run("inspect runs/tiny/checkpoints/best.safetensors").success().stdout(contains("token_embedder.fire_embed"));

    predictions(&place);
}

/// The data within a report.
fn report_data(place: &Workplace, file: &str) -> Value {
    let html = String::from_utf8(place.bytes(file)).unwrap();
    let (_, data) = html.split_once("<script type=\"application/json\" id=\"data\">").expect("data");
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

fn reports(place: &Workplace) {
    // Training wrote one of its own, the comparison one of both.
    let own = report_data(place, "runs/tiny/report.html");
    assert_eq!((&own["runs"][0]["state"], own["runs"].as_array().unwrap().len()), (&"finished".into(), 1));
    assert_eq!(report_data(place, "runs/report.html")["runs"][1]["label"], "other");

    place.run("train --config tiny.yaml --runs-dir runs --name begun --max-steps 5 --quiet").success();
    place.run("report runs/tiny runs/other runs/begun --out both.html").success().stdout(contains("both.html"));
    let data = report_data(place, "both.html");
    assert_eq!(data["winner"].is_null(), place.json("compare runs/tiny runs/other --json")["winner"].is_null());
    for (run, name) in data["runs"].as_array().unwrap().iter().zip(["tiny", "other", "begun"]) {
        for row in place.lines(&format!("runs/{name}/metrics.jsonl")) {
            let epoch = row.as_object().unwrap().keys().any(|key| key.ends_with("_epoch"));
            let columns = &run[if epoch { "epochs" } else { "steps" }];
            let place = columns["step"].as_array().unwrap().iter().position(|step| *step == row["step"]).unwrap();
            for (key, value) in row.as_object().unwrap() {
                assert_eq!(columns[key][place], *value, "{name}: {key}");
            }
        }
        let previews = run["previews"].as_array().unwrap();
        assert!(previews.len() == 4 && previews[0]["source"].as_str().unwrap().starts_with("data:image/png;base64,"));
        assert!(run["times"][0]["train_samples"] == 7 && run["starts"][0]["parameters"].as_u64() > Some(0));
    }
    let tiny = &data["runs"][0];
    let result: Value = serde_json::from_slice(&place.bytes("runs/tiny/result.json")).unwrap();
    assert_eq!(tiny["evaluation"]["summary"], result["result"]["test"]);
    let samples = |part: &str| -> u64 {
        let parts = tiny["evaluation"][part].as_array().unwrap();
        parts.iter().map(|part| part[1]["samples"].as_u64().unwrap()).sum()
    };
    assert_eq!(result["result"]["test"]["samples"], samples("by_history"));
    assert_eq!(result["result"]["test"]["samples"], samples("by_sequence"));
    assert_eq!((&data["runs"][2]["state"], &data["runs"][2]["result"]), (&"unfinished".into(), &Value::Null));

    place.run("report runs/none").code(1).stderr(contains("runs/none"));
    place.run("report runs --out both.html").code(1).stderr(contains("is not a run"));
}

#[test]
fn a_page_that_cannot_be_written_ends_no_training() {
    let place = Workplace::new();
    std::fs::create_dir_all(place.path("runs/tiny/report.html/in_the_way")).unwrap();
    place
        .run("train --config tiny.yaml --runs-dir runs --epochs 1")
        .success()
        .stderr(contains("error: the report was not written: runs/tiny/report.html"));
    assert!(place.path("runs/tiny/result.json").exists());
}

fn predictions(place: &Workplace) {
    let command = format!("predict --checkpoint runs/tiny/checkpoints/best.safetensors --data {DATA} --out out");
    place.run(&format!("{command} --sequence sequence_018 --frame 3 --frame next")).success();
    let folder = place.path("out/sequence_018");
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let kinds = ["picture.png", "probability.png", "probability.tif"];
    let expected: Vec<String> =
        ["003", "008"].iter().flat_map(|n| kinds.map(|kind| format!("iso_{n}_{kind}"))).collect();
    assert_eq!(names, expected);

    let image = image::open(folder.join("iso_003_probability.png")).unwrap().to_luma16();
    let mut tiff = GeoTiff::open(&folder.join("iso_003_probability.tif")).unwrap();
    assert_eq!((tiff.width(), tiff.height(), tiff.bands()), (64, 64, 1));
    let values = tiff.read_window(0, 64, 0, 64).unwrap();
    assert!(values.iter().zip(image.as_raw()).all(|(p, grey)| (p * 65535.0 - f32::from(*grey)).abs() <= 0.51));

    let indices = std::fs::read_to_string(Path::new(DATA).join("landscape/indices.json")).unwrap();
    let window: [usize; 4] =
        serde_json::from_value(serde_json::from_str::<Value>(&indices).unwrap()["18"].clone()).unwrap();
    let landscape = GeoTiff::open(&Path::new(DATA).join("landscape/Input_Geotiff.tif")).unwrap().georeference();
    assert_eq!(tiff.georeference(), landscape.shifted(window[2], window[0]));

    place.run(&format!("{command} --sequence sequence_018 --frame 9")).code(2).stderr(contains("has 8 frames"));
    place.run(&format!("{command} --sequence sequence_999")).code(2).stderr(contains("sequence_999 is not among"));
}

#[test]
fn a_paused_or_killed_run_resumes_to_the_same_bytes() {
    let place = Workplace::new();
    place.run("train --config tiny.yaml --runs-dir whole").success();

    place.run("train --config tiny.yaml --runs-dir paused --max-steps 3").success().stdout(contains("paused"));
    place.run("compare paused/tiny").code(1).stderr(contains("has not finished"));
    place.run("train --config tiny.yaml --runs-dir paused --resume").success();
    place.assert_same_run("whole", "paused");

    // Killed some time after its first checkpoint.
    let last = place.path("killed/tiny/checkpoints/last.safetensors");
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("emberformer"))
        .current_dir(place.0.path())
        .args(["train", "--config", "tiny.yaml", "--runs-dir", "killed", "--quiet"])
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !last.exists() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(last.exists());
    place.run("train --config tiny.yaml --runs-dir killed --resume").success();
    place.assert_same_run("whole", "killed");

    // Without --config a run goes on with its own.
    place.run("train --name tiny --runs-dir whole --resume --epochs 3").success().stdout(contains("epoch 3/3"));
    place
        .run("train --name tiny --runs-dir whole --resume --set train.lr_temporal=0.5")
        .code(2)
        .stderr(contains("rates.temporal was 0.01 when the run began and is 0.5 now"));
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_stops_and_the_run_goes_on() {
    let place = Workplace::new();
    let endless = "train --config tiny.yaml --runs-dir stopped --quiet --set train.checkpoint_every=0 --epochs 1000";
    let mut run = std::process::Command::new(assert_cmd::cargo::cargo_bin("emberformer"));
    let run = run.current_dir(place.path(".")).args(endless.split_whitespace()).stderr(std::process::Stdio::piped());
    let run = run.spawn().expect("the program starts");
    let lines =
        || std::fs::read_to_string(place.path("stopped/tiny/metrics.jsonl")).unwrap_or_default().lines().count();
    let began = Instant::now();
    while lines() < 7 {
        assert!(began.elapsed() < Duration::from_secs(60), "no steps");
        std::thread::sleep(Duration::from_millis(5));
    }
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {}", run.id())]).status();
    assert!(sent.expect("kill").success());
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("saved and stopped by a signal; go on with --name tiny --resume"), "{text}");
    let steps =
        place.json("inspect stopped/tiny/checkpoints/last.safetensors --json")["progress"]["step"].as_u64().unwrap()
            + 2;
    let rest = format!("--quiet --set train.checkpoint_every=0 --epochs 1000 --max-steps {steps}");
    place.run(&format!("train --config tiny.yaml --runs-dir stopped --resume {rest}")).success();
    place.run(&format!("train --config tiny.yaml --runs-dir whole {rest}")).success();
    for file in ["metrics.jsonl", "checkpoints/last.safetensors"] {
        assert!(place.bytes(&format!("stopped/tiny/{file}")) == place.bytes(&format!("whole/tiny/{file}")), "{file}");
    }
}

#[test]
fn the_gpu_path_pauses_and_resumes_to_the_same_bytes() {
    let place = Workplace::new();
    let wider = "--set model.spatial.hidden_sizes=[8,8,8,8] --set model.spatial.base_channels=8"; // multiples of 8
    let run = |options: &str| place.run(&format!("train --config tiny.yaml --device emulated {wider} {options}"));
    let train = |options: &str| run(options).success();
    place
        .run("train --config tiny.yaml --device emulated")
        .code(2)
        .stderr(contains("only multiples of 8 are possible"));
    for precision in ["float32", "bfloat16"] {
        let set = format!("--set train.precision={precision}");
        train(&format!("--runs-dir whole_{precision} --max-steps 3 {set}"))
            .stdout(contains("emulated GPU").and(contains(format!("compute {precision}"))));
        train(&format!("--runs-dir paused_{precision} --max-steps 1 {set}"));
        train(&format!("--runs-dir paused_{precision} --max-steps 3 {set} --resume"));
        let last = |runs: &str| place.bytes(&format!("{runs}_{precision}/tiny/checkpoints/last.safetensors"));
        assert!(last("whole") == last("paused"), "{precision}");
    }
    // Where the data lies makes no difference.
    for residency in ["device", "stream"] {
        train(&format!("--runs-dir {residency} --max-steps 3 --set data.augment=d4 --set data.residency={residency}"));
    }
    assert!(place.bytes("device/tiny/metrics.jsonl") == place.bytes("stream/tiny/metrics.jsonl"));
    run("--runs-dir paused_bfloat16 --resume --set train.precision=float32")
        .code(2)
        .stderr(contains("train.precision was \"bf16\" when the run began"));
    // A checkpoint of the GPU's is evaluated on the CPU too.
    let scores = |device: &str| {
        let last = "paused_bfloat16/tiny/checkpoints/last.safetensors";
        place.json(&format!("evaluate --checkpoint {last} --split val --json --device {device}"))["summary"]["loss"]
            .as_f64()
    };
    let (cpu, gpu) = (scores("cpu").unwrap(), scores("emulated").unwrap());
    assert!((cpu - gpu).abs() < 1e-2 * cpu, "{cpu} and {gpu}");
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/small_eval.safetensors");
    place.run(&format!("verify --device emulated {case}")).success().stdout(contains("2 of 2 cases within tolerance"));
}

#[test]
fn a_step_is_measured_on_either_device() {
    let place = Workplace::new();
    let wider = "--set model.spatial.hidden_sizes=[8,8,8,8] --set model.spatial.base_channels=8";
    for device in ["cpu", "emulated"] {
        let sizes = "--batch 1,2 --history 2 --size 64 --bands 3 --steps 1 --epoch 100";
        let json = place.json(&format!("bench --config tiny.yaml {wider} --device {device} {sizes} --json"));
        let batches = json["batches"].as_array().unwrap();
        assert_eq!(batches.len(), 2);
        for (row, batch) in batches.iter().zip([1.0, 2.0]) {
            let value = |key: &str| row[key].as_f64().unwrap();
            assert_eq!(value("batch"), batch);
            assert!(value("step_ms") > 0.0 && value("peak_bytes") > 0.0);
            let rate = value("samples_per_second");
            assert!((rate - 1e3 * batch / value("step_ms")).abs() < 1e-6 * rate);
            assert!((value("epoch_seconds") * rate - 100.0).abs() < 1e-6);
        }
    }
    let json = place
        .json(&format!("bench --config tiny.yaml {wider} --device emulated --batch 1,8 --size 64 --memory --json"));
    let bytes = |i: usize| json["batches"][i]["step_bytes"].as_u64().unwrap();
    assert!(bytes(1) > 4 * bytes(0) && bytes(1) < 9 * bytes(0), "{json}");
    place.run("bench --config tiny.yaml --device cpu --memory").code(2).stderr(contains("a CPU plans no memory"));
    place
        .run("bench --config tiny.yaml --size 65")
        .code(2)
        .stderr(contains("65 pixels are no multiple of the patch size 8"));
}

#[test]
fn wrong_input_is_one_error_with_its_remedy() {
    let place = Workplace::new();
    place.run("train --config tiny.yaml --name a --max-steps 1").success();
    let fails = |arguments: &str, code: i32, parts: &[&str]| {
        let output = place.run(arguments).code(code).get_output().stderr.clone();
        let text = String::from_utf8(output).unwrap();
        for part in parts {
            assert!(text.contains(part), "`{arguments}` says {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    };
    fails("train --config tiny.yaml --name a", 2, &["runs/a", "there already", "--resume"]);
    fails("train --config tiny.yaml --name b --resume", 2, &["no run of this name"]);
    fails("train --config none.yaml", 2, &["none.yaml", "cannot read"]);
    fails("train --config tiny.yaml --name b --set train.epoch=3", 2, &["train.epoch", "train.epochs"]);
    fails("train --config tiny.yaml --name b --device gpu", 2, &["--device gpu", "auto, cpu, cuda:N or emulated"]);
    if !std::path::Path::new("/proc/driver/nvidia/version").exists() {
        fails("train --config tiny.yaml --name b --device cuda:0", 1, &["error: CUDA: ", "use --device cpu"]);
        fails("train --config tiny.yaml --name b --gpu 1", 1, &["error: CUDA: ", "use --device cpu"]);
    }
    fails("train --config tiny.yaml --name b --set data.data_dir=nowhere", 1, &["nowhere"]);
    fails("train --config tiny.yaml --name b --set data.max_sequences=2", 1, &["split", "sequences"]);
    assert!(!place.path("runs/b").exists(), "nothing is left of a run that could not begin");

    // So large a learning rate that weights overflow.
    fails(
        "train --config tiny.yaml --name b --set train.lr_temporal=1e30 --set train.lr_refinement=1e30",
        1,
        &["step ", "the loss is ", "sequence_0", "the last good checkpoint is runs/b/checkpoints/last.safetensors"],
    );
    let inspected = place.json("inspect runs/b/checkpoints/last.safetensors --json");
    let broken = inspected["tensors"].as_array().unwrap().iter().any(|tensor| tensor["not_finite"] != 0);
    assert!(!broken, "the checkpoint that is kept has numbers only");

    let bytes = place.bytes("runs/a/checkpoints/last.safetensors");
    std::fs::write(place.path("cut.safetensors"), &bytes[..bytes.len() - 9]).unwrap();
    let mut altered = bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    std::fs::write(place.path("altered.safetensors"), altered).unwrap();
    for command in ["inspect", "evaluate --checkpoint"] {
        fails(&format!("{command} cut.safetensors"), 1, &["cut.safetensors", "is truncated", "restore it"]);
        fails(&format!("{command} altered.safetensors"), 1, &["altered.safetensors", "was altered"]);
        fails(&format!("{command} none.safetensors"), 1, &["none.safetensors", "cannot read the checkpoint"]);
    }
    fails("compare runs/a", 1, &["runs/a", "has not finished", "--resume"]);
    fails("compare runs/none", 1, &["runs/none", "cannot open the run"]);
    std::fs::write(place.path("split.json"), r#"{"train": ["sequence_002"], "val": ["sequence_777"], "test": []}"#)
        .unwrap();
    fails("train --config tiny.yaml --name c --set split.file=split.json", 1, &["split.json", "sequence_777"]);
}

#[test]
fn experiments_train_all_and_report_the_one_that_fails() {
    let place = Workplace::new();
    place.write_config("other", "bce_dice");
    place
        .run("experiments --config tiny.yaml --config other.yaml")
        .success()
        .stdout(contains("=== tiny").and(contains("=== other")).and(contains("winner")));
    assert!(String::from_utf8(place.bytes("logs/other.log")).unwrap().contains("epoch 2/2"));
    // Again: both are finished, and are compared again.
    place.run("experiments --config tiny.yaml --config other.yaml").success().stdout(contains("winner"));

    let broken = std::fs::read_to_string(place.path("tiny.yaml")).unwrap().replace("fires_64_mini", "nothing");
    std::fs::write(place.path("broken.yaml"), broken).unwrap();
    place
        .run("experiments --config broken.yaml --config tiny.yaml --runs-dir others")
        .code(1)
        .stdout(contains("winner: tiny").or(contains("no winner: tiny")))
        .stderr(contains("1 of 2 failed: broken"));
}

#[test]
fn numbers_out_of_range_are_bad_usage() {
    let most = u64::MAX;
    for (arguments, part) in [
        (format!("predict --checkpoint a --data b --out c --frame {most}"), "is no frame"),
        (format!("synth --out fires --size {most}"), "give 16 to 4096"),
        (format!("synth --out fires --sequences {most}"), "give 1 to 100000"),
        (format!("synth --out fires --landscape {most}x{most}"), "--landscape"),
        ("synth --out fires --jobs 100000".into(), "--jobs"),
        (format!("train --epochs {most}"), "train.epochs"),
    ] {
        let output = Command::cargo_bin("emberformer").unwrap().args(arguments.split(' ')).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains(part), "`{arguments}` says {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn every_command_has_an_example() {
    for command in ["train", "experiments", "compare", "report", "watch", "evaluate", "inspect", "predict"] {
        let mut help = Command::cargo_bin("emberformer").unwrap();
        help.args([command, "--help"])
            .assert()
            .success()
            .stdout(contains("Example").and(contains(format!("emberformer {command}"))));
    }
}
