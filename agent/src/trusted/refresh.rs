//! Bringing the metadata up to date, with IO: asks for what the refresh wants, makes durable what it
//! hands out before going on, and brings along the policy files that are pinned now.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use refit_durable::FileError;
use refit_proto::{
    names::{Digest, Product, Version},
    package::{DocumentError, Release},
    policy::{LabelPolicy, ProductPolicy},
    servers::{SERVERS, ServersPolicy},
    trust::{
        self, Next, Promotion, Refresh, Role, TargetFile, TrustedSet, metadata::limits,
        repository::ONLINE_LONGEST,
    },
};

use super::{
    Refusal, Servers, Trust, TrustError, View,
    view::{self, LABELS, products_with_policy},
};
use crate::link::{CallError, Trouble};

/// Where metadata comes from.
pub trait Source {
    /// A role's file; `None` where there is none.
    fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        max_length: u64,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, CallError>> + Send;

    /// A small file by its digest, plain. Whoever asks checks it.
    fn content(
        &self,
        digest: &Digest,
        length: u64,
    ) -> impl Future<Output = Result<Vec<u8>, CallError>> + Send;

    /// For how long what comes from here may be signed to stay fresh: long-lived metadata belongs into a
    /// bundle, and holds news back where a server or a mirror serves it.
    fn longest(&self) -> SignedDuration {
        ONLINE_LONGEST
    }
}

/// Why the metadata is not up to date.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The source could not be asked.
    #[error("metadata could not be fetched: {0}")]
    Call(#[from] CallError),
    /// What it gave is refused.
    #[error("metadata is refused ({attack}): {_0}", attack = _0.attack())]
    Trust(#[from] trust::TrustError),
    /// The policy that it gave is refused.
    #[error("policy is refused: {0}")]
    Denied(#[from] trust::Denied),
    /// It can't be stored.
    #[error(transparent)]
    File(#[from] FileError),
    /// The first root is not the one of the enrollment token.
    #[error(
        "the server's first root has digest {found}, the enrollment token's is {expected}\n\
         help: do not trust this server; have an administrator compare the roots"
    )]
    OtherRoot {
        /// The token's.
        expected: Digest,
        /// The server's.
        found: Digest,
    },
}

impl RefreshError {
    /// What was refused; `None` where nothing came that could be judged.
    pub fn refusal(&self) -> Option<Refusal> {
        let attack = match self {
            RefreshError::Trust(error) => error.attack(),
            RefreshError::Denied(_) => "mix-and-match",
            RefreshError::OtherRoot { .. } => "arbitrary-software",
            // More than any message may hold.
            RefreshError::Call(error) if error.trouble == Trouble::Refused => "endless-data",
            RefreshError::Call(_) | RefreshError::File(_) => return None,
        };
        let text = match self {
            RefreshError::Trust(error) => stable(error),
            other => first_line(&other.to_string()),
        };
        Some(Refusal { attack, text })
    }
}

/// What is wrong in words that are the same at each try: they are logged and reported once.
pub(super) fn stable(error: &trust::TrustError) -> String {
    match error {
        trust::TrustError::Expired { role, expired, .. } => format!("{role} expired at {expired}"),
        other => first_line(&other.to_string()),
    }
}

/// Without the help.
fn first_line(text: &str) -> String {
    text.split("\nhelp:").next().unwrap_or_default().to_owned()
}

impl From<TrustError> for RefreshError {
    fn from(error: TrustError) -> RefreshError {
        match error {
            TrustError::File(error) => RefreshError::File(error),
            TrustError::Trust(error) => RefreshError::Trust(error),
            TrustError::Denied(error) => RefreshError::Denied(error),
        }
    }
}

pub(super) async fn run(
    trust: &Trust,
    source: &impl Source,
    products: &BTreeSet<Product>,
) -> Result<Arc<View>, RefreshError> {
    first_root(trust, source).await?;
    let wanted = match trust.view() {
        Some(view) => view.wanted(products),
        None => vec![Role::Policy],
    };
    let set = refreshed(trust, source, &wanted).await?;
    let mut view = with_policies(trust, source, set).await?;
    // Rings that the host has just come into.
    let wanted_now = view.wanted(products);
    if wanted_now.iter().any(|role| !wanted.contains(role)) {
        let set = refreshed(trust, source, &wanted_now).await?;
        view = with_policies(trust, source, set).await?;
    }
    let counters = counters(trust, source, &view, products).await;
    view.set_counters(counters);
    trust.set_view(view);
    trust.view().ok_or(RefreshError::Trust(trust::TrustError::Unfinished))
}

pub(super) async fn servers(trust: &Trust, source: &impl Source) -> Result<Servers, RefreshError> {
    first_root(trust, source).await?;
    let set = refreshed(trust, source, &[Role::Policy]).await?;
    policy_file(trust, source, &set, SERVERS, ServersPolicy::MAX_LENGTH).await?;
    Ok(view::servers(&set, &trust.folder)?)
}

/// The counters of the releases that are current for these products. One that can't be had now is for the
/// next refresh: it only says whether this host is ahead.
async fn counters(
    trust: &Trust,
    source: &impl Source,
    view: &View,
    products: &BTreeSet<Product>,
) -> BTreeMap<Digest, u64> {
    let before = trust.view();
    let mut counters = BTreeMap::new();
    for promotion in products.iter().filter_map(|product| view.current(product)) {
        let known = before.as_ref().and_then(|view| view.counter(&promotion.digest));
        let counter = match known {
            Some(counter) => Some(counter),
            None => match release(source, promotion).await {
                Ok((release, _)) => Some(release.counter),
                Err(error) => {
                    tracing::debug!(%error, version = %promotion.version, "its counter is not known");
                    None
                }
            },
        };
        counters.extend(counter.map(|counter| (promotion.digest, counter)));
    }
    counters
}

/// The release document that a promotion names, read and as received.
///
/// # Errors
/// If it can't be had, or is not the one that is signed.
pub async fn release(
    source: &impl Source,
    promotion: &Promotion,
) -> Result<(Release, Vec<u8>), ReleaseError> {
    if promotion.length > Release::MAX_LENGTH {
        return Err(ReleaseError::Other(promotion.version.clone()));
    }
    let bytes = source.content(&promotion.digest, promotion.length).await?;
    if !promotion.target().fits(&bytes) {
        return Err(ReleaseError::Other(promotion.version.clone()));
    }
    Ok((Release::parse(&bytes)?, bytes))
}

/// Why there is no release document.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It did not come.
    #[error("the release document did not come: {0}")]
    Call(#[from] CallError),
    /// Another came, or one that nobody reads.
    #[error(
        "the document of release {0} is not the one that is signed\n\
         help: publish the release again from its source"
    )]
    Other(Version),
    /// This agent can't follow it.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// A host whose root is lost or damaged begins again with the first, which the token's hash proves.
async fn first_root(trust: &Trust, source: &impl Source) -> Result<(), RefreshError> {
    let stored = trust.folder.stored()?;
    if Refresh::start(stored, &[], trust.clock.now()).is_ok() {
        return Ok(());
    }
    let missing = || trust::TrustError::Missing { role: Role::Root };
    let root = source.metadata(&Role::Root, Some(1), limits::ROOT).await?.ok_or_else(missing)?;
    let (expected, found) = (trust.holder.root, Digest::of(&root));
    if found != expected {
        return Err(RefreshError::OtherRoot { expected, found });
    }
    tracing::info!("beginning with the first root, as the enrollment token names it");
    Ok(trust.folder.reset_root(&root)?)
}

/// One refresh, judged by the clock's floor and, where it is the floor that may be wrong, by the clock.
async fn refreshed(
    trust: &Trust,
    source: &impl Source,
    wanted: &[Role],
) -> Result<TrustedSet, RefreshError> {
    let mut result = Err(trust::TrustError::Unfinished.into());
    for now in trust.clock.readings() {
        result = refreshed_at(trust, source, wanted, now).await;
        match &result {
            Err(RefreshError::Trust(trust::TrustError::Expired { .. })) => {}
            Ok(_) | Err(_) => break,
        }
    }
    result
}

async fn refreshed_at(
    trust: &Trust,
    source: &impl Source,
    wanted: &[Role],
    now: Timestamp,
) -> Result<TrustedSet, RefreshError> {
    let refresh = Refresh::start(trust.folder.stored()?, wanted, now)?;
    let mut refresh = refresh.at_most(source.longest());
    while let Next::Fetch(request) = refresh.next()? {
        let file = source.metadata(&request.role, request.version, request.max_length).await?;
        match file {
            // Durable before going on: what is accepted is never accepted twice.
            Some(bytes) => trust.folder.apply(refresh.supply(&bytes)?)?,
            None => refresh.absent()?,
        }
    }
    Ok(refresh.into_set()?)
}

/// Fetches the policy files that are pinned and not here yet. One product's policy that can't be had
/// closes that product alone.
async fn with_policies(
    trust: &Trust,
    source: &impl Source,
    set: TrustedSet,
) -> Result<View, RefreshError> {
    let products = products_with_policy(&set);
    let mut names: Vec<_> = products
        .iter()
        .map(|product| (format!("{product}.json"), ProductPolicy::MAX_LENGTH))
        .collect();
    names.push((LABELS.to_owned(), LabelPolicy::MAX_LENGTH));
    names.push((SERVERS.to_owned(), ServersPolicy::MAX_LENGTH));
    for (name, limit) in names {
        policy_file(trust, source, &set, &name, limit).await?;
    }
    Ok(View::of(set, &trust.folder, &trust.holder)?)
}

/// Fetches a policy file that is pinned and not here yet.
async fn policy_file(
    trust: &Trust,
    source: &impl Source,
    set: &TrustedSet,
    name: &str,
    limit: u64,
) -> Result<(), RefreshError> {
    let Some(pinned) = set.policy_target(name) else { return Ok(()) };
    if trust.folder.policy(name, limit)?.is_some_and(|bytes| pinned.fits(&bytes)) {
        return Ok(());
    }
    if let Some(bytes) = pinned_file(source, name, pinned, limit).await? {
        trust.folder.put_policy(name, &bytes)?;
    }
    Ok(())
}

/// A pinned file; `None`, with a line in the log, if the source gives other bytes.
async fn pinned_file(
    source: &impl Source,
    name: &str,
    pinned: &TargetFile,
    limit: u64,
) -> Result<Option<Vec<u8>>, RefreshError> {
    let Some(digest) = pinned.digest() else { return Ok(None) };
    if pinned.length > limit {
        tracing::warn!(name, length = pinned.length, "this policy file is too large and not used");
        return Ok(None);
    }
    let bytes = source.content(&digest, pinned.length).await?;
    if !pinned.fits(&bytes) {
        tracing::warn!(name, "the server gave another policy file than the one that is signed");
        return Ok(None);
    }
    Ok(Some(bytes))
}
