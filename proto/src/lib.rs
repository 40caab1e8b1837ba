//! What Refit's server and agents must agree on, byte for byte: names, signed formats, trust, the wire.
//! Decides nothing about rollouts or hosts, and reads no clock.

pub mod bundle;
pub mod canonical;
pub mod cause;
pub mod envelope;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
pub mod gathered;
pub mod hours;
pub mod names;
pub mod package;
pub mod policy;
pub mod printable;
pub mod servers;
pub mod sorted;
pub mod token;
pub mod transport;
pub mod trust;
pub mod windows;

/// The wire: messages and services generated from `proto/refit/v1/*.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod wire {
    tonic::include_proto!("refit.v1");

    /// The protocol's descriptor set, for reflection and for the test that refuses incompatible changes.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/refit.v1.binpb"));
}
