//! What signed files name: the document of a published release, the policy of a product. Each is believed
//! only if it is what was signed.

use anyhow::{Context as _, ensure};
use refit_proto::{
    names::{Digest, Product, Version},
    package::{ChangePlan, Release, plan_digest},
    policy::ProductPolicy,
    trust::{Role, TrustedSet, trusted_policy},
};

use crate::{connect::Connection, content, trust::authority};

/// A release document, read and as it was signed.
pub(super) struct Document {
    pub(super) release: Release,
    pub(super) digest: Digest,
    /// As received.
    pub(super) bytes: Vec<u8>,
}

impl Document {
    /// The digest of the change plan, where there is one: an empty plan says nothing.
    pub(super) fn plan(&self) -> Option<Digest> {
        let said = self.release.plan != ChangePlan::default();
        said.then(|| plan_digest(&self.bytes)).flatten()
    }
}

/// The release document, if it is the one that the release keys signed.
pub(super) async fn document(
    connection: &Connection,
    set: &TrustedSet,
    product: &Product,
    version: &Version,
) -> anyhow::Result<Document> {
    authority(set, &Role::Release(product.clone()))?;
    let file = set.release(product, version).with_context(|| {
        format!(
            "{product} {version} is not published\n\
             help: `refit release list {product}` shows what is"
        )
    })?;
    let digest = file.digest().context("the release is signed without a SHA-256")?;
    let bytes = content::fetch(connection, digest, file.length, Release::MAX_LENGTH).await?;
    ensure!(file.fits(&bytes), "the server sent other bytes than were signed");
    let release = Release::parse(&bytes)?;
    ensure!(
        release.product == *product && release.version == *version,
        "the document of {product} {version} says that it is {} {}",
        release.product,
        release.version
    );
    Ok(Document { release, digest, bytes })
}

/// The policy of the product, where one is signed.
pub(super) async fn policy(
    connection: &Connection,
    set: &TrustedSet,
    product: &Product,
) -> anyhow::Result<Option<ProductPolicy>> {
    let Some(file) = set.policy_target(&format!("{product}.json")) else { return Ok(None) };
    let Some(digest) = file.digest() else { return Ok(None) };
    let limit = ProductPolicy::MAX_LENGTH;
    let bytes = content::fetch(connection, digest, file.length, limit).await?;
    Ok(Some(trusted_policy(set, product, &bytes)?))
}
