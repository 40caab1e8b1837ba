//! `refit trust status --shift`: whether those on call could promote to each ring, at night and in an emergency too.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use refit_proto::{
    names::{PersonName, Product, RingName},
    policy::ProductPolicy,
    trust::{
        Role, Targets,
        approval::{self, Unapproved},
    },
};
use serde::Serialize;

use super::status;
use crate::{Context, apply, connect::Connection, output, output::Output};

/// Whether they reach one ring.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    product: Product,
    ring: RingName,
    /// Signatures that it takes.
    needed: u64,
    reached: bool,
    /// What would be missing; empty where nothing is.
    missing: String,
}

pub(super) async fn run(
    context: &Context,
    persons: Vec<PersonName>,
    output: Output,
) -> anyhow::Result<()> {
    let persons: BTreeSet<PersonName> = persons.into_iter().collect();
    let set = status::known(context).await?.context(
        "there is no trust metadata yet\nhelp: `refit trust init` begins it, `refit trust adopt` takes it over",
    )?;
    let connection = Connection::open(context).await?;
    let policies = apply::policies(&connection, &set).await?;
    let policies: Vec<ProductPolicy> = policies.into_iter().map(|(policy, _)| policy).collect();
    known(&policies, &persons)?;
    let rows = rows(&policies, set.targets(), &persons);
    output.print(&rows, |rows| in_words(rows))?;
    let beyond: Vec<String> = rows
        .iter()
        .filter(|row| !row.reached)
        .map(|row| format!("{}/{}", row.product, row.ring))
        .collect();
    if beyond.is_empty() {
        return Ok(());
    }
    bail!(
        "warning: those on call can't promote to {}\n\
         help: put somebody else on call too, or change who signs there: `refit trust delegate`, `refit apply`",
        beyond.join(", ")
    )
}

/// A name that no policy has is a slip, and not somebody without rights.
fn known(policies: &[ProductPolicy], persons: &BTreeSet<PersonName>) -> anyhow::Result<()> {
    let named = |person: &PersonName| policies.iter().any(|it| it.persons.contains_key(person));
    match persons.iter().find(|person| !named(person)) {
        Some(unknown) => bail!(
            "no policy names a person {unknown}\nhelp: `persons` of the fleet file says who there is"
        ),
        None => Ok(()),
    }
}

fn rows(policies: &[ProductPolicy], targets: &Targets, persons: &BTreeSet<PersonName>) -> Vec<Row> {
    let mut rows = Vec::new();
    for policy in policies {
        for definition in &policy.rings {
            let reached = approval::within_reach(policy, definition, targets, persons);
            let role = Role::Ring(policy.product.clone(), definition.ring.clone());
            let needed = targets.delegation(&role).map_or(0, |it| it.authority.threshold);
            let (reached, missing) = match reached {
                None => (false, "the ring has no keys yet".to_owned()),
                Some(Ok(_)) => (true, String::new()),
                Some(Err(cause)) => (false, missing(&cause)),
            };
            let (product, ring) = (policy.product.clone(), definition.ring.clone());
            rows.push(Row { product, ring, needed, reached, missing });
        }
    }
    rows
}

fn missing(cause: &Unapproved) -> String {
    match cause {
        Unapproved::TooFew { persons, needed } => {
            format!("{persons} of the {needed} that it takes, the server among them where it signs")
        }
        Unapproved::Kinds(kinds) => {
            let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
            format!("nobody is left to give the {} approval", kinds.join(" and "))
        }
    }
}

fn in_words(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        [
            row.product.to_string(),
            row.ring.to_string(),
            row.needed.to_string(),
            if row.reached { "yes" } else { "NO" }.to_owned(),
            row.missing.clone(),
        ]
    });
    output::table(["product", "ring", "needed", "reached", "missing"], rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use refit_proto::{
        policy::{
            ApprovalKind::{Business, Technical},
            Person, RingDefinition, Rules, Selector, Signatories,
        },
        trust::{
            Signer as _,
            testing::{TestHost, TestRepository, key},
        },
    };

    use super::*;

    #[test]
    fn each_ring_says_whether_those_on_call_reach_it_and_what_is_missing() {
        let id = |name: &str| key(name).public().id();
        let person = |name: &str, kind| {
            let keys = BTreeMap::from([(id(name), BTreeSet::from([kind]))]);
            (name.parse::<PersonName>().unwrap(), Person { keys })
        };
        let ring = |name: &str, kinds: &[_]| RingDefinition {
            ring: name.parse().unwrap(),
            select: Selector::EveryHost,
            gate: false,
            rules: Rules { kinds: kinds.to_vec(), ..Rules::default() },
        };
        let signatories = Signatories {
            persons: [person("ann", Technical), person("bob", Business)].into(),
            gate_key: None,
        };
        let rings = vec![ring("pilot", &[]), ring("broad", &[Business]), ring("later", &[])];
        let product: Product = "payments".parse().unwrap();
        let policy = ProductPolicy::with_signatories(product, rings, signatories).unwrap();
        let mut repository = TestRepository::new();
        repository.delegate("ring.payments.pilot", &["ann", "bob"], 1);
        repository.delegate("ring.payments.broad", &["ann", "bob"], 1);
        let set = TestHost::new(&repository).refresh(&repository, &[]).unwrap();
        let said = |persons: &[&str]| {
            let persons = persons.iter().map(|name| name.parse().unwrap()).collect();
            let rows = rows(std::slice::from_ref(&policy), set.targets(), &persons);
            rows.into_iter().map(|row| (row.reached, row.missing)).collect::<Vec<_>>()
        };
        let no_keys = (false, "the ring has no keys yet".to_owned());
        let fine = (true, String::new());
        let business = (false, "nobody is left to give the business approval".to_owned());
        assert_eq!(said(&["ann"]), [fine.clone(), business, no_keys.clone()]);
        assert_eq!(said(&["ann", "bob"]), [fine.clone(), fine, no_keys]);
        let stranger = BTreeSet::from(["eve".parse().unwrap()]);
        let error = known(std::slice::from_ref(&policy), &stranger).unwrap_err().to_string();
        assert!(error.contains("no policy names a person eve"), "{error}");
    }
}
