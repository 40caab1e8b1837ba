//! `refit trust status`: every role, how long it lasts, whose keys it needs, and what to do next.

use jiff::{SignedDuration, Timestamp};
use refit_proto::{
    names::Digest,
    trust::{Authority, Role, TrustedSet, edit},
};
use serde::Serialize;

use super::{OwnCopy, own::Unsent, own_root_digest, refresh};
use crate::{Context, connect::Connection, duration, key, output, output::Output, servers};

/// Options of `refit trust status`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Shown {
    /// What enrollment tokens carry, and what is handed to other people for `refit trust adopt`.
    root_sha256: Digest,
    roles: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    role: String,
    version: u64,
    expires: Option<Timestamp>,
    expires_in_seconds: Option<i64>,
    keys: usize,
    keys_here: usize,
    threshold: u64,
    next: String,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let set = match known(context).await {
        Ok(set) => set,
        Err(error) => {
            eprintln!("warning: this is the own copy as it was last seen: {error:#}");
            refresh::load_everything(context).ok()
        }
    };
    let unsent = OwnCopy::of(context).unsent()?;
    let mut roles = Vec::new();
    if let Some(set) = &set {
        roles = rows(context, set, &unsent)?;
    }
    for file in unsent.iter().rev() {
        if roles.iter().all(|row| row.role != file.role.to_string()) {
            roles.push(Row::unsent(file));
        }
    }
    let shown = Shown { root_sha256: own_root_digest(context)?, roles };
    args.output.print(&shown, in_words)
}

async fn known(context: &Context) -> anyhow::Result<Option<TrustedSet>> {
    let connection = Connection::open(context).await?;
    let set = refresh::everything(context, &connection).await?;
    if let Some(set) = &set
        && let Err(error) = servers::follow(context, &connection, set).await
    {
        eprintln!("warning: the list of servers can't be followed: {error:#}");
    }
    Ok(set)
}

fn rows(context: &Context, set: &TrustedSet, unsent: &[Unsent]) -> anyhow::Result<Vec<Row>> {
    let top = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];
    let mut roles: Vec<(Role, Option<&Authority>)> =
        top.into_iter().map(|role| (role.clone(), set.root().authority(&role))).collect();
    let delegations = set.targets().delegations.iter();
    roles.extend(delegations.map(|one| (one.role.clone(), Some(&one.authority))));
    let mut rows = Vec::new();
    for (role, authority) in roles {
        let here = key::at_hand(context, |key| {
            authority.is_some_and(|authority| authority.ids.contains(&key.id()))
        })?;
        let expires = set.expires(&role);
        rows.push(Row {
            role: role.to_string(),
            version: set.version(&role).unwrap_or(0),
            expires,
            expires_in_seconds: expires.map(|at| at.as_second() - context.now.as_second()),
            keys: authority.map_or(0, |authority| authority.keys.len()),
            keys_here: here.len(),
            threshold: authority.map_or(0, |authority| authority.threshold),
            next: match set.refused(&role) {
                Some(error) => format!("can't be trusted: {error}"),
                None => next(&role, expires, unsent, context.now),
            },
        });
    }
    Ok(rows)
}

impl Row {
    fn unsent(file: &Unsent) -> Row {
        Row {
            role: file.role.to_string(),
            version: file.version,
            expires: None,
            expires_in_seconds: None,
            keys: 0,
            keys_here: 0,
            threshold: 0,
            next: "made here: refit trust push".to_owned(),
        }
    }
}

/// What to do about a role. People's roles are due a sixth of their time before the end; the server's
/// are due when it should have renewed them long ago.
fn next(role: &Role, expires: Option<Timestamp>, unsent: &[Unsent], now: Timestamp) -> String {
    if unsent.iter().any(|file| file.role == *role) {
        return "made here: refit trust push".to_owned();
    }
    let Some(expires) = expires else {
        return match role {
            Role::Ring(..) => "nothing promoted yet".to_owned(),
            _ => "nothing published yet".to_owned(),
        };
    };
    let lasts = SignedDuration::from_hours(24 * edit::default_days(role));
    let (due, act) = match role {
        Role::Snapshot | Role::Timestamp => {
            (lasts / 4, "the server should have renewed it".to_owned())
        }
        _ => (lasts / 6, format!("refit trust renew {role}")),
    };
    if expires <= now {
        format!("EXPIRED: {act}")
    } else if expires.duration_since(now) <= due {
        act
    } else {
        String::new()
    }
}

fn in_words(shown: &Shown) -> String {
    let table = output::table(
        ["role", "version", "expires in", "keys", "here", "needed", "next"],
        shown.roles.iter().map(|row| {
            [
                row.role.clone(),
                row.version.to_string(),
                expires_in(row.expires_in_seconds),
                row.keys.to_string(),
                row.keys_here.to_string(),
                row.threshold.to_string(),
                row.next.clone(),
            ]
        }),
    );
    format!("first root {}\n\n{table}", shown.root_sha256)
}

fn expires_in(seconds: Option<i64>) -> String {
    match seconds {
        None => String::new(),
        Some(seconds) if seconds <= 0 => "expired".to_owned(),
        Some(seconds) if seconds >= 2 * 86_400 => format!("{} days", seconds / 86_400),
        Some(seconds) => duration::in_words(seconds.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_says_when_it_is_due_and_who_acts() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |role: &str, days: i64| {
            let expires = now + SignedDuration::from_hours(24 * days);
            next(&Role::parse(role).unwrap(), Some(expires), &[], now)
        };
        assert_eq!(at("targets", 100), "");
        assert_eq!(at("targets", 29), "refit trust renew targets");
        assert_eq!(at("root", -1), "EXPIRED: refit trust renew root");
        assert_eq!(at("timestamp", 2), "");
        assert!(at("timestamp", 0).starts_with("EXPIRED: the server"));
        let file = Unsent { role: Role::Targets, version: 2, bytes: vec![] };
        assert!(next(&Role::Targets, None, &[file], now).contains("refit trust push"));
    }
}
