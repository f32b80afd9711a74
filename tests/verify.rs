//! Golden cases from strangers: a file that is wrong is one clear error, a result that is wrong is a failing check.

use assert_cmd::Command;
use emberformer::Result;
use emberformer::device::Device;
use emberformer::tensor::DType;
use emberformer::verify::{Check, run_case};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SMALL_EVAL: &[u8] = include_bytes!("golden/small_eval.safetensors");

/// A case taken apart.
#[derive(Clone)]
struct Parts {
    case: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Parts {
    fn small_eval() -> Self {
        let (_, header) = SafeTensors::read_metadata(SMALL_EVAL).unwrap();
        let case = serde_json::from_str(&header.metadata().as_ref().unwrap()["case"]).unwrap();
        let file = SafeTensors::deserialize(SMALL_EVAL).unwrap();
        let tensors = file
            .iter()
            .map(|(name, view)| (name.to_string(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())));
        Self { case, tensors: tensors.collect() }
    }

    fn bytes(&self) -> Vec<u8> {
        let metadata = HashMap::from([("case".to_string(), self.case.to_string())]);
        let views = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        serialize(views, Some(metadata)).unwrap()
    }

    fn set(&mut self, pointer: &str, value: Value) {
        *self.case.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    }
}

fn run(bytes: &[u8]) -> Result<Vec<Check>> {
    run_case("mine.safetensors", bytes, &Device::cpu(), DType::F64)
}

/// The error of a spoilt case, which must come at once and name the file.
fn spoilt(spoil: impl FnOnce(&mut Parts)) -> String {
    let mut parts = Parts::small_eval();
    spoil(&mut parts);
    message(&parts.bytes())
}

fn message(bytes: &[u8]) -> String {
    let began = Instant::now();
    let error = run(bytes).expect_err("an error");
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}: {error}", began.elapsed());
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(text.starts_with("mine.safetensors: "), "{text}");
    text
}

#[test]
fn taken_apart_and_put_together_it_passes() {
    assert!(run(&Parts::small_eval().bytes()).unwrap().iter().all(Check::passes));
}

#[test]
fn metadata_that_is_wrong() {
    assert!(message(b"short").contains("truncated: it has 5 bytes"));
    assert!(message(&SMALL_EVAL[..5000]).contains("truncated: it has 5000 bytes"));
    assert!(message(&SMALL_EVAL[..SMALL_EVAL.len() - 1]).contains("truncated"));
    let plain = serialize(Vec::<(&str, TensorView)>::new(), None).unwrap();
    let text = message(&plain);
    assert!(text.contains("no metadata key \"case\"") && text.contains("tests/golden/README.md"), "{text}");
    assert!(spoilt(|p| p.case = json!("a text")).contains("metadata key \"case\""));
    assert!(spoilt(|p| p.set("/model", json!({"d": 16}))).contains("missing field `static_channels`"));
    assert!(spoilt(|p| p.set("/loss", json!("hinge"))).contains("unknown loss hinge"));
    assert!(spoilt(|p| p.set("/model/d", json!(-1))).contains("invalid value"));
}

#[test]
fn settings_that_make_no_network_or_one_that_the_file_does_not_hold() {
    for (pointer, value, expected) in [
        ("/model/heads", 0, "0 heads"),
        ("/model/heads", 3, "3 heads do not divide a width of 16"),
        ("/model/d", 0, "a width of 0"),
        ("/model/patch", 0, "patches of 0 pixels"),
        ("/model/base", 0, "a size is 0"),
        ("/model/layers", usize::MAX, "a size of 18446744073709551615"),
        ("/model/static_channels", 1 << 60, "a size of 1152921504606846976"),
        ("/model/layers", 60_000, "call for"),
        ("/model/ff", 65_536, "call for"),
        ("/model/decoder_width", 65_536, "call for"),
        ("/model/base", 65_536, "call for"),
        ("/model/d", 65_536, "call for"),
        ("/steps", usize::MAX, "18446744073709551615 Adam steps, 1000 are the most"),
    ] {
        let text = spoilt(|p| p.set(pointer, json!(value)));
        assert!(text.contains(expected), "{pointer} {value}: {text}");
    }
}

#[test]
fn grids_that_the_tensors_do_not_have() {
    for grid in [[0, 11], [10, 0], [1 << 61, 1 << 61], [usize::MAX, 1], [10, 12], [100_000, 100_000]] {
        let text = spoilt(|p| p.set("/grid", json!(grid)));
        assert!(text.contains("input.fire_pixels"), "{grid:?}: {text}");
    }
    assert!(spoilt(|p| p.set("/grid", json!([11, 10]))).contains("input.fire_pixels of shape [2, 6, 80, 88]"));
    // With all of its tensors, but too small for the network.
    let text = spoilt(|p| {
        p.set("/grid", json!([1, 110]));
        for (name, channels) in [("input.fire_pixels", 6), ("input.target", 1)] {
            p.tensors.get_mut(name).unwrap().1 = vec![2, channels, 8, 880];
        }
    });
    assert!(text.contains("each side must be at least 8"), "{text}");
    let text = spoilt(|p| p.tensors.get_mut("input.wind").unwrap().1 = vec![2, 12]);
    assert!(text.contains("tensor input.wind of shape [2, 12], [B, T, 2] expected"), "{text}");
    let text = spoilt(|p| p.tensors.get_mut("input.valid_t").unwrap().2.fill(0));
    assert!(text.contains("a history without a last frame"), "{text}");
}

#[test]
fn tensors_that_are_missing_or_have_another_shape_or_type() {
    let names: Vec<String> = Parts::small_eval().tensors.into_keys().filter(|name| name != "input.fire").collect();
    for name in names {
        let text = spoilt(|p| drop(p.tensors.remove(&name)));
        assert!(text.contains(&name) && text.contains("tests/golden/README.md"), "{name}: {text}");
        // PyTorch's shapes of results may have further sides of 1.
        if !name.starts_with("expected.") {
            let text = spoilt(|p| p.tensors.get_mut(&name).unwrap().1.insert(0, 1));
            assert!(text.contains(&name), "{name}: {text}");
        }
    }
    for name in ["input.wind", "token_embedder.fire_embed.weight", "expected.loss"] {
        let text = spoilt(|p| {
            let (dtype, shape, data) = p.tensors.get_mut(name).unwrap();
            data.resize(shape.iter().product::<usize>() * 2, 0);
            *dtype = Dtype::F16;
        });
        assert!(text.contains(&format!("tensor {name} of type F16")), "{text}");
    }
}

#[test]
fn offsets_whose_sum_overflows() {
    let size = u64::MAX / 8 + 1;
    let entries = (0..8u64).map(|i| {
        let (start, end) = (size.wrapping_mul(i), if i == 7 { u64::MAX } else { size * (i + 1) });
        format!(r#""t{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#, end - start)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    assert!(message(&bytes).contains("truncated"));
    bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(message(&bytes).contains("truncated"));
}

/// The name of the check that fails when the last value of `expected.<quantity>` is changed.
fn failing(quantity: &str) -> Vec<String> {
    let mut parts = Parts::small_eval();
    change(&mut parts, quantity);
    let checks = run(&parts.bytes()).unwrap();
    checks.into_iter().filter(|check| !check.passes()).map(|check| check.quantity).collect()
}

fn change(parts: &mut Parts, quantity: &str) {
    let (dtype, _, data) = parts.tensors.get_mut(&format!("expected.{quantity}")).unwrap();
    match dtype {
        Dtype::F64 => {
            let last = data.last_chunk_mut::<8>().unwrap();
            *last = (f64::from_le_bytes(*last) * 1.01 + 1e-6).to_le_bytes();
        }
        Dtype::I64 => data.last_chunk_mut::<8>().unwrap()[0] ^= 1,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_changed_expectation_is_a_failing_check() {
    for quantity in ["logits", "loss", "counts", "grad.token_embedder.fire_embed.weight"] {
        assert_eq!(failing(quantity), [quantity]);
    }
    let mut parts = Parts::small_eval();
    parts.tensors.get_mut("expected.loss").unwrap().2.copy_from_slice(&f64::NAN.to_le_bytes());
    assert!(run(&parts.bytes()).unwrap().iter().any(|check| check.quantity == "loss" && !check.passes()));
}

fn write(folder: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("mine.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_command_says_so_in_its_exit_code() {
    let verify = || {
        let mut command = Command::cargo_bin("emberformer").unwrap();
        command.args(["verify", "--device", "cpu"]);
        command
    };
    let folder = tempfile::tempdir().unwrap();
    let intact = write(&folder, SMALL_EVAL);
    verify().arg(&intact).assert().code(0).stdout(predicates::str::contains("2 of 2 cases within tolerance"));

    let mut parts = Parts::small_eval();
    change(&mut parts, "loss");
    let changed = write(&folder, &parts.bytes());
    let result = verify().arg(&changed).assert().code(1);
    result
        .stdout(predicates::str::contains("BEYOND"))
        .stderr(predicates::str::contains("2 cases beyond their tolerance"));
    let output = verify().arg(&changed).arg("--json").assert().code(1).get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(report["passed"], false);

    let truncated = write(&folder, &SMALL_EVAL[..9000]);
    verify().arg(&truncated).assert().code(1).stderr(predicates::str::contains("mine.safetensors: truncated"));
    let missing = folder.path().join("none.safetensors");
    verify().arg(&missing).assert().code(1).stderr(predicates::str::contains("cannot read"));
    verify().arg("--tolerance").assert().code(2);
    let mut wrong = Command::cargo_bin("emberformer").unwrap();
    wrong.args(["verify", "--device", "abacus"]).assert().code(2).stderr(predicates::str::contains("abacus"));
}

/// Ways to spoil a header: numbers and names that mean something elsewhere.
fn header_edits() -> impl Strategy<Value = (prop::sample::Index, String)> {
    const WORDS: &[&str] =
        &["0", "9", "18446744073709551615", "F16", "U8", "I64", "]", "}", ",", "-1", "1e9", "\\", "\""];
    (any::<prop::sample::Index>(), prop_oneof![prop::sample::select(WORDS).prop_map(str::to_owned), "[ -~]{0,3}",])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn altered_bytes_never_panic(
        edits in prop::collection::vec(header_edits(), 0..4),
        body in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        keep_length in any::<bool>(),
    ) {
        let header_length = u64::from_le_bytes(*SMALL_EVAL.first_chunk::<8>().unwrap()) as usize;
        let (mut header, mut data) = (SMALL_EVAL[8..8 + header_length].to_vec(), SMALL_EVAL[8 + header_length..].to_vec());
        for (index, text) in edits {
            let at = index.index(header.len());
            let end = (at + text.len()).min(header.len());
            header.splice(at..end, text.bytes());
        }
        for (index, byte) in body {
            let at = index.index(data.len());
            data[at] = byte;
        }
        let length = if keep_length { header_length } else { header.len() };
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(data);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Err(error) = run(&bytes) {
            prop_assert!(error.to_string().starts_with("mine.safetensors: "), "{}", error);
        }
    }
}
