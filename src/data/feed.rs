//! Batches one after the other, made while the step before computes.
//!
//! A thread runs ahead of the steps by two batches at most. For the CPU it assembles whole batches. For a GPU whose memory
//! does not hold the data set it copies what a batch needs of it into page-locked memory, from where it goes to the device on
//! a stream of its own while the step before computes; there the batch is gathered as it is from a resident data set, for
//! which there is no thread: the order of an epoch lies in the device's memory from the start, and a step passes nothing.
//!
//! Which way a batch comes makes no difference to its bytes.

use super::augment::{Augment, Symmetry};
use super::batch::{Batch, FrameSource, Turning, assemble, history_of, longest_history, symmetry_of};
use super::resident::{Placement, Resident};
use super::sampler::SampleId;
use crate::device::gpu::{Buffer, Event, Gpu, Pinned, Sending};
use crate::model::DeviceBatch;
use crate::ops::gather::{GatherSample, Outputs, Rows, Samples, Tables, gather};
use crate::patch::Grid;
use crate::{Error, Result};
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// Batches in their order, and what is done to their samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Samples of each batch.
    pub batches: Vec<Vec<SampleId>>,
    /// Frames of history at most; longer ones keep their most recent frames.
    pub max_seq_len: usize,
    /// Symmetries of the samples.
    pub augment: Augment,
    /// Seed and epoch, which decide the symmetries.
    pub key: (u64, u64),
}

/// What the next batch is.
#[derive(Debug, Clone, PartialEq)]
pub struct Upcoming {
    /// Its samples.
    pub samples: Vec<SampleId>,
    /// Steps of its longest history.
    pub history: usize,
    /// The batch itself where the CPU computes; a GPU's is for [`Feed::fill`] to fetch.
    pub batch: Option<Batch>,
}

/// Hands out the batches of an order. Dropped, it ends its thread and waits for it.
pub struct Feed<'a> {
    plans: Arc<[Plan]>,
    /// The next batch to be announced.
    position: usize,
    /// A batch was announced that is not filled yet.
    announced: bool,
    way: Way<'a>,
}

/// A batch with the symmetries of its samples.
struct Plan {
    /// Samples of the batches before.
    before: usize,
    samples: Vec<SampleId>,
    symmetries: Vec<Symmetry>,
    /// Real frames of each sample.
    histories: Vec<usize>,
    history: usize,
}

enum Way<'a> {
    Host(Ahead<'a, Result<Batch>>),
    Resident(&'a Resident, Option<Buffer>),
    Stream(Box<Stream<'a>>),
}

/// A thread and what it has made.
struct Ahead<'a, T> {
    /// None once the feed is being dropped.
    made: Option<Receiver<T>>,
    thread: Option<ScopedJoinHandle<'a, ()>>,
}

/// Two buffers at either end, in turns.
struct Stream<'a> {
    gpu: Gpu,
    turning: Arc<Turning>,
    grid: Grid,
    channels: usize,
    ahead: Ahead<'a, Pinned>,
    /// Emptied memory goes back to the thread; none once the feed is being dropped.
    emptied: Option<SyncSender<Pinned>>,
    staging: [Arc<Buffer>; 2],
    /// When the kernels had read each of them.
    gathered: [Event; 2],
    /// The next batch to be sent.
    next: usize,
    /// A batch on its way.
    sending: Option<Sending>,
}

impl<'a> Feed<'a> {
    /// Begins to make the batches of `order`. The thread ends with `scope` at the latest.
    ///
    /// # Errors
    /// A batch without samples; a sample or an aspect band that the source does not have; too little memory.
    pub fn new<S: FrameSource + Sync>(
        scope: &'a Scope<'a, '_>,
        source: &'a S,
        placement: &'a Placement,
        order: Order,
    ) -> Result<Self> {
        let mut before = 0;
        let plan = |samples: &Vec<SampleId>| {
            let plan = Plan::new(source, before, samples.clone(), &order);
            before += samples.len();
            plan
        };
        let plans: Arc<[Plan]> = order.batches.iter().map(plan).collect::<Result<Vec<_>>>()?.into();
        let turning = Arc::new(Turning::new(source, &order.augment)?);
        let way = match placement {
            Placement::Host => {
                let (made, receiver) = sync_channel(1);
                let thread = scope.spawn(move || {
                    for samples in &order.batches {
                        let batch = assemble(source, samples, order.max_seq_len, &order.augment, order.key);
                        if made.send(batch).is_err() {
                            return;
                        }
                    }
                });
                Way::Host(Ahead { made: Some(receiver), thread: Some(thread) })
            }
            Placement::Resident(resident) => Way::Resident(resident, upload_rows(resident, &plans)?),
            Placement::Stream(gpu, _) => Way::Stream(Box::new(Stream::new(scope, gpu, source, &plans, turning)?)),
        };
        Ok(Feed { plans, position: 0, announced: false, way })
    }

    /// What the next batch is; none after the last. It may still be on its way to the device.
    ///
    /// # Errors
    /// What went wrong when it was made.
    #[allow(clippy::should_implement_trait)] // a batch is filled between two calls
    pub fn next(&mut self) -> Result<Option<Upcoming>> {
        let Some(plan) = self.plans.get(self.position) else { return Ok(None) };
        let mut batch = None;
        match &mut self.way {
            Way::Host(ahead) => batch = Some(ahead.wait()??),
            Way::Resident(..) => {}
            Way::Stream(stream) => {
                if self.announced {
                    stream.recycle()?; // the batch before, which nobody wanted
                }
                stream.send(&self.plans, true)?;
            }
        }
        self.position += 1;
        self.announced = true;
        Ok(Some(Upcoming { samples: plan.samples.clone(), history: plan.history, batch }))
    }

    /// Puts the batch that was announced last into `to`, in the order of the kernels: what was launched before still sees
    /// the batch before.
    ///
    /// # Errors
    /// What the device reports.
    ///
    /// # Panics
    /// Without a batch announced, if the shape is not its own, or if the CPU computes.
    pub fn fill(&mut self, to: &mut DeviceBatch) -> Result<()> {
        assert!(self.announced, "a batch is filled once, after it was announced");
        self.announced = false;
        let position = self.position - 1;
        let plan = &self.plans[position];
        let inputs = &to.inputs;
        assert_eq!((inputs.batch, inputs.history), (plan.samples.len(), plan.history), "the shape of the batch");
        match &mut self.way {
            Way::Host(..) => panic!("a batch in host memory has no need of a copy"),
            Way::Resident(resident, rows) => {
                let Some(buffer) = rows else { unreachable!("made where there are batches") };
                let samples = Samples { buffer, offset: plan.before * size_of::<GatherSample>() };
                gather(resident.gpu(), resident.set(), samples, &outputs(to))
            }
            Way::Stream(stream) => stream.fill(&self.plans, position, to),
        }
    }
}

fn outputs(to: &DeviceBatch) -> Outputs<'_> {
    let (inputs, target) = (&to.inputs, &to.target);
    Outputs {
        batch: inputs.batch,
        history: inputs.history,
        frames: &inputs.frames,
        last: &inputs.last.bits,
        target: &target.mask.bits,
        wind: &inputs.wind,
        statics: &inputs.statics,
        valid_steps: &inputs.valid_steps,
        ages: &inputs.ages,
        valid_patches: &target.valid_patches,
    }
}

/// All samples of the order by their rows of the resident data set.
fn upload_rows(resident: &Resident, plans: &[Plan]) -> Result<Option<Buffer>> {
    let rows = plans.iter().flat_map(|plan| {
        let samples = plan.samples.iter().zip(&plan.histories).zip(&plan.symmetries);
        samples.map(|((sample, history), symmetry)| resident.row(*sample, *history, *symmetry))
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    if rows.is_empty() { Ok(None) } else { resident.gpu().upload(&rows).map(Some) }
}

impl Plan {
    fn new(source: &impl FrameSource, before: usize, samples: Vec<SampleId>, order: &Order) -> Result<Self> {
        let history = longest_history(source, &samples, order.max_seq_len)?;
        let grid = source.grid();
        let symmetries = samples.iter().map(|s| symmetry_of(*s, &order.augment, grid, order.key)).collect();
        let histories = samples.iter().map(|s| history_of(*s, order.max_seq_len)).collect();
        Ok(Self { before, samples, symmetries, histories, history })
    }

    /// The tables of what the batch needs of the data set.
    fn tables(&self, grid: Grid, channels: usize, turning: &Turning) -> Tables {
        let (samples, frames) = (self.samples.len(), self.histories.iter().sum());
        let rows = Rows { frames, isochrones: samples, wind: frames, statics: samples, aspects: samples, samples };
        Tables::new(grid, channels, turning.bands.len(), rows)
    }

    /// Copies what the batch needs of the data set.
    fn fill(&self, source: &(impl FrameSource + Sync), turning: &Turning, tables: &Tables, to: &mut [u8]) {
        let image = tables.grid.patches() * tables.grid.words();
        let last = |i: usize| (self.samples[i].sequence, self.samples[i].k);
        let steps: Vec<(usize, usize)> = (0..self.samples.len())
            .flat_map(|i| {
                let (sequence, k) = last(i);
                (k + 1 - self.histories[i]..=k).map(move |t| (sequence, t))
            })
            .collect();
        let frames: &mut [u64] = bytemuck::cast_slice_mut(&mut to[tables.frames.clone()]);
        let copies = frames.par_chunks_exact_mut(image).zip(&steps);
        copies.for_each(|(to, (sequence, t))| to.copy_from_slice(source.frame(*sequence, *t)));
        let isochrones: &mut [u64] = bytemuck::cast_slice_mut(&mut to[tables.isochrones.clone()]);
        for (i, to) in isochrones.chunks_exact_mut(image).enumerate() {
            let (sequence, k) = last(i);
            to.copy_from_slice(source.isochrone(sequence, k + 1));
        }
        let wind: &mut [[f32; 2]] = bytemuck::cast_slice_mut(&mut to[tables.wind.clone()]);
        let symmetries = self.histories.iter().zip(&self.symmetries);
        let symmetries = symmetries.flat_map(|(history, symmetry)| std::iter::repeat_n(*symmetry, *history));
        for ((to, (sequence, t)), symmetry) in wind.iter_mut().zip(&steps).zip(symmetries) {
            *to = turning.wind(source.wind(*sequence)[*t], symmetry);
        }
        let window = tables.grid.patches() * tables.channels;
        let statics: &mut [f32] = bytemuck::cast_slice_mut(&mut to[tables.statics.clone()]);
        for (to, sample) in statics.chunks_exact_mut(window.max(1)).zip(&self.samples) {
            to.copy_from_slice(source.statics(sample.sequence));
        }
        let window = tables.grid.patches() * tables.aspect_bands;
        let aspects: &mut [f32] = bytemuck::cast_slice_mut(&mut to[tables.aspects.clone()]);
        let turned = aspects.chunks_exact_mut(window.max(1)).zip(&self.samples).zip(&self.symmetries);
        for ((to, sample), symmetry) in turned {
            turning.aspects(source.statics(sample.sequence), tables.channels, *symmetry, to);
        }
        let aspect_of = turning.aspect_of(tables.channels);
        to[tables.aspect_of.clone()].copy_from_slice(bytemuck::cast_slice(&aspect_of));
        for (to, valid) in to[tables.valid_patches.clone()].iter_mut().zip(source.valid_patches()) {
            *to = u8::from(*valid);
        }
        let mut frame = 0;
        let rows: Vec<GatherSample> = (0..self.samples.len())
            .map(|i| {
                let (row, history) = (i as u32, self.histories[i] as u32);
                let first = frame;
                frame += history;
                GatherSample {
                    frame: first,
                    isochrone: row,
                    wind: first,
                    statics: row,
                    aspects: row,
                    history,
                    symmetry: self.symmetries[i].number(),
                }
            })
            .collect();
        to[tables.samples.clone()].copy_from_slice(bytemuck::cast_slice(&rows));
    }
}

impl<T> Ahead<'_, T> {
    /// The next thing that the thread has made.
    fn wait(&mut self) -> Result<T> {
        let made = self.made.as_ref().and_then(|made| made.recv().ok());
        made.ok_or_else(|| {
            let problem = "the thread that prepares batches has died; its own message stands above";
            Error::failed("data set", problem, "this is a defect; please report it")
        })
    }
}

impl<T> Drop for Ahead<'_, T> {
    fn drop(&mut self) {
        self.made = None; // what the thread hands over next ends it
        if let Some(thread) = self.thread.take() {
            // Its panic, if that ended it, has been printed.
            let _ = thread.join();
        }
    }
}

impl<'a> Stream<'a> {
    fn new<S: FrameSource + Sync>(
        scope: &'a Scope<'a, '_>,
        gpu: &Gpu,
        source: &'a S,
        plans: &Arc<[Plan]>,
        turning: Arc<Turning>,
    ) -> Result<Self> {
        let (grid, channels) = (source.grid(), source.band_names().len());
        let bytes = plans.iter().map(|plan| plan.tables(grid, channels, &turning).bytes).max().unwrap_or(1);
        let staging = [Arc::new(gpu.take(bytes)?), Arc::new(gpu.take(bytes)?)];
        let gathered = [gpu.event()?, gpu.event()?];
        // What had the memory before may still be reading it.
        gathered.iter().try_for_each(|event| gpu.record(event))?;
        let (emptied, empty) = sync_channel::<Pinned>(2);
        let (full, made) = sync_channel(2);
        for _ in 0..2 {
            if emptied.send(gpu.pinned(bytes)?).is_err() {
                unreachable!("this function holds the receiver");
            }
        }
        let (plans, its_turning) = (plans.clone(), turning.clone());
        let thread = scope.spawn(move || {
            for plan in plans.iter() {
                let Ok(mut pinned) = empty.recv() else { return };
                plan.fill(source, &its_turning, &plan.tables(grid, channels, &its_turning), &mut pinned);
                if full.send(pinned).is_err() {
                    return;
                }
            }
        });
        let ahead = Ahead { made: Some(made), thread: Some(thread) };
        Ok(Self {
            gpu: gpu.clone(),
            turning,
            grid,
            channels,
            ahead,
            emptied: Some(emptied),
            staging,
            gathered,
            next: 0,
            sending: None,
        })
    }

    fn tables(&self, plan: &Plan) -> Tables {
        plan.tables(self.grid, self.channels, &self.turning)
    }

    /// Sends the next batch on its way, unless one is: at once where it is ready, or after waiting for the thread.
    fn send(&mut self, plans: &[Plan], wait: bool) -> Result<()> {
        if self.sending.is_some() {
            return Ok(());
        }
        let Some(plan) = plans.get(self.next) else { return Ok(()) };
        let pinned = match wait {
            true => self.ahead.wait()?,
            false => match self.ahead.made.as_ref().and_then(|made| made.try_recv().ok()) {
                Some(pinned) => pinned,
                None => return Ok(()),
            },
        };
        let turn = self.next % 2;
        let bytes = self.tables(plan).bytes;
        self.sending = Some(self.gpu.send(pinned, bytes, &self.staging[turn], &self.gathered[turn])?);
        self.next += 1;
        Ok(())
    }

    fn fill(&mut self, plans: &[Plan], position: usize, to: &DeviceBatch) -> Result<()> {
        let Some(sending) = self.sending.take() else { unreachable!("sent when it was announced") };
        let (turn, tables) = (position % 2, self.tables(&plans[position]));
        self.gpu.wait_for(&sending)?;
        let buffer: &Buffer = &self.staging[turn];
        gather(&self.gpu, (buffer, &tables), Samples { buffer, offset: tables.samples.start }, &outputs(to))?;
        self.gpu.record(&self.gathered[turn])?;
        // The next one is copied while this one computes.
        self.send(plans, false)?;
        self.give_back(sending)
    }

    /// The memory of a batch that nobody wanted goes back to the thread.
    fn recycle(&mut self) -> Result<()> {
        match self.sending.take() {
            Some(sending) => self.give_back(sending),
            None => Ok(()),
        }
    }

    fn give_back(&mut self, sending: Sending) -> Result<()> {
        let pinned = sending.finish()?;
        // A thread that has nothing left to make needs no memory.
        let _ = self.emptied.as_ref().map(|emptied| emptied.send(pinned));
        Ok(())
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.emptied = None; // a thread that waits for memory ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::scope;
    use std::time::Duration;

    /// Two sequences of six frames, whose frame 3 may be slow or broken.
    struct Fake {
        frames: Vec<Vec<u64>>,
        wind: Vec<[f32; 2]>,
        trouble: Option<fn()>,
    }

    const GRID: Grid = Grid { rows: 1, cols: 2, patch: 8 };

    impl Fake {
        fn new(trouble: Option<fn()>) -> Self {
            Self { frames: (0..6).map(|t| vec![1 << t, t]).collect(), wind: vec![[0.5; 2]; 6], trouble }
        }
    }

    impl FrameSource for Fake {
        fn grid(&self) -> Grid {
            GRID
        }
        fn sequences(&self) -> usize {
            2
        }
        fn id(&self, sequence: usize) -> &str {
            ["a", "b"][sequence]
        }
        fn frames(&self, _sequence: usize) -> usize {
            6
        }
        fn frame(&self, _sequence: usize, t: usize) -> &[u64] {
            if let (3, Some(trouble)) = (t, self.trouble) {
                trouble();
            }
            &self.frames[t]
        }
        fn isochrone(&self, _sequence: usize, t: usize) -> &[u64] {
            &self.frames[t]
        }
        fn wind(&self, _sequence: usize) -> &[[f32; 2]] {
            &self.wind
        }
        fn statics(&self, _sequence: usize) -> &[f32] {
            &[0.25, 0.75]
        }
        fn valid_patches(&self) -> &[bool] {
            &[true, false]
        }
        fn band_names(&self) -> &[String] {
            static NAMES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
            NAMES.get_or_init(|| vec!["fuel".into()])
        }
        fn band_range(&self, _band: usize) -> [f32; 2] {
            [0.0, 1.0]
        }
        fn direction_range(&self) -> [f32; 2] {
            [0.0, 360.0]
        }
    }

    fn order(ks: &[usize]) -> Order {
        let batch = |k: &usize| vec![SampleId { sequence: 0, k: *k }, SampleId { sequence: 1, k: 0 }];
        let augment = Augment::D4 { aspect_bands: vec![] };
        Order { batches: ks.iter().map(batch).collect(), max_seq_len: 3, augment, key: (1, 2) }
    }

    #[test]
    fn batches_come_in_their_order() {
        let (source, order) = (Fake::new(None), order(&[4, 0, 2]));
        let source = &source;
        scope(|scope| {
            let mut feed = Feed::new(scope, source, &Placement::Host, order.clone()).unwrap();
            for samples in &order.batches {
                let next = feed.next().unwrap().unwrap();
                let batch = assemble(source, samples, 3, &order.augment, order.key).unwrap();
                assert_eq!(
                    next,
                    Upcoming { samples: samples.clone(), history: batch.inputs.history, batch: Some(batch) }
                );
            }
            assert_eq!(feed.next().unwrap(), None);
        });
    }

    #[test]
    fn samples_that_are_not_there_are_refused_at_once() {
        let source = Fake::new(None);
        let failure = |order: Order| {
            scope(|scope| Feed::new(scope, &source, &Placement::Host, order).err()).expect("an error").to_string()
        };
        assert!(failure(order(&[0, 5])).contains("sequence 0 has no sample 5"));
        assert!(failure(Order { batches: vec![vec![]], ..order(&[]) }).contains("no samples"));
        let augment = Augment::D4 { aspect_bands: vec!["slope".into()] };
        assert!(failure(Order { augment, ..order(&[0]) }).contains("slope is no band"));
    }

    #[test]
    fn the_end_of_the_thread_comes_out_of_the_next_batch() {
        let source = Fake::new(Some(|| panic!("this panic belongs to a test")));
        scope(|scope| {
            let mut feed = Feed::new(scope, &source, &Placement::Host, order(&[1, 4, 1])).unwrap();
            assert!(feed.next().unwrap().is_some());
            assert!(feed.next().unwrap_err().to_string().contains("the thread that prepares batches has died"));
        });
    }

    #[test]
    fn a_feed_is_dropped_while_its_thread_is_busy() {
        let source = Fake::new(Some(|| std::thread::sleep(Duration::from_millis(20))));
        scope(|scope| {
            for taken in 0..3 {
                let mut feed = Feed::new(scope, &source, &Placement::Host, order(&[4; 50])).unwrap();
                for _ in 0..taken {
                    feed.next().unwrap();
                }
            }
        });
    }
}
