//! The report as one page that needs no network: markup, style, script, libraries and data in one file.
//!
//! Charts are drawn by Observable Plot (on D3), the published files of which lie in `page/vendor` with their licences. It
//! draws SVG, which stays sharp in print, follows the page's colours in light and dark through CSS and takes part in the
//! accessibility tree; uPlot, a tenth of its 490 kB, draws on a canvas, which does none of these. Rust crates that draw
//! static SVG would leave tooltips, the choice of runs and the refreshing of `watch` to be written by hand.
//!
//! Run names, configurations and file names may come from strangers. They reach the page only as JSON in which no `<` is
//! left, the script makes text of them and never markup, and a Content-Security-Policy lets no script run but those whose
//! hashes it names, and nothing be loaded.

use crate::report::page::Page;
use crate::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

const MARKUP: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// A library as published, with its licence.
struct Library {
    code: &'static str,
    licence: &'static str,
}

/// d3 7.9.0 and @observablehq/plot 0.6.17, in the order in which they must run.
const LIBRARIES: [Library; 2] = [
    Library { code: include_str!("page/vendor/d3.min.js"), licence: include_str!("page/vendor/d3.LICENSE") },
    Library { code: include_str!("page/vendor/plot.min.js"), licence: include_str!("page/vendor/plot.LICENSE") },
];

/// The whole page. A `live` one fetches `data.json` from where it came to stay current.
///
/// # Errors
/// None that a correct program meets.
pub fn render(page: &Page, live: bool) -> Result<String> {
    let scripts: Vec<String> = LIBRARIES
        .iter()
        .map(|library| format!("/*\n{}*/\n{}", library.licence, library.code))
        .chain([SCRIPT.to_string()])
        .collect();
    let hashes: String = scripts
        .iter()
        .map(|script| format!(" 'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(script.as_bytes()))))
        .collect();
    // Plot puts a style element into each chart.
    let own = if live { "img-src 'self' data:; connect-src 'self'" } else { "img-src data:" };
    let policy = format!(
        "default-src 'none'; script-src{hashes}; style-src 'unsafe-inline'; {own}; base-uri 'none'; form-action 'none'"
    );
    let scripts: String = scripts.iter().map(|script| format!("<script>{script}</script>\n")).collect();
    Ok(format!(
        r#"<!doctype html>
<html lang="en"{live}>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="emberformer {version}">
<title>emberformer report</title>
<link rel="icon" href="data:,">
<style>
{STYLE}</style>
</head>
<body>
{MARKUP}<script type="application/json" id="data">{data}</script>
{scripts}</body>
</html>
"#,
        live = if live { " data-live" } else { "" },
        version = env!("CARGO_PKG_VERSION"),
        data = json(page)?,
    ))
}

/// The page's data as JSON that can stand within a script element: it has no `<`, `>` or `&`, nor the line ends of which
/// JSON allows more than scripts. All of these occur within strings only, where an escape means the same.
///
/// # Errors
/// None that a correct program meets.
pub fn json(page: &Page) -> Result<String> {
    let text =
        serde_json::to_string(page).map_err(|e| Error::failed("report", e, "this is a defect; please report it"))?;
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => safe += &format!("\\u{:04x}", letter as u32),
            other => safe.push(other),
        }
    }
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::page::Pictures;
    use crate::report::page::tests::{finished_run, run};

    /// The text between two others.
    fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
        let from = text.find(start).expect("the start") + start.len();
        &text[from..from + text[from..].find(end).expect("the end")]
    }

    #[test]
    fn what_strangers_wrote_stays_text() {
        let runs = tempfile::tempdir().unwrap();
        let name = "<img src=x onerror=alert(1)>&amp;\u{2028}";
        let folder = run(runs.path(), name);
        let notes = "wandb: {notes: \"</script><script>alert(2)</script><!--\"}\n";
        std::fs::write(folder.path("config.yaml"), notes).unwrap();
        let page = Page::gather(&[folder], "", Pictures::Embedded).unwrap();
        let html = render(&page, false).unwrap();
        let plain = render(&Page::gather(&[run(runs.path(), "a")], "", Pictures::Embedded).unwrap(), false).unwrap();
        for part in ["<script", "</script", "<img", "<!--"] {
            assert_eq!(html.matches(part).count(), plain.matches(part).count(), "{part}");
        }
        assert!(!html.contains('\u{2028}'));
        // And the script reads it back as it was.
        let data = between(&html, "<script type=\"application/json\" id=\"data\">", "</script>");
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["runs"][0]["label"], name);
        assert_eq!(data["configuration"][0]["values"][0], "</script><script>alert(2)</script><!--");
    }

    #[test]
    fn only_the_scripts_of_the_page_may_run_and_nothing_is_loaded() {
        let runs = tempfile::tempdir().unwrap();
        let page = Page::gather(&[finished_run(runs.path(), "a", 5)], "", Pictures::Embedded).unwrap();
        let html = render(&page, false).unwrap();
        let policy = between(&html, "Content-Security-Policy\" content=\"", "\"");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("'self'"),
            "{policy}"
        );
        let scripts: Vec<&str> =
            html.split("<script>").skip(1).map(|rest| &rest[..rest.find("</script>").unwrap()]).collect();
        assert_eq!(scripts.len(), 3);
        for script in scripts {
            let hash = BASE64_STANDARD.encode(Sha256::digest(script.as_bytes()));
            assert!(policy.contains(&format!("'sha256-{hash}'")));
        }
        assert!(html.contains("THE SOFTWARE IS PROVIDED \"AS IS\""), "the libraries' licences are there");
        assert!(!html.contains("data-live"));
        assert!(render(&page, true).unwrap().contains("connect-src 'self'"));
    }

    #[test]
    fn the_libraries_are_those_that_were_published() {
        let hashes = [
            "f2094bbf6141b359722c4fe454eb6c4b0f0e42cc10cc7af921fc158fceb86539",
            "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
        ];
        for (library, hash) in LIBRARIES.iter().zip(hashes) {
            let found: String =
                Sha256::digest(library.code.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, hash);
        }
    }
}
