//! What the stored files say, verified: this host's labels, its ring for each product, what that ring
//! permits. Answers questions; changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use refit_proto::{
    gathered::Gathered as _,
    names::{Digest, Labels, Product, RingName},
    package::DocumentError,
    policy::{LabelPolicy, ProductPolicy, RingDefinition},
    servers::{SERVERS, ServersPolicy},
    trust::{
        Closed, Content as _, Denied, Permission, Promotion, Role, TrustError::Missing, TrustedSet,
        Unreliable, permit, trusted_labels, trusted_policy, trusted_servers,
    },
};

use super::{Holder, Refusal, TrustError, TrustFolder, refresh::stable};
use crate::update::Cause;

/// The name of the file with labels set from the centre.
pub(super) const LABELS: &str = "labels.json";

/// What a host trusts at one time.
#[derive(Debug)]
pub struct View {
    set: TrustedSet,
    labels: Labels,
    policies: BTreeMap<Product, Result<ProductPolicy, Denied>>,
    servers: Servers,
    counters: BTreeMap<Digest, u64>,
}

/// What signed metadata says of the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// Nothing that can be used now: whatever was trusted before stays.
    Unknown,
    /// The policy role names none: those of the enrollment count.
    NotNamed,
    /// These.
    Named(ServersPolicy),
}

/// Why a release is not permitted here.
#[derive(Debug, thiserror::Error)]
pub enum Denial {
    /// The product as a whole.
    #[error(transparent)]
    Product(#[from] Denied),
    /// The policy of the product is unknown here, or was refused.
    #[error("{0}")]
    Policy(String),
    /// The ring names it, but it is closed.
    #[error(transparent)]
    Closed(Closed),
    /// The ring does not name it.
    #[error(
        "ring {ring} of {product} does not permit release {digest}\n\
         help: promote it to the ring with `refit release promote`"
    )]
    NotNamed {
        /// Of what.
        product: Product,
        /// This host's ring.
        ring: RingName,
        /// The release document.
        digest: Digest,
    },
    /// The server says that the host is in another ring than signed definitions do.
    #[error(
        "the offer is for ring {offered} of {product}, this host is in ring {own}\nhelp: nothing is installed; the server's rings lag behind what is signed, or it is not to be trusted"
    )]
    OtherRing {
        /// Of what.
        product: Product,
        /// As signed.
        own: RingName,
        /// As the server says.
        offered: String,
    },
}

impl Denial {
    /// Whether it is the age of the metadata alone that stands in the way.
    pub fn is_expired(&self) -> bool {
        use refit_proto::trust::TrustError;
        let expired = |cause: &TrustError| matches!(cause, TrustError::Expired { .. });
        match self {
            Denial::Product(Denied::Expired(_)) => true,
            Denial::Product(Denied::NoPolicyRole(cause)) => expired(cause),
            Denial::Product(Denied::Unusable { cause, .. }) => expired(cause),
            Denial::Closed(Closed::UnknownBefore { cause: Unreliable::File(cause), .. }) => {
                expired(cause)
            }
            Denial::Product(_)
            | Denial::Policy(_)
            | Denial::Closed(_)
            | Denial::NotNamed { .. }
            | Denial::OtherRing { .. } => false,
        }
    }
}

impl Denial {
    /// The word for it, in the journal and in reports.
    pub fn cause(&self) -> Cause {
        match self {
            _ if self.is_expired() => Cause::MetadataExpired,
            Denial::Product(Denied::Unapproved { .. })
            | Denial::Closed(Closed::UnknownBefore { cause: Unreliable::Unapproved(_), .. }) => {
                Cause::NotApproved
            }
            Denial::Closed(
                Closed::Demanded { .. } | Closed::NotOverridable { .. } | Closed::NotBefore { .. },
            ) => Cause::NotProven,
            Denial::Product(_)
            | Denial::Policy(_)
            | Denial::Closed(_)
            | Denial::NotNamed { .. }
            | Denial::OtherRing { .. } => Cause::NotPermitted,
        }
    }
}

impl View {
    /// Verifies what is stored, with the release and ring files of every product that has some here.
    pub(super) fn load(folder: &TrustFolder, holder: &Holder) -> Result<View, TrustError> {
        let stored = folder.stored()?;
        let products = stored.keys().filter_map(|role| match role {
            Role::Release(product) => Some(product.clone()),
            _ => None,
        });
        let products = products.gathered();
        // First who is in which ring; then what those rings permit.
        let set = TrustedSet::load(&stored, &[Role::Policy])?;
        let mut view = View::of(set, folder, holder)?;
        view.set = TrustedSet::load(&stored, &view.wanted(&products))?;
        Ok(view)
    }

    /// Who is in which ring by this set and the stored policy files.
    pub(super) fn of(
        set: TrustedSet,
        folder: &TrustFolder,
        holder: &Holder,
    ) -> Result<View, TrustError> {
        let labels = labels(&set, folder, holder)?;
        let mut policies = BTreeMap::new();
        for product in products_with_policy(&set) {
            let name = format!("{product}.json");
            let bytes = folder.policy(&name, ProductPolicy::MAX_LENGTH)?.unwrap_or_default();
            let policy = trusted_policy(&set, &product, &bytes);
            policies.insert(product, policy);
        }
        let servers = servers(&set, folder)?;
        Ok(View { set, labels, policies, servers, counters: BTreeMap::new() })
    }

    /// The roles whose files are needed for these products.
    pub(super) fn wanted(&self, products: &BTreeSet<Product>) -> Vec<Role> {
        let mut wanted = vec![Role::Policy];
        for product in products {
            wanted.push(Role::Release(product.clone()));
            // Its own ring, and those that must name the same release before.
            let Some(definition) = self.definition(product) else { continue };
            let rings = [&definition.ring].into_iter().chain(&definition.rules.after);
            wanted.extend(rings.map(|ring| Role::Ring(product.clone(), ring.clone())));
        }
        wanted
    }

    /// The ring that this host is in, by signed definitions and its own labels. `None`: no ring selects
    /// it, or that can't be told.
    pub fn ring(&self, product: &Product) -> Option<RingName> {
        self.definition(product).map(|definition| definition.ring.clone())
    }

    /// What defines that ring.
    fn definition(&self, product: &Product) -> Option<&RingDefinition> {
        self.policies.get(product)?.as_ref().ok()?.ring_of(&self.labels)
    }

    /// The ring of each product that has signed rings.
    pub fn rings(&self) -> impl Iterator<Item = (&Product, Option<RingName>)> {
        self.policies.keys().map(|product| (product, self.ring(product)))
    }

    /// What this host may install of a product.
    ///
    /// # Errors
    /// Why it may install nothing.
    pub fn permission(&self, product: &Product, now: Timestamp) -> Result<Permission, Denial> {
        let policy = match self.policies.get(product) {
            Some(Ok(policy)) => policy,
            Some(Err(denied)) => return Err(Denial::Policy(denied.to_string())),
            None => return Err(Denied::NoPolicy(product.clone()).into()),
        };
        Ok(permit(&self.set, policy, &self.labels, product, now)?)
    }

    /// The promotion that permits this release here and now.
    ///
    /// # Errors
    /// Why it is not permitted.
    pub fn permit(
        &self,
        product: &Product,
        digest: &Digest,
        now: Timestamp,
    ) -> Result<(RingName, Promotion), Denial> {
        let permission = self.permission(product, now)?;
        if let Some(promotion) = permission.allows(digest) {
            return Ok((permission.ring.clone(), promotion.clone()));
        }
        // A ring that names the release but keeps it closed says more than one that does not name it.
        let named = self.set.ring(product, &permission.ring);
        let version = named.and_then(|file| file.promotion_of(digest)).map(|p| p.version.clone());
        let closed =
            permission.closed.into_iter().find(|closed| Some(closed.version()) == version.as_ref());
        Err(match closed {
            Some(closed) => Denial::Closed(closed),
            None => Denial::NotNamed {
                product: product.clone(),
                ring: permission.ring,
                digest: *digest,
            },
        })
    }

    /// What the ring of this host should run.
    pub fn current(&self, product: &Product) -> Option<&Promotion> {
        let ring = self.ring(product)?;
        self.set.ring(product, &ring)?.current.as_ref()
    }

    /// Where the servers are.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The counter of a release that is current, as its document says it; `None` where it is not known.
    pub fn counter(&self, digest: &Digest) -> Option<u64> {
        self.counters.get(digest).copied()
    }

    pub(super) fn set_counters(&mut self, counters: BTreeMap<Digest, u64>) {
        self.counters = counters;
    }

    /// Whether the metadata has expired: then nothing new begins.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.set.expired(now).is_err()
    }

    /// When the first of the files that hold for every product expires.
    pub fn expires(&self) -> Option<Timestamp> {
        [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets]
            .iter()
            .filter_map(|role| self.set.expires(role))
            .min()
    }

    /// Version of the timestamp.
    pub fn timestamp_version(&self) -> u64 {
        self.set.timestamp().version()
    }

    /// The moment at which the newest file was signed, as far as it says so: a timestamp's version is
    /// the seconds since 1970, and never more than its expiry.
    pub fn signed_at(&self) -> Timestamp {
        let version = i64::try_from(self.timestamp_version()).unwrap_or(0);
        let expires = self.set.expires(&Role::Timestamp).map_or(0, Timestamp::as_second);
        Timestamp::from_second(version.min(expires)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The signed files.
    pub fn set(&self) -> &TrustedSet {
        &self.set
    }

    /// This host's labels: its token's, overridden by those set from the centre.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The first of these refusals. A role that is not there yet is no attack.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let mut refused = self.set.all_refused();
        let (_, error) = refused.find(|(_, error)| !matches!(error, Missing { .. }))?;
        Some(Refusal { attack: error.attack(), text: stable(error) })
    }

    /// Roles whose files were refused, and why.
    pub fn refused(&self) -> impl Iterator<Item = String> {
        self.set.all_refused().map(|(_, error)| format!("({}) {}", error.attack(), stable(error)))
    }
}

/// The host's labels. Where the policy role pins central labels that are not here or can't be read, which
/// ring the host is in can't be told either.
fn labels(set: &TrustedSet, folder: &TrustFolder, holder: &Holder) -> Result<Labels, TrustError> {
    let Some(_pinned) = set.policy_target(LABELS) else { return Ok(holder.labels.clone()) };
    let bytes = folder.policy(LABELS, LabelPolicy::MAX_LENGTH)?.unwrap_or_default();
    Ok(trusted_labels(set, &bytes)?.labels_of(&holder.host, &holder.labels))
}

/// Where the servers are by this set and the stored files.
pub(super) fn servers(set: &TrustedSet, folder: &TrustFolder) -> Result<Servers, TrustError> {
    if set.delegated(&Role::Policy).is_none() {
        return Ok(Servers::Unknown);
    }
    if set.policy_target(SERVERS).is_none() {
        return Ok(Servers::NotNamed);
    }
    let bytes = folder.policy(SERVERS, ServersPolicy::MAX_LENGTH)?.unwrap_or_default();
    Ok(match trusted_servers(set, &bytes) {
        Ok(servers) => Servers::Named(servers),
        Err(error) => {
            tracing::warn!(%error, "the signed list of servers can't be used; those known before stay");
            Servers::Unknown
        }
    })
}

/// Products whose rings the policy role signs.
pub(super) fn products_with_policy(set: &TrustedSet) -> BTreeSet<Product> {
    let Some(policy) = set.delegated(&Role::Policy) else { return BTreeSet::new() };
    let names = policy.targets.keys().filter_map(|path| path.strip_prefix("policy/"));
    names
        .filter(|name| *name != LABELS && *name != SERVERS)
        .filter_map(|name| Product::parse(name.strip_suffix(".json")?).ok())
        .gathered()
}

/// What can't be followed to the letter is refused.
impl From<DocumentError> for TrustError {
    fn from(error: DocumentError) -> TrustError {
        TrustError::Denied(Denied::UnreadablePolicy(error))
    }
}
