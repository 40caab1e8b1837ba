//! `refit key list` and `refit key show`: what is kept here and what it may sign. Private halves are never
//! printed.

use refit_proto::trust::{KeyId, PublicKey, Role, TrustedSet};
use serde::Serialize;

use super::{
    held::Kind,
    kept::{self, Kept},
};
use crate::{
    Context,
    output::{self, Output},
    trust,
};

/// A key as it is shown.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Shown {
    name: String,
    /// Not known of an encrypted key without its public half.
    key_id: Option<String>,
    kind: Kind,
    /// Whether it can sign here.
    private: bool,
    /// The roles that name it, by the own copy of the metadata; none where there is no copy.
    roles: Option<Vec<String>>,
}

/// One key, in full.
#[derive(Debug, Serialize)]
struct Full {
    #[serde(flatten)]
    shown: Shown,
    fingerprint: String,
    public: serde_json::Value,
}

impl Shown {
    fn new(
        name: String,
        kind: Kind,
        public: Option<&PublicKey>,
        set: Option<&TrustedSet>,
    ) -> Shown {
        let id = public.map(PublicKey::id);
        let roles = set.zip(id).map(|(set, id)| named_in(set, id));
        let key_id = id.map(|id| id.to_string());
        Shown { name, key_id, kind, private: kind.is_here(), roles }
    }
}

pub(super) fn list(context: &Context, output: Output) -> anyhow::Result<()> {
    output.print(&listed(context)?, |keys| {
        output::table(
            ["key", "key id", "private half", "named in"],
            keys.iter().map(|key| {
                let id = key.key_id.as_deref().map_or("unknown", |id| &id[..12]);
                [key.name.clone(), id.to_owned(), key.kind.in_words().to_owned(), roles(key)]
            }),
        )
    })
}

/// Everything that is kept, with the roles that name it.
fn listed(context: &Context) -> anyhow::Result<Vec<Shown>> {
    let set = trust::load_everything(context).ok();
    let shown = |Kept { name, kind, public }| Shown::new(name, kind, public.as_ref(), set.as_ref());
    Ok(kept::all(context)?.into_iter().map(shown).collect())
}

pub(super) fn show(context: &Context, word: &str, output: Output) -> anyhow::Result<()> {
    let (kind, public) = kept::shown(context, word)?;
    let set = trust::load_everything(context).ok();
    let full = Full {
        shown: Shown::new(word.to_owned(), kind, Some(&public), set.as_ref()),
        fingerprint: fingerprint(&public.id()),
        public: public.to_value().clone(),
    };
    output.print(&full, |full| {
        let private = match full.shown.kind {
            Kind::Elsewhere => "not here",
            kind => kind.in_words(),
        };
        let roles = match &full.shown.roles {
            None => "not known: there is no metadata here yet".to_owned(),
            Some(_) => roles(&full.shown),
        };
        format!(
            "{}\nkey id {}\nprivate half: {private}\nnamed in: {}\nto compare by voice:\n{}",
            String::from_utf8_lossy(&public.to_json()),
            public.id(),
            if roles.is_empty() { "no role" } else { &roles },
            full.fingerprint
        )
    })
}

fn roles(key: &Shown) -> String {
    key.roles.as_deref().unwrap_or_default().join(" ")
}

/// The roles whose file this key may sign.
fn named_in(set: &TrustedSet, id: KeyId) -> Vec<String> {
    let top = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];
    let top = top.into_iter().filter_map(|role| Some((set.root().authority(&role)?, role)));
    let delegated = set.targets().delegations.iter().map(|one| (&one.authority, one.role.clone()));
    let roles = top.chain(delegated).filter(|(authority, _)| authority.ids.contains(&id));
    roles.map(|(_, role)| role.to_string()).collect()
}

/// The whole key id in groups of four, two lines of eight: short enough to be read to somebody.
pub(super) fn fingerprint(id: &KeyId) -> String {
    let id = id.to_string();
    let groups: Vec<&str> = (0..16).map(|at| &id[4 * at..4 * at + 4]).collect();
    format!("  {}\n  {}", groups[..8].join(" "), groups[8..].join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_whole_key_id_in_groups() {
        let id = KeyId::parse(&"0123456789abcdef".repeat(4)).unwrap();
        let line = "  0123 4567 89ab cdef 0123 4567 89ab cdef";
        assert_eq!(fingerprint(&id), format!("{line}\n{line}"));
    }
}
