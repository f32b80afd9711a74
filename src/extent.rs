//! Whether a safetensors file is as long as its header promises. This tells a truncated file from a foreign one, and
//! keeps offsets whose sum overflows away from the safetensors crate.

use serde::Deserialize;
use std::collections::HashMap;

/// What is wrong with a file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// It ends early; how long it is and should be.
    Truncated(String),
    /// It is no safetensors file, and why.
    Foreign(String),
}

/// Checks a whole file's bytes.
///
/// # Errors
/// The file is shorter than its header says, or has none.
pub fn check(bytes: &[u8]) -> Result<(), Defect> {
    /// A tensor's entry, or the metadata's, which has no such key.
    #[derive(Deserialize)]
    struct Extent {
        #[serde(default)]
        data_offsets: Option<(u64, u64)>,
    }
    let length = bytes.len() as u64;
    let truncated = |promised: String| Err(Defect::Truncated(format!("it has {length} bytes, {promised}")));
    let Some((head, rest)) = bytes.split_first_chunk::<8>() else {
        return truncated("fewer than the 8 that name its header's length".into());
    };
    let header_length = u64::from_le_bytes(*head);
    let Some(header) = usize::try_from(header_length).ok().and_then(|n| rest.get(..n)) else {
        return truncated(format!("its header alone should have {header_length}"));
    };
    let entries: HashMap<String, Extent> = serde_json::from_slice(header)
        .map_err(|e| Defect::Foreign(format!("its header is no JSON of safetensors: {e}")))?;
    let end = entries.values().filter_map(|e| e.data_offsets).map(|(_, end)| end).max().unwrap_or(0);
    let data = length - 8 - header_length;
    if end > data {
        return truncated(format!("its tensors need {end} after the header and {data} are there"));
    }
    Ok(())
}
