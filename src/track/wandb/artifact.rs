//! A file as an artifact: a manifest with its checksum, from which the client uploads it.

use super::record::{Artifact, Entry, Manifest, PolicyItem};
use crate::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use std::path::Path;

/// Puts `file` into `folder` and describes it there. Some clients delete what they uploaded, so it is another name of the
/// file or, where the disk knows none, a copy.
///
/// # Errors
/// What the disk says.
pub(super) fn put(file: &Path, folder: &Path, name: &str, metadata: &serde_json::Value) -> Result<Artifact> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot create the folder", &e))?;
    let path = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let local = folder.join(&path);
    if std::fs::hard_link(file, &local).is_err() {
        std::fs::copy(file, &local).map_err(|e| Error::io(&local, "cannot write", &e))?;
    }
    let bytes = std::fs::read(&local).map_err(|e| Error::io(&local, "cannot read", &e))?;
    let digest = STANDARD.encode(Md5::digest(&bytes));
    let listing = format!("wandb-artifact-manifest-v1\n{path}:{digest}\n");
    let entry = Entry { path, digest, size: bytes.len() as i64, local_path: local.to_string_lossy().into_owned() };
    let policy = PolicyItem { key: "storageLayout".into(), value_json: "\"V2\"".into() };
    Ok(Artifact {
        kind: "model".into(),
        name: clean_name(name),
        digest: hex(&Md5::digest(listing)),
        metadata: metadata.to_string(),
        aliases: vec!["latest".into(), "best".into()],
        manifest: Some(Manifest {
            version: 1,
            storage_policy: "wandb-storage-policy-v1".into(),
            storage_policy_config: vec![policy],
            contents: vec![entry],
        }),
        finalize: true,
        client_id: random_text(128),
        sequence_client_id: random_text(128),
        ..Artifact::default()
    })
}

/// Letters, digits, `-`, `_` and `.` are all that an artifact's name may hold.
fn clean_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let clean: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    clean.chars().take(128).collect()
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Random small letters and digits.
pub(super) fn random_text(length: usize) -> String {
    use rand::RngExt;
    let mut random = rand::rng();
    (0..length).map(|_| char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[random.random_range(0..36)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_has_the_known_sums() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("best.safetensors");
        std::fs::write(&file, "hello").unwrap();
        let metadata = serde_json::json!({"epoch": 3});
        let artifact = put(&file, &folder.path().join("artifacts"), "a run:best", &metadata).unwrap();
        let entry = &artifact.manifest.as_ref().unwrap().contents[0];
        // printf hello | openssl md5 -binary | base64
        assert_eq!((entry.digest.as_str(), entry.size), ("XUFAKrxLKna5cZ2REBfFkg==", 5));
        // printf 'wandb-artifact-manifest-v1\nbest.safetensors:XUFAKrxLKna5cZ2REBfFkg==\n' | md5sum
        assert_eq!(artifact.digest, "b6c578330adc2f3484a4d406a82dcb8f");
        assert_eq!((artifact.name.as_str(), artifact.metadata.as_str()), ("a-run-best", "{\"epoch\":3}"));
        assert_eq!(artifact.client_id.len(), 128);
        std::fs::remove_file(&entry.local_path).unwrap();
        assert!(file.exists(), "the checkpoint itself stays");
    }
}
