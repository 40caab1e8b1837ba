//! The host's state with what a person on the host wants to know beside it: since when, what would be if the power
//! went now, how to stop it, and what another hand has changed.

use std::sync::PoisonError;

use refit_proto::names::Product;
use serde_json::{Value, json};

use crate::{
    journal::Journal as _,
    report::Reporter,
    update::{Phase, Update, if_power_went},
};

/// The state, as the socket and `status --output json` give it.
///
/// # Errors
/// Never for a state: it has no keys but words.
pub fn explain(reporter: &Reporter) -> serde_json::Result<Value> {
    // What can't be read is told by the state itself.
    let update = reporter.journal.load().ok().flatten();
    let mut state = serde_json::to_value(reporter.state_with(update.as_ref()))?;
    let products = state.get_mut("products").and_then(Value::as_array_mut);
    for told in products.into_iter().flatten() {
        let name = told["product"].as_str().and_then(|name| Product::parse(name).ok());
        let Some((name, told)) = name.zip(told.as_object_mut()) else { continue };
        let own = update.as_ref().filter(|update| update.attempt().product == name);
        told.insert("since".into(), json!(reporter.journal.since(&name).unwrap_or_default()));
        told.insert("power_cut".into(), json!(if_power_went(own)));
        let ring = told.get("ring").and_then(Value::as_str).unwrap_or_default().to_owned();
        told.insert("stop".into(), json!(how_to_stop(own, &name, &ring)));
        let inventory = reporter.inventory.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(installed) = inventory.get(&name) {
            told.insert("drift".into(), serde_json::to_value(&installed.drift)?);
        }
    }
    Ok(state)
}

/// What stops the update that is under way; empty if none is.
fn how_to_stop(update: Option<&Update>, product: &Product, ring: &str) -> Vec<String> {
    let Some(update) = update else { return Vec::new() };
    let pause = format!("refit rollout pause {product} {ring} --reason '...'");
    let back = format!("refit rollout rollback {product} {ring} --reason '...'");
    match update.phase() {
        Phase::Offered | Phase::Preflight | Phase::Fetching | Phase::Waiting | Phase::BackingUp => {
            vec![
                format!("with an administrator: {pause}"),
                "here: systemctl stop refit-agent".into(),
            ]
        }
        Phase::Quiescing | Phase::Sealing | Phase::Switching => {
            vec!["it ends on a whole release by itself; then it can be taken back".into()]
        }
        Phase::Rebooting | Phase::Probation => vec![
            format!("with an administrator: {back}"),
            "here: systemctl stop refit-agent, then refit-rescue back".into(),
        ],
        Phase::RollingBack => vec!["it is going back already".into()],
        Phase::Committed | Phase::Refused | Phase::Dropped | Phase::RolledBack | Phase::Stuck => {
            Vec::new()
        }
    }
}
