//! Whole-system tests of Refit: a sandbox of real processes on loopback with real TLS, and what it takes
//! to break them. Each test in `tests/` is a claim; the sandbox lets it be read as one.

pub mod agent_release;
pub mod databases;
pub mod folder_server;
pub mod http;
pub mod lab;
pub mod process;
pub mod release;
pub mod sandbox;
pub mod wait;
