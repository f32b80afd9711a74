//! Building: images packed in parallel over the sequences into `<store>.partial`, whose finished sequences are noted
//! in `<store>.journal`. A killed build goes on from there; a complete one is synced and takes the store's place.

use super::format::{Description, FORMAT, Layout, Sizes, Stored, VERSION, checksum, checksum_head, json};
use super::journal::{Done, Output, parse_journal};
use super::{BuildSummary, Store, StoreSettings, source, with_suffix};
use crate::data::raw::{BandScale, DataSet, Landscape, image};
use crate::patch::Grid;
use crate::{Error, Result};
use indicatif::ProgressBar;
use rayon::prelude::*;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Builds the store at `path`, or leaves it where it is up to date. The caller has decided that a file which is there
/// may be replaced.
pub fn build(settings: &StoreSettings, path: &Path, progress: &ProgressBar) -> Result<(Store, BuildSummary)> {
    let start = Instant::now();
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot create", &e))?;
    }
    // Without the right to write here, a store that is up to date can still be used.
    let lock = lock(path, progress);
    let data = DataSet::scan(&settings.data_dir, settings.max_sequences)?;
    let (height, width) = data.window_size();
    let grid = image::grid(height, width, settings.patch, settings.pad_mode)?;
    let stored = Stored::of(settings);
    let stamp = source::stamp(&data, &stored)?;
    let summary = |store: &Store, decoded: usize, reused: bool| BuildSummary {
        sequences: store.sequences().len(),
        images: data.images(),
        decoded,
        reused,
        seconds: start.elapsed().as_secs_f64(),
        bytes: store.bytes(),
    };
    if let Ok(store) = Store::open(path)
        && source::is_current(&store, path, &data, &stored, &stamp)?
    {
        let summary = summary(&store, 0, true);
        return Ok((store, summary));
    }

    let _lock = lock?;
    let job = Job { data: &data, stored, grid, path, stamp: &stamp, progress, cancelled: AtomicBool::new(false) };
    let built = job.run();
    if built.is_err() {
        // What is wrong must be mended before the next build, which then starts from a source of another stamp.
        let _ = std::fs::remove_file(with_suffix(path, ".partial"));
        let _ = std::fs::remove_file(with_suffix(path, ".journal"));
    }
    let (fingerprint, decoded) = built?;
    source::remember(path, &stamp, &fingerprint);
    let store = Store::open(path)?;
    let summary = summary(&store, decoded, false);
    Ok((store, summary))
}

/// Takes the lock of the store at `path`, waiting for another process that builds it. The lock's file stays: removing
/// it would let two processes lock two files of one name.
fn lock(path: &Path, progress: &ProgressBar) -> Result<File> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    let lock_path = path.with_file_name(name);
    let unlockable = |e: &std::io::Error| Error::io(&lock_path, "cannot lock", e);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let file = file.map_err(|e| unlockable(&e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress.suspend(|| {
                let _ = writeln!(
                    std::io::stderr(),
                    "{}: another process builds this store; waiting for it",
                    path.display()
                );
            });
            file.lock().map_err(|e| unlockable(&e))?;
        }
        Err(TryLockError::Error(e)) => return Err(unlockable(&e)),
    }
    Ok(file)
}

/// One build.
struct Job<'a> {
    data: &'a DataSet,
    stored: Stored,
    grid: Grid,
    path: &'a Path,
    stamp: &'a str,
    progress: &'a ProgressBar,
    /// Set once a part has failed, so that the others stop.
    cancelled: AtomicBool,
}

impl Job<'_> {
    /// Builds, and returns the fingerprint and the number of images decoded.
    fn run(&self) -> Result<(String, usize)> {
        let mut landscape = Landscape::open(&self.data.landscape())?;
        for sequence in self.data.sequences() {
            landscape.check_window(&sequence.id, sequence.window)?;
        }
        let ids: Vec<&str> = self.data.sequences().iter().map(|s| s.id.as_str()).collect();
        let mut description = Description {
            format: FORMAT.into(),
            version: VERSION.into(),
            fingerprint: "0".repeat(32), // Known at the end; the header's length is needed now.
            settings: json(&self.stored),
            sequence_ids: json(&ids),
            band_names: json(&landscape.band_names()),
        };
        let mut offsets = vec![0];
        for sequence in self.data.sequences() {
            offsets.push(offsets[offsets.len() - 1] + sequence.frames.len());
        }
        let sizes = Sizes {
            sequences: ids.len(),
            frames: offsets[ids.len()],
            patches: self.grid.patches(),
            words: self.grid.words(),
            bands: landscape.band_names().len(),
        };
        let too_large = || Error::failed(self.path.display(), "the store would be too large", "take fewer sequences");
        let layout = Layout::new(sizes, &description).ok_or_else(too_large)?;
        let (output, done) = self.open(&layout, &offsets)?;

        let decoded = AtomicUsize::new(0);
        let stop = |e| {
            self.cancelled.store(true, Ordering::Relaxed);
            e
        };
        let (statics, images) = rayon::join(
            || self.statics(&mut landscape, &layout, &output).map_err(stop),
            || self.images(&layout, &offsets, &output, &done, &decoded).map_err(stop),
        );
        // Of two failures one may be the other's: the part that was stopped has nothing to say.
        let ((scales, statics), images) = match (statics, images) {
            (Ok(statics), Ok(images)) => (statics, images),
            (Err(e), Err(stopped)) if stopped.to_string() == self.stopped().to_string() => return Err(e),
            (_, Err(e)) | (Err(e), _) => return Err(e),
        };

        let shared = source::shared_digests(self.data)?;
        let digests: Vec<u64> = images.iter().map(|done| done.source).collect();
        description.fingerprint = source::fingerprint(&self.stored, &shared, &digests);
        let layout = Layout::new(sizes, &description).ok_or_else(too_large)?;
        self.finish(&layout, &offsets, &output, &scales, &statics, &images)?;
        Ok((description.fingerprint, decoded.into_inner()))
    }

    /// Opens the partial file at its full length, with what an interrupted build of the same store has finished.
    fn open(&self, layout: &Layout, offsets: &[usize]) -> Result<(Output, Vec<Option<Done>>)> {
        let (partial, journal) = (with_suffix(self.path, ".partial"), with_suffix(self.path, ".journal"));
        let unwritable = |e| Error::io(&partial, "cannot write", &e);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(&partial).map_err(unwritable)?;

        // A journal counts for the same header, source and layout only.
        let identity = format!("{:032x}", xxh3_128(&[&layout.header, self.stamp.as_bytes()].concat()));
        let whole = file.metadata().map_err(unwritable)?.len() == layout.bytes() as u64;
        let noted = std::fs::read_to_string(&journal).unwrap_or_default();
        let mut done = match noted.strip_prefix(&identity) {
            Some(lines) if whole => parse_journal(lines, offsets.len() - 1),
            _ => vec![None; offsets.len() - 1],
        };
        // The note may have reached the disk where the images have not.
        let mut bytes = Vec::new();
        for (index, slot) in done.iter_mut().enumerate() {
            let Some(noted) = *slot else { continue };
            let [frames, isochrones, ..] = layout.parts(index, offsets[index]..offsets[index + 1]);
            for (range, expected) in [(frames, noted.frames), (isochrones, noted.isochrones)] {
                bytes.resize(range.len(), 0);
                let read = file.seek(SeekFrom::Start(range.start as u64)).and_then(|_| file.read_exact(&mut bytes));
                if read.is_err() || checksum(&bytes) != expected {
                    *slot = None;
                }
            }
        }

        let mut notes = File::create(&journal).map_err(|e| Error::io(&journal, "cannot write", &e))?;
        notes.write_all(format!("{identity}\n").as_bytes()).map_err(|e| Error::io(&journal, "cannot write", &e))?;
        if done.iter().all(Option::is_none) {
            file.set_len(0).map_err(unwritable)?;
        }
        file.set_len(layout.bytes() as u64).map_err(unwritable)?;
        let output = Output { path: partial, file: Mutex::new(file), journal: Mutex::new(notes) };
        for (index, done) in done.iter().enumerate().filter_map(|(i, d)| Some((i, (*d)?))) {
            output.note(index, done)?;
        }
        Ok((output, done))
    }

    /// Reads the landscape, writes every sequence's static tokens and returns the bands' scales and the checksums.
    fn statics(
        &self,
        landscape: &mut Landscape,
        layout: &Layout,
        output: &Output,
    ) -> Result<(Vec<BandScale>, Vec<u64>)> {
        let scales = landscape.scales()?;
        let sequences = self.data.sequences();
        let mut checksums = vec![0; sequences.len()];
        // From the top down: each strip of a large landscape is decoded about once.
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&i| sequences[i].window);
        for i in order {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(self.stopped());
            }
            let tokens = landscape.tokens(&scales, sequences[i].window, self.grid, self.stored.pad_mode)?;
            let bytes: &[u8] = bytemuck::cast_slice(&tokens);
            let [_, _, _, range] = layout.parts(i, 0..0);
            output.write(range.start, bytes)?;
            checksums[i] = checksum(bytes);
        }
        Ok((scales, checksums))
    }

    /// Packs the images of every sequence that is not `done`.
    fn images(
        &self,
        layout: &Layout,
        offsets: &[usize],
        output: &Output,
        done: &[Option<Done>],
        decoded: &AtomicUsize,
    ) -> Result<Vec<Done>> {
        self.progress.set_length(self.data.images() as u64);
        let one = |index: usize| {
            let sequence = &self.data.sequences()[index];
            let count = sequence.frames.len() + sequence.isochrones.len();
            if let Some(done) = done[index] {
                self.progress.inc(count as u64);
                return Ok(done);
            }
            let packed = self.sequence(index)?;
            let (bits, digests): (Vec<Vec<u64>>, Vec<u64>) = packed.into_iter().unzip();
            let (frames, isochrones) = bits.split_at(sequence.frames.len());
            let [at_frames, at_isochrones, ..] = layout.parts(index, offsets[index]..offsets[index + 1]);
            let write = |at: usize, images: &[Vec<u64>]| {
                let bits = images.concat();
                let bytes = bytemuck::cast_slice(&bits);
                output.write(at, bytes).map(|()| checksum(bytes))
            };
            let names = sequence.frames.iter().chain(&sequence.isochrones).map(|path| self.data.relative(path));
            let done = Done {
                frames: write(at_frames.start, frames)?,
                isochrones: write(at_isochrones.start, isochrones)?,
                source: source::sequence_digest(names.zip(&digests)),
            };
            output.note(index, done)?;
            decoded.fetch_add(count, Ordering::Relaxed);
            Ok(done)
        };
        (0..done.len()).into_par_iter().with_max_len(1).map(one).collect()
    }

    /// Packs one sequence's images, frames first: their bits and the digests of their files.
    fn sequence(&self, index: usize) -> Result<Vec<(Vec<u64>, u64)>> {
        let sequence = &self.data.sequences()[index];
        let encoding = &self.stored.encoding;
        let packer = image::Packer { window: self.data.window_size(), grid: self.grid, pad: self.stored.pad_mode };
        let frames = sequence.frames.iter().map(|path| (path, encoding.fire_channel, encoding.fire_value));
        let isochrones = sequence.isochrones.iter();
        let isochrones = isochrones.map(|path| (path, encoding.isochrone_channel, encoding.isochrone_value));
        let images: Vec<_> = frames.chain(isochrones).collect();
        images
            .into_par_iter()
            .map_init(Vec::new, |bytes, (path, channel, value)| {
                if self.cancelled.load(Ordering::Relaxed) {
                    return Err(self.stopped());
                }
                image::read_png(path, bytes)?;
                let bits = packer.pack_png(path, bytes, channel, value)?;
                self.progress.inc(1);
                Ok((bits, xxh3_64(bytes)))
            })
            .collect()
    }

    /// Writes what is left: wind, tables, checksums and header; then the file takes its place.
    fn finish(
        &self,
        layout: &Layout,
        offsets: &[usize],
        output: &Output,
        scales: &[BandScale],
        statics: &[u64],
        images: &[Done],
    ) -> Result<()> {
        let (sequences, weather) = (self.data.sequences(), self.data.weather());
        let range = weather.range();
        let mut checksums = Vec::with_capacity(sequences.len() * 4);
        for (i, sequence) in sequences.iter().enumerate() {
            let frames = offsets[i]..offsets[i + 1];
            let rows = weather.wind(&sequence.weather).iter().take(frames.len());
            let wind: Vec<[f32; 2]> = rows.map(|row| range.scale(*row)).collect();
            let bytes: &[u8] = bytemuck::cast_slice(&wind);
            let [_, _, at, _] = layout.parts(i, frames);
            output.write(at.start, bytes)?;
            checksums.extend([images[i].frames, images[i].isochrones, checksum(bytes), statics[i]]);
        }
        let words = |values: &mut dyn Iterator<Item = usize>| values.map(|v| v as u64).collect::<Vec<u64>>();
        let scales: Vec<[f64; 2]> = scales.iter().map(|s| [s.subtract, s.divide]).collect();
        let mut tables: Vec<u8> = Vec::with_capacity(layout.tables().len());
        tables.extend(bytemuck::cast_slice::<u64, u8>(&checksums));
        tables.extend(bytemuck::cast_slice::<u64, u8>(&words(&mut offsets.iter().copied())));
        tables.extend(bytemuck::cast_slice::<u64, u8>(&words(&mut sequences.iter().flat_map(|s| s.window))));
        tables.extend(bytemuck::cast_slice::<[f64; 2], u8>(&scales));
        tables.extend(bytemuck::cast_slice::<[f32; 2], u8>(&[range.speed, range.direction]));
        output.write(0, &layout.header)?;
        output.write(layout.checksum_head.start, &checksum_head(&layout.header, &tables).to_le_bytes())?;
        output.write(layout.tables().start, &tables)?;

        let unwritable = |e| Error::io(self.path, "cannot write", &e);
        let file = output.file.lock().unwrap_or_else(|e| e.into_inner());
        file.sync_all().map_err(|e| Error::io(&output.path, "cannot write", &e))?;
        std::fs::rename(&output.path, self.path).map_err(unwritable)?;
        // The rename itself lasts once the folder is on disk; not every system lets a folder be opened.
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        let _ = std::fs::remove_file(with_suffix(self.path, ".journal"));
        Ok(())
    }

    fn stopped(&self) -> Error {
        Error::failed(self.data.landscape().display(), "stopped", "see the other error")
    }
}
