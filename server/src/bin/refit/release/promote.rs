//! `refit release promote`: the signed act that permits a release on a ring.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context as _;
use refit_proto::{
    names::{Digest, PersonName, Product, RingName, Version},
    package::Release,
    policy::{ApprovalKind, EvidenceKind, ProductPolicy, UnknownWord},
    trust::{
        Approval, Evidence, Override, RingFile, Role, Standing, Terms, TrustedSet, approval,
        verify::signers,
    },
};

use super::document::{Document, document, policy};
use crate::{
    Context,
    conflict::Situation,
    connect::Connection,
    output,
    publish::{Change, base, carry_out},
    signing, status, trust,
};

/// Options of `refit release promote`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Of which product.
    product: Product,
    /// Which release.
    #[arg(value_name = "VERSION")]
    label: Version,
    /// To which ring.
    #[arg(long = "to", value_name = "RING")]
    ring: RingName,
    /// A key of the ring; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Let hosts try it again where it failed before.
    #[arg(long)]
    retry: bool,
    /// From now on, hosts that run this release take none with a smaller counter.
    #[arg(long, value_name = "COUNTER")]
    floor: Option<u64>,
    /// A test result that its signers were shown: functional, performance or security.
    #[arg(long, value_name = "KIND=FILE", value_parser = bound::<EvidenceKind>)]
    evidence: Vec<(EvidenceKind, PathBuf)>,
    /// What somebody wrote to say yes. The approval itself is a signature.
    #[arg(long, value_name = "PERSON:KIND=FILE", value_parser = approval)]
    approval: Vec<(PersonName, ApprovalKind, PathBuf)>,
    /// Pass over a gate, where the ring lets it: functional, performance, security, change-plan, after.
    #[arg(long = "override", value_name = "GATE=REASON", value_parser = override_)]
    overrides: Vec<Override>,
}

/// `security=scan.txt`.
fn bound<T: FromStr<Err = UnknownWord>>(text: &str) -> Result<(T, PathBuf), String> {
    let (word, file) =
        text.split_once('=').ok_or("write it as KIND=FILE, for example security=scan.txt")?;
    Ok((word.parse().map_err(|error: UnknownWord| error.to_string())?, file.into()))
}

/// `alice:business=minutes.txt`.
fn approval(text: &str) -> Result<(PersonName, ApprovalKind, PathBuf), String> {
    let usage = "write it as PERSON:KIND=FILE, for example alice:business=minutes.txt";
    let (person, rest) = text.split_once(':').ok_or(usage)?;
    let (kind, file) = bound(rest)?;
    Ok((PersonName::parse(person).map_err(|error| error.to_string())?, kind, file))
}

/// `after=incident 7`.
fn override_(text: &str) -> Result<Override, String> {
    let (gate, reason) =
        text.split_once('=').ok_or("write it as GATE=REASON, for example after=\"incident 7\"")?;
    let reason = reason.trim().to_owned();
    if reason.is_empty() {
        return Err(format!("passing over {gate} needs a reason"));
    }
    Ok(Override { gate: gate.parse().map_err(|error: UnknownWord| error.to_string())?, reason })
}

/// The digest of a file that is shown to the signers.
fn digest(path: &Path) -> anyhow::Result<Digest> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Digest::of(&bytes))
}

/// What is promoted, and as what.
struct Wanted<'a> {
    args: &'a Args,
    release: Release,
    digest: Digest,
    /// What is bound beyond length and hash.
    terms: Terms,
    /// What is current now did not prove itself on the ring, so it must not become the way back.
    over_unproven: bool,
    /// Who counts, and for what.
    policy: Option<ProductPolicy>,
}

pub(super) async fn run(
    context: &Context,
    connection: &Connection,
    args: Args,
) -> anyhow::Result<()> {
    let roles = [Role::Release(args.product.clone()), Role::Policy];
    let set = trust::newest(context, connection, &roles).await?;
    let policy = policy(connection, &set, &args.product).await?;
    let found = document(connection, &set, &args.product, &args.label).await?;
    let terms = args.terms(found.digest, found.plan())?;
    let Document { release, digest, .. } = found;
    let mut wanted = Wanted { args: &args, release, digest, terms, over_unproven: false, policy };
    let set = base(context, connection, &wanted).await?;
    if wanted.is_promoted(&set) {
        return output::line(&format!("{} is promoted already", wanted.what("")));
    }
    if let Some(current) = wanted.unproven_current(&set, connection).await? {
        let ring = &args.ring;
        output::line(&format!("{current} did not prove itself on {ring}: it becomes no way back"))?;
        wanted.over_unproven = true;
    }
    let carried = carry_out(context, connection, &wanted, set).await?;
    carried.tell(&format!(
        "{}\nnext: refit rollout status {}",
        wanted.what("promoted"),
        args.product
    ))
}

impl Wanted<'_> {
    fn what(&self, act: &str) -> String {
        let Args { product, label, ring, .. } = self.args;
        format!("{act} {product} {label} to {ring}").trim_start().to_owned()
    }

    fn ring_file<'a>(&self, set: &'a TrustedSet) -> Option<&'a RingFile> {
        set.ring(&self.args.product, &self.args.ring)
    }

    /// Current already, and nothing new is said of it.
    fn is_promoted(&self, set: &TrustedSet) -> bool {
        let current = self.ring_file(set).and_then(|file| file.current.as_ref());
        let Args { retry, floor, evidence, approval, overrides, .. } = self.args;
        let says = evidence.len() + approval.len() + overrides.len();
        current.is_some_and(|current| current.digest == self.digest)
            && !retry
            && floor.is_none()
            && says == 0
    }

    /// The version that is current now, if its rollout has not come to a good end. Whether it has is
    /// the server's word; it only chooses between releases that were signed for this ring.
    async fn unproven_current(
        &self,
        set: &TrustedSet,
        connection: &Connection,
    ) -> anyhow::Result<Option<Version>> {
        let current = self.ring_file(set).and_then(|file| file.current.as_ref());
        let Some(current) = current.filter(|current| current.digest != self.digest) else {
            return Ok(None);
        };
        let status = status::fleet(connection, self.args.product.as_str()).await?;
        let rings = status.products.iter().flat_map(|product| &product.rings);
        let ring = rings.into_iter().find(|ring| ring.ring == self.args.ring.as_str());
        let proven = ring.and_then(|ring| ring.rollout.as_ref()).is_some_and(|rollout| {
            rollout.digest == current.digest.to_string() && rollout.state == "done"
        });
        Ok((!proven).then(|| current.version.clone()))
    }
}

impl Args {
    fn terms(&self, release: Digest, change_plan: Option<Digest>) -> anyhow::Result<Terms> {
        let evidence = self
            .evidence
            .iter()
            .map(|(kind, file)| Ok(Evidence { kind: *kind, sha256: digest(file)? }));
        let approvals = self.approval.iter().map(|(person, kind, file)| {
            Ok(Approval { person: person.clone(), kind: *kind, sha256: digest(file)? })
        });
        Ok(Terms {
            evidence: evidence.collect::<anyhow::Result<_>>()?,
            change_plan,
            approvals: approvals.collect::<anyhow::Result<_>>()?,
            overrides: self.overrides.clone(),
            retry: if self.retry { vec![release] } else { Vec::new() },
            min_release_counter: self.floor,
            ..Terms::new(Standing::Current)
        })
    }
}

impl Change for Wanted<'_> {
    fn role(&self) -> Role {
        Role::Ring(self.args.product.clone(), self.args.ring.clone())
    }

    fn also(&self) -> Vec<Role> {
        vec![Role::Release(self.args.product.clone())]
    }

    fn act(&self) -> String {
        self.what("promote")
    }

    fn file(&self, context: &Context, set: &TrustedSet, _: u32) -> anyhow::Result<Vec<u8>> {
        let releases = set
            .delegated(&Role::Release(self.args.product.clone()))
            .context("the product has no releases")?;
        let mut draft = signing::draft(context, set, self.role())?;
        let (version, counter) = (&self.release.version, self.release.counter);
        if self.over_unproven {
            draft.promote_over_unproven(releases, version, counter, self.terms.clone())?;
        } else {
            draft.promote(releases, version, counter, self.terms.clone())?;
        }
        signing::signed(context, set, &draft, &self.args.keys)
    }

    /// A ring may ask for more than a number of keys: for persons, and for kinds of approval.
    fn waits_for_others(&self, set: &TrustedSet, file: &[u8]) -> anyhow::Result<bool> {
        let role = self.role();
        let (authority, _) = trust::authority(set, &role)?;
        let signed = signers(file, &role, authority)?;
        let policy = self.policy.as_ref();
        let short = policy.and_then(|policy| {
            let definition = policy.ring(&self.args.ring)?;
            approval::suffice(policy, definition, &signed, authority.threshold).err()
        });
        if let Some(short) = &short {
            output::line(&short.to_string())?;
        }
        Ok(short.is_some() || trust::is_missing_signatures(set, &role, file)?)
    }

    /// A ring is one decision: whatever it names, current, back or barrier, is ours as well.
    fn situation(&self, base: &TrustedSet, newest: &TrustedSet) -> Situation {
        let current = self.ring_file(newest).and_then(|file| file.current.as_ref());
        Situation {
            there: current.is_some_and(|current| {
                current.digest == self.digest && current.terms == self.terms
            }),
            touched: self.ring_file(base) != self.ring_file(newest),
        }
    }
}
