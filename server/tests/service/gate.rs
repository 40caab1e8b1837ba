//! What the server signs with its gate key, and when: its own part of a ring that names it, after the rings
//! before are through, and nothing else.

use jiff::SignedDuration;
use refit_proto::{
    names::Digest,
    policy::{Gate, ProductPolicy, Signatories},
    trust::{
        Evidence, KeyId, LocalKey, Override, PublicKey, Role, Signer as _, Standing, Terms,
        change::{Base, ChangeFile},
        edit::{Draft, KeyList},
    },
    wire,
};

use crate::{
    changes::{propose, roots, shown, until},
    fleet::{Caller, Fleet},
    publisher::{Publisher, key, policy, product, role},
    rollouts::{self, HOUR},
};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const EARLY: &str = "ring.payments.early";
const BROAD: &str = "ring.payments.broad";

/// Release 1.0 is promoted to `pilot`, which has one host. `early` comes after it and needs bob and the
/// server; `broad` comes after it and needs the server alone.
struct Guarded {
    fleet: Fleet,
    publisher: Publisher,
    host: Caller,
    gate: PublicKey,
}

fn bob() -> LocalKey {
    key(&role(EARLY))
}

fn terms() -> Terms {
    Terms::new(Standing::Current)
}

async fn guarded(change: impl FnOnce(&mut ProductPolicy)) -> Guarded {
    let (fleet, mut publisher, mut hosts) = rollouts::promoted(&["web-1"]).await;
    let request = wire::GetServerKeysRequest {};
    let keys = fleet.admin(&publisher.person).get_server_keys(request).await.unwrap().into_inner();
    let gate = PublicKey::from_json(keys.keys["gate"].as_bytes()).unwrap();
    let mut targets = publisher.draft(&fleet, &Role::Targets);
    let both = |other: &PublicKey| KeyList::new([bob().public().clone(), other.clone()], 2);
    targets.delegate(&role(EARLY), &both(&gate)).unwrap();
    targets.delegate(&role(BROAD), &KeyList::new([gate.clone()], 1)).unwrap();
    // A policy is as hard to change as the strictest of its rings.
    targets.delegate(&Role::Policy, &both(key(&Role::Policy).public())).unwrap();
    publisher.second.insert(Role::Policy, bob());
    let mut guarded = Guarded { fleet, publisher, host: hosts.remove(0), gate };
    let signed = guarded.policy(change).await;
    guarded.publisher.push(&guarded.fleet, &[targets, signed]).await.unwrap();
    guarded
}

impl Guarded {
    /// The next policy: as above, with these changes.
    async fn policy(&self, change: impl FnOnce(&mut ProductPolicy)) -> Draft {
        let mut wanted = ProductPolicy::parse(&policy(&["pilot", "early", "broad"])).unwrap();
        wanted.gate_key = Some(self.gate.id());
        for ring in &mut wanted.rings[1..] {
            ring.gate = true;
            ring.rules.after = vec!["pilot".parse().unwrap()];
        }
        change(&mut wanted);
        let ProductPolicy { rings, persons, gate_key, .. } = wanted;
        let signatories = Signatories { persons, gate_key };
        let bytes = ProductPolicy::with_signatories(product(), rings, signatories).unwrap();
        self.publisher.upload(&self.fleet, &bytes.to_bytes()).await.unwrap();
        let mut draft = self.publisher.draft(&self.fleet, &Role::Policy);
        draft.set_policy("payments.json", &bytes.to_bytes()).unwrap();
        draft
    }

    /// The host installs what it is offered, and the ring soaks.
    async fn pilot_is_through(&mut self) {
        let Guarded { fleet, publisher, host, .. } = self;
        let offered = rollouts::offer(fleet, host).await;
        let leave = rollouts::lease(rollouts::ask(fleet, host, &offered).await);
        let report = host.report(rollouts::state(&offered, &leave, "committed", true));
        rollouts::order(fleet, host, vec![report]).await;
        rollouts::recorded(fleet, publisher, "rollout soak").await;
        fleet.pass(HOUR);
        rollouts::recorded(fleet, publisher, "rollout finish").await;
    }

    /// A change of `early` on these terms, signed by bob.
    async fn bob_proposes(&self, version: &str, terms: Terms) -> wire::ChangeStatus {
        let draft = self.publisher.promotion(&self.fleet, version, "early", terms);
        let roots = roots(&self.fleet, &self.publisher.person).await;
        let mut base = Base { roots, ..Base::default() };
        let about = [Role::Targets, role(EARLY)];
        base.held = about
            .into_iter()
            .filter_map(|role| Some((role.clone(), self.publisher.held(&role)?)))
            .collect();
        let steps = vec![(role(EARLY), draft.sign(&[&bob()]).unwrap())];
        let change = ChangeFile::new("somebody".into(), self.fleet.now(), base, steps);
        propose(&self.fleet, &self.publisher.person, &change).await.unwrap()
    }

    /// Waits until the server has gone round once more, looking at everything there is.
    async fn a_round_later(&self) {
        let version = async || {
            let files = shown(&self.fleet, &self.publisher.person).await.metadata;
            files.into_iter().find(|file| file.role == "timestamp").unwrap().version
        };
        let before = version().await;
        self.fleet.pass(DAY * 3 / 2);
        until("the timestamp is renewed", async || version().await > before).await;
    }

    /// The newest file of a role, if there is one, and who signed it.
    async fn file(&self, of: &str) -> Option<(serde_json::Value, Vec<KeyId>)> {
        let files = shown(&self.fleet, &self.publisher.person).await.metadata;
        let version = files.into_iter().find(|file| file.role == of)?.version;
        let request = wire::GetMetadataRequest { role: of.into(), version };
        let mut repository = self.fleet.repository(&self.publisher.person);
        let bytes = repository.get_metadata(request).await.unwrap().into_inner().file;
        let file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let signed = file["signatures"].as_array().unwrap().iter();
        let signed = signed.map(|it| KeyId::parse(it["keyid"].as_str().unwrap()).unwrap());
        Some((file["signed"].clone(), signed.collect()))
    }

    /// Where in the audit log the first line with these words is.
    async fn place(&self, words: &[&str]) -> Option<usize> {
        let lines = self.fleet.audit(&self.publisher.person).await;
        lines.iter().position(|line| words.iter().all(|word| line.contains(word)))
    }

    async fn signs(&self, act: &str, of: &str) -> usize {
        until(&format!("{act} {of}"), async || self.place(&[act, of]).await.is_some()).await;
        self.place(&[act, of]).await.unwrap()
    }
}

#[tokio::test]
async fn the_server_completes_a_promotion_once_the_ring_before_has_soaked_and_begins_none() {
    let mut guarded = guarded(|_| {}).await;
    guarded.pilot_is_through().await;
    // What the server alone guards is promoted by it; where bob has to sign too, it waits for him.
    guarded.signs("gate promote", BROAD).await;
    assert!(guarded.file(EARLY).await.is_none());
    let done = guarded.place(&["rollout finish"]).await.unwrap();
    assert!(guarded.place(&["gate promote"]).await.unwrap() > done);
    guarded.bob_proposes("1.0", terms()).await;
    guarded.signs("gate sign", EARLY).await;
    let (_, mut signers) = guarded.file(EARLY).await.unwrap();
    let mut both = vec![bob().public().id(), guarded.gate.id()];
    signers.sort();
    both.sort();
    assert_eq!(signers, both);
}

#[tokio::test]
async fn a_promotion_that_lacks_the_server_waits_as_an_open_change_until_its_gates_hold() {
    let mut guarded = guarded(|_| {}).await;
    let status = guarded.bob_proposes("1.0", terms()).await;
    assert_eq!((status.owner.as_str(), status.signatures_missing), ("person alice", 1));
    guarded.a_round_later().await;
    let open = &shown(&guarded.fleet, &guarded.publisher.person).await.changes[0];
    assert_eq!((open.role.as_str(), open.signatures_missing), (EARLY, 1));
    let short = guarded.gate.id().short().to_string();
    assert!(open.missing.len() == 1 && open.missing[0].contains(&short), "{:?}", open.missing);
    assert!(guarded.file(EARLY).await.is_none());
    guarded.pilot_is_through().await;
    let signed = guarded.signs("gate sign", EARLY).await;
    assert!(signed > guarded.place(&["rollout finish"]).await.unwrap());
    assert!(shown(&guarded.fleet, &guarded.publisher.person).await.changes.is_empty());
}

#[tokio::test]
async fn bob_passes_over_the_ring_before_where_the_policy_lets_him_and_the_server_signs_at_once() {
    let mut guarded =
        guarded(|policy| policy.rings[1].rules.overridable = [Gate::After].into()).await;
    let reason = "incident 7".to_owned();
    let overrides = vec![Override { gate: Gate::After, reason }];
    guarded.bob_proposes("1.0", Terms { overrides, ..terms() }).await;
    guarded.signs("gate sign", EARLY).await;
    assert!(guarded.place(&["rollout finish"]).await.is_none());
    guarded.pilot_is_through().await;
}

#[tokio::test]
async fn the_server_does_not_sign_what_the_ring_s_demands_close() {
    let mut guarded = guarded(|policy| {
        for ring in &mut policy.rings[1..] {
            ring.rules.demands = [Gate::Security].into();
        }
    })
    .await;
    guarded.bob_proposes("1.0", terms()).await;
    guarded.pilot_is_through().await;
    guarded.a_round_later().await;
    assert!(guarded.file(EARLY).await.is_none() && guarded.file(BROAD).await.is_none());
    // Shown to the people of pilot, it is shown to the rings that follow.
    let kind = refit_proto::policy::EvidenceKind::Security;
    let evidence = vec![Evidence { kind, sha256: Digest::of(b"scan") }];
    let Guarded { fleet, publisher, .. } = &mut guarded;
    publisher.promote_on(fleet, "1.0", "pilot", Terms { evidence, ..terms() }).await.unwrap();
    guarded.signs("gate promote", BROAD).await;
    let (signed, _) = guarded.file(BROAD).await.unwrap();
    let custom = &signed["targets"]["rings/payments/broad/1.0.json"]["custom"];
    assert_eq!(custom["evidence"][0]["sha256"], Digest::of(b"scan").to_string(), "{custom}");
}

#[tokio::test]
async fn the_server_signs_for_no_ring_whose_policy_names_another_key() {
    let other = bob().public().id();
    let mut guarded = guarded(|policy| policy.gate_key = Some(other)).await;
    guarded.pilot_is_through().await;
    guarded.a_round_later().await;
    assert!(guarded.file(BROAD).await.is_none());
    let named = guarded.policy(|_| {}).await;
    guarded.publisher.push(&guarded.fleet, &[named]).await.unwrap();
    guarded.signs("gate promote", BROAD).await;
}

#[tokio::test]
async fn the_server_renews_the_file_that_it_signed_alone_before_it_expires() {
    let mut guarded = guarded(|_| {}).await;
    guarded.pilot_is_through().await;
    guarded.signs("gate promote", BROAD).await;
    let version = async || guarded.file(BROAD).await.unwrap().0["version"].clone();
    let before = version().await;
    guarded.fleet.pass(DAY * 13);
    guarded.a_round_later().await;
    assert_eq!(version().await, before, "half of its life is not over");
    guarded.fleet.pass(DAY);
    guarded.signs("gate renew", BROAD).await;
    let (signed, _) = guarded.file(BROAD).await.unwrap();
    let expires: jiff::Timestamp = signed["expires"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires.duration_since(guarded.fleet.now()), DAY * 30);
}

/// A release that pilot still names was withdrawn before `early` got it.
#[tokio::test]
async fn a_withdrawn_release_goes_to_no_further_ring_and_keeps_the_server_from_nothing_else() {
    let mut guarded = guarded(|policy| {
        policy.rings.swap(1, 2);
        policy.rings[1].rules.demands = [Gate::Security].into();
        policy.rings[2].rules.after = Vec::new();
    })
    .await;
    guarded.pilot_is_through().await;
    let Guarded { fleet, publisher, .. } = &mut guarded;
    let document = publisher.build(fleet, "1.1", 2, b"another program").await;
    publisher.upload(fleet, &document).await.unwrap();
    publisher.publish(fleet, "1.1", &document).await.unwrap();
    let mut draft = publisher.draft(fleet, &role("release.payments"));
    draft.remove_release(&"1.0".parse().unwrap()).unwrap();
    publisher.push(fleet, &[draft]).await.unwrap();
    guarded.bob_proposes("1.1", terms()).await;
    guarded.signs("gate sign", EARLY).await;
    assert!(guarded.file(BROAD).await.is_none());
}

#[tokio::test]
async fn a_ring_of_the_server_alone_that_follows_no_other_is_refused_from_either_side() {
    let mut guarded = guarded(|_| {}).await;
    let alone = |rings: &mut ProductPolicy| rings.rings[2].rules.after = Vec::new();
    let policy = guarded.policy(alone).await;
    let Guarded { fleet, publisher, gate, .. } = &mut guarded;
    let mut of_people = publisher.draft(fleet, &Role::Targets);
    let both = KeyList::new([bob().public().clone(), gate.clone()], 2);
    of_people.delegate(&role(BROAD), &both).unwrap();
    let refused = publisher.push(fleet, std::slice::from_ref(&policy)).await.unwrap_err();
    assert!(refused.message().contains("comes after no ring"), "{refused}");
    publisher.push(fleet, &[of_people, policy]).await.unwrap();
    let mut of_the_server = publisher.draft(fleet, &Role::Targets);
    of_the_server.delegate(&role(BROAD), &KeyList::new([gate.clone()], 1)).unwrap();
    let refused = publisher.push(fleet, &[of_the_server]).await.unwrap_err();
    assert!(refused.message().contains("comes after no ring"), "{refused}");
}
