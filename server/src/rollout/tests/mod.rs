//! The core's behaviour in scripts, text in and text out, and as properties.

mod forecasts;
mod properties;
mod scripts;
pub(crate) mod world;
