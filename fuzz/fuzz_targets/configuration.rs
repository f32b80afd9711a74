//! A configuration of any text, and overrides of any text after a line of form feeds.
#![no_main]

use emberformer::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, sets) = text.split_once('\u{c}').unwrap_or((text, ""));
    let sets: Vec<String> = sets.split('\u{c}').filter(|set| !set.is_empty()).map(str::to_owned).collect();
    match Config::parse("fuzz.yaml", text, &sets) {
        Ok(loaded) => {
            let again = Config::parse("again.yaml", &loaded.config.resolved_yaml(), &[]);
            assert_eq!(again.map(|l| l.config).ok().as_ref(), Some(&loaded.config), "shown, it loads as itself");
            // As the commands do it, with the configuration that they were given.
            if emberformer::model::ModelSettings::check(&loaded.config.model_settings(8)).is_ok() {
                loaded.config.model_settings(8).parameter_counts().total();
            }
        }
        Err(error) => assert_eq!(error.exit_code(), 2),
    }
});
