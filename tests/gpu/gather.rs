//! Batches gathered on the device are the host's, bit for bit.

use crate::fires::Fires;
use crate::harness::device;
use emberformer::data::augment::{Augment, Symmetry};
use emberformer::data::batch::{Batch, FrameSource, assemble};
use emberformer::data::feed::{Feed, Order};
use emberformer::data::resident::{Placement, Residency, ResidencySettings, Resident};
use emberformer::data::sampler::SampleId;
use emberformer::device::gpu::Gpu;
use emberformer::device::{Array, Device};
use emberformer::model::DeviceBatch;
use emberformer::patch::Grid;
use emberformer::tensor::{DType, Tensor};
use half::bf16;
use std::collections::BTreeSet;

fn gpu() -> Gpu {
    match device() {
        Device::Gpu(gpu) => gpu,
        Device::Cpu(_) => panic!("EMBERFORMER_TEST_DEVICE names a GPU"),
    }
}

fn settings(residency: Residency) -> ResidencySettings {
    ResidencySettings { residency, budget: None }
}

fn d4() -> Augment {
    Augment::D4 { aspect_bands: vec!["slope aspect".into(), "aspect".into(), "slope aspect".into()] }
}

/// Everything of a batch as bits, array after array.
fn bits(gpu: &Gpu, batch: &DeviceBatch) -> Vec<Vec<u64>> {
    fn array<T: bytemuck::Pod + Into<u64>, A>(gpu: &Gpu, array: &Array<A>) -> Vec<u64> {
        let Array::Gpu(buffer, len) = array else { panic!("an array on the host") };
        gpu.download::<T>(buffer, *len).unwrap().into_iter().map(Into::into).collect()
    }
    let tensor = |tensor: &Tensor| tensor.to_host().unwrap().into_iter().map(f64::to_bits).collect();
    let DeviceBatch { inputs, target } = batch;
    vec![
        array::<u64, _>(gpu, &inputs.frames),
        array::<u64, _>(gpu, &inputs.last.bits),
        array::<u64, _>(gpu, &target.mask.bits),
        array::<u8, _>(gpu, &inputs.valid_steps),
        array::<u32, _>(gpu, &inputs.ages),
        array::<u8, _>(gpu, &target.valid_patches),
        tensor(&inputs.wind),
        tensor(&inputs.statics),
    ]
}

/// The same of a host's batch.
fn expected(batch: &Batch, dtype: DType) -> Vec<Vec<u64>> {
    let Batch { inputs, target, .. } = batch;
    let flags = |flags: &[bool]| flags.iter().map(|flag| u64::from(*flag)).collect::<Vec<_>>();
    let number = |x: &f32| match dtype {
        DType::BF16 => f64::from(bf16::from_f32(*x)).to_bits(),
        _ => f64::from(*x).to_bits(),
    };
    let window = inputs.grid.patches() * inputs.grid.words();
    let histories = inputs.frames.chunks(inputs.history * window);
    let ages = inputs.valid_steps.chunks(inputs.history).flat_map(|steps| {
        let padding = steps.iter().filter(|valid| !**valid).count();
        (0..steps.len()).map(move |t| t.saturating_sub(padding) as u64)
    });
    vec![
        inputs.frames.clone(),
        histories.flat_map(|frames| frames[frames.len() - window..].to_vec()).collect(),
        target.bits.clone(),
        flags(&inputs.valid_steps),
        ages.collect(),
        flags(&target.valid_patches),
        inputs.wind.iter().map(number).collect(),
        inputs.statics.iter().map(number).collect(),
    ]
}

/// All batches of an order as they come.
fn fed(gpu: &Gpu, fires: &Fires, placement: &Placement, order: &Order, dtype: DType) -> Vec<Vec<Vec<u64>>> {
    std::thread::scope(|scope| {
        let mut feed = Feed::new(scope, fires, placement, order.clone()).unwrap();
        let mut batches = Vec::new();
        while let Some(next) = feed.next().unwrap() {
            assert_eq!((&next.samples, &next.batch), (&order.batches[batches.len()], &None));
            let shape = (next.samples.len(), next.history);
            let mut batch = DeviceBatch::uninitialized(gpu, dtype, fires.grid(), 3, shape).unwrap();
            feed.fill(&mut batch).unwrap();
            batches.push(bits(gpu, &batch));
        }
        batches
    })
}

fn sample((sequence, k): (usize, usize)) -> SampleId {
    SampleId { sequence, k }
}

/// Ragged histories, cut ones among them; a batch of one; samples that repeat.
fn order(augment: Augment) -> Order {
    let all: Vec<SampleId> = [(0, 4), (1, 0), (2, 2), (0, 0), (2, 5), (0, 2), (1, 1), (2, 0)].map(sample).into();
    let mut batches: Vec<_> = all.chunks(5).map(<[_]>::to_vec).collect();
    batches.extend([vec![sample((1, 0))], all]);
    Order { batches, max_seq_len: 4, augment, key: (7, 3) }
}

#[test]
fn every_symmetry_of_every_patch_size_resident_and_streamed() {
    let gpu = gpu();
    for (patch, rows, cols) in [(4, 3, 3), (4, 2, 3), (8, 3, 3), (8, 4, 2), (8, 17, 17), (16, 3, 3), (16, 1, 3)] {
        let grid = Grid { rows, cols, patch };
        let fires = Fires::new(grid, &[6, 3, 7]);
        for augment in [Augment::None, d4()] {
            let mut order = order(augment.clone());
            if augment != Augment::None {
                // A key under which the samples meet all symmetries.
                let drawn = |seed: u64| -> BTreeSet<u32> {
                    let draw = |s: &SampleId| Symmetry::draw(grid, [seed, 3, s.sequence as u64, s.k as u64]).number();
                    order.batches.iter().flatten().map(draw).collect()
                };
                order.key.0 = (0..).find(|seed| drawn(*seed).len() as u64 == Symmetry::choices(grid)).unwrap();
            }
            check(&gpu, &fires, &order);
        }
    }
}

fn check(gpu: &Gpu, fires: &Fires, order: &Order) {
    let device = Device::Gpu(gpu.clone());
    for dtype in [DType::F32, DType::BF16] {
        let host: Vec<_> = order
            .batches
            .iter()
            .map(|samples| assemble(fires, samples, order.max_seq_len, &order.augment, order.key).unwrap())
            .map(|batch| expected(&batch, dtype))
            .collect();
        for residency in [Residency::Device, Residency::Stream] {
            let placement = Placement::new(&device, fires, &order.augment, settings(residency)).unwrap();
            let name = format!("{:?}, {:?}, {dtype:?}, {residency:?}", fires.grid(), order.augment);
            for reversed in [false, true] {
                gpu.reverse_threads(reversed);
                let ours = fed(gpu, fires, &placement, order, dtype);
                gpu.reverse_threads(false);
                assert!(ours == host, "{name}, reversed: {reversed}");
            }
        }
    }
}

#[test]
fn a_data_set_made_for_training_serves_evaluation() {
    let gpu = gpu();
    let fires = Fires::new(Grid { rows: 2, cols: 2, patch: 8 }, &[6, 3, 7]);
    let placement = Placement::new(&Device::Gpu(gpu.clone()), &fires, &d4(), settings(Residency::Device)).unwrap();
    let order = order(Augment::None);
    let plain = fed(&gpu, &fires, &placement, &order, DType::F32);
    for (batch, samples) in plain.iter().zip(&order.batches) {
        let host = assemble(&fires, samples, 4, &Augment::None, (0, 0)).unwrap();
        assert!(*batch == expected(&host, DType::F32));
    }
    // The other way round it lacks the turned winds.
    let placement = Placement::new(&Device::Gpu(gpu), &fires, &Augment::None, settings(Residency::Device)).unwrap();
    let turned = Order { augment: d4(), ..order };
    let error = std::thread::scope(|scope| Feed::new(scope, &fires, &placement, turned).err());
    assert!(error.unwrap().to_string().contains("holds no winds"));
}

#[test]
fn data_goes_where_it_fits() {
    let gpu = gpu();
    let (device, fires) = (Device::Gpu(gpu.clone()), Fires::new(Grid { rows: 40, cols: 40, patch: 8 }, &[50]));
    let bytes = Resident::bytes(&fires, &Augment::None).unwrap();
    assert!((2 * 50 * 1600 * 8..2 * 50 * 1600 * 8 + (1 << 20)).contains(&bytes));
    let place =
        |residency, budget| Placement::new(&device, &fires, &Augment::None, ResidencySettings { residency, budget });
    let before = gpu.memory().0;
    assert!(matches!(place(Residency::Stream, None).unwrap(), Placement::Stream(..)));
    assert!(matches!(place(Residency::Auto, Some(1 << 20)).unwrap(), Placement::Stream(..)));
    assert_eq!(gpu.memory().0, before);
    for placement in [place(Residency::Auto, Some(bytes)).unwrap(), place(Residency::Device, None).unwrap()] {
        assert_eq!(placement.describe().unwrap(), "1.2 MiB in the GPU's memory");
        assert!(gpu.memory().0 >= before + bytes);
    }
    assert_eq!(gpu.memory().0, before);
    assert_eq!(
        place(Residency::Device, Some(1 << 20)).err().unwrap().to_string(),
        "data.residency: is device, but the data takes 1.2 MiB and data.device_budget_mb is 1.0 MiB; set auto or stream"
    );
    let streamed = place(Residency::Stream, None).unwrap().describe().unwrap();
    assert_eq!(streamed, "1.2 MiB in the host's memory, sent ahead of each step");
    assert!(matches!(
        Placement::new(&Device::cpu(), &fires, &Augment::None, settings(Residency::Device)).unwrap(),
        Placement::Host
    ));
}

#[test]
fn a_stream_may_be_left_at_any_point() {
    let gpu = gpu();
    let fires = Fires::new(Grid { rows: 2, cols: 3, patch: 8 }, &[9, 9]);
    let placement = Placement::new(&Device::Gpu(gpu.clone()), &fires, &d4(), settings(Residency::Stream)).unwrap();
    let batches = (0..8).map(|k| vec![sample((0, k)), sample((1, 7 - k))]).collect();
    let order = Order { batches, max_seq_len: 9, augment: d4(), key: (1, 1) };
    let all = fed(&gpu, &fires, &placement, &order, DType::F32);
    let none = Order { batches: vec![], ..order.clone() };
    assert!(fed(&gpu, &fires, &placement, &none, DType::F32).is_empty());
    let before = gpu.memory().0;
    for (announced, every) in [(0, 1), (1, 1), (5, 1), (5, 2), (8, 3)] {
        std::thread::scope(|scope| {
            let mut feed = Feed::new(scope, &fires, &placement, order.clone()).unwrap();
            for (i, expected) in all.iter().enumerate().take(announced) {
                let next = feed.next().unwrap().unwrap();
                // Some are announced and never filled.
                if (i + 1) % every == 0 {
                    let shape = (2, next.history);
                    let mut batch = DeviceBatch::uninitialized(&gpu, DType::F32, fires.grid(), 3, shape).unwrap();
                    feed.fill(&mut batch).unwrap();
                    assert!(bits(&gpu, &batch) == *expected);
                }
            }
        });
        assert_eq!(gpu.memory().0, before, "a feed leaves nothing behind");
    }
}
