//! The demo service on a host of the lab, asked from outside as its clients would.

use std::time::Duration;

use anyhow::Result;
use refit_tests::{http, lab::DebianHost, wait::until};

/// Where the service listens on every host of a lab: each has an address of its own.
const PORT: u16 = 8080;

/// `agent.toml` of a host in a lab.
pub(crate) const SETTINGS: &str = "services = \"systemd\"\n\n[variables]\nPORT = \"8080\"\n";

/// The service listens on loopback unless its host says otherwise.
pub(crate) fn let_payments_be_reached(host: &DebianHost) {
    host.write("/etc/payments/listen", "0.0.0.0").unwrap();
}

pub(crate) fn says(host: &DebianHost) -> Result<String> {
    Ok(http::get_at(host.at(PORT), "/", Duration::from_secs(10))?.1.trim().to_owned())
}

pub(crate) fn until_says(host: &DebianHost, version: &str) {
    let wanted = format!("payments {version}");
    until(&format!("the service of {} says {wanted}", host.name()), || {
        Ok((says(host)? == wanted).then_some(()))
    })
    .unwrap();
}
