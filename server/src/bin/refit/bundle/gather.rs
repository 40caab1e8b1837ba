//! What a bundle has to hold, fetched and verified as a host would verify it: the metadata with a snapshot
//! and timestamp of the bundle's own, every root, and which content it takes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use refit_proto::{
    bundle::{About, PartName},
    names::{Platform, Product, RingName, Version},
    package::{FileRef, Manifest, Release},
    trust::{Content as _, Role, Stored, TrustedSet},
    wire::{GetMetadataRequest, SignForBundleRequest},
};

use crate::{Context, connect::Connection, content, failure::refused, trust};

/// How often the metadata is signed for once more, where somebody published meanwhile.
const TRIES: u32 = 3;

/// What is asked for.
pub(super) struct Wanted {
    pub(super) product: Product,
    pub(super) version: Version,
    pub(super) rings: Vec<RingName>,
    /// Empty: all that the release has.
    pub(super) platforms: Vec<Platform>,
    pub(super) valid_seconds: u64,
}

/// What goes into the file.
pub(super) struct Gathered {
    pub(super) about: About,
    pub(super) platforms: Vec<Platform>,
    /// Metadata by its part, in order.
    pub(super) metadata: BTreeMap<PartName, Vec<u8>>,
    /// Documents and content files, each once.
    pub(super) content: BTreeSet<FileRef>,
    /// The file that expires first, and when.
    pub(super) expires: (Role, Timestamp),
}

impl Wanted {
    fn roles(&self) -> Vec<Role> {
        let rings = self.rings.iter().map(|ring| Role::Ring(self.product.clone(), ring.clone()));
        [Role::Policy, Role::Release(self.product.clone())].into_iter().chain(rings).collect()
    }

    /// For the audit log.
    fn in_words(&self) -> String {
        let rings: Vec<&str> = self.rings.iter().map(RingName::as_str).collect();
        format!("{} {} for {}", self.product, self.version, rings.join(", "))
    }

    /// The release, if each ring permits it now.
    fn promoted(&self, set: &TrustedSet) -> anyhow::Result<FileRef> {
        let Wanted { product, version, .. } = self;
        let help = || {
            format!("help: promote it first: `refit release promote {product} {version} --to RING`")
        };
        let signed = set.release(product, version).with_context(|| {
            format!("{product} {version} is not published\nhelp: `refit release list {product}`")
        })?;
        let digest = signed.digest().context("the release is signed without a SHA-256")?;
        for ring in &self.rings {
            let file = set.ring(product, ring);
            match file.and_then(|file| file.current.as_ref()) {
                Some(promotion) if promotion.digest == digest => {}
                Some(promotion) => bail!(
                    "ring {ring} of {product} permits {}, not {version}\n{}",
                    promotion.version,
                    help()
                ),
                None => bail!("ring {ring} of {product} permits nothing\n{}", help()),
            }
        }
        Ok(FileRef { sha256: digest, length: signed.length })
    }
}

/// Fetches and verifies everything but the content files themselves.
pub(super) async fn gather(
    context: &Context,
    connection: &Connection,
    wanted: &Wanted,
) -> anyhow::Result<Gathered> {
    let (set, files) = signed(context, connection, wanted).await?;
    let document = wanted.promoted(&set)?;
    let release =
        content::fetch(connection, document.sha256, document.length, Release::MAX_LENGTH).await?;
    let release = Release::parse(&release)?;
    let platforms = platforms(wanted, &release)?;
    let mut content = policies(&set);
    content.insert(document);
    for platform in &platforms {
        for package in release.platforms.get(platform).into_iter().flatten() {
            let FileRef { sha256, length } = package.manifest;
            let bytes = content::fetch(connection, sha256, length, Manifest::MAX_LENGTH).await?;
            content.insert(package.manifest);
            content.extend(Manifest::parse(&bytes)?.content());
        }
    }
    let mut metadata = roots(context, connection, set.root().version()).await?;
    for (role, bytes) in files {
        if role != Role::Root {
            metadata.insert(PartName::Metadata(role), bytes);
        }
    }
    let about = About {
        product: wanted.product.clone(),
        version: wanted.version.clone(),
        digest: document.sha256,
    };
    let first = set.roles().into_iter().min_by_key(|(_, _, expires)| *expires);
    let (role, _, at) = first.context("the metadata is empty")?;
    Ok(Gathered { about, platforms, metadata, content, expires: (role, at) })
}

/// The newest metadata under a snapshot and timestamp of the bundle's own, verified as a host would.
async fn signed(
    context: &Context,
    connection: &Connection,
    wanted: &Wanted,
) -> anyhow::Result<(TrustedSet, Stored)> {
    let roles = wanted.roles();
    for tried in 1.. {
        let newest = trust::newest(context, connection, &roles).await?;
        for role in &roles {
            trust::authority(&newest, role)?;
        }
        wanted.promoted(&newest)?;
        let request =
            SignForBundleRequest { valid_seconds: wanted.valid_seconds, what: wanted.in_words() };
        let reply = connection.admin().sign_for_bundle(request).await;
        let reply = reply.map_err(refused("get a timestamp for the bundle"))?.into_inner();
        let mut files = newest.files();
        files.insert(Role::Snapshot, reply.snapshot);
        files.insert(Role::Timestamp, reply.timestamp);
        match TrustedSet::load(&files, &roles) {
            Ok(set) if set.all_refused().next().is_none() => {
                set.expired(context.now)?;
                return Ok((set, files));
            }
            // Somebody published between the two calls.
            Ok(_) | Err(_) if tried < TRIES => {}
            Ok(set) => bail!("the metadata does not fit together: {}", all_refused(&set)),
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the loop ends by returning")
}

fn all_refused(set: &TrustedSet) -> String {
    let refused: Vec<String> =
        set.all_refused().map(|(role, error)| format!("{role}: {error}")).collect();
    refused.join("; ")
}

fn platforms(wanted: &Wanted, release: &Release) -> anyhow::Result<Vec<Platform>> {
    let has: Vec<Platform> = release.platforms.keys().cloned().collect();
    if wanted.platforms.is_empty() {
        return Ok(has);
    }
    for platform in &wanted.platforms {
        ensure!(
            has.contains(platform),
            "{} {} has nothing for {platform}\nhelp: it has {}",
            wanted.product,
            wanted.version,
            has.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(has.into_iter().filter(|platform| wanted.platforms.contains(platform)).collect())
}

/// Every document that the policy role signs: a host reads who is in which ring as a whole.
fn policies(set: &TrustedSet) -> BTreeSet<FileRef> {
    let targets = set.delegated(&Role::Policy).map(|file| &file.targets).into_iter().flatten();
    targets
        .filter_map(|(_, file)| Some(FileRef { sha256: file.digest()?, length: file.length }))
        .collect()
}

/// Every root: a host may come back after years, and walks them one by one.
async fn roots(
    context: &Context,
    connection: &Connection,
    newest: u64,
) -> anyhow::Result<BTreeMap<PartName, Vec<u8>>> {
    let mut roots =
        BTreeMap::from([(PartName::Root(1), trust::OwnCopy::of(context).first_root()?)]);
    for version in 2..=newest {
        let request = GetMetadataRequest { role: Role::Root.to_string(), version };
        let reply = connection.repository().get_metadata(request).await;
        let reply = reply.map_err(refused(format!("fetch root {version}")))?.into_inner();
        roots.insert(PartName::Root(version), reply.file);
    }
    Ok(roots)
}
