//! What changes between two versions of a file, in words: what a holder reads before signing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::holders;
use crate::{
    printable::printable,
    trust::{
        error::TrustError,
        key::KeyId,
        metadata::{self, Authority, Content, DATE, Root, TargetFile, Targets},
        promotion::{self, Promotion, RingFile, Standing},
        role::{Paths, Role},
    },
};

/// The change from `old` to `new` signed content of a role, one printable sentence each. Never empty: at
/// least the version changes.
///
/// # Errors
/// If either can't be read.
pub fn describe(old: Option<&Value>, new: &Value, role: &Role) -> Result<Vec<String>, TrustError> {
    let words = in_words(old, new, role)?;
    Ok(words.iter().map(|line| printable(line)).collect())
}

fn in_words(old: Option<&Value>, new: &Value, role: &Role) -> Result<Vec<String>, TrustError> {
    let mut names = old.map(holders).unwrap_or_default();
    names.extend(holders(new));
    match role {
        Role::Root => {
            let old = old.map(|value| metadata::read::<Root>(value, role)).transpose()?;
            let new = metadata::read::<Root>(new, role)?;
            let mut words = headers(old.as_ref(), &new, role);
            for role in [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp] {
                let before = old.as_ref().and_then(|root| root.authority(&role));
                authority(&role, before, new.authority(&role), &names, &mut words);
            }
            Ok(words)
        }
        _ => {
            let old = old.map(|value| metadata::read::<Targets>(value, role)).transpose()?;
            let new = metadata::read::<Targets>(new, role)?;
            let mut words = headers(old.as_ref(), &new, role);
            delegations(old.as_ref(), &new, &names, &mut words);
            match role {
                Role::Ring(product, ring) => {
                    let read = |targets: &Targets| RingFile::read(product, ring, targets);
                    let before = old.as_ref().map(read).transpose()?.unwrap_or_default();
                    promotions(&before, &read(&new)?, &mut words);
                }
                _ => targets(old.as_ref(), &new, &mut words),
            }
            Ok(words)
        }
    }
}

type Names = BTreeMap<KeyId, String>;

fn headers<T: Content>(old: Option<&T>, new: &T, role: &Role) -> Vec<String> {
    let expires = new.expires().strftime(DATE);
    match old {
        None => vec![format!("{role}: first version {}, expires {expires}", new.version())],
        Some(old) => vec![format!(
            "{role}: version {} replaces {}, expires {expires} (was {})",
            new.version(),
            old.version(),
            old.expires().strftime(DATE)
        )],
    }
}

fn authority(
    role: &Role,
    old: Option<&Authority>,
    new: Option<&Authority>,
    names: &Names,
    words: &mut Vec<String>,
) {
    let ids = |authority: Option<&Authority>| -> BTreeSet<KeyId> {
        authority.map(|authority| authority.ids.clone()).unwrap_or_default()
    };
    let (before, after) = (ids(old), ids(new));
    for id in after.difference(&before) {
        words.push(format!("{role}: key {} is added", named(id, names)));
    }
    for id in before.difference(&after) {
        words.push(format!("{role}: key {} is removed", named(id, names)));
    }
    let threshold =
        |authority: &Authority| format!("{} of {}", authority.threshold, authority.ids.len());
    match (old, new) {
        (None, Some(new)) => words.push(format!("{role}: needs {} keys", threshold(new))),
        (Some(old), Some(new)) if threshold(old) != threshold(new) => {
            words.push(format!("{role}: needs {} keys (was {})", threshold(new), threshold(old)));
        }
        (Some(_) | None, _) => {}
    }
}

fn named(id: &KeyId, names: &Names) -> String {
    match names.get(id) {
        Some(name) => format!("{id} of {name}"),
        None => id.to_string(),
    }
}

fn delegations(old: Option<&Targets>, new: &Targets, names: &Names, words: &mut Vec<String>) {
    for delegation in &new.delegations {
        let role = &delegation.role;
        let before = old.and_then(|old| old.delegation(role));
        if before.is_none() {
            words.push(format!("{role}: is delegated {}", paths(&delegation.paths)));
        }
        let keys = before.map(|d| &d.authority);
        authority(role, keys, Some(&delegation.authority), names, words);
        if let Some(before) = before
            && (before.paths != delegation.paths || before.terminating != delegation.terminating)
        {
            let end = if delegation.terminating { ", and nobody else" } else { "" };
            words.push(format!("{role}: is now delegated {}{end}", paths(&delegation.paths)));
        }
    }
    for gone in old.iter().flat_map(|old| &old.delegations) {
        if new.delegation(&gone.role).is_none() {
            words.push(format!(
                "{}: is no longer delegated; nobody trusts what it signed",
                gone.role
            ));
        }
    }
    let order = |targets: &Targets| -> Vec<Role> {
        targets.delegations.iter().map(|delegation| delegation.role.clone()).collect()
    };
    if let Some(old) = old {
        let (before, after) = (order(old), order(new));
        let kept = |roles: &[Role], others: &[Role]| -> Vec<Role> {
            roles.iter().filter(|role| others.contains(role)).cloned().collect()
        };
        if kept(&before, &after) != kept(&after, &before) {
            words.push("the order of delegations changes".to_owned());
        }
    }
}

fn paths(paths: &Paths) -> String {
    match paths {
        Paths::Patterns(patterns) => patterns.join(" "),
        Paths::HashPrefixes(prefixes) => {
            format!("paths whose hash begins with {}", prefixes.join(" "))
        }
    }
}

fn targets(old: Option<&Targets>, new: &Targets, words: &mut Vec<String>) {
    let none = BTreeMap::new();
    let before = old.map_or(&none, |old| &old.targets);
    for (path, file) in &new.targets {
        match before.get(path) {
            None => words.push(format!("{path} is added: {}", shown(file))),
            Some(was) if was.same_bytes(file) && was.custom == file.custom => {}
            Some(was) if was.same_bytes(file) => {
                words.push(format!("{path} keeps its bytes, what is said of it changes"));
            }
            Some(was) => {
                words.push(format!("{path} CHANGES: {} (was {})", shown(file), shown(was)))
            }
        }
    }
    for path in before.keys().filter(|path| !new.targets.contains_key(*path)) {
        words.push(format!("{path} is removed"));
    }
}

fn shown(file: &TargetFile) -> String {
    let digest = file.digest().map_or_else(|| "no sha256".to_owned(), |digest| digest.to_string());
    format!("{} bytes, sha256 {digest}", file.length)
}

fn promotions(old: &RingFile, new: &RingFile, words: &mut Vec<String>) {
    for promotion in new.promotions() {
        let before = old.promotions().find(|before| before.version == promotion.version);
        if before == Some(promotion) {
            continue;
        }
        let terms = &promotion.terms;
        let mut line = format!("release {} is {}", promotion.version, standing(promotion));
        match before {
            Some(before) if before.terms.standing != terms.standing => {
                line.push_str(&format!(" (was {})", standing(before)));
            }
            Some(before) if before.digest != promotion.digest => {
                line.push_str(", with OTHER BYTES")
            }
            Some(_) => line.push_str(", on other terms"),
            None => {}
        }
        line.push_str(&format!(": {}", shown(promotion.target())));
        for shown in &terms.evidence {
            line.push_str(&format!(", {} evidence {}", shown.kind, shown.sha256));
        }
        if let Some(plan) = &terms.change_plan {
            line.push_str(&format!(", change plan {plan}"));
        }
        for said in &terms.approvals {
            let promotion::Approval { person, kind, sha256 } = said;
            line.push_str(&format!(", {kind} approval written by {person} {sha256}"));
        }
        if !terms.retry.is_empty() {
            line.push_str(&format!(", quarantines lifted: {}", terms.retry.len()));
        }
        if let Some(floor) = terms.min_release_counter {
            line.push_str(&format!(", floor {floor}"));
        }
        for passed in &terms.overrides {
            line.push_str(&format!(", passes over {}: {}", passed.gate, passed.reason));
        }
        for feature in &terms.required {
            line.push_str(&format!(", requires {feature}"));
        }
        words.push(line);
    }
    for gone in old.promotions() {
        if !new.promotions().any(|promotion| promotion.version == gone.version) {
            words.push(format!("release {} is no longer permitted", gone.version));
        }
    }
}

fn standing(promotion: &Promotion) -> &'static str {
    match promotion.terms.standing {
        Standing::Current => "current",
        Standing::Back => "the one to go back to",
        Standing::Barrier => "a barrier",
    }
}
