//! The host's state as lines for people.

use std::fmt::Write as _;

use refit_proto::printable::printable;
use serde_json::Value;

/// Lines of a hook's output that are shown; `--output json` has all that is reported, and `hooks/` in the data
/// folder all that is kept.
const SHOWN_OUTPUT: usize = 10;

/// The state, as the socket gives it, in lines.
pub fn show(state: &Value) -> String {
    let mut out = String::new();
    let products = state["products"].as_array().map(Vec::as_slice).unwrap_or_default();
    if state["metadata_expired"] == true {
        out.push_str("the signed metadata has expired: nothing new begins\n");
    }
    if let Some(server) = state["server"].as_str().filter(|server| !server.is_empty()) {
        // Writing to a string does not fail.
        let _ = writeln!(out, "server {server}");
    }
    if let Some(refused) = state["metadata_failure"].as_object() {
        let part = |name: &str| refused.get(name).and_then(Value::as_str).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "the server's metadata is refused ({}): {}\n  help        {}",
            part("cause"),
            part("text"),
            part("help")
        );
    }
    if let Some(other) = state["audit_failure"].as_object() {
        let part = |name: &str| other.get(name).and_then(Value::as_str).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "CAUTION ({}): {}\n  help        {}",
            part("cause"),
            part("text"),
            part("help")
        );
    }
    for hold in state["holds"].as_array().into_iter().flatten() {
        let part =
            |name: &str| printable(hold.get(name).and_then(Value::as_str).unwrap_or_default());
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "HELD {}\n  since       {}\n  until       {}\n  by          {}",
            part("text"),
            part("since"),
            part("until"),
            part("who")
        );
    }
    for backup in state["backups"].as_array().into_iter().flatten() {
        let part = |name: &str| backup[name].as_str().unwrap_or_default();
        if !part("outside").is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(out, "backup {}: {}", part("id"), printable(part("outside")));
        }
        if part("second") == "failed" {
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "backup {} is not at the second place: {}",
                part("id"),
                part("second_failure")
            );
        }
    }
    if products.is_empty() {
        out.push_str("nothing is installed or offered here\n");
    }
    for product in products {
        // Writing to a string does not fail.
        let _ = write_product(&mut out, product);
    }
    write_set_aside(&mut out, &state["set_aside"]);
    out
}

fn write_set_aside(out: &mut String, rows: &Value) {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    for row in rows {
        let part = |name: &str| row[name].as_str().unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(out, "set aside of {}: {}", part("product"), part("text"));
    }
    if let Some(id) = rows.first().and_then(|row| row["id"].as_str()) {
        let _ =
            writeln!(out, "  help        when it is not needed: refit-agent backup release {id}");
    }
}

fn write_product(out: &mut String, product: &Value) -> std::fmt::Result {
    let word = |name: &str, otherwise: &'static str| -> String {
        match product[name].as_str() {
            None | Some("") => otherwise.to_owned(),
            Some(word) => word.to_owned(),
        }
    };
    writeln!(out, "{}", word("product", "?"))?;
    writeln!(out, "  ring        {}", word("ring", "none"))?;
    let installed = product["installed"]["version"].as_str().unwrap_or("nothing");
    let ahead = if product["ahead"] == true { " (ahead of its ring)" } else { "" };
    writeln!(out, "  installed   {installed}{ahead}")?;
    if let Some(version) = product["attempt"]["version"].as_str() {
        let by = match product["attempt"]["ordered_by"].as_str() {
            Some("local-root") => ", from a bundle, by root on this host",
            Some(_) | None => "",
        };
        let since = match product["since"].as_str() {
            None | Some("") => String::new(),
            // Nobody reads billionths of a second.
            Some(since) => format!(", since {}Z", since.split(['.', 'Z']).next().unwrap_or(since)),
        };
        writeln!(out, "  update      to {version}: {}{by}{since}", word("phase", "no update"))?;
    }
    if let Some(health) = product["health"].as_str().filter(|health| !health.is_empty()) {
        writeln!(out, "  health      {health}")?;
    }
    if let Some(red) = product["red_before"].as_str().filter(|red| !red.is_empty()) {
        writeln!(out, "  before it   not healthy: {red}")?;
    }
    if let Some(hold) = product["hold"].as_object() {
        let part = |name: &str| hold.get(name).and_then(Value::as_str).unwrap_or_default();
        writeln!(
            out,
            "  hold        {} ({}){}, up to {}",
            part("text"),
            part("reason"),
            match part("until") {
                "" => String::new(),
                until => format!(", until {until}"),
            },
            part("who")
        )?;
        for (word, at) in [("since", part("since")), ("until", part("until"))] {
            if !at.is_empty() {
                writeln!(out, "  {word}       {at}")?;
            }
        }
    }
    write_drift(out, &product["drift"])?;
    if let Some(failure) = product["failure"].as_object() {
        let part = |name: &str| failure.get(name).and_then(Value::as_str).unwrap_or_default();
        writeln!(out, "  failure     {}: {}", part("cause"), part("text"))?;
        writeln!(out, "  help        {}", part("help"))?;
    }
    for run in product["hooks"].as_array().into_iter().flatten() {
        let part =
            |name: &str| printable(run.get(name).and_then(Value::as_str).unwrap_or_default());
        let (when, package, how) = (part("when"), part("package"), part("how"));
        writeln!(out, "  hook        {when} {} of {package} {how}", run["number"])?;
        let output: Vec<_> = run["output"].as_str().unwrap_or_default().lines().collect();
        for line in output.iter().skip(output.len().saturating_sub(SHOWN_OUTPUT)) {
            writeln!(out, "  output      {}", printable(line))?;
        }
    }
    for digest in product["quarantine"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(out, "  quarantine  {digest}")?;
    }
    if let Some(after) = product["power_cut"].as_str() {
        writeln!(out, "  power cut   {after}")?;
    }
    for (at, way) in product["stop"].as_array().into_iter().flatten().enumerate() {
        let word = if at == 0 { "to stop it" } else { "" };
        writeln!(out, "  {word:<11} {}", way.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// Most paths that one screen has room for.
const SHOWN: usize = 5;

fn write_drift(out: &mut String, drift: &Value) -> std::fmt::Result {
    let all = drift["differences"].as_array().map(Vec::as_slice).unwrap_or_default();
    for it in all.iter().take(SHOWN) {
        let part = |name: &str| it[name].as_str().unwrap_or_default();
        writeln!(out, "  changed     {} ({}): {}", part("path"), part("kind"), part("why"))?;
    }
    for (word, name) in [("put back", "repaired"), ("extra", "extra")] {
        let paths = drift[name].as_array().map(Vec::as_slice).unwrap_or_default();
        for path in paths.iter().filter_map(Value::as_str).take(SHOWN) {
            writeln!(out, "  {word:<11} {}", printable(path))?;
        }
        if paths.len() > SHOWN {
            writeln!(out, "  {word:<11} and {} more", paths.len() - SHOWN)?;
        }
    }
    let more = all.len().saturating_sub(SHOWN) as u64 + drift["more"].as_u64().unwrap_or_default();
    if more > 0 {
        writeln!(out, "  changed     and {more} more; `--output json` names up to 50")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use refit_proto::wire::{Failure, HostState, ProductState};

    use super::*;

    #[test]
    fn a_person_sees_why_a_host_stands_still() {
        let failure = Failure {
            cause: "no-space".into(),
            text: "/opt is full".into(),
            help: "free it".into(),
            ..Default::default()
        };
        let product = ProductState {
            product: "payments".into(),
            quarantine: vec!["ab".into()],
            failure: Some(failure),
            ..ProductState::default()
        };
        let state = HostState { products: vec![product], ..HostState::default() };
        let text = show(&serde_json::to_value(&state).unwrap());
        for part in ["payments", "ring        none", "/opt is full", "free it", "quarantine  ab"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
