//! Recorded and replayed steps beside the same steps launched one by one.

use crate::harness::device;
use crate::model::{ADAM, RATES, THRESHOLDS, batch, distance, settings};
use emberformer::data::batch::Batch;
use emberformer::data::sampler::SampleId;
use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, Group, Inputs, ModelSettings, Target};
use emberformer::ops::loss::{LossReport, LossSettings};
use emberformer::optim::Adam;
use emberformer::patch::Grid;
use emberformer::tensor::DType;
use emberformer::train::engine::{Engine, Shape};
use emberformer::train::metrics::Totals;
use emberformer::train::run::{Input, Learner, StepSettings};

const LOSS: LossSettings = LossSettings::FOCAL_TVERSKY;
/// Histories of the batches: a shape, a smaller one, the first again, and one that needs more memory.
const LENGTHS: [&[usize]; 4] = [&[2, 1], &[1, 1], &[1, 2], &[3, 1]];

fn step(number: u64) -> (Inputs, Target) {
    batch(&settings(), LENGTHS[number as usize % LENGTHS.len()], number)
}

fn frozen(number: u64) -> &'static [Group] {
    if number < 2 { &[Group::Spatial] } else { &[] }
}

fn weights(model: &EmberFormer) -> Vec<Vec<f64>> {
    let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
    names.iter().map(|name| model.parameters().get_f64(name).unwrap()).collect()
}

fn one_by_one(device: &Device, dtype: DType, clip: Option<f64>) -> (Vec<LossReport>, Vec<Vec<f64>>) {
    let mut model = EmberFormer::new(&settings(), device, dtype, 1).unwrap();
    let mut adam = Adam::new(ADAM, model.parameters()).unwrap();
    let reports = (0..LENGTHS.len() as u64).map(|number| {
        let (inputs, target) = step(number);
        let key = DropoutKey { seed: 7, step: number };
        let report = model.train_step(&inputs, &target, &LOSS, &THRESHOLDS, key).unwrap();
        let trained: Vec<Group> = Group::ALL.into_iter().filter(|group| !frozen(number).contains(group)).collect();
        let norm = model.parameters().gradient_norm(&trained).unwrap();
        if let Some(limit) = clip.filter(|limit| norm > *limit) {
            model.parameters_mut().scale_gradients(limit / norm).unwrap();
        }
        adam.step(model.parameters_mut(), &RATES, frozen(number)).unwrap();
        report
    });
    (reports.collect(), weights(&model))
}

fn input(inputs: Inputs, target: Target) -> Batch {
    Batch { samples: vec![SampleId { sequence: 0, k: 0 }; inputs.batch], inputs, target }
}

fn engine(device: &Device, dtype: DType, model: &ModelSettings) -> Engine {
    let mut engine = Engine::new(model, ADAM, device, dtype, 1).unwrap();
    engine.set_totals(&Totals { loss: 0.25, samples: 3, batches: 1, ..Totals::default() }).unwrap();
    engine
}

fn train(engine: &mut Engine, number: u64, batch: &Batch, grad_clip: Option<f64>) {
    let settings = StepSettings {
        loss: &LOSS,
        thresholds: &THRESHOLDS,
        grad_clip,
        key: DropoutKey { seed: 7, step: number },
        rates: &RATES,
        frozen: frozen(number),
    };
    engine.step(Input::Host(batch), &settings).unwrap();
}

#[test]
fn replayed_steps_are_those_launched_one_by_one() {
    let device = device();
    for (dtype, clip) in [(DType::F32, None), (DType::BF16, None), (DType::F32, Some(1e-3))] {
        let (reports, expected) = one_by_one(&device, dtype, clip);
        let mut engine = engine(&device, dtype, &settings());
        let mut totals = Totals { loss: 0.25, samples: 3, batches: 1, ..Totals::default() };
        for (number, report) in reports.iter().enumerate() {
            let (inputs, target) = step(number as u64);
            let batch = input(inputs, target);
            train(&mut engine, number as u64, &batch, clip);
            assert_eq!(&engine.report().unwrap(), report, "step {number} in {dtype:?}");
            totals.add(report, 2, batch.inputs.history);
            if number == 2 {
                let evaluation = engine.evaluate(&batch, &LOSS, &THRESHOLDS).unwrap();
                let (inputs, target) = (&batch.inputs, &batch.target);
                assert_eq!(evaluation, engine.model.evaluate(inputs, target, &LOSS, &THRESHOLDS).unwrap());
            }
        }
        let mut ours = Totals::default();
        engine.add_up(&mut ours).unwrap();
        assert_eq!((ours, engine.failure()), (totals, None));
        let apart = distance(&weights(&engine.model), &expected);
        // Clipping multiplies within the update, so that sums round once less.
        assert!(apart <= if clip.is_some() { 1e-6 } else { 0.0 }, "{apart} in {dtype:?}");
    }
}

#[test]
fn nothing_changes_after_a_step_that_is_not_finite() {
    let device = device();
    let mut engine = engine(&device, DType::F32, &settings());
    let mut good = Vec::new();
    for number in 0..4 {
        let (mut inputs, target) = step(number);
        if number == 2 {
            good = weights(&engine.model);
            inputs.wind[0] = f32::NAN;
            inputs.wind[inputs.history * 2 - 1] = f32::NAN;
        }
        train(&mut engine, number, &input(inputs, target), None);
    }
    let mut totals = Totals::default();
    engine.add_up(&mut totals).unwrap();
    let failure = engine.failure().unwrap();
    assert_eq!(failure.number, 2, "{}", failure.what);
    // Running statistics move within the forward; the weights stay.
    let kept = engine.model.parameters().iter().zip(weights(&engine.model)).zip(&good);
    for ((parameter, now), before) in kept {
        assert!(parameter.name.contains("running") || now == *before, "{}", parameter.name);
    }
}

#[test]
fn windows_that_the_network_cannot_take_are_refused() {
    let device = device();
    let mut engine = engine(&device, DType::F32, &settings());
    let about = (&LOSS, &THRESHOLDS);
    for (grid, history, expected) in [
        (Grid { rows: 8, cols: 7, patch: 8 }, 2, "a grid of 8x7 patches leaves the pyramid's coarsest level empty"),
        (Grid { rows: 8, cols: 8, patch: 4 }, 2, "patches of 4x4 pixels, the model takes 8x8"),
        (Grid { rows: 8, cols: 8, patch: 8 }, 65, "a GPU takes 64 at most"),
    ] {
        let error = engine.step_bytes(Shape { batch: 1, history, grid }, about).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(
        engine.step_bytes(Shape { batch: 1, history: 2, grid: Grid { rows: 8, cols: 8, patch: 8 } }, about).is_ok()
    );
}
