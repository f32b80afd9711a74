//! Whose run it is and what of it is written: the configuration, over which the official environment variables go.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Not at all: the run is written to the disk, from where `wandb sync` uploads it.
    Offline,
    /// As offline, and the official client uploads it meanwhile.
    Online,
    /// Nothing is written.
    Disabled,
}

/// What a run is called over there, and what goes there.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How the service is reached.
    pub mode: Mode,
    /// Where runs that belong together are collected.
    pub project: String,
    /// The project's owner; none: the user's default.
    pub entity: Option<String>,
    /// What the run is called.
    pub name: String,
    /// Group of runs that belong together.
    pub group: Option<String>,
    /// Kind of run.
    pub job_type: Option<String>,
    /// Notes about the run.
    pub notes: Option<String>,
    /// Tags of the run.
    pub tags: Vec<String>,
    /// Whether tags that tell runs apart are added.
    pub auto_tags: bool,
    /// Previews of an epoch at most.
    pub pictures: usize,
    /// Whether the best checkpoint goes there.
    pub artifacts: bool,
    /// Holds the folder `wandb`; none: the run's folder.
    pub dir: Option<PathBuf>,
    /// The run's identity; none: the one it already has, or a new one.
    pub run_id: Option<String>,
}

/// Longest tag, and longest name of a project or run.
const TAG: usize = 64;
const NAME: usize = 128;

/// Whether the service takes it as the name of a project or the identity of a run.
pub(super) fn is_name(name: &str) -> bool {
    let length = name.chars().count();
    (1..=NAME).contains(&length) && !name.contains(|c: char| c.is_control() || "/\\#?%:".contains(c))
}

impl Settings {
    /// Puts the environment's variables over the settings, and checks them.
    ///
    /// # Errors
    /// A value that the service would refuse.
    pub fn with_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(mode) = variable("WANDB_MODE") {
            self.mode = match mode.as_str() {
                "offline" | "dryrun" => Mode::Offline,
                "online" | "run" => Mode::Online,
                "disabled" => Mode::Disabled,
                _ => {
                    let remedy = "give offline, online or disabled";
                    return Err(Error::usage("WANDB_MODE", format_args!("is {mode:?}"), remedy));
                }
            };
        }
        self.project = variable("WANDB_PROJECT").unwrap_or(self.project);
        self.name = variable("WANDB_NAME").unwrap_or(self.name);
        self.entity = variable("WANDB_ENTITY").or(self.entity);
        self.group = variable("WANDB_RUN_GROUP").or(self.group);
        self.job_type = variable("WANDB_JOB_TYPE").or(self.job_type);
        self.notes = variable("WANDB_NOTES").or(self.notes);
        self.dir = variable("WANDB_DIR").map(PathBuf::from).or(self.dir);
        self.run_id = variable("WANDB_RUN_ID").or(self.run_id);
        if let Some(tags) = variable("WANDB_TAGS") {
            self.tags = tags.split(',').map(|tag| tag.trim().to_string()).collect();
        }
        self.check()
    }

    fn check(self) -> Result<Self> {
        let names = [("wandb.project", Some(&self.project)), ("WANDB_RUN_ID", self.run_id.as_ref())];
        for (key, name) in names.into_iter().filter_map(|(key, name)| Some((key, name?))) {
            if !is_name(name) {
                let remedy = "give 1 to 128 characters without / \\ # ? % :";
                return Err(Error::usage(key, format_args!("is {name:?}"), remedy));
            }
        }
        match self.tags.iter().find(|tag| !(1..=TAG).contains(&tag.chars().count())) {
            None => Ok(self),
            Some(tag) => {
                Err(Error::usage("wandb.tags", format_args!("has the tag {tag:?}"), "give tags of 1 to 64 characters"))
            }
        }
    }

    /// Adds tags that tell runs apart, cut to what the service takes.
    pub fn add_tags(&mut self, labels: impl IntoIterator<Item = String>) {
        for label in labels {
            let tag: String = label.chars().take(TAG).collect();
            if !tag.is_empty() && !self.tags.contains(&tag) {
                self.tags.push(tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            mode: Mode::Offline,
            project: "fires".into(),
            entity: None,
            name: "a".into(),
            group: Some("g".into()),
            job_type: None,
            notes: None,
            tags: vec!["x".into()],
            auto_tags: false,
            pictures: 4,
            artifacts: false,
            dir: None,
            run_id: None,
        }
    }

    #[test]
    fn the_environment_goes_before() {
        assert_eq!(settings().with_environment(|_| None).unwrap(), settings());
        assert_eq!(settings().with_environment(|_| Some(String::new())).unwrap(), settings());
        let got = settings()
            .with_environment(|name| match name {
                "WANDB_MODE" => Some("online".into()),
                "WANDB_TAGS" => Some("a, b".into()),
                other => Some(other.to_lowercase()),
            })
            .unwrap();
        assert_eq!((got.mode, got.project.as_str(), got.name.as_str()), (Mode::Online, "wandb_project", "wandb_name"));
        assert_eq!((got.group.as_deref(), got.run_id.as_deref()), (Some("wandb_run_group"), Some("wandb_run_id")));
        assert_eq!(got.tags, ["a", "b"]);
        assert_eq!(got.dir, Some("wandb_dir".into()));
    }

    #[test]
    fn what_the_service_refuses_is_refused() {
        let fails = |name: &'static str, value: &'static str| {
            let error = settings().with_environment(|n| (n == name).then(|| value.to_string())).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert!(fails("WANDB_MODE", "shared").contains("offline, online or disabled"));
        assert!(fails("WANDB_PROJECT", "a/b").contains("wandb.project: is \"a/b\""));
        assert!(fails("WANDB_RUN_ID", "../a").contains("WANDB_RUN_ID"));
        assert!(fails("WANDB_TAGS", "a,,b").contains("tags of 1 to 64 characters"));
        let mut settings = settings();
        settings.add_tags(["y".repeat(70), "x".into(), String::new()]);
        assert_eq!(settings.tags, ["x".to_string(), "y".repeat(64)]);
    }
}
