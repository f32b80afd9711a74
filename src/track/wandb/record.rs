//! The records of a run, by the numbers of `wandb_internal.proto`.

use prost::Message;

/// A record has one of the bodies.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(int64, tag = "1")]
    pub(super) num: i64,
    #[prost(message, optional, tag = "2")]
    pub(super) history: Option<History>,
    #[prost(message, optional, tag = "3")]
    pub(super) summary: Option<Items>,
    #[prost(message, optional, tag = "6")]
    pub(super) files: Option<Files>,
    #[prost(message, optional, tag = "7")]
    pub(super) stats: Option<Stats>,
    #[prost(message, optional, tag = "8")]
    pub(super) artifact: Option<Artifact>,
    #[prost(message, optional, tag = "12")]
    pub(super) metric: Option<Metric>,
    #[prost(message, optional, tag = "13")]
    pub(super) output_raw: Option<Output>,
    #[prost(message, optional, tag = "16")]
    pub(super) control: Option<Control>,
    #[prost(message, optional, tag = "17")]
    pub(super) run: Option<Run>,
    #[prost(message, optional, tag = "18")]
    pub(super) exit: Option<Exit>,
    #[prost(message, optional, tag = "26")]
    pub(super) environment: Option<Environment>,
    #[prost(message, optional, tag = "200")]
    pub(super) info: Option<Info>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Control {
    /// The client waits for an answer to a record that has one.
    #[prost(string, tag = "4")]
    pub(super) mailbox_slot: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Info {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Run {
    #[prost(string, tag = "1")]
    pub(super) run_id: String,
    #[prost(string, tag = "2")]
    pub(super) entity: String,
    #[prost(string, tag = "3")]
    pub(super) project: String,
    #[prost(message, optional, tag = "4")]
    pub(super) config: Option<Items>,
    #[prost(string, tag = "6")]
    pub(super) run_group: String,
    #[prost(string, tag = "7")]
    pub(super) job_type: String,
    #[prost(string, tag = "8")]
    pub(super) display_name: String,
    #[prost(string, tag = "9")]
    pub(super) notes: String,
    #[prost(string, repeated, tag = "10")]
    pub(super) tags: Vec<String>,
    #[prost(string, tag = "13")]
    pub(super) host: String,
    #[prost(message, optional, tag = "17")]
    pub(super) start_time: Option<Time>,
    #[prost(message, optional, tag = "21")]
    pub(super) git: Option<Git>,
    #[prost(bool, tag = "24")]
    pub(super) resume: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Git {
    #[prost(string, tag = "1")]
    pub(super) remote_url: String,
    #[prost(string, tag = "2")]
    pub(super) commit: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Time {
    /// This moment.
    pub(super) fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
    }
}

/// A configuration or a summary.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Items {
    #[prost(message, repeated, tag = "1")]
    pub(super) update: Vec<Item>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct History {
    #[prost(message, repeated, tag = "1")]
    pub(super) item: Vec<Item>,
    #[prost(message, optional, tag = "2")]
    pub(super) step: Option<Step>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Step {
    #[prost(int64, tag = "1")]
    pub(super) num: i64,
}

/// A value at a path of keys; a slash within a key does not divide it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Item {
    #[prost(string, repeated, tag = "2")]
    pub(super) nested_key: Vec<String>,
    #[prost(string, tag = "16")]
    pub(super) value_json: String,
}

impl Item {
    /// A value by its path.
    pub(super) fn new(path: &[&str], value: impl Into<serde_json::Value>) -> Self {
        let nested_key = path.iter().map(|key| key.to_string()).collect();
        Self { nested_key, value_json: value.into().to_string() }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) step_metric: String,
    #[prost(message, optional, tag = "6")]
    pub(super) options: Option<MetricOptions>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct MetricOptions {
    #[prost(bool, tag = "1")]
    pub(super) step_sync: bool,
    #[prost(bool, tag = "3")]
    pub(super) defined: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Files {
    #[prost(message, repeated, tag = "1")]
    pub(super) files: Vec<FileItem>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FileItem {
    #[prost(string, tag = "1")]
    pub(super) path: String,
    /// 2: media.
    #[prost(int32, tag = "3")]
    pub(super) kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Stats {
    #[prost(message, optional, tag = "2")]
    pub(super) timestamp: Option<Time>,
    #[prost(message, repeated, tag = "3")]
    pub(super) item: Vec<StatsItem>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatsItem {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "16")]
    pub(super) value_json: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Output {
    /// 0 standard error, 1 standard output.
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) timestamp: Option<Time>,
    /// With its newline.
    #[prost(string, tag = "3")]
    pub(super) line: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Environment {
    #[prost(string, tag = "1")]
    pub(super) os: String,
    #[prost(message, optional, tag = "3")]
    pub(super) started_at: Option<Time>,
    #[prost(string, repeated, tag = "5")]
    pub(super) args: Vec<String>,
    #[prost(string, tag = "6")]
    pub(super) program: String,
    #[prost(string, tag = "11")]
    pub(super) root: String,
    #[prost(string, tag = "12")]
    pub(super) host: String,
    #[prost(string, tag = "14")]
    pub(super) executable: String,
    #[prost(uint32, tag = "16")]
    pub(super) cpu_count: u32,
    #[prost(string, tag = "18")]
    pub(super) gpu_type: String,
    #[prost(uint32, tag = "19")]
    pub(super) gpu_count: u32,
    #[prost(string, tag = "25")]
    pub(super) cuda_version: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Exit {
    #[prost(int32, tag = "1")]
    pub(super) exit_code: i32,
    /// Seconds.
    #[prost(int32, tag = "2")]
    pub(super) runtime: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Artifact {
    #[prost(string, tag = "1")]
    pub(super) run_id: String,
    #[prost(string, tag = "2")]
    pub(super) project: String,
    #[prost(string, tag = "3")]
    pub(super) entity: String,
    #[prost(string, tag = "4")]
    pub(super) kind: String,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(string, tag = "6")]
    pub(super) digest: String,
    #[prost(string, tag = "7")]
    pub(super) description: String,
    /// JSON.
    #[prost(string, tag = "8")]
    pub(super) metadata: String,
    #[prost(string, repeated, tag = "11")]
    pub(super) aliases: Vec<String>,
    #[prost(message, optional, tag = "12")]
    pub(super) manifest: Option<Manifest>,
    #[prost(bool, tag = "14")]
    pub(super) finalize: bool,
    #[prost(string, tag = "15")]
    pub(super) client_id: String,
    #[prost(string, tag = "16")]
    pub(super) sequence_client_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Manifest {
    #[prost(int32, tag = "1")]
    pub(super) version: i32,
    #[prost(string, tag = "2")]
    pub(super) storage_policy: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) storage_policy_config: Vec<PolicyItem>,
    #[prost(message, repeated, tag = "4")]
    pub(super) contents: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PolicyItem {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value_json: String,
}

/// A file of an artifact.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) path: String,
    /// MD5 in base64.
    #[prost(string, tag = "2")]
    pub(super) digest: String,
    #[prost(int64, tag = "4")]
    pub(super) size: i64,
    /// Absolute.
    #[prost(string, tag = "6")]
    pub(super) local_path: String,
}
