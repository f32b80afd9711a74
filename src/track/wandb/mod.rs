//! Weights & Biases: the run in the official format of offline runs, `wandb/offline-run-<time>-<id>/`, which `wandb sync`
//! uploads. Where the mode is online the official client does so meanwhile.
//!
//! A history row's `_step` is its line in metrics.jsonl, from 0. A resumed run goes on in a new folder under the same
//! identity: rows that an earlier folder holds, whatever became of the process that wrote it, are not written again (the
//! same seed gives the same rows), and rows that none holds are taken from metrics.jsonl.

mod artifact;
mod client;
mod log;
mod record;
mod settings;

pub use settings::{Mode, Settings};

use crate::storage::write_whole;
use crate::track::sink::{End, Line, Picture, Sink, clock, final_metrics};
use crate::track::system::System;
use crate::train::metrics::Metrics;
use crate::train::run::{BEST, EpochEnd};
use crate::{Error, Result};
use client::Client;
use record::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two looks at the machine.
const SAMPLE_EVERY: Duration = Duration::from_secs(15);

/// One part of a run, from a start to an end.
pub(super) struct Wandb {
    settings: Settings,
    /// The run's folder.
    run: PathBuf,
    /// This part's folder.
    folder: PathBuf,
    id: String,
    log: log::Writer,
    /// The `_step` of the next row.
    next: u64,
    began: Instant,
    /// Seconds that earlier parts took.
    before: f64,
    /// Keys whose metric is defined.
    defined: BTreeSet<String>,
    summary: Metrics,
    system: System,
    sampled: Instant,
    client: Option<Client>,
}

impl Wandb {
    /// Begins a part of the run in the folder `run`, of whose metrics.jsonl the lines `kept` count.
    ///
    /// # Errors
    /// What the disk says; earlier parts that are no files of Weights & Biases.
    pub(super) fn open(run: &Path, settings: Settings, config: &Value, kept: &[Metrics]) -> Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Error::io(path, "cannot find", &e));
        let run = absolute(run)?;
        let root = absolute(&settings.dir.as_ref().unwrap_or(&run).join("wandb"))?;
        std::fs::create_dir_all(&root).map_err(|e| Error::io(&root, "cannot create the folder", &e))?;
        let id = identity(&run, settings.run_id.as_deref())?;
        let earlier = parts(&root, &id)?;
        let past = past(&earlier)?;

        let folder = new_folder(&root, &id)?;
        let path = folder.join(format!("run-{id}.wandb"));
        let log = log::Writer::create(&path)?;
        let mut this = Self {
            run,
            folder,
            id,
            log,
            next: past.next,
            began: Instant::now(),
            before: past.seconds,
            defined: BTreeSet::new(),
            summary: Metrics::new(),
            system: System::new(),
            sampled: Instant::now(),
            client: None,
            settings,
        };
        this.write_start(config, !earlier.is_empty())?;
        for (index, row) in kept.iter().enumerate() {
            this.row(&Line { index: index as u64, row }, Vec::new())?;
        }
        this.sample()?;
        if this.settings.mode == Mode::Online {
            this.client = Some(Client::new(earlier, path));
        }
        Ok(this)
    }

    fn write(&mut self, record: Record) -> Result<()> {
        self.log.write(Record { info: Some(Info { stream_id: self.id.clone() }), ..record })
    }

    /// The run itself, the machine, and the files that describe it.
    fn write_start(&mut self, config: &Value, resumed: bool) -> Result<()> {
        let mut settings = self.settings.clone();
        let git = git();
        if settings.auto_tags {
            let commit = git.iter().map(|git| format!("git-{}", git.commit.chars().take(10).collect::<String>()));
            settings.add_tags(commit);
        }
        let config = config.as_object().into_iter().flatten().map(|(key, value)| Item::new(&[key], value.clone()));
        let host = sysinfo::System::host_name().unwrap_or_default();
        let run = Run {
            run_id: self.id.clone(),
            entity: settings.entity.unwrap_or_default(),
            project: settings.project,
            config: Some(Items { update: config.collect() }),
            run_group: settings.group.unwrap_or_default(),
            job_type: settings.job_type.unwrap_or_default(),
            display_name: settings.name,
            notes: settings.notes.unwrap_or_default(),
            tags: settings.tags,
            host: host.clone(),
            start_time: Some(Time::now()),
            git,
            resume: resumed,
        };
        // Older clients never go on without an answer to the first record.
        let control = Control { mailbox_slot: "run".into() };
        self.write(Record { run: Some(run), control: Some(control), ..Record::default() })?;

        let text = |path: std::io::Result<PathBuf>| path.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let (gpu_type, gpu_count, cuda_version) = self.system.gpus().unwrap_or_default();
        let environment = Environment {
            os: sysinfo::System::long_os_version().unwrap_or_default(),
            started_at: Some(Time::now()),
            args: std::env::args().skip(1).collect(),
            program: "emberformer".into(),
            root: text(std::env::current_dir()),
            host,
            executable: text(std::env::current_exe()),
            cpu_count: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
            gpu_type,
            gpu_count,
            cuda_version,
        };
        self.write(Record { environment: Some(environment), ..Record::default() })?;
        self.file("config.yaml", "run_config.yaml")?;
        self.file("split.json", "split.json")
    }

    /// Copies a file of the run into this part, under a name there.
    fn file(&mut self, from: &str, to: &str) -> Result<()> {
        let path = self.run.join(from);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "cannot read", &e))?;
        self.put(to, 0, &bytes)
    }

    fn put(&mut self, path: &str, kind: i32, bytes: &[u8]) -> Result<()> {
        write_whole(&self.folder.join("files").join(path), bytes)?;
        let files = Files { files: vec![FileItem { path: path.into(), kind }] };
        self.write(Record { files: Some(files), ..Record::default() })
    }

    /// Seconds that the run has taken in all its parts.
    fn seconds(&self) -> f64 {
        self.before + self.began.elapsed().as_secs_f64()
    }

    /// A row of the history with the values of a line of metrics.jsonl and others, where no part has it yet.
    fn row(&mut self, line: &Line, others: Vec<Item>) -> Result<()> {
        let values = line.row.iter().filter(|(_, value)| !value.is_null());
        self.summary.extend(values.clone().map(|(name, value)| (name.clone(), value.clone())));
        if line.index < self.next {
            return Ok(());
        }
        let mut item = vec![
            Item::new(&["_step"], line.index),
            Item::new(&["_timestamp"], clock()),
            Item::new(&["_runtime"], self.seconds()),
        ];
        for (name, value) in values {
            self.define(name)?;
            item.push(Item::new(&[name], value.clone()));
        }
        item.extend(others);
        let step = Some(Step { num: line.index as i64 });
        self.write(Record { history: Some(History { item, step }), ..Record::default() })?;
        self.next = line.index + 1;
        Ok(())
    }

    /// Says over what a metric is drawn: epochs or steps.
    fn define(&mut self, name: &str) -> Result<()> {
        if !self.defined.insert(name.to_string()) {
            return Ok(());
        }
        let step_metric = match name {
            "step" | "epoch" => "",
            _ if name.ends_with("_epoch") => "epoch",
            _ => "step",
        };
        let options = Some(MetricOptions { step_sync: true, defined: true });
        let metric = Metric { name: name.into(), step_metric: step_metric.into(), options };
        self.write(Record { metric: Some(metric), ..Record::default() })
    }

    fn write_summary(&mut self) -> Result<()> {
        let seconds = self.seconds();
        let mut update = vec![
            Item::new(&["_step"], self.next.saturating_sub(1)),
            Item::new(&["_timestamp"], clock()),
            Item::new(&["_runtime"], seconds),
            Item::new(&["_wandb", "runtime"], seconds as u64),
        ];
        update.extend(self.summary.iter().map(|(name, value)| Item::new(&[name], value.clone())));
        self.write(Record { summary: Some(Items { update }), ..Record::default() })
    }

    /// A picture as a file and as values of the row.
    fn picture(&mut self, picture: &Picture, step: u64, epoch: u64) -> Result<Vec<Item>> {
        let key = format!("preview/{}", picture.name);
        let sum = artifact::hex(&Sha256::digest(&picture.png));
        let path = format!("media/images/{key}_{step}_{}.png", sum.get(..20).unwrap_or(&sum));
        self.put(&path, 2, &picture.png)?;
        let values: [(&str, Value); 8] = [
            ("_type", "image-file".into()),
            ("path", path.into()),
            ("sha256", sum.into()),
            ("size", picture.png.len().into()),
            ("format", "png".into()),
            ("width", picture.width.into()),
            ("height", picture.height.into()),
            ("caption", format!("{}, epoch {}", picture.name, epoch + 1).into()),
        ];
        Ok(values.map(|(name, value)| Item::new(&[&key, name], value)).to_vec())
    }

    fn sample(&mut self) -> Result<()> {
        self.sampled = Instant::now();
        let item = |(key, value): (String, f64)| StatsItem { key, value_json: Value::from(value).to_string() };
        let item = self.system.sample().into_iter().map(item).collect();
        let stats = Stats { timestamp: Some(Time::now()), item };
        self.write(Record { stats: Some(stats), ..Record::default() })
    }

    /// The best checkpoint with the run's final numbers.
    fn write_artifact(&mut self) -> Result<()> {
        let path = self.run.join("checkpoints").join(BEST);
        if !path.exists() {
            return Ok(());
        }
        let metadata = json!({"summary": self.summary, "run": self.settings.name});
        let name = format!("{}-best", self.settings.name);
        let artifact = artifact::put(&path, &self.folder.join("artifacts"), &name, &metadata)?;
        let artifact = Artifact {
            run_id: self.id.clone(),
            project: self.settings.project.clone(),
            entity: self.settings.entity.clone().unwrap_or_default(),
            description: "The checkpoint of the best epoch.".into(),
            ..artifact
        };
        self.write(Record { artifact: Some(artifact), ..Record::default() })
    }
}

impl Sink for Wandb {
    fn name(&self) -> &'static str {
        "Weights & Biases"
    }

    fn step(&mut self, line: &Line) -> Result<()> {
        self.row(line, Vec::new())
    }

    fn epoch(&mut self, line: &Line, end: &EpochEnd, pictures: &[Picture]) -> Result<()> {
        let mut items = Vec::new();
        if line.index >= self.next {
            for picture in pictures.iter().take(self.settings.pictures) {
                items.extend(self.picture(picture, line.index, end.epoch)?);
            }
        }
        self.row(line, items)?;
        self.summary.extend(end.stopping.best_epoch.map(|epoch| ("best/epoch".to_string(), epoch.into())));
        self.summary.extend(end.stopping.best.map(|best| ("best/value".to_string(), best.into())));
        self.write_summary()
    }

    fn log(&mut self, text: &str) -> Result<()> {
        let output = Output { kind: 1, timestamp: Some(Time::now()), line: format!("{text}\n") };
        self.write(Record { output_raw: Some(output), ..Record::default() })
    }

    fn tick(&mut self) -> Result<()> {
        if self.sampled.elapsed() < SAMPLE_EVERY {
            return Ok(());
        }
        if let Some(client) = &mut self.client {
            client.tick();
        }
        self.sample()
    }

    fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }

    fn finish(&mut self, end: &End) -> Result<()> {
        self.sample()?;
        if let Some(result) = end.result {
            self.summary.remove("best/value");
            let metrics = final_metrics(result);
            self.summary.extend(metrics.into_iter().map(|(name, value)| (name, value.into())));
            self.file("result.json", "result.json")?;
            if self.settings.artifacts {
                self.write_artifact()?;
            }
        }
        self.write_summary()?;
        let exit = Exit { exit_code: end.failed.into(), runtime: self.seconds() as i32 };
        self.write(Record { exit: Some(exit), ..Record::default() })?;
        self.sync()?;
        if let Some(client) = &mut self.client {
            client.finish();
        }
        Ok(())
    }

    fn notes(&mut self) -> Vec<String> {
        self.client.as_mut().map(|client| std::mem::take(&mut client.notes)).unwrap_or_default()
    }
}

/// The run's identity: the given one, else that which its folder keeps, else a new one. The folder keeps it.
fn identity(run: &Path, given: Option<&str>) -> Result<String> {
    let path = run.join("wandb").join("run-id");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let kept = kept.trim();
    let id = match given {
        Some(id) => id.to_string(),
        None if settings::is_name(kept) => kept.to_string(),
        None => artifact::random_text(8),
    };
    if id != kept {
        write_whole(&path, format!("{id}\n").as_bytes())?;
    }
    Ok(id)
}

/// The files of records of a run, in the order in which they were begun.
fn parts(root: &Path, id: &str) -> Result<Vec<PathBuf>> {
    let io = |e: std::io::Error| Error::io(root, "cannot read", &e);
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(root).map_err(io)? {
        let folder = entry.map_err(io)?.path();
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let path = folder.join(format!("run-{id}.wandb"));
        if name.starts_with("offline-run-") && name.ends_with(&format!("-{id}")) && path.exists() {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}

/// What earlier parts of a run hold.
#[derive(Default)]
struct Past {
    /// The `_step` after their last row's.
    next: u64,
    /// Seconds that they took.
    seconds: f64,
}

/// Reads earlier parts. One that was interrupted gets its end, so that its upload comes to one.
fn past(earlier: &[PathBuf]) -> Result<Past> {
    let mut past = Past::default();
    for path in earlier {
        let contents = log::read(path)?;
        for history in contents.records.iter().filter_map(|record| record.history.as_ref()) {
            past.next = past.next.max(history.step.map_or(0, |step| step.num as u64 + 1));
            let runtime = history.item.iter().find(|item| item.nested_key == ["_runtime"]);
            let seconds = runtime.and_then(|item| item.value_json.parse().ok()).unwrap_or(0.0);
            past.seconds = past.seconds.max(seconds);
        }
        if contents.records.iter().all(|record| record.exit.is_none()) {
            let exit = Exit { exit_code: 1, runtime: past.seconds as i32 };
            let mut log = log::Writer::resume(path, &contents)?;
            log.write(Record { exit: Some(exit), ..Record::default() })?;
            log.sync()?;
        }
    }
    Ok(past)
}

/// A new folder whose name comes after those of the parts before.
fn new_folder(root: &Path, id: &str) -> Result<PathBuf> {
    let mut time = jiff::Timestamp::now();
    loop {
        let folder = root.join(format!("offline-run-{}-{id}", time.strftime("%Y%m%d_%H%M%S")));
        match std::fs::create_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => time += jiff::SignedDuration::from_secs(1),
            Err(e) => return Err(Error::io(&folder, "cannot create the folder", &e)),
            Ok(()) => return Ok(folder),
        }
    }
}

/// The commit of the folder that the program was started in, and where it comes from.
fn git() -> Option<Git> {
    let ask = |arguments: &[&str]| {
        let output =
            std::process::Command::new("git").args(arguments).stdin(std::process::Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let commit = ask(&["rev-parse", "HEAD"])?;
    let remote_url = ask(&["remote", "get-url", "origin"]).map(|url| without_password(&url)).unwrap_or_default();
    Some(Git { remote_url, commit })
}

/// An address without the name and password before its host.
fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests;
