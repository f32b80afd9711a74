//! Typed configuration, one struct a section; errors name the line and the key.
//!
//! Text becomes a tree, `--set` overrides are put into it, every key and value is checked against the rules of
//! `sections`, defaults fill the rest, and [`Config`] turns itself into the settings that the lower rooms ask for.

mod reference;
mod resolve;
mod rule;
mod sections;
mod source;

pub use resolve::SIMULATED_DATA;
pub use sections::*;

use crate::{Error, Result};
use source::Source;
use std::path::Path;

/// What applies where no configuration is named.
const EMBEDDED: (&str, &str) =
    ("configs/emberformer_quick.yaml (built in)", include_str!("../../configs/emberformer_quick.yaml"));

/// A configuration that passed every check, with what is to be said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration, every default filled in.
    pub config: Config,
    /// Keys of the file and the overrides that change nothing here, to be listed once.
    pub without_effect: Vec<String>,
    /// Where it came from: the file's path, or the name of the embedded one.
    pub origin: String,
}

impl Config {
    /// Reads a configuration file, or the embedded small default, and applies overrides of the form `key.path=value`.
    ///
    /// # Errors
    /// A file that cannot be read or is no YAML, a key that is not known, a value that is not allowed: the error names
    /// file and line, or the override.
    pub fn load(path: Option<&Path>, sets: &[String]) -> Result<Loaded> {
        let (origin, text) = match path {
            Some(path) => (path.display().to_string(), source::read(path)?),
            None => (EMBEDDED.0.to_owned(), EMBEDDED.1.to_owned()),
        };
        Self::parse(&origin, &text, sets)
    }

    /// The same from text; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(origin: &str, text: &str, sets: &[String]) -> Result<Loaded> {
        let mut source = Source::new(origin, text)?;
        source.apply(sets)?;
        let without_effect = source.without_effect();
        let config: Config = serde_yaml::from_value(source.tree()).map_err(|e| {
            Error::usage(origin, format_args!("is no configuration: {e}"), "compare it with docs/CONFIGURATION.md")
        })?;
        let config = config.resolved(&source)?;
        Ok(Loaded { config, without_effect, origin: origin.to_owned() })
    }

    /// The complete configuration with every default, as YAML that loads as the same configuration.
    pub fn resolved_yaml(&self) -> String {
        // Serialising plain structs with text keys cannot fail.
        serde_yaml::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
