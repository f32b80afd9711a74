//! The table of all keys, as docs/CONFIGURATION.md holds it.

use super::sections::{Config, keys};
use serde_yaml::Value;

impl Config {
    /// Every key with its default, what it may hold and what it means, as a Markdown table.
    pub fn reference_table() -> String {
        // Plain structs serialise.
        let defaults = serde_yaml::to_value(Config::default()).unwrap_or_default();
        let mut table = String::from("| Key | Default | Holds | Meaning |\n|---|---|---|---|\n");
        for key in keys() {
            let default = key.path.split('.').fold(&defaults, |at, part| at.get(part).unwrap_or(&Value::Null));
            let default = serde_json::to_string(default).unwrap_or_default();
            let note = if key.rule.effect { "" } else { " *No effect.*" };
            table += &format!("| `{}` | `{default}` | {} | {}{note} |\n", key.path, key.rule, key.meaning);
        }
        table
    }
}
