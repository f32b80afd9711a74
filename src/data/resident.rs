//! Where a run's data lies while a GPU computes: as a whole in its memory, or in the host's, sent ahead of each step.

use super::augment::{Augment, Symmetry};
use super::batch::{FrameSource, Turning};
use super::sampler::SampleId;
use crate::device::Device;
use crate::device::gpu::{Buffer, Gpu};
use crate::ops::gather::{GatherSample, Rows, Tables};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where the packed data is to lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residency {
    /// In the GPU's memory where it leaves as much free as it takes, else as with `Stream`.
    #[default]
    Auto,
    /// In the GPU's memory.
    Device,
    /// In the host's memory, sent ahead of each step.
    Stream,
}

/// Where the packed data is to lie, and how much of a GPU's memory it may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResidencySettings {
    /// Where.
    pub residency: Residency,
    /// Bytes of the GPU's memory at most, where that is limited.
    pub budget: Option<usize>,
}

/// Where the data of a run lies.
pub enum Placement {
    /// On the host, where the ops of the CPU read it.
    Host,
    /// In a GPU's memory.
    Resident(Box<Resident>),
    /// On the host, sent to the GPU ahead of each step; so many bytes in all.
    Stream(Gpu, usize),
}

const MIB: f64 = (1u32 << 20) as f64;

impl Placement {
    /// Puts the data where the settings say; `augment` is what training does to samples.
    ///
    /// # Errors
    /// Data that must be in the GPU's memory and does not fit; an aspect band that the data set does not have.
    pub fn new(
        device: &Device,
        source: &impl FrameSource,
        augment: &Augment,
        settings: ResidencySettings,
    ) -> Result<Self> {
        let Device::Gpu(gpu) = device else { return Ok(Self::Host) };
        let bytes = Resident::bytes(source, augment)?;
        let free = gpu.free_memory()?;
        let room = settings.budget.map_or(free, |budget| budget.min(free));
        let resident = match settings.residency {
            Residency::Stream => false,
            Residency::Auto => bytes <= room && bytes <= free / 2, // the step needs memory too
            Residency::Device if bytes <= room => true,
            Residency::Device => {
                let limit = if room < free { "data.device_budget_mb" } else { "its free memory" };
                return Err(Error::usage(
                    "data.residency",
                    format_args!(
                        "is device, but the data takes {:.1} MiB and {limit} is {:.1} MiB",
                        bytes as f64 / MIB,
                        room as f64 / MIB
                    ),
                    "set auto or stream",
                ));
            }
        };
        Ok(if resident {
            Self::Resident(Box::new(Resident::new(gpu, source, augment)?))
        } else {
            Self::Stream(gpu.clone(), bytes)
        })
    }

    /// In words, for the start of a run; nothing where the CPU computes.
    pub fn describe(&self) -> Option<String> {
        match self {
            Self::Host => None,
            Self::Resident(resident) => {
                Some(format!("{:.1} MiB in the GPU's memory", resident.tables.bytes as f64 / MIB))
            }
            Self::Stream(_, bytes) => {
                Some(format!("{:.1} MiB in the host's memory, sent ahead of each step", *bytes as f64 / MIB))
            }
        }
    }
}

/// A data set in a GPU's memory.
pub struct Resident {
    gpu: Gpu,
    buffer: Buffer,
    tables: Tables,
    /// Row of each sequence's first frame.
    first: Vec<usize>,
    /// Symmetries that wind and aspects have rows for.
    symmetries: u64,
}

impl Resident {
    /// Bytes that a data set takes in a GPU's memory.
    ///
    /// # Errors
    /// An aspect band that it does not have.
    pub fn bytes(source: &impl FrameSource, augment: &Augment) -> Result<usize> {
        Ok(tables(source, &Turning::new(source, augment)?, symmetries(source, augment)).bytes)
    }

    /// Copies a data set into the GPU's memory, ready for samples under the symmetries of `augment` and as they are.
    ///
    /// # Errors
    /// An aspect band that it does not have; too little memory.
    pub fn new(gpu: &Gpu, source: &impl FrameSource, augment: &Augment) -> Result<Self> {
        let turning = Turning::new(source, augment)?;
        let symmetries = symmetries(source, augment);
        let tables = tables(source, &turning, symmetries);
        if u32::try_from(tables.wind.len() / 8).is_err() {
            let remedy = "set data.residency to stream";
            return Err(Error::failed("data set", "it has too many frames to number them on a GPU", remedy));
        }
        let grid = source.grid();
        let image = grid.patches() * grid.words() * 8;
        let buffer = gpu.take(tables.bytes)?;
        let mut first = Vec::with_capacity(source.sequences());
        let mut row = 0;
        for sequence in 0..source.sequences() {
            first.push(row);
            for t in 0..source.frames(sequence) {
                gpu.write_at(&buffer, tables.frames.start + row * image, source.frame(sequence, t))?;
                gpu.write_at(&buffer, tables.isochrones.start + row * image, source.isochrone(sequence, t))?;
                row += 1;
            }
            let statics = source.statics(sequence);
            gpu.write_at(&buffer, tables.statics.start + sequence * size_of_val(statics), statics)?;
        }
        let all = || (0..symmetries).map(Symmetry::numbered);
        let wind: Vec<[f32; 2]> = all()
            .flat_map(|symmetry| (0..source.sequences()).map(move |sequence| (symmetry, sequence)))
            .flat_map(|(symmetry, sequence)| source.wind(sequence).iter().map(move |wind| (*wind, symmetry)))
            .map(|(wind, symmetry)| turning.wind(wind, symmetry))
            .collect();
        gpu.write_at(&buffer, tables.wind.start, &wind)?;
        let mut aspects = vec![0.0; grid.patches() * turning.bands.len()];
        for (i, symmetry) in all().enumerate().filter(|_| !turning.bands.is_empty()) {
            for sequence in 0..source.sequences() {
                turning.aspects(source.statics(sequence), tables.channels, symmetry, &mut aspects);
                let at = (i * source.sequences() + sequence) * size_of_val(aspects.as_slice());
                gpu.write_at(&buffer, tables.aspects.start + at, &aspects)?;
            }
        }
        gpu.write_at(&buffer, tables.aspect_of.start, &turning.aspect_of(tables.channels))?;
        gpu.write_at(&buffer, tables.valid_patches.start, source.valid_patches())?;
        Ok(Self { gpu: gpu.clone(), buffer, tables, first, symmetries })
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The data and where its tables lie.
    pub fn set(&self) -> (&Buffer, &Tables) {
        (&self.buffer, &self.tables)
    }

    /// A sample of this data set by its rows.
    ///
    /// # Errors
    /// A symmetry that it was not made for.
    pub(super) fn row(&self, sample: SampleId, history: usize, symmetry: Symmetry) -> Result<GatherSample> {
        let number = u64::from(symmetry.number());
        if number >= self.symmetries {
            let problem = "a symmetry for which the GPU's memory holds no winds";
            return Err(Error::failed("data set", problem, "this is a defect; please report it"));
        }
        let first = self.first[sample.sequence];
        let frame = first + sample.k + 1 - history;
        let frames = self.tables.wind.len() / 8 / self.symmetries as usize;
        Ok(GatherSample {
            frame: frame as u32,
            isochrone: (first + sample.k + 1) as u32,
            wind: (number as usize * frames + frame) as u32,
            statics: sample.sequence as u32,
            aspects: (number as usize * self.first.len() + sample.sequence) as u32,
            history: history as u32,
            symmetry: symmetry.number(),
        })
    }
}

/// How many symmetries samples may be asked for under.
fn symmetries(source: &impl FrameSource, augment: &Augment) -> u64 {
    match augment {
        Augment::None => 1,
        Augment::D4 { .. } => Symmetry::choices(source.grid()),
    }
}

/// The tables of a whole data set.
fn tables(source: &impl FrameSource, turning: &Turning, symmetries: u64) -> Tables {
    let (sequences, symmetries) = (source.sequences(), symmetries as usize);
    let frames: usize = (0..sequences).map(|sequence| source.frames(sequence)).sum();
    let bands = turning.bands.len();
    let rows = Rows {
        frames,
        isochrones: frames,
        wind: symmetries * frames,
        statics: sequences,
        aspects: symmetries * sequences,
        samples: 0,
    };
    Tables::new(source.grid(), source.band_names().len(), bands, rows)
}
