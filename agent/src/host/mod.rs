//! What touches the machine: files, content, space, backups, installing, services, health, hooks. Each
//! module decides how one thing is done safely; when it is done is decided in [`crate::update`].

pub mod backup;
pub mod boot;
pub mod boxed;
pub mod content;
pub mod database;
pub mod deb;
pub mod documents;
pub mod drift;
pub mod files;
pub mod gentle;
pub mod health;
pub mod hook;
pub mod modules;
pub mod network_up;
pub mod own;
pub mod owners;
pub(crate) mod piped;
pub mod placed;
pub mod podman;
pub mod preflight;
pub mod process;
#[cfg(test)]
pub(crate) mod recording;
pub mod rescue;
pub mod second;
pub mod service;
pub mod tree;
pub mod usage;
