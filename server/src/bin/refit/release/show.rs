//! `refit release show`: one release, and what was signed about it, by whom: by the release keys, and by
//! each ring that names it. Everything is verified from the own root.

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, Product, RingName, Version},
    package::{PlanField, Release, Urgency},
    policy::{ApprovalKind, ProductPolicy, RingDefinition},
    printable::{printable, printable_lines},
    trust::{
        Approval, Content as _, Evidence, KeyId, Override, Promotion, Role, Standing, TrustedSet,
        approval, fits_document, unmet,
    },
};
use serde::Serialize;

use super::document::{Document, document, policy};
use crate::{Context, connect::Connection, output::Output, trust};

/// Options of `refit release show`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Of which product.
    product: Product,
    /// Which one.
    #[arg(value_name = "VERSION")]
    label: Version,
    #[command(flatten)]
    output: Output,
}

/// A release with what was signed about it.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    release: Release,
    digest: Digest,
    signed_by: Vec<String>,
    rings: Vec<ShownRing>,
}

/// What a ring says of it.
#[derive(Debug, Serialize)]
struct ShownRing {
    ring: RingName,
    /// Where it stands; `None`: the ring does not name it.
    standing: Option<Standing>,
    expires: Option<Timestamp>,
    signed_by: Vec<Signatory>,
    needed: u64,
    /// Why no host of the ring would take it.
    closed: Option<String>,
    evidence: Vec<Evidence>,
    change_plan: Option<Digest>,
    approvals: Vec<Approval>,
    overrides: Vec<Override>,
    retry: bool,
    floor: Option<u64>,
}

/// Who signed a ring's file, as the ring counts them.
#[derive(Debug, Serialize)]
struct Signatory {
    who: String,
    /// The kinds of approval that their keys may give.
    may_approve: Vec<ApprovalKind>,
}

pub(super) async fn run(
    context: &Context,
    connection: &Connection,
    args: Args,
) -> anyhow::Result<()> {
    let Args { product, label, output } = args;
    let mut roles = vec![Role::Release(product.clone()), Role::Policy];
    let set = trust::newest(context, connection, &roles).await?;
    let document = document(connection, &set, &product, &label).await?;
    let policy = policy(connection, &set, &product).await?;
    let rings = policy.iter().flat_map(|policy| &policy.rings);
    roles.extend(rings.map(|ring| Role::Ring(product.clone(), ring.ring.clone())));
    let set = trust::newest(context, connection, &roles).await?;
    let shown = shown(&set, policy.as_ref(), document, context.now);
    output.print(&shown, in_words)
}

fn shown(
    set: &TrustedSet,
    policy: Option<&ProductPolicy>,
    document: Document,
    now: Timestamp,
) -> Shown {
    let role = Role::Release(document.release.product.clone());
    let signers = set.delegated(&role).map(|file| file.signers()).into_iter().flatten();
    let signed_by = signers.map(|key| name_of(policy, key)).collect();
    let rings = policy.into_iter().flat_map(|policy| {
        policy.rings.iter().map(|definition| ring(set, policy, definition, &document, now))
    });
    let rings = rings.collect();
    Shown { signed_by, rings, digest: document.digest, release: document.release }
}

/// A key by its person.
fn name_of(policy: Option<&ProductPolicy>, key: &KeyId) -> String {
    match policy.and_then(|policy| policy.person_of(key)) {
        Some(person) => person.to_string(),
        None => format!("key {}", key.short()),
    }
}

fn ring(
    set: &TrustedSet,
    policy: &ProductPolicy,
    definition: &RingDefinition,
    document: &Document,
    now: Timestamp,
) -> ShownRing {
    let role = Role::Ring(policy.product.clone(), definition.ring.clone());
    let held = set.delegated(&role);
    let parties =
        held.map(|held| approval::parties(policy, definition, held.signers())).unwrap_or_default();
    let file = set.ring(&policy.product, &definition.ring);
    let promotion = file.and_then(|file| file.promotion_of(&document.digest));
    let terms = promotion.map(|promotion| promotion.terms.clone());
    let retried = |terms: &refit_proto::trust::Terms| terms.retry.contains(&document.digest);
    ShownRing {
        ring: definition.ring.clone(),
        standing: terms.as_ref().map(|terms| terms.standing),
        expires: held.map(|held| held.expires()),
        signed_by: parties
            .into_iter()
            .map(|(who, kinds)| Signatory {
                who: who.to_string(),
                may_approve: kinds.into_iter().collect(),
            })
            .collect(),
        needed: set.targets().delegation(&role).map_or(0, |it| it.authority.threshold),
        closed: promotion.and_then(|it| closed(set, policy, definition, it, document, now)),
        retry: terms.as_ref().is_some_and(retried),
        floor: terms.as_ref().and_then(|terms| terms.min_release_counter),
        change_plan: terms.as_ref().and_then(|terms| terms.change_plan),
        evidence: terms.as_ref().map(|terms| terms.evidence.clone()).unwrap_or_default(),
        approvals: terms.as_ref().map(|terms| terms.approvals.clone()).unwrap_or_default(),
        overrides: terms.map(|terms| terms.overrides).unwrap_or_default(),
    }
}

/// Why a host would not take it, without the help.
fn closed(
    set: &TrustedSet,
    policy: &ProductPolicy,
    definition: &RingDefinition,
    promotion: &Promotion,
    document: &Document,
    now: Timestamp,
) -> Option<String> {
    let unapproved = match approval::of_ring(set, policy, definition) {
        Some(Err(cause)) => Some(cause.to_string()),
        Some(Ok(_)) | None => None,
    };
    let lacking = || unmet(set, policy, definition, promotion, now).map(|it| it.to_string());
    let fits = || {
        fits_document(&policy.product, promotion, &document.bytes, &document.release)
            .err()
            .map(|misfit| misfit.to_string())
    };
    let text = unapproved.or_else(lacking).or_else(fits)?;
    Some(text.split("\nhelp:").next().unwrap_or_default().to_owned())
}

fn in_words(shown: &Shown) -> String {
    let (release, plan) = (&shown.release, &shown.release.plan);
    let mut lines = vec![
        format!("{} {} (counter {})", release.product, release.version, release.counter),
        format!("digest    {}", shown.digest),
        format!("signed by {}", shown.signed_by.join(", ")),
    ];
    let told = [PlanField::Notes, PlanField::Documents];
    for field in PlanField::ALL.into_iter().filter(|field| !told.contains(field)) {
        let said = field.said(release);
        lines.extend(said.map(|text| format!("{:<9} {text}", field.as_str())));
    }
    if plan.urgency != Urgency::default() {
        lines.push(format!("{:<9} {}", "urgency", plan.urgency.as_str()));
    }
    lines.extend(release.links.iter().map(|link| format!("link      {link}")));
    for (platform, packages) in &release.platforms {
        if packages.is_empty() {
            lines.push(format!("removes   the product, on {platform}"));
        }
        for package in packages {
            lines.push(format!(
                "package   {} on {platform}, manifest {}",
                package.name,
                package.manifest.sha256.short()
            ));
        }
    }
    lines.extend(release.removal.paths.iter().map(|path| format!("removes   {path}")));
    if release.removal.purge {
        lines.push("removes   Debian packages with their own scripts (purge)".to_owned());
    }
    let mut lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    lines.extend(shown.rings.iter().map(|ring| {
        let words = ring_in_words(ring);
        format!("\n{}", words.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n"))
    }));
    if !release.notes.is_empty() {
        lines.push(format!("\n{}", printable_lines(&release.notes)));
    }
    lines.join("\n")
}

fn ring_in_words(shown: &ShownRing) -> Vec<String> {
    let Some(standing) = shown.standing else {
        return vec![format!("ring {}: not promoted", shown.ring)];
    };
    let standing = match standing {
        Standing::Current => "the one to run",
        Standing::Back => "the one to go back to",
        Standing::Barrier => "a barrier",
    };
    let mut lines = vec![format!("ring {}: {standing}", shown.ring)];
    let signers = shown.signed_by.iter().map(|by| match by.may_approve.is_empty() {
        true => by.who.clone(),
        false => format!("{} ({})", by.who, listed(&by.may_approve)),
    });
    let signers: Vec<String> = signers.collect();
    lines.push(format!("  signed by    {} (needs {})", signers.join(", "), shown.needed));
    for shown in &shown.evidence {
        lines.push(format!("  evidence     {}, sha256 {}", shown.kind, shown.sha256));
    }
    lines.extend(shown.change_plan.map(|plan| format!("  change plan  sha256 {plan}")));
    for said in &shown.approvals {
        lines.push(format!(
            "  written by   {} ({}), sha256 {}",
            said.person, said.kind, said.sha256
        ));
    }
    for passed in &shown.overrides {
        lines.push(format!("  passes over  {}: {}", passed.gate, passed.reason));
    }
    if shown.retry {
        lines.push("  retry        hosts on which it failed may try it again".to_owned());
    }
    lines.extend(shown.floor.map(|floor| format!("  floor        {floor}")));
    lines.extend(shown.expires.map(|expires| format!("  lasts until  {expires}")));
    lines.extend(shown.closed.as_ref().map(|why| format!("  no host takes it: {why}")));
    lines
}

fn listed(kinds: &[ApprovalKind]) -> String {
    kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}
