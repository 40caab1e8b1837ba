//! What touches the machine: files, content, space, backups, installing. Each module decides how one
//! thing is done safely; when it is done is decided in [`crate::update`].

pub mod files;
#[cfg(test)]
pub(crate) mod recording;
