//! `emberformer predict`

use crate::cli::print;
use crate::cli::setup::{check_data, config_of, crop, device, evaluation_precision, open_store, wind, write_picture};
use crate::data::augment::Augment;
use crate::data::batch::{FrameSource, assemble};
use crate::data::geotiff::{GeoTiff, Georeference, write_geotiff};
use crate::data::raw::WindDirection;
use crate::data::sampler::SampleId;
use crate::data::store::Store;
use crate::model::EmberFormer;
use crate::patch::Grid;
use crate::report::pictures::{self, Panels};
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::load_model;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Writes a checkpoint's predictions: the probability of every pixel as PNG and as GeoTIFF with the landscape's
/// georeference, and a picture of prediction, truth and last frame side by side.
///
/// The files of the prediction of frame 4 are OUT/sequence_007/iso_004_*.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  emberformer predict --checkpoint runs/emberformer/checkpoints/best.safetensors --data ~/deep_crown --out predictions
  emberformer predict --checkpoint best.safetensors --data ~/fires --out next --sequence sequence_007 --frame next")]
pub struct Args {
    /// Checkpoint file
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Data set in the Deep Crown layout
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder for the predictions
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only these sequences; may be given several times [default: all]
    #[arg(long, value_name = "ID")]
    sequence: Vec<String>,
    /// Which frames are predicted, each from the frames before it: numbers from 1, all, last (the last one with a truth), or
    /// next (the one after the last); may be given several times
    #[arg(long, value_name = "N|all|last|next", default_value = "last")]
    frame: Vec<Wanted>,
    /// Device: auto, cpu, cuda:N, or emulated (the GPU path on the host, for checks)
    #[arg(long, default_value = "auto")]
    device: String,
}

/// Frames to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Number(usize),
    All,
    Last,
    Next,
}

impl std::str::FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "last" => Ok(Self::Last),
            "next" => Ok(Self::Next),
            _ => match text.parse() {
                Ok(n @ 1..=u32::MAX) => Ok(Self::Number(n as usize)),
                _ => Err(format!("`{text}` is no frame: give a number from 1, all, last or next")),
            },
        }
    }
}

impl Wanted {
    /// The frames of a sequence of `frames` frames, 0 to `frames` − 1.
    fn of(self, frames: usize) -> std::ops::Range<usize> {
        match self {
            Self::Number(n) => n..n + 1,
            Self::All => 1..frames,
            Self::Last => frames.saturating_sub(1).max(1)..frames,
            Self::Next => frames..frames + 1,
        }
    }
}

/// A store that also has the sample whose target is still unknown: the frame after a sequence's last.
struct WithNext<'a> {
    store: &'a Store,
    unknown: Vec<u64>,
}

impl FrameSource for WithNext<'_> {
    fn grid(&self) -> Grid {
        self.store.grid()
    }
    fn sequences(&self) -> usize {
        self.store.sequences().len()
    }
    fn id(&self, sequence: usize) -> &str {
        &self.store.sequences()[sequence].id
    }
    fn frames(&self, sequence: usize) -> usize {
        self.store.sequences()[sequence].frames + 1
    }
    fn frame(&self, sequence: usize, t: usize) -> &[u64] {
        self.store.frame(sequence, t)
    }
    fn isochrone(&self, sequence: usize, t: usize) -> &[u64] {
        if t < self.store.sequences()[sequence].frames { self.store.isochrone(sequence, t) } else { &self.unknown }
    }
    fn wind(&self, sequence: usize) -> &[[f32; 2]] {
        self.store.wind(sequence)
    }
    fn statics(&self, sequence: usize) -> &[f32] {
        self.store.statics(sequence)
    }
    fn valid_patches(&self) -> &[bool] {
        self.store.valid_patches()
    }
    fn band_names(&self) -> &[String] {
        self.store.band_names()
    }
    fn band_range(&self, band: usize) -> [f32; 2] {
        FrameSource::band_range(self.store, band)
    }
    fn direction_range(&self) -> [f32; 2] {
        self.store.wind_range().direction
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let path = &args.checkpoint;
    let device = device(&args.device, None)?;
    let checkpoint = Checkpoint::read(path)?;
    let config = config_of(&checkpoint, path, Some(&args.data))?;
    let model = load_model(&checkpoint, &device, evaluation_precision(&config, &device), path)?;
    let store = open_store(&config, false)?;
    check_data(&checkpoint, &store, path)?;
    let samples = samples(&store, &args)?;
    let landscape = GeoTiff::open(&args.data.join("landscape").join("Input_Geotiff.tif"))?.georeference();
    let setting = Setting {
        source: WithNext { unknown: vec![0; store.grid().patches() * store.grid().words()], store: &store },
        model,
        max_seq_len: config.sampler_settings().max_seq_len,
        wind_direction: config.data.wind_direction,
        threshold: config.thresholds().prediction,
        landscape,
    };
    let bar = indicatif::ProgressBar::new(samples.len() as u64);
    for sample in &samples {
        setting.predict(*sample, &args.out)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    print(&format!("{} predictions are in {}", samples.len(), args.out.display()))
}

/// The samples asked for, each once, in order.
fn samples(store: &Store, args: &Args) -> Result<Vec<SampleId>> {
    let sequences = store.sequences();
    let mut chosen: Vec<usize> = (0..sequences.len()).collect();
    if !args.sequence.is_empty() {
        let find = |id: &String| {
            sequences.iter().position(|sequence| sequence.id == *id).ok_or_else(|| {
                let problem = format!("{id} is not among the {} sequences of {}", sequences.len(), args.data.display());
                Error::usage("--sequence", problem, "give a folder's name, such as sequence_007")
            })
        };
        chosen = args.sequence.iter().map(find).collect::<Result<_>>()?;
    }
    let mut samples = Vec::new();
    for sequence in chosen {
        let frames = sequences[sequence].frames;
        for wanted in &args.frame {
            for frame in wanted.of(frames) {
                if frame > frames {
                    let problem =
                        format!("{} has {frames} frames, so frame {frame} has no history", sequences[sequence].id);
                    return Err(Error::usage("--frame", problem, format_args!("give a number from 1 to {frames}")));
                }
                samples.push(SampleId { sequence, k: frame - 1 });
            }
        }
    }
    samples.sort_unstable();
    samples.dedup();
    match samples.is_empty() {
        true => Err(Error::usage("--frame", "no frame of these sequences can be predicted", "give --frame next")),
        false => Ok(samples),
    }
}

/// What all predictions share.
struct Setting<'a> {
    source: WithNext<'a>,
    model: EmberFormer,
    max_seq_len: usize,
    wind_direction: WindDirection,
    threshold: f64,
    landscape: Georeference,
}

impl Setting<'_> {
    /// Predicts one frame and writes its files.
    fn predict(&self, sample: SampleId, out: &Path) -> Result<()> {
        let SampleId { sequence, k } = sample;
        let (source, store) = (&self.source, self.source.store);
        let batch = assemble(source, &[sample], self.max_seq_len, &Augment::None, (0, 0))?;
        let (height, width) = store.window();
        let grid = source.grid();
        let logits = self.model.logits(&batch.inputs)?;
        let probability = crop(grid, height, width, logits.into_iter().map(|z| (1.0 / (1.0 + (-z).exp())) as f32));
        let mask = |bits: &[u64]| crop(grid, height, width, grid.unpack(bits).into_iter());
        let last = mask(source.frame(sequence, k));
        let truth = (k + 1 < store.sequences()[sequence].frames).then(|| mask(source.isochrone(sequence, k + 1)));

        let folder = out.join(source.id(sequence));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "cannot create the folder", &e))?;
        let file = |what: &str| folder.join(format!("iso_{:03}_{what}", k + 1));
        pictures::probability_png(&file("probability.png"), &probability, height, width)?;
        let picture = pictures::picture(&Panels {
            heading: &format!("{}, frame {}", source.id(sequence), k + 1),
            prediction: &probability,
            threshold: self.threshold,
            target: truth.as_deref(),
            last_frame: &last,
            height,
            width,
            wind: wind(store, self.wind_direction, sample),
        });
        write_picture(&file("picture.png"), &picture)?;
        let [y0, _, x0, _] = store.sequences()[sequence].window;
        let georeference = self.landscape.shifted(x0, y0);
        write_geotiff(&file("probability.tif"), width, height, &[&probability], &["probability"], None, &georeference)
    }
}
