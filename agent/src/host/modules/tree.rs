//! The file tree that a module sees, as the protocol lays it out.

use std::path::PathBuf;

use refit_proto::package::{
    Entry, FileRef,
    mender::{META_DATA, PAYLOAD},
};
use serde_json::{Value, json};

use super::{
    super::files::{self, Action, FileError, Files},
    Job, ModuleError, State,
};

/// Largest meta-data that is handed on.
const META_DATA_MAX: u64 = 1 << 20;

/// One file of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
}

/// Makes it anew, without payload.
pub(super) fn make(files: &dyn Files, job: &Job<'_>, device_type: &str) -> Result<(), ModuleError> {
    let tree = job.tree();
    files::remove_tree(files, &job.work)?;
    files::create_dirs(files, &tree.join("header"), 0o700)?;
    files::create_dirs(files, &tree.join("tmp"), 0o700)?;
    let release = &job.release.release;
    let name = match &job.payload.name {
        Some(name) => name.clone(),
        None => format!("{}-{}", release.product, release.version),
    };
    let group = job.payload.group.clone().unwrap_or_default();
    let write =
        |path: &str, text: &str| files::write_file(files, &tree.join(path), text.as_bytes(), 0o600);
    write("version", "3\n")?;
    // What ran before is told by the release that it came in, of which no such name is known.
    write("current_artifact_name", "")?;
    write("current_artifact_group", "")?;
    write("current_device_type", &format!("{device_type}\n"))?;
    write("header/artifact_name", &name)?;
    write("header/artifact_group", &group)?;
    write("header/payload_type", &job.payload.kind)?;
    write("header/header-info", &header_info(job, &name, &group).to_string())?;
    write("header/type-info", &type_info(job).to_string())?;
    write("header/meta-data", &meta_data(files, job)?)?;
    Ok(())
}

fn header_info(job: &Job<'_>, name: &str, group: &str) -> Value {
    let mut provides = json!({ "artifact_name": name });
    if !group.is_empty() {
        provides["artifact_group"] = group.into();
    }
    let device_types = job.payload.depends.get("device_type").cloned().unwrap_or_default();
    json!({
        "payloads": [{ "type": job.payload.kind }],
        "artifact_provides": provides,
        "artifact_depends": { "device_type": device_types },
    })
}

fn type_info(job: &Job<'_>) -> Value {
    let mut info = json!({ "type": job.payload.kind });
    let payload = job.payload;
    if !payload.provides.is_empty() {
        info["artifact_provides"] = json!(payload.provides);
    }
    let depends: serde_json::Map<_, _> = payload
        .depends
        .iter()
        .filter(|(name, _)| *name != "device_type")
        .map(|(name, values)| match values.as_slice() {
            [one] => (name.clone(), json!(one)),
            all => (name.clone(), json!(all)),
        })
        .collect();
    if !depends.is_empty() {
        info["artifact_depends"] = depends.into();
    }
    if !payload.clears_provides.is_empty() {
        info["clears_artifact_provides"] = json!(payload.clears_provides);
    }
    info
}

fn meta_data(files: &dyn Files, job: &Job<'_>) -> Result<String, ModuleError> {
    let path = job.package.join(META_DATA);
    if !files::exists(files, &path)? {
        return Ok("{}".into());
    }
    let bytes = files::read_file(files, &path, META_DATA_MAX)?;
    let read: Result<Value, _> = serde_json::from_slice(&bytes);
    match read {
        Ok(value) => Ok(value.to_string()),
        Err(error) => {
            let said = format!("its package's meta-data is no JSON: {error}");
            Err(job.failed(State::Download, said))
        }
    }
}

/// The files of the payload, by name.
pub(super) fn payload(job: &Job<'_>) -> Vec<Part> {
    let parts = job.entries.iter().filter_map(|entry| match entry {
        Entry::File { path, content, .. } => {
            let name = path.as_str().strip_prefix(PAYLOAD)?.strip_prefix('/')?;
            let path = job.package.join(path.as_str());
            Some(Part { name: name.to_owned(), path, length: content.length })
        }
        Entry::Directory { .. } | Entry::Link { .. } => None,
    });
    parts.collect()
}

/// Puts the payload into `files/`, for a module that took no stream.
pub(super) fn store(files: &dyn Files, job: &Job<'_>, payload: &[Part]) -> Result<(), ModuleError> {
    let folder = job.tree().join("files");
    files::create_dirs(files, &folder, 0o700)?;
    for part in payload {
        let at = folder.join(&part.name);
        let mut file = files.create(&at, 0o600)?;
        let (sha256, length) = files::copy(
            files,
            &part.path,
            Some((&at, file.as_mut())),
            part.length.saturating_add(1),
        )?;
        file.sync().map_err(FileError::at(Action::Sync, &at))?;
        let read = files::copy(files, &at, None, part.length.saturating_add(1))?;
        if (FileRef { sha256, length }) != (FileRef { sha256: read.0, length: read.1 })
            || length != part.length
        {
            let said = format!("{} was changed on the disk", part.path.display());
            return Err(job.failed(State::Download, said));
        }
    }
    Ok(files.sync_dir(&folder)?)
}
