//! The seeds of the fuzz targets: what each target starts from is what its reader takes. docs/FUZZING.md says how the
//! files in fuzz/seeds/ are made again.

mod data_fixture;

use data_fixture::{Fixture, burns, mini, write_png};
use emberformer::config::Config;
use emberformer::data::geotiff::{GeoTiff, Georeference, write_geotiff};
use emberformer::data::raw::{PadMode, image};
use emberformer::data::split::Split;
use emberformer::data::store::Store;
use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, FireEmbedding, Inputs, Kind, ModelSettings, Target};
use emberformer::ops::loss::{LossSettings, PosWeight, Thresholds};
use emberformer::optim::{Adam, AdamSettings, LearningRates};
use emberformer::patch::Grid;
use emberformer::tensor::DType;
use emberformer::train::checkpoint::{Checkpoint, DataDescription, HostTensor, Progress, State};
use emberformer::train::engine::load_model;
use emberformer::train::stopping::Stopping;
use emberformer::verify::{Check, run_case};
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The smallest network.
fn smallest() -> ModelSettings {
    ModelSettings {
        d_model: 2,
        heads: 1,
        layers: 1,
        feedforward: 1,
        dropout: 0.0,
        head_dropout: 0.0,
        patch: 4,
        static_channels: 1,
        use_wind: true,
        use_static: true,
        fire_embedding: FireEmbedding::Pixels,
        hidden_sizes: [1; 4],
        decoder_width: 1,
        base_channels: 1,
        input_projection: false,
        last_frame_skip: true,
    }
}

/// A store of two fires, with the byte that makes the target fit its checksums.
fn stores() -> Vec<(String, Vec<u8>)> {
    let fixture = Fixture::new(&[(1, 2), (2, 3)], 20, 16);
    [(4, PadMode::Strict), (8, PadMode::Edge), (16, PadMode::Constant)]
        .map(|(patch, pad)| {
            let path = fixture.path("store");
            let progress = indicatif::ProgressBar::hidden();
            Store::build(&fixture.settings(patch, pad), &path, &progress).unwrap();
            let bytes = [&fs::read(&path).unwrap()[..], &[1]].concat();
            (format!("patch_{patch}"), bytes)
        })
        .into()
}

/// A checkpoint of the smallest network, with the byte that makes the target fit its checksum.
fn checkpoints() -> Vec<(String, Vec<u8>)> {
    let model = EmberFormer::new(&smallest(), &Device::cpu(), DType::F32, 3).unwrap();
    let tensor = |name: &str, shape: &[usize]| {
        let values = model.parameters().get(name).unwrap();
        (name.to_string(), HostTensor { shape: shape.to_vec(), values })
    };
    let weights = model.parameters().iter().map(|p| tensor(&p.name, &p.shape)).collect();
    let moment = model.parameters().iter().next().map(|p| tensor(&p.name, &p.shape)).unwrap();
    let state = State {
        model: smallest(),
        data: DataDescription { band_names: vec!["fuel".into()], ..DataDescription::default() },
        progress: Progress { seed: 1, step: 2, ..Progress::default() },
        stopping: Stopping { best: Some(0.5), ..Stopping::default() },
        history: vec![],
        recipe: serde_json::json!({ "seed": 1 }),
        config: "global:\n  seed: 1\n".into(),
    };
    let moments = BTreeMap::from([(moment.0, (moment.1.clone(), moment.1))]);
    let bytes = Checkpoint { state, weights, moments }.to_bytes().unwrap();
    vec![("smallest".into(), [&bytes[..], &[1]].concat())]
}

fn configurations() -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(root().join("configs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.push(root().join("tests/fixtures/published.yaml"));
    let mut seeds: Vec<_> = found
        .iter()
        .map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read(path).unwrap()))
        .collect();
    let overrides = "train:\n  epochs: 3\n\u{c}train.lr=1e-3\u{c}train.schedule=cosine\u{c}wandb.tags=[a, &b c, *b]";
    seeds.push(("overrides".into(), overrides.into()));
    let aliases = "train: &a\n  lr: 1e-3\nsplit:\n  <<: {seed: 3}\nwandb:\n  tags: [&t x, *t]\n";
    seeds.push(("aliases".into(), aliases.into()));
    seeds
}

/// Cases of the smallest network whose expectations are its own results.
fn goldens() -> Vec<(String, Vec<u8>)> {
    [("evaluation", false, 0), ("training", true, 1)]
        .map(|(name, training, steps)| (name.to_string(), golden(training, steps)))
        .into()
}

fn golden(training: bool, steps: usize) -> Vec<u8> {
    let settings = smallest();
    let mut model = EmberFormer::new(&settings, &Device::cpu(), DType::F64, 5).unwrap();
    let grid = Grid { rows: 8, cols: 8, patch: 4 };
    let (n, pixels) = (grid.patches(), grid.pixels());
    let mask = |t: usize| (0..pixels).map(|i| u8::from(i / 32 + i % 32 < 9 * (t + 1))).collect::<Vec<u8>>();
    let pack = |mask: &[u8]| grid.pack(|y, x| mask[y * 32 + x] == 1);
    let (wind, statics) = ([0.1f32, 0.2, 0.3, 0.4], (0..n).map(|i| i as f32 / n as f32).collect::<Vec<f32>>());
    let inputs = Inputs {
        batch: 1,
        history: 2,
        grid,
        frames: [pack(&mask(0)), pack(&mask(1))].concat(),
        wind: wind.to_vec(),
        statics: statics.clone(),
        valid_steps: vec![true; 2],
    };
    let target = Target { bits: pack(&mask(2)), valid_patches: vec![true; n] };
    let loss = LossSettings::BceDice { bce_weight: 0.9, dice_weight: 0.1, pos_weight: PosWeight::Auto };
    let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
    let key = DropoutKey { seed: 0, step: 0 };
    let rates = LearningRates { temporal: 1e-3, spatial: 1e-4, refinement: 1e-3 };

    let f32s = |values: &[f64]| values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::from([
        ("input.fire_pixels".into(), (Dtype::U8, vec![1, 2, 32, 32], [mask(0), mask(1)].concat())),
        ("input.wind".into(), (Dtype::F32, vec![1, 2, 2], wind.iter().flat_map(|x| x.to_le_bytes()).collect())),
        ("input.static".into(), (Dtype::F32, vec![1, n, 1], statics.iter().flat_map(|x| x.to_le_bytes()).collect())),
        ("input.valid_t".into(), (Dtype::U8, vec![1, 2], vec![1; 2])),
        ("input.valid".into(), (Dtype::U8, vec![1, n], vec![1; n])),
        ("input.target".into(), (Dtype::U8, vec![1, 1, 32, 32], mask(2))),
    ]);
    let mut all = |model: &EmberFormer, prefix: &str| {
        for p in model.parameters().iter() {
            let values = model.parameters().get_f64(&p.name).unwrap();
            tensors.insert(format!("{prefix}{}", p.name), (Dtype::F32, p.shape.clone(), f32s(&values)));
        }
    };
    all(&model, "");
    let logits = if training { model.training_logits(&inputs) } else { model.logits(&inputs) }.unwrap();
    let report = match training {
        true => model.train_step(&inputs, &target, &loss, &thresholds, key),
        false => model.evaluate_with_gradients(&inputs, &target, &loss, &thresholds),
    }
    .unwrap();
    if steps > 0 {
        let settings = AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4 };
        let mut adam = Adam::new(settings, model.parameters()).unwrap();
        adam.step(model.parameters_mut(), &rates, &[]).unwrap();
        all(&model, "expected.after.");
        tensors.insert("expected.step_losses".into(), (Dtype::F64, vec![1], report.loss.to_le_bytes().into()));
    }
    for p in model.parameters().iter().filter(|p| p.kind != Kind::Buffer) {
        let gradient = model.parameters().gradient(&p.name).unwrap().unwrap();
        tensors.insert(format!("expected.grad.{}", p.name), (Dtype::F32, p.shape.clone(), f32s(&gradient)));
    }
    let c = report.counts;
    let counts = [c.tp, c.fp, c.fn_, c.tn].into_iter().flat_map(|n| (n as i64).to_le_bytes()).collect();
    tensors.insert("expected.counts".into(), (Dtype::I64, vec![4], counts));
    tensors.insert("expected.logits".into(), (Dtype::F32, vec![1, 1, 32, 32], f32s(&logits)));
    tensors.insert("expected.loss".into(), (Dtype::F64, vec![1], report.loss.to_le_bytes().into()));

    let case = serde_json::json!({
        "model": {
            "d": 2, "static_channels": 1, "heads": 1, "layers": 1, "ff": 1, "patch": 4, "base": 1,
            "hidden_sizes": [1, 1, 1, 1], "decoder_width": 1, "input_projection": false,
            "fire_embedding": "pixels", "last_frame_skip": true,
        },
        "grid": [8, 8], "loss": "bce_dice", "training": training, "steps": steps,
        "learning_rates": { "temporal": 1e-3, "spatial": 1e-4, "refinement": 1e-3 }, "weight_decay": 1e-4,
    });
    let metadata = HashMap::from([("case".to_string(), case.to_string())]);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize(views, Some(metadata)).unwrap()
}

fn geotiffs() -> Vec<(String, Vec<u8>)> {
    let names = [
        "big_endian_bigtiff",
        "deflate_2_tiles_planar",
        "deflate_3_strips_chunky",
        "lzw_2_strips_chunky",
        "lzw_3_tiles_planar",
        "none_1_strips_chunky",
        "zstd_1_strips_planar",
    ];
    let fixtures = root().join("tests/fixtures/tiff");
    let mut seeds: Vec<_> =
        names.map(|name| (name.to_string(), fs::read(fixtures.join(name).with_extension("tif")).unwrap())).into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.tif");
    let bands: [Vec<f32>; 2] = [0.0, 1.0].map(|b| (0..12 * 20).map(|i| b * 100.0 + i as f32).collect());
    let geo = Georeference {
        pixel_scale: vec![80.0, 80.0, 0.0],
        tiepoints: vec![0.0, 0.0, 0.0, 300_000.0, 4_000_000.0, 0.0],
        keys: vec![1, 1, 0, 1, 1024, 0, 1, 1],
        doubles: vec![1.5],
        ascii: "WGS 84|".into(),
        ..Georeference::default()
    };
    write_geotiff(&path, 20, 12, &[&bands[0], &bands[1]], &["fuel", "elevation"], Some(-9999.0), &geo).unwrap();
    seeds.push(("ours".into(), fs::read(path).unwrap()));
    seeds
}

/// PNGs after the two bytes that choose patch side, padding and channel.
fn images() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let mut seeds = Vec::new();
    for (name, color, choice) in [
        ("rgb", png::ColorType::Rgb, [1, 1]),
        ("rgba", png::ColorType::Rgba, [0, 1]),
        ("grey", png::ColorType::Grayscale, [6, 0]),
        ("palette", png::ColorType::Indexed, [2, 1]),
    ] {
        write_png(&path, 20, 28, color, &|y, x| burns(1, 2, false, y, x));
        seeds.push((name.to_string(), [&choice[..], &fs::read(&path).unwrap()].concat()));
    }
    let real = mini().join("fire_frames/sequence_002/fire_001.png");
    seeds.push(("mini".into(), [&[1, 1][..], &fs::read(real).unwrap()].concat()));
    seeds
}

/// The small files of a data set after the byte that says which of them it is.
fn tables() -> Vec<(String, Vec<u8>)> {
    let split = r#"{"seed": 42, "train": ["sequence_001"], "val": ["sequence_002"], "test": []}"#;
    [
        ("indices", 0, r#"{"1": [0, 16, 0, 24], "2": [8, 24, 3, 27]}"#),
        ("history", 1, "old\\Weathers\\w1.csv\nold/Weathers/w1.csv\n"),
        ("weather", 2, "Instance, WS ,WD,TMP\nx,1.5,350,9\n\"y\",-2e3,4,9\n"),
        ("split", 3, split),
    ]
    .map(|(name, choice, text)| (name.to_string(), [&[choice][..], text.as_bytes()].concat()))
    .into()
}

type Seeds = Vec<(String, Vec<u8>)>;

fn seeds() -> [(&'static str, Seeds); 7] {
    [
        ("store", stores()),
        ("checkpoint", checkpoints()),
        ("configuration", configurations()),
        ("golden", goldens()),
        ("geotiff", geotiffs()),
        ("image", images()),
        ("tables", tables()),
    ]
}

/// What the target's reader says to a seed.
fn read(target: &str, bytes: &[u8]) -> emberformer::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed");
    match target {
        "store" => {
            fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            Store::open(&path).map(drop)
        }
        "checkpoint" => {
            let checkpoint = Checkpoint::from_bytes(&bytes[..bytes.len() - 1], &path)?;
            load_model(&checkpoint, &Device::cpu(), DType::F32, &path).map(drop)
        }
        "configuration" => {
            let text = std::str::from_utf8(bytes).unwrap();
            let mut parts = text.split('\u{c}');
            let text = parts.next().unwrap();
            let sets: Vec<String> = parts.map(str::to_string).collect();
            Config::parse("seed", text, &sets).map(drop)
        }
        "golden" => {
            let checks = run_case("seed", bytes, &Device::cpu(), DType::F64)?;
            assert!(checks.iter().all(Check::passes), "{checks:#?}");
            Ok(())
        }
        "geotiff" => {
            fs::write(&path, bytes).unwrap();
            let mut tiff = GeoTiff::open(&path)?;
            tiff.read_window(0, tiff.height(), 0, tiff.width()).map(drop)
        }
        "image" => {
            let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let window = (side(22), side(18));
            let grid = image::grid(window.0, window.1, 16, PadMode::Edge)?;
            let packer = image::Packer { window, grid, pad: PadMode::Edge };
            packer.pack_png(&path, &bytes[2..], bytes[1].into(), 231).map(drop)
        }
        "tables" if bytes[0] == 3 => {
            fs::write(&path, &bytes[1..]).unwrap();
            Split::read(&path, &["sequence_001".into(), "sequence_002".into()]).map(drop)
        }
        _ => Ok(()),
    }
}

/// `BLESS=1 cargo test --test fuzz_seeds` writes them anew.
#[test]
fn every_seed_is_there_and_its_reader_takes_it() {
    for (target, made) in seeds() {
        for (name, bytes) in made {
            read(target, &bytes).unwrap_or_else(|e| panic!("{target}/{name}, as it is made now: {e}"));
            let path = root().join("fuzz/seeds").join(target).join(&name);
            if std::env::var_os("BLESS").is_some() {
                fs::create_dir_all(path.with_file_name("")).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            let kept = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            read(target, &kept).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}
