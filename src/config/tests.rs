//! Loading, checking and resolving.

use super::sections::keys;
use super::*;
use crate::data::augment::Augment;
use crate::data::resident::{Residency, ResidencySettings};
use crate::model::FireEmbedding;
use crate::ops::loss::{LossSettings, PosWeight};
use crate::optim::Schedule;
use crate::train::stopping::Mode;
use proptest::prelude::*;

fn parse(text: &str, sets: &[&str]) -> Result<Loaded> {
    let sets: Vec<String> = sets.iter().map(|&s| s.to_owned()).collect();
    Config::parse("fire.yaml", text, &sets)
}

fn config(text: &str) -> Config {
    parse(text, &[]).unwrap_or_else(|e| panic!("{text}: {e}")).config
}

fn failure(text: &str, sets: &[&str]) -> String {
    let error = parse(text, sets).expect_err(text);
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

/// A file of the published project: every key that it knows, in its own spelling.
const PUBLISHED: &str = include_str!("../../tests/fixtures/published.yaml");

#[test]
fn an_empty_file_gives_every_default() {
    for text in ["", "# nothing\n", "{}", "train:\nmodel:\n  loss:\n"] {
        let config = config(text);
        assert_eq!(config.model_settings(8).parameter_counts().total(), 1_072_578);
        assert_eq!(config.learning_rates().spatial, 1e-4);
        assert_eq!((config.train.epochs, config.data.batch_size), (20, 4));
        assert!(config.is_simulated());
    }
}

#[test]
fn files_of_the_published_project_load() {
    let loaded = parse(PUBLISHED, &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.learning_rates().temporal, 1e-3);
    assert_eq!(config.learning_rates().spatial, 1e-4);
    assert_eq!(config.model.temporal.d_model, 64);
    let expected = ["global.cudnn_benchmark", "data.num_workers", "data.pin_memory", "data.sequence_length"];
    assert_eq!(loaded.without_effect[..4], expected);
    // It holds every key without effect.
    let value: serde_yaml::Value = serde_yaml::from_str(PUBLISHED).unwrap();
    for key in keys().into_iter().filter(|key| !key.rule.effect) {
        let found = key.path.split('.').try_fold(&value, |at, part| at.get(part));
        assert!(found.is_some(), "{} is not in the fixture", key.path);
        assert!(loaded.without_effect.contains(&key.path), "{} is not listed", key.path);
    }
}

#[test]
fn the_resolved_configuration_is_complete_and_loads_as_itself() {
    let text = "train: {lr: 0.0003, schedule: cosine}\nmodel: {loss: {type: bce_dice}, metrics: {pos_weight: 3}}\n";
    for config in [config(""), config(text), config(PUBLISHED)] {
        let yaml = config.resolved_yaml();
        assert_eq!(self::config(&yaml), config, "{yaml}");
        let value: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
        for key in keys() {
            let found = key.path.split('.').try_fold(&value, |at, part| at.get(part));
            assert!(found.is_some(), "{} is missing", key.path);
        }
    }
}

#[test]
fn numbers_may_be_written_as_1e_3() {
    for number in ["1e-3", "1E-3", "1.0e-3", "0.001", ".001", "+1e-3"] {
        assert_eq!(config(&format!("train: {{lr_temporal: {number}}}")).learning_rates().temporal, 1e-3, "{number}");
    }
    assert_eq!(config("train:\n  lr: 1\n").train.lr, Some(1.0));
}

#[test]
fn unknown_keys_are_named_with_line_and_nearest_key() {
    let text = "global:\n  seed: 1\ntrain:\n  epochs: 3\n  # a comment\n  learning_rates: 1\n  lr_spacial: 1\n";
    assert!(
        failure(text, &[])
            .starts_with("fire.yaml, line 6: unknown key train.learning_rates; the nearest known key is ")
    );
    let cases = [
        (
            "train:\n  lr_spacial: 1\n",
            "fire.yaml, line 2: unknown key train.lr_spacial; the nearest known key is train.lr_spatial;",
        ),
        ("trian:\n  lr: 1\n", "fire.yaml, line 1: unknown key trian; the nearest known key is train;"),
        (
            "train: {model: emberformer,\n  epoch: 1}",
            "fire.yaml, line 2: unknown key train.epoch; the nearest known key is train.epochs;",
        ),
        (
            "\n\ntrain:\n  dropout: 0.1\n",
            "fire.yaml, line 4: unknown key train.dropout; the nearest known key is model.temporal.dropout;",
        ),
        ("train.lr: 1\n", "fire.yaml: unknown key train.lr;"),
        ("3: 1\n", "unknown key 3"),
    ];
    for (text, expected) in cases {
        let message = failure(text, &[]);
        assert!(message.starts_with(expected) || message.contains(expected) && text.starts_with('3'), "{message}");
    }
}

#[test]
fn wrong_values_name_line_key_value_and_what_is_allowed() {
    let cases = [
        ("train:\n  lr: fast\n", "fire.yaml, line 2: train.lr is \"fast\"; give a number above 0 or null"),
        ("train:\n  lr: 0\n", "fire.yaml, line 2: train.lr is 0; give a number above 0 or null"),
        ("train:\n  lr: .nan\n", "fire.yaml, line 2: train.lr is .nan; give a number above 0 or null"),
        ("train:\n  weight_decay: .inf\n", "train.weight_decay is .inf; give a number of 0 or more"),
        ("train: {epochs: 2.5}", "fire.yaml, line 1: train.epochs is 2.5; give a whole number from 1 to 1000000"),
        ("train: {epochs: -1}", "train.epochs is -1; give a whole number"),
        ("train: 7\n", "fire.yaml, line 1: train is 7; give a section with keys, as train."),
        ("train: {model: unet}", "train.model is \"unet\"; give emberformer"),
        ("data:\n  shuffle: yes\n", "fire.yaml, line 2: data.shuffle is \"yes\"; give true or false"),
        ("data: {batch_size: 0}", "data.batch_size is 0; give a whole number from 1 to 65536"),
        ("data: {batch_size: [4]}", "data.batch_size is [4]; give"),
        ("data: {batch_size: }", "data.batch_size is null; give"),
        ("data: {augment: d8}", "data.augment is \"d8\"; give none or d4"),
        ("data: {data_dir: ''}", "data.data_dir is \"\"; give a path or null"),
        ("model: {temporal: {dropout: 1.0}}", "model.temporal.dropout is 1.0; give a number from 0 to below 1"),
        ("model: {temporal: {d_model: 63}}", "model.temporal.d_model is 63, an odd number;"),
        (
            "model: {temporal: {\n nhead: 5}}",
            "fire.yaml, line 2: model.temporal.nhead is 5, which does not divide d_model 64;",
        ),
        ("model: {spatial: {decoder_type: unet}}", "model.spatial.decoder_type is \"unet\"; give segformer"),
        ("model: {spatial: {model_name: mit-b3}}", "model.spatial.model_name is \"mit-b3\", which names none of"),
        (
            "model: {spatial: {hidden_sizes: [1, 2, 3]}}",
            "hidden_sizes is [1,2,3]; give a list of 4, each a whole number",
        ),
        ("model: {spatial: {\n pretrained: true}}", "fire.yaml, line 2: model.spatial.pretrained is true, but no file"),
        ("model: {metrics: {pred_thresh: 1}}", "model.metrics.pred_thresh is 1; give a number above 0 and below 1"),
        ("model: {metrics: {pos_weight: often}}", "pos_weight is \"often\"; give auto or a number above 0 or null"),
        ("model: {loss: {type: mse}}", "model.loss.type is \"mse\"; give focal_tversky or bce_dice"),
        (
            "model: {loss: {focal_weight: 0, tversky_weight: 0}}",
            "model.loss.type has a weight of 0 for all of its terms;",
        ),
        ("model: {loss: {type: bce_dice, bce_weight: 0, use_dice: false}}", "has a weight of 0 for all"),
        ("patchify_on_disk: {patch_size: 6}", "patchify_on_disk.patch_size is 6; give 4, 8 or 16"),
        ("patchify_on_disk: {stride: 4}", "patchify_on_disk.stride is 4 where patch_size is 8;"),
        (
            "patchify_on_disk: {pad_mode: mirror}",
            "pad_mode is \"mirror\"; give strict or edge or constant or pad_to_multiple",
        ),
        ("split: {train: 0.9, val: 0.2}", "split asks for train 0.9 + val 0.2 + test 0.1 = 1.2000 of the sequences;"),
        ("split: {val: 0}", "split.val is 0; give a fraction above 0"),
        ("split: {train: 80}", "split.train is 80; give a number from 0 to 1"),
        ("encoding: {fire_value: 256}", "encoding.fire_value is 256; give a whole number from 0 to 255"),
        (
            "train: {early_stopping: {mode: min}}",
            "train.early_stopping.mode does not fit what is watched, val/f1_epoch; give max",
        ),
        ("train: {schedule: linear}", "train.schedule.type is \"linear\"; give constant or cosine"),
        ("- a\n- b\n", "fire.yaml: holds [\"a\",\"b\"] and no sections;"),
        ("train: {lr: 1\n", "fire.yaml: is no valid YAML:"),
        ("train: {lr: 1, lr: 2}\n", "fire.yaml: is no valid YAML:"),
        ("train: !x {lr: 1}\n", "train is "),
        ("wandb: {watch: !x 1}\n", "wandb.watch is {\"!x\":1}; give any plain value"),
        ("wandb: {watch: [{[1]: 2}]}\n", "wandb.watch is something that is no plain value; give any plain value"),
    ];
    for (text, expected) in cases {
        let message = failure(text, &[]);
        assert!(message.contains(expected), "{text:?} gave: {message}");
        assert!(message.starts_with("fire.yaml"), "{message}");
    }
}

#[test]
fn overrides_pass_the_same_checks_and_name_themselves() {
    let loaded =
        parse("train: {epochs: 3}\n", &["train.epochs=5", "data.data_dir=null", "train.schedule=cosine"]).unwrap();
    assert_eq!(loaded.config.train.epochs, 5);
    assert_eq!(loaded.config.schedule(), Schedule::Cosine { warmup_steps: 0, min_factor: 0.0 });
    let loaded = parse("", &["model.spatial.hidden_sizes=[8, 8, 8, 8]", "train={lr: 1e-2, epochs: 7}"]).unwrap();
    assert_eq!(loaded.config.model_settings(8).hidden_sizes, [8; 4]);
    assert_eq!((loaded.config.learning_rates().spatial, loaded.config.train.epochs), (1e-2, 7));
    let cases = [
        ("train.epochs", "--set train.epochs: has no =; write --set key.path=value"),
        ("train.epoch=3", "--set train.epoch=3: unknown key train.epoch; the nearest known key is train.epochs;"),
        ("train.lr.x=3", "--set train.lr.x=3: unknown key train.lr.x;"),
        ("=3", "--set =3: unknown key"),
        ("train.epochs=many", "--set train.epochs=many: train.epochs is \"many\"; give"),
        ("train={lrr: 1}", "--set train={lrr: 1}: unknown key train.lrr; the nearest known key is train.lr;"),
        ("train=5", "--set train=5: train is 5; give a section"),
        ("train.epochs=[1", "--set train.epochs=[1: the value is no valid YAML"),
        ("model.temporal.nhead=7", "--set model.temporal.nhead=7: model.temporal.nhead is 7, which does not divide"),
    ];
    for (set, expected) in cases {
        let message = failure("train: {epochs: 3}\n", &[set]);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn own_learning_rates_go_before_the_common_one() {
    let rates = |text: &str| {
        let rates = config(text).learning_rates();
        [rates.temporal, rates.spatial, rates.refinement]
    };
    assert_eq!(rates(""), [1e-3, 1e-4, 1e-3]);
    assert_eq!(rates("train: {lr: 0.5}"), [0.5; 3]);
    assert_eq!(rates("train: {lr: 0.5, lr_spatial: 0.1}"), [0.5, 0.1, 0.5]);
    assert_eq!(rates("train: {lr: 0.5}\nmodel: {refinement: {lr: 0.2}}"), [0.5, 0.5, 0.2]);
    assert_eq!(rates("train: {lr_refinement: 0.3}\nmodel: {refinement: {lr: 0.2}}"), [1e-3, 1e-4, 0.3]);
}

#[test]
fn settings_follow_the_configuration() {
    let text = "
global: {seed: 9}
data: {batch_size: 2, augment: d4, aspect_bands: [aspect], max_sequences: 5, data_dir: ~/fires, residency: stream, device_budget_mb: 3}
encoding: {fire_value: 200}
model:
  temporal: {use_wind: false, fire_embedding: pixels, max_seq_len: 6}
  spatial: {model_name: MIT-B2, base_channels: 16, freeze_initially: true, freeze_epochs: 2, decoder_width: 99}
  refinement: {last_frame_skip: true, input_projection: true}
  loss: {type: bce_dice, use_dice: false, bce_weight: 0.8}
  metrics: {pos_weight: null}
train: {schedule: {type: cosine, warmup_steps: 5, min_factor: 0.1}, early_stopping: {monitor: val/loss}, grad_clip: 1}
patchify_on_disk: {patch_size: 16, pad_mode: edge}
";
    let config = config(text);
    let model = config.model_settings(3);
    assert_eq!((model.patch, model.static_channels, model.base_channels, model.decoder_width), (16, 3, 16, 99));
    assert_eq!(model.hidden_sizes, [64, 128, 320, 512]);
    assert_eq!((model.use_wind, model.fire_embedding), (false, FireEmbedding::Pixels));
    assert!(model.input_projection && model.last_frame_skip);
    let train = config.train_settings(&crate::device::Device::cpu(), Some(3));
    assert_eq!((train.recipe.frozen_epochs, train.recipe.seed, train.max_steps), (2, 9, Some(3)));
    assert_eq!(
        train.recipe.loss,
        LossSettings::BceDice { bce_weight: 0.8, dice_weight: 0.0, pos_weight: PosWeight::None }
    );
    assert_eq!(train.recipe.schedule, Schedule::Cosine { warmup_steps: 5, min_factor: 0.1 });
    assert_eq!(train.recipe.augment, Augment::D4 { aspect_bands: vec!["aspect".into()] });
    assert_eq!((train.recipe.stopping.mode, train.recipe.grad_clip), (Mode::Min, Some(1.0)));
    let store = config.store_settings();
    assert_eq!((store.patch, store.max_sequences, store.encoding.fire_value), (16, Some(5), 200));
    assert_eq!(store.data_dir, std::env::home_dir().unwrap().join("fires"));
    assert_eq!(config.sampler_settings().max_seq_len, 6);
    assert_eq!(config.residency(), ResidencySettings { residency: Residency::Stream, budget: Some(3 << 20) });
}

#[test]
fn every_word_of_a_choice_is_understood() {
    for key in keys() {
        for word in key.rule.words() {
            // The stopping mode has to fit what is watched.
            let sets = match (key.path.as_str(), *word) {
                ("train.early_stopping.mode", "min") => vec!["train.early_stopping.monitor=val/loss".to_owned()],
                _ => vec![],
            };
            let sets = [sets, vec![format!("{}={word}", key.path)]].concat();
            Config::parse("fire.yaml", "", &sets).unwrap();
        }
    }
}

#[test]
fn every_rule_allows_its_default() {
    let yaml = serde_yaml::to_string(&Config::default()).unwrap();
    assert_eq!(config(&yaml), config(""));
}

#[test]
fn keys_without_effect_are_listed_only_where_present() {
    assert!(parse("train: {epochs: 1}", &[]).unwrap().without_effect.is_empty());
    let loaded = parse(
        "data: {num_workers: 4, batch_size: 2}\nwandb: {enabled: false, watch: all, preview_size: 256}",
        &["global.cudnn_benchmark=true"],
    );
    assert_eq!(
        loaded.unwrap().without_effect,
        ["data.num_workers", "wandb.watch", "wandb.preview_size", "global.cudnn_benchmark"]
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| Config::load(Some(path), &[]).unwrap_err();
    let error = load(&folder.path().join("none.yaml"));
    assert!(
        error.exit_code() == 2 && error.to_string().contains("none.yaml: cannot read the configuration"),
        "{error}"
    );
    assert!(load(folder.path()).to_string().contains("cannot read"));
    let path = folder.path().join("binary.yaml");
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(load(&path).to_string().contains("binary.yaml: cannot read"));
    std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(load(&path).to_string().contains("larger than 1 MiB"));
}

#[test]
fn the_shipped_configurations_load() {
    assert_eq!(Config::load(None, &[]).unwrap().origin, "configs/emberformer_quick.yaml (built in)");
    let load = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
        let loaded = Config::load(Some(&path), &[]).unwrap();
        assert!(loaded.without_effect.is_empty(), "{name}: {:?}", loaded.without_effect);
        loaded.config
    };
    let seed = load("emberformer.yaml");
    assert_eq!(seed.model_settings(8).parameter_counts().total(), 1_072_578);
    assert_eq!(seed.loss_settings(), config("").loss_settings());
    let dice = load("emberformer_bce_dice.yaml");
    assert_eq!(
        dice.loss_settings(),
        LossSettings::BceDice { bce_weight: 0.9, dice_weight: 0.1, pos_weight: PosWeight::Auto }
    );
    assert_eq!(Config { model: Model { loss: seed.model.loss.clone(), ..dice.model.clone() }, ..dice }, seed);
    let pixel = load("emberformer_pixel.yaml");
    assert_eq!(pixel.model_settings(8).parameter_counts().total(), 1_076_899);
    for name in ["emberformer_quick.yaml", "emberformer_quick_bce_dice.yaml"] {
        assert!(load(name).is_simulated());
    }
}

/// `BLESS=1 cargo test the_reference_page` writes the table anew.
#[test]
fn the_reference_page_shows_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let table = Config::reference_table();
    assert!(keys().iter().all(|key| table.contains(&format!("| `{}` |", key.path))));
    let start = page.find("| Key |").expect("the page has the table");
    let end = page[start..].find("\n\n").map_or(page.len(), |at| start + at + 1);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &page[..start], &page[end..])).unwrap();
    } else {
        assert_eq!(&page[start..end], table, "BLESS=1 cargo test the_reference_page writes the table anew");
    }
}

#[test]
fn the_readmes_rows_are_those_of_the_reference() {
    let readme = include_str!("../../README.md");
    let table = Config::reference_table();
    let rows: Vec<&str> = readme.lines().skip_while(|line| !line.starts_with("| Key |")).collect();
    let rows = rows.iter().take_while(|line| line.starts_with('|')).skip(2);
    assert!(rows.clone().count() > 30);
    for row in rows {
        assert!(table.lines().any(|line| line == *row), "README.md has a stale row: {row}");
    }
}

#[test]
fn short_texts_that_stand_for_much_are_refused_at_once() {
    let began = std::time::Instant::now();
    let many = |what: &str, n: usize| vec![what; n].join(", ");
    // 20,000 times 20,000 values in 160 kB.
    let square = format!("wandb:\n  tags: &a [{}]\n  notes: [{}]\n", many("x", 20_000), many("*a", 20_000));
    let levels: String = (1..30).map(|i| format!("  k{i}: &k{i} [{}]\n", many(&format!("*k{}", i - 1), 10))).collect();
    let tower = format!("wandb:\n  k0: &k0 [x]\n{levels}");
    let hidden = format!("a: !tag [1]\n{square}");
    for text in [square, hidden] {
        let text = failure(&text, &[]);
        assert!(text.contains("fire.yaml: holds more than 100000 values, its aliases followed"), "{text}");
        assert!(text.len() < 500);
    }
    assert!(failure(&tower, &[]).contains("repetition limit exceeded"), "the parser itself counts aliases");
    let text = failure("", &[&format!("wandb.tags=[&a [{}], {}]", many("x", 2_000), many("*a", 2_000))]);
    assert!(text.contains("the value holds more than"), "{}", &text[text.len() - 200..]);
    let text = failure(&format!("train:\n  ? {}\n  : 1\n", "epochs".repeat(100_000)), &[]);
    assert!(text.contains("unknown key train.epochsepochs") && text.contains("the nearest known key is"), "{text}");
    for deep in ["[", "{a: ", "x: [", "- ", "? "] {
        for times in [4_000, 150_000] {
            let text = failure(&deep.repeat(times), &[]);
            let expected =
                if deep.contains(['[', '{']) && times > 5_000 { "opening brackets" } else { "recursion limit" };
            assert!(text.contains(expected), "{deep}: {text}");
        }
    }
    assert!(began.elapsed().as_secs() < 10, "took {:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mutated_files_never_panic_and_errors_name_the_file(
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[ -~\n]{0,4}|[:{}&*!|>~\\[\\]\"'#\n\t -]{1,3}|\\PC{1}"), 1..6),
    ) {
        let mut text = PUBLISHED.to_owned();
        for (at, insert) in edits {
            let at = at.index(text.len());
            let at = (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap();
            let end = text[at..].char_indices().nth(1 + insert.len() % 5).map_or(text.len(), |(i, _)| at + i);
            text.replace_range(at..end, &insert);
        }
        match parse(&text, &[]) {
            Err(error) => {
                prop_assert!(error.to_string().starts_with("fire.yaml"), "{}", error);
                prop_assert_eq!(error.exit_code(), 2);
            }
            Ok(loaded) => {
                prop_assert_eq!(config(&loaded.config.resolved_yaml()), loaded.config.clone());
                prop_assert!(serde_json::to_value(loaded.config).is_ok());
            }
        }
    }

    #[test]
    fn any_text_is_an_error_or_a_configuration(text in "\\PC{0,200}", set in "[a-z._]{0,20}=?\\PC{0,20}") {
        let _ = parse(&text, &[]);
        let _ = parse("", &[&set]);
    }
}
