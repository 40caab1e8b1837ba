//! `refit trust status`: every role, how long it lasts, whose keys it needs, and what to do next.

use std::collections::BTreeMap;

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, PersonName},
    trust::{
        Authority, KeyId, Role, TrustedSet,
        edit::{self, Due},
    },
    wire::ChangeStatus,
};
use serde::Serialize;

use super::{OwnCopy, change, own::Unsent, own_root_digest, refresh, shift};
use crate::{Context, connect::Connection, duration, key, output, output::Output, servers, status};

/// Options of `refit trust status`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Who is on call, by the names of the policy: whether they reach the threshold of each ring, and give the approvals
    /// that it needs. Ends with 1 where they don't.
    #[arg(long, value_name = "PERSON", value_delimiter = ',')]
    shift: Vec<PersonName>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Shown {
    /// What enrollment tokens carry, and what is handed to other people for `refit trust adopt`.
    root_sha256: Digest,
    roles: Vec<Row>,
    /// What waits for signatures, as the server says.
    changes: Vec<ChangeStatus>,
}

#[derive(Debug, Serialize)]
struct Row {
    role: String,
    version: u64,
    expires: Option<Timestamp>,
    expires_in_seconds: Option<i64>,
    /// Who has signed the file: holders where they are named, else key ids.
    signed_by: Vec<String>,
    keys: usize,
    keys_here: usize,
    threshold: u64,
    /// Empty, "due", "overdue" or "expired".
    warning: &'static str,
    next: String,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    if !args.shift.is_empty() {
        return shift::run(context, args.shift, args.output).await;
    }
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
    let changes = match Connection::open(context).await {
        Ok(connection) => status::fleet(&connection, "").await.map(|fleet| fleet.changes),
        Err(error) => Err(error),
    };
    let shown = Shown {
        root_sha256: own_root_digest(context)?,
        roles,
        changes: changes.unwrap_or_default(),
    };
    args.output.print(&shown, in_words)
}

pub(super) async fn known(context: &Context) -> anyhow::Result<Option<TrustedSet>> {
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
    let mut names = edit::holders(set.root().signed());
    names.extend(edit::holders(set.targets().signed()));
    let mut rows = Vec::new();
    for (role, authority) in roles {
        let here = key::at_hand(context, |key| {
            authority.is_some_and(|authority| authority.ids.contains(&key.id()))
        })?;
        let expires = set.expires(&role);
        let due = expires.map_or(Due::Fine, |expires| Due::of(&role, expires, context.now));
        rows.push(Row {
            signed_by: signers(set, &role).iter().map(|id| name_of(&names, **id)).collect(),
            warning: due.word(),
            role: role.to_string(),
            version: set.version(&role).unwrap_or(0),
            expires,
            expires_in_seconds: expires.map(|at| at.as_second() - context.now.as_second()),
            keys: authority.map_or(0, |authority| authority.keys.len()),
            keys_here: here.len(),
            threshold: authority.map_or(0, |authority| authority.threshold),
            next: match set.refused(&role) {
                Some(error) => format!("can't be trusted: {error}"),
                None => next(&role, expires.is_some(), due, unsent),
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
            signed_by: Vec::new(),
            warning: Due::Fine.word(),
            keys: 0,
            keys_here: 0,
            threshold: 0,
            next: "made here: refit trust push".to_owned(),
        }
    }
}

/// Who signed the newest file of a role.
fn signers<'a>(set: &'a TrustedSet, role: &Role) -> Vec<&'a KeyId> {
    let signers = match role {
        Role::Root => Some(set.root().signers()),
        Role::Targets => Some(set.targets().signers()),
        Role::Snapshot | Role::Timestamp => Some(set.timestamp().signers()),
        role => set.delegated(role).map(|file| file.signers()),
    };
    signers.into_iter().flatten().collect()
}

fn name_of(names: &BTreeMap<KeyId, String>, id: KeyId) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.short())
}

/// What to do about a role.
fn next(role: &Role, is_there: bool, due: Due, unsent: &[Unsent]) -> String {
    if unsent.iter().any(|file| file.role == *role) {
        return "made here: refit trust push".to_owned();
    }
    let act = match role {
        Role::Snapshot | Role::Timestamp => "the server should have renewed it".to_owned(),
        _ => format!("refit trust renew {role}"),
    };
    match (is_there, due, role) {
        (false, _, Role::Ring(..)) => "nothing promoted yet".to_owned(),
        (false, ..) => "nothing published yet".to_owned(),
        (true, Due::Fine, _) => String::new(),
        (true, Due::Due | Due::Overdue, _) => act,
        (true, Due::Expired, _) => format!("EXPIRED: {act}"),
    }
}

fn in_words(shown: &Shown) -> String {
    let table = output::table(
        ["role", "version", "expires in", "signed by", "keys", "here", "needed", "next"],
        shown.roles.iter().map(|row| {
            [
                row.role.clone(),
                row.version.to_string(),
                expires_in(row.expires_in_seconds),
                row.signed_by.join(", "),
                row.keys.to_string(),
                row.keys_here.to_string(),
                row.threshold.to_string(),
                row.next.clone(),
            ]
        }),
    );
    let mut text = format!("first root {}\n\n{table}", shown.root_sha256);
    if !shown.changes.is_empty() {
        text.push_str(&format!("\n{}", change::table(&shown.changes)));
    }
    text
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
        let at = |role: &str, due| next(&Role::parse(role).unwrap(), true, due, &[]);
        assert_eq!(at("targets", Due::Fine), "");
        assert_eq!(at("targets", Due::Due), "refit trust renew targets");
        assert_eq!(at("root", Due::Expired), "EXPIRED: refit trust renew root");
        assert_eq!(at("timestamp", Due::Fine), "");
        assert!(at("timestamp", Due::Overdue).starts_with("the server"));
        let file = Unsent { role: Role::Targets, version: 2, bytes: vec![] };
        assert!(next(&Role::Targets, false, Due::Fine, &[file]).contains("refit trust push"));
    }
}
