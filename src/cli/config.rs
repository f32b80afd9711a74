//! `emberformer config`

use crate::Result;
use crate::cli::{print, print_json};
use crate::config::Config;
use crate::data::geotiff::GeoTiff;
use std::path::PathBuf;

/// Checks a configuration and shows it with every default, and the size of its network.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  emberformer config configs/emberformer.yaml --set train.epochs=5
  emberformer config configs/emberformer.yaml > complete.yaml
  emberformer config --keys")]
pub struct Args {
    /// Configuration file [default: configs/emberformer_quick.yaml, built in]
    config: Option<PathBuf>,
    /// Overrides a key, as train.epochs=5; may be given several times
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    sets: Vec<String>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Prints every key with its default and its meaning instead
    #[arg(long, conflicts_with_all = ["config", "sets", "json"])]
    keys: bool,
}

/// Static bands of the published data set, taken where there is no landscape to look at.
const USUAL_BANDS: usize = 8;

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if args.keys {
        print(Config::reference_table().trim_end())?;
        return Ok(());
    }
    let loaded = Config::load(args.config.as_deref(), &args.sets)?;
    let config = &loaded.config;
    let landscape = config.data_dir().join("landscape/Input_Geotiff.tif");
    let found = GeoTiff::open(&landscape).ok().map(|tiff| tiff.bands());
    let bands = found.unwrap_or(USUAL_BANDS);
    let counts = config.model_settings(bands).parameter_counts();
    if args.json {
        let parameters = serde_json::json!({
            "embedder": counts.embedder,
            "temporal": counts.temporal,
            "spatial": counts.spatial,
            "refinement": counts.refinement,
            "total": counts.total(),
        });
        let report = serde_json::json!({
            "origin": loaded.origin,
            "config": config,
            "without_effect": loaded.without_effect,
            "static_bands": bands,
            "landscape_found": found.is_some(),
            "parameters": parameters,
        });
        print_json(&report)?;
        return Ok(());
    }
    // Everything but the configuration is a comment, so that the output is a configuration file itself.
    print(&format!("# {}, with every default", loaded.origin))?;
    print(config.resolved_yaml().trim_end())?;
    print("")?;
    match loaded.without_effect.as_slice() {
        [] => print("# Every key of the file has an effect.")?,
        keys => print(&format!("# Without effect here: {}", keys.join(", ")))?,
    }
    let source = match found {
        Some(_) => format!("of {}", landscape.display()),
        None => "assumed, for there is no landscape yet".to_owned(),
    };
    print(&format!("# Parameters with {bands} static bands ({source}):"))?;
    let parts = [
        ("embedder", counts.embedder),
        ("temporal", counts.temporal),
        ("spatial", counts.spatial),
        ("refinement", counts.refinement),
        ("total", counts.total()),
    ];
    for (part, count) in parts {
        print(&format!("#   {part:<10} {:>11}", thousands(count)))?;
    }
    Ok(())
}

/// A number with commas between thousands.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_off() {
        let shown = [0, 999, 1_000, 1_072_578].map(super::thousands);
        assert_eq!(shown, ["0", "999", "1,000", "1,072,578"]);
    }
}
