//! Captured work: planned in a dry run, recorded once, replayed at the cost of one launch.
//!
//! A dry run ([`Gpu::plan`]) computes nothing; it notes how long each buffer lives and gives it a place in one arena, so that
//! buffers that never live together share their memory and every replay uses the same addresses. On a GPU it also loads every
//! kernel, cuBLAS's too, which a capture must not be the first to do. [`Gpu::capture`] runs the
//! same work again on that arena and records its launches: as a CUDA graph, or as a list on the emulated device.

use super::emulated::Command;
use super::{Backend, Buffer, Gpu, Memory};
use crate::{Error, Result};
use cudarc::driver::CudaGraph;
use std::sync::Arc;

/// What becomes of what the ops ask for.
#[derive(Default)]
pub(super) enum Mode {
    /// It is done.
    #[default]
    Run,
    /// Buffers are noted, nothing is launched.
    Plan(Planner),
    /// Launches are recorded, buffers come from the arena.
    Capture(Capture),
}

/// The life of every buffer of a dry run, in the order in which they were taken.
#[derive(Default)]
pub(super) struct Planner {
    now: usize,
    lives: Vec<Life>,
}

struct Life {
    bytes: usize,
    first: usize,
    /// None where it outlives the work.
    last: Option<usize>,
}

pub(super) struct Capture {
    plan: Arc<Plan>,
    arena: Arc<Buffer>,
    taken: usize,
    /// None where the driver records.
    commands: Option<Vec<Command>>,
    launches: usize,
    pub tables: Vec<Arc<Buffer>>,
}

/// A place in an arena for every buffer of a piece of work.
#[derive(Debug)]
pub struct Plan {
    places: Vec<(usize, usize)>,
    bytes: usize,
}

/// Recorded work.
pub struct Graph {
    replay: Replay,
    launches: usize,
    gpu: Gpu,
    _arena: Arc<Buffer>,
    _tables: Vec<Arc<Buffer>>,
}

enum Replay {
    Cuda(CudaGraph),
    Emulated(Vec<Command>),
}

/// Buffers begin at multiples of so many bytes, as the driver's allocations do.
const ALIGNMENT: usize = 256;

impl Plan {
    /// Size of the arena.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The largest buffers first, each at the lowest place where nothing lies that lives at the same time.
    fn new(lives: &[Life]) -> Self {
        let size = |life: &Life| life.bytes.next_multiple_of(ALIGNMENT);
        let mut order: Vec<usize> = (0..lives.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(size(&lives[*i])));
        let mut places = vec![(0, 0); lives.len()];
        let mut placed: Vec<usize> = Vec::new(); // by their offsets
        for i in order {
            let life = &lives[i];
            let end = |life: &Life| life.last.unwrap_or(usize::MAX);
            let mut offset = 0;
            for other in placed.iter().filter(|j| lives[**j].first < end(life) && life.first < end(&lives[**j])) {
                let (start, bytes) = places[*other];
                if offset + size(life) <= start {
                    break;
                }
                offset = offset.max(start + usize::next_multiple_of(bytes, ALIGNMENT));
            }
            places[i] = (offset, life.bytes);
            placed.insert(placed.partition_point(|j| places[*j].0 < offset), i);
        }
        let bytes = places.iter().map(|(offset, bytes)| offset + bytes.next_multiple_of(ALIGNMENT)).max().unwrap_or(0);
        Self { places, bytes }
    }
}

impl Mode {
    /// The memory for a buffer; none where it is to be a real one.
    pub fn take(&mut self, gpu: &Gpu, bytes: usize) -> Result<Option<Memory>> {
        match self {
            Self::Run => Ok(None),
            Self::Plan(planner) => {
                let number = planner.lives.len();
                planner.now += 1;
                planner.lives.push(Life { bytes, first: planner.now, last: None });
                Ok(Some(Memory::Planned { number, bytes }))
            }
            Self::Capture(capture) => {
                let place = capture.plan.places.get(capture.taken).filter(|(_, planned)| *planned == bytes);
                let Some((offset, _)) = place.copied() else {
                    return Err(bug(gpu, format!("buffer {} of {bytes} bytes was not planned", capture.taken)));
                };
                capture.taken += 1;
                let memory = Memory::Arena { arena: capture.arena.clone(), offset, bytes };
                if let Some(commands) = &mut capture.commands {
                    commands.push(Command::Poison { address: memory.address(), bytes });
                }
                Ok(Some(memory))
            }
        }
    }

    /// A buffer of a dry run is no longer used.
    pub fn dropped(&mut self, number: usize) {
        if let Self::Plan(planner) = self
            && let Some(life) = planner.lives.get_mut(number)
        {
            planner.now += 1;
            life.last = Some(planner.now);
        }
    }

    /// Whether the command is not to be done now: in a dry run, or where it has been recorded here.
    pub fn defers(&mut self, command: impl FnOnce() -> Command) -> bool {
        match self {
            Self::Run => false,
            Self::Plan(_) => true,
            Self::Capture(capture) => {
                capture.launches += 1;
                match &mut capture.commands {
                    Some(commands) => {
                        commands.push(command());
                        true
                    }
                    None => false,
                }
            }
        }
    }

    pub fn is_planning(&self) -> bool {
        matches!(self, Self::Plan(_))
    }

    /// Nothing of captured work may pass between host and device, or wait.
    pub fn check_host_access(&self, gpu: &Gpu) -> Result<()> {
        match self {
            Self::Run => Ok(()),
            _ => Err(bug(gpu, "captured work waits for the host or reads its memory".into())),
        }
    }
}

fn bug(gpu: &Gpu, what: String) -> Error {
    Error::failed(gpu.describe(), what, "this is a bug; please report it")
}

impl Gpu {
    /// Runs `work` dry and plans an arena for its buffers. Those that it leaves behind keep their place.
    ///
    /// # Errors
    /// What `work` reports, which may do nothing on the host that depends on values.
    pub fn plan<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<Plan> {
        *self.mode() = Mode::Plan(Planner::default());
        let result = work();
        let mode = std::mem::take(&mut *self.mode());
        let left = result?;
        let Mode::Plan(planner) = mode else { return Err(bug(self, "the dry run was interrupted".into())) };
        drop(left);
        Ok(Plan::new(&planner.lives))
    }

    /// Records `work`, which does the same as in the dry run, with its buffers in `arena`.
    ///
    /// # Errors
    /// What `work` and the driver report, and where `work` is not what was planned.
    pub fn capture<R>(
        &self,
        plan: &Arc<Plan>,
        arena: &Arc<Buffer>,
        work: impl FnOnce() -> Result<R>,
    ) -> Result<(Graph, R)> {
        assert!(plan.bytes <= arena.bytes(), "an arena of {} bytes for {}", arena.bytes(), plan.bytes);
        let commands = match &self.0.backend {
            Backend::Cuda(cuda) => {
                cuda.begin_capture()?;
                None
            }
            Backend::Emulated(_) => Some(Vec::new()),
        };
        let (plan, arena) = (plan.clone(), arena.clone());
        *self.mode() = Mode::Capture(Capture {
            plan: plan.clone(),
            arena: arena.clone(),
            taken: 0,
            commands,
            launches: 0,
            tables: Vec::new(),
        });
        let result = work();
        let mode = std::mem::take(&mut *self.mode());
        let recorded = match &self.0.backend {
            Backend::Cuda(cuda) => Some(cuda.end_capture()),
            Backend::Emulated(_) => None,
        };
        let left = result?;
        let Mode::Capture(mut capture) = mode else { return Err(bug(self, "the capture was interrupted".into())) };
        if capture.taken != plan.places.len() {
            return Err(bug(self, format!("{} of {} planned buffers were taken", capture.taken, plan.places.len())));
        }
        let replay = match recorded {
            Some(graph) => Replay::Cuda(graph?),
            None => Replay::Emulated(capture.commands.take().unwrap_or_default()),
        };
        let Capture { launches, tables, .. } = capture;
        Ok((Graph { replay, launches, gpu: self.clone(), _arena: arena, _tables: tables }, left))
    }

    /// Runs recorded work.
    ///
    /// # Errors
    /// What the driver or the emulated device's checks report.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        match (&self.0.backend, &graph.replay) {
            (Backend::Cuda(cuda), Replay::Cuda(graph)) => cuda.replay(graph),
            (Backend::Emulated(emulated), Replay::Emulated(commands)) => {
                commands.iter().try_for_each(|command| emulated.run(command))
            }
            _ => Err(bug(self, "recorded work of another device".into())),
        }
    }
}

impl Graph {
    /// Kernels, products, copies and fills in it.
    pub fn launches(&self) -> usize {
        self.launches
    }
}

impl Drop for Graph {
    /// Its memory may go to somebody else afterwards.
    fn drop(&mut self) {
        if self.gpu.synchronize().is_err() {
            // Whoever waits for the device next is told.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buffers_that_never_meet_share_their_place() {
        let life = |bytes, first, last| Life { bytes, first, last };
        let plan = Plan::new(&[life(1000, 1, Some(2)), life(1024, 3, Some(4)), life(10, 1, None)]);
        assert_eq!(plan.places, [(0, 1000), (0, 1024), (1024, 10)]);
        assert_eq!(plan.bytes, 1280);
    }

    proptest! {
        #[test]
        fn buffers_that_meet_do_not_overlap(lives in prop::collection::vec((1usize..5000, 0usize..40, 1usize..20, any::<bool>()), 0..60)) {
            let lives: Vec<Life> = lives
                .into_iter()
                .map(|(bytes, first, length, ends)| Life { bytes, first, last: ends.then_some(first + length) })
                .collect();
            let plan = Plan::new(&lives);
            let end = |i: usize| lives[i].last.unwrap_or(usize::MAX);
            for i in 0..lives.len() {
                let (start, bytes) = plan.places[i];
                prop_assert!(bytes == lives[i].bytes && start % ALIGNMENT == 0 && start + bytes <= plan.bytes);
                for j in 0..i {
                    let (other, others) = plan.places[j];
                    let meet = lives[i].first < end(j) && lives[j].first < end(i);
                    prop_assert!(!meet || start + bytes <= other || other + others <= start);
                }
            }
        }
    }
}
