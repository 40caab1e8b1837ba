//! A publisher's side: keys, metadata and content for one product, `payments`, with rings `pilot` and
//! `early`.

use std::collections::BTreeMap;

use refit_proto::{
    names::{Digest, Product, Version},
    package::{FileRef, PackageRef, Release},
    policy::{ProductPolicy, RingDefinition, Rules, Selector},
    trust::{
        Authority, LocalKey, PublicKey, Role, Signer,
        edit::{Draft, KeyList, RootKeys},
        metadata::Targets,
        promotion::{Standing, Terms},
        verify::{Expected, Trusted, verify},
    },
    wire,
};
use serde_json::json;
use tonic::Status;

use crate::fleet::{Caller, Fleet};

pub(crate) fn role(name: &str) -> Role {
    Role::parse(name).unwrap()
}

/// Every role's key is its own, and always the same.
pub(crate) fn key(role: &Role) -> LocalKey {
    LocalKey::from_seed(Digest::of(role.to_string().as_bytes()).as_bytes())
}

fn keys(key: &PublicKey) -> KeyList {
    KeyList::new([key.clone()], 1)
}

/// Who publishes, and the newest files that they have pushed.
pub(crate) struct Publisher {
    pub(crate) person: Caller,
    files: BTreeMap<Role, Vec<u8>>,
    counters: BTreeMap<Version, u64>,
    /// Of roles that need another signature than that of their own key.
    pub(crate) second: BTreeMap<Role, LocalKey>,
}

impl Publisher {
    /// Founds the repository and defines two rings.
    pub(crate) async fn found(fleet: &Fleet) -> Publisher {
        let person = fleet.alice().await;
        let request = wire::GetServerKeysRequest {};
        let server = fleet.admin(&person).get_server_keys(request).await.unwrap().into_inner();
        let freshness = PublicKey::from_json(server.keys["freshness"].as_bytes()).unwrap();
        let (files, counters, second) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut publisher = Publisher { person, files, counters, second };

        let public = |name: &str| keys(key(&role(name)).public());
        let (snapshot, timestamp) = (keys(&freshness), keys(&freshness));
        let root =
            RootKeys { root: public("root"), targets: public("targets"), snapshot, timestamp };
        let root = Draft::first_root(&root, fleet.now()).unwrap();
        let mut targets = Draft::first(Role::Targets, fleet.now()).unwrap();
        for name in ["policy", "release.payments", "ring.payments.pilot", "ring.payments.early"] {
            targets.delegate(&role(name), &public(name)).unwrap();
        }
        let policy = policy(&["pilot", "early"]);
        publisher.upload(fleet, &policy).await.unwrap();
        let mut signed = Draft::first(Role::Policy, fleet.now()).unwrap();
        signed.set_policy("payments.json", &policy).unwrap();
        publisher.push(fleet, &[root, targets, signed]).await.unwrap();
        publisher
    }

    /// The newest file of a role.
    pub(crate) fn held(&self, role: &Role) -> Option<Vec<u8>> {
        self.files.get(role).cloned()
    }

    /// The next version of a role's file.
    pub(crate) fn draft(&self, fleet: &Fleet, role: &Role) -> Draft {
        match self.files.get(role) {
            Some(held) => Draft::next(role.clone(), held, fleet.now()).unwrap(),
            None => Draft::first(role.clone(), fleet.now()).unwrap(),
        }
    }

    /// A draft's file, signed by its role's key, and by the second where there is one.
    pub(crate) fn signed(&self, draft: &Draft) -> Vec<u8> {
        let own = key(draft.role());
        let second = self.second.get(draft.role()).map(|key| key as &dyn Signer);
        let signers: Vec<&dyn Signer> = [&own as &dyn Signer].into_iter().chain(second).collect();
        draft.sign(&signers).unwrap()
    }

    pub(crate) async fn push(&mut self, fleet: &Fleet, drafts: &[Draft]) -> Result<(), Status> {
        let signed = drafts.iter().map(|draft| (draft.role().clone(), self.signed(draft)));
        let signed: Vec<_> = signed.collect();
        let files = signed
            .iter()
            .map(|(role, file)| wire::MetadataFile { role: role.to_string(), file: file.clone() });
        let request = wire::PushMetadataRequest { files: files.collect() };
        fleet.repository(&self.person).push_metadata(request).await?;
        self.files.extend(signed);
        Ok(())
    }

    pub(crate) async fn upload(&self, fleet: &Fleet, plain: &[u8]) -> Result<FileRef, Status> {
        let file = FileRef::to(plain);
        self.upload_as(fleet, file, plain).await.map(|()| file)
    }

    /// Uploads these bytes under a digest and length that need not be theirs.
    pub(crate) async fn upload_as(
        &self,
        fleet: &Fleet,
        file: FileRef,
        plain: &[u8],
    ) -> Result<(), Status> {
        let frame = zstd::encode_all(plain, 3).unwrap();
        let mut messages: Vec<wire::PutContentRequest> = frame
            .chunks(1000)
            .map(|data| wire::PutContentRequest { data: data.to_vec(), ..Default::default() })
            .collect();
        messages[0].sha256 = file.sha256.as_bytes().to_vec();
        messages[0].length = file.length;
        let stream = tokio_stream::iter(messages);
        fleet.repository(&self.person).put_content(stream).await.map(drop)
    }

    /// A release of one file, uploaded; its document.
    pub(crate) async fn build(
        &mut self,
        fleet: &Fleet,
        version: &str,
        counter: u64,
        program: &[u8],
    ) -> Vec<u8> {
        let file = self.upload(fleet, program).await.unwrap();
        let manifest = json!({
            "_type": "manifest", "format": 1, "package": "app", "installer": "tree",
            "entries": [{
                "kind": "file", "path": "app", "mode": 0o644,
                "sha256": file.sha256.to_string(), "length": file.length,
            }],
            "health": "none",
        });
        let manifest = self.upload(fleet, manifest.to_string().as_bytes()).await.unwrap();
        let package = PackageRef { name: "app".parse().unwrap(), manifest };
        let platforms = BTreeMap::from([("any".parse().unwrap(), vec![package])]);
        let version: Version = version.parse().unwrap();
        self.counters.insert(version.clone(), counter);
        Release::new(product(), version, counter, platforms).to_bytes()
    }

    /// Signs and pushes a release document.
    pub(crate) async fn publish(
        &mut self,
        fleet: &Fleet,
        version: &str,
        document: &[u8],
    ) -> Result<(), Status> {
        let mut draft = self.draft(fleet, &role("release.payments"));
        draft.add_release(&version.parse().unwrap(), document).unwrap();
        self.push(fleet, &[draft]).await
    }

    pub(crate) async fn promote(
        &mut self,
        fleet: &Fleet,
        version: &str,
        ring: &str,
    ) -> Result<(), Status> {
        self.promote_on(fleet, version, ring, Terms::new(Standing::Current)).await
    }

    /// Promotes on terms that the tool need not allow.
    pub(crate) async fn promote_on(
        &mut self,
        fleet: &Fleet,
        version: &str,
        ring: &str,
        terms: Terms,
    ) -> Result<(), Status> {
        let draft = self.promotion(fleet, version, ring, terms);
        self.push(fleet, &[draft]).await
    }

    /// The next file of a ring, with a promotion on these terms.
    pub(crate) fn promotion(
        &self,
        fleet: &Fleet,
        version: &str,
        ring: &str,
        terms: Terms,
    ) -> Draft {
        let mut draft = self.draft(fleet, &role(&format!("ring.payments.{ring}")));
        let version: Version = version.parse().unwrap();
        let counter = self.counters[&version].max(terms.min_release_counter.unwrap_or(0));
        draft.promote(&self.releases(), &version, counter, terms).unwrap();
        draft
    }

    /// Signs and pushes a policy of the product.
    pub(crate) async fn set_policy(&mut self, fleet: &Fleet, policy: &[u8]) -> Result<(), Status> {
        self.upload(fleet, policy).await?;
        let mut draft = self.draft(fleet, &Role::Policy);
        draft.set_policy("payments.json", policy).unwrap();
        self.push(fleet, &[draft]).await
    }

    fn releases(&self) -> Trusted<Targets> {
        let role = role("release.payments");
        let public = key(&role).public().clone();
        let authority = Authority {
            ids: [public.id()].into(),
            keys: [(public.id(), public)].into(),
            threshold: 1,
        };
        let expected = Expected { role: &role, authority: &authority, pin: None };
        verify(&self.files[&role], expected).unwrap()
    }
}

pub(crate) fn product() -> Product {
    "payments".parse().unwrap()
}

/// Rings that select by the label `ring`.
pub(crate) fn policy(rings: &[&str]) -> Vec<u8> {
    let rings = rings.iter().map(|ring| RingDefinition {
        ring: ring.parse().unwrap(),
        select: Selector::Labels([("ring".parse().unwrap(), vec![ring.parse().unwrap()])].into()),
        gate: false,
        rules: Rules::default(),
    });
    ProductPolicy::new(product(), rings.collect()).unwrap().to_bytes()
}
