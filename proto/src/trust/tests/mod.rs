//! Attacks on the trust core, each named as the claim that must hold.

mod client;
mod search;
