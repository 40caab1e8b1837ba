//! Attacks on the trust core, each named as the claim that must hold.

mod approval;
mod change;
mod client;
mod edit;
mod golden;
mod permission;
mod repository;
mod search;
mod verify;
