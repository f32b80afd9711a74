//! `emberformer predict`

use crate::cli::print;
use crate::cli::setup::{check_data, config_of, device, open_store};
use crate::data::augment::Augment;
use crate::data::batch::{FrameSource, assemble};
use crate::data::geotiff::{GeoTiff, Georeference, write_geotiff};
use crate::data::sampler::SampleId;
use crate::data::store::Store;
use crate::model::EmberFormer;
use crate::patch::Grid;
use crate::report::preview;
use crate::train::checkpoint::{Checkpoint, write_whole};
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
    /// Device: auto, cpu or cuda:N
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
    let model = load_model(&checkpoint, &device, path)?;
    let store = open_store(&config, false)?;
    check_data(&checkpoint, &store, path)?;
    let samples = samples(&store, &args)?;
    let landscape = GeoTiff::open(&args.data.join("landscape").join("Input_Geotiff.tif"))?.georeference();
    let source = WithNext { unknown: vec![0; store.grid().patches() * store.grid().words()], store: &store };
    let bar = indicatif::ProgressBar::new(samples.len() as u64);
    for sample in &samples {
        predict(&source, &model, *sample, config.sampler_settings().max_seq_len, &landscape, &args.out)?;
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

/// Predicts one frame and writes its files.
fn predict(
    source: &WithNext,
    model: &EmberFormer,
    sample: SampleId,
    max_seq_len: usize,
    landscape: &Georeference,
    out: &Path,
) -> Result<()> {
    let SampleId { sequence, k } = sample;
    let batch = assemble(source, &[sample], max_seq_len, &Augment::None, (0, 0))?;
    let (height, width) = source.store.window();
    let (grid, known) = (source.grid(), source.store.sequences()[sequence].frames);
    // The padding at bottom and right is no part of the data set.
    let crop = |image: Vec<f32>| -> Vec<f32> {
        image.chunks_exact(grid.width()).take(height).flat_map(|line| line[..width].to_vec()).collect()
    };
    let mask = |bits: &[u64]| crop(grid.unpack(bits).into_iter().map(f32::from).collect());
    let probability =
        crop(model.logits(&batch.inputs)?.into_iter().map(|z| (1.0 / (1.0 + (-z).exp())) as f32).collect());
    let last = mask(source.frame(sequence, k));
    let truth = (k + 1 < known).then(|| mask(source.isochrone(sequence, k + 1)));

    let folder = out.join(source.id(sequence));
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "cannot create the folder", &e))?;
    let file = |what: &str| folder.join(format!("iso_{:03}_{what}", k + 1));
    write_whole(&file("probability.png"), &preview::grey(&probability, height, width)?)?;
    write_whole(&file("picture.png"), &preview::triptych(&probability, truth.as_deref(), &last, height, width)?)?;
    let [y0, _, x0, _] = source.store.sequences()[sequence].window;
    let georeference = landscape.shifted(x0, y0);
    write_geotiff(&file("probability.tif"), width, height, &[&probability], &["probability"], None, &georeference)
}
