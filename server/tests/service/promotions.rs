//! Promotions that lack what the signed policy asks for: refused before any host could wait for them.

use refit_proto::{
    names::Digest,
    package::{Release, Urgency},
    policy::{ApprovalKind, EvidenceKind, Gate, Person, ProductPolicy, Signatories},
    trust::{Evidence, Override, Signer as _, Standing, Terms},
    wire,
};
use tonic::{Code, Status};

use crate::{
    changes::{change, propose},
    fleet::Fleet,
    publisher::{Publisher, key, policy, product, role},
    rollouts::limits,
};

pub(crate) fn terms() -> Terms {
    Terms::new(Standing::Current)
}

/// A fleet with release 1.0, counter 1, and a policy whose second ring was changed.
pub(crate) async fn fleet(change: impl FnOnce(&mut ProductPolicy)) -> (Fleet, Publisher) {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let document = publisher.build(&fleet, "1.0", 1, b"program").await;
    publisher.upload(&fleet, &document).await.unwrap();
    publisher.publish(&fleet, "1.0", &document).await.unwrap();
    let mut wanted = ProductPolicy::parse(&policy(&["pilot", "early"])).unwrap();
    change(&mut wanted);
    let ProductPolicy { rings, persons, gate_key, .. } = wanted;
    let signatories = Signatories { persons, gate_key };
    let wanted = ProductPolicy::with_signatories(product(), rings, signatories).unwrap();
    publisher.set_policy(&fleet, &wanted.to_bytes()).await.unwrap();
    (fleet, publisher)
}

fn refused(answer: Result<(), Status>, part: &str) {
    let status = answer.expect_err("taken");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains(part), "{part}: {status}");
}

#[tokio::test]
async fn a_floor_above_the_release_that_sets_it_is_refused() {
    let (fleet, mut publisher) = fleet(|_| {}).await;
    let floor = |floor| Terms { min_release_counter: Some(floor), ..terms() };
    let answer = publisher.promote_on(&fleet, "1.0", "pilot", floor(2)).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("sets the floor 2"), "{status}");
    publisher.promote_on(&fleet, "1.0", "pilot", floor(1)).await.unwrap();
}

#[tokio::test]
async fn a_change_plan_that_is_not_the_releases_is_refused() {
    let (fleet, mut publisher) = fleet(|_| {}).await;
    let other = Terms { change_plan: Some(Digest::of(b"another plan")), ..terms() };
    let status = publisher.promote_on(&fleet, "1.0", "pilot", other).await.unwrap_err();
    assert!(status.message().contains("another change plan"), "{status}");
}

#[tokio::test]
async fn a_promotion_without_what_the_ring_demands_is_refused() {
    let (fleet, mut publisher) = fleet(|policy| {
        policy.rings[1].rules.after = vec!["pilot".parse().unwrap()];
        policy.rings[1].rules.demands = [Gate::Security].into();
        policy.rings[1].rules.overridable = [Gate::After].into();
    })
    .await;
    refused(publisher.promote(&fleet, "1.0", "early").await, "no security digest");
    let scan = Evidence { kind: EvidenceKind::Security, sha256: Digest::of(b"scan") };
    let shown = || Terms { evidence: vec![scan.clone()], ..terms() };
    refused(
        publisher.promote_on(&fleet, "1.0", "early", shown()).await,
        "must be in ring pilot first",
    );
    let passing =
        |gate| Terms { overrides: vec![Override { gate, reason: "incident 7".into() }], ..shown() };
    let answer = publisher.promote_on(&fleet, "1.0", "early", passing(Gate::Security)).await;
    refused(answer, "passes over security");
    publisher.promote(&fleet, "1.0", "pilot").await.unwrap();
    publisher.promote_on(&fleet, "1.0", "early", shown()).await.unwrap();
    // What the ring names already may be signed anew, whatever became of the ring before.
    let mut gone = publisher.draft(&fleet, &role("ring.payments.pilot"));
    gone.demote(&"1.0".parse().unwrap()).unwrap();
    publisher.push(&fleet, &[gone]).await.unwrap();
    let again = publisher.draft(&fleet, &role("ring.payments.early"));
    publisher.push(&fleet, &[again]).await.unwrap();
}

#[tokio::test]
async fn a_promotion_that_the_wrong_people_signed_is_refused() {
    let alice = Person {
        keys: [(key(&role("ring.payments.pilot")).public().id(), [ApprovalKind::Technical].into())]
            .into(),
    };
    let bob = Person {
        keys: [(key(&role("ring.payments.early")).public().id(), [ApprovalKind::Business].into())]
            .into(),
    };
    let (fleet, mut publisher) = fleet(|policy| {
        policy.persons.insert("alice".parse().unwrap(), alice);
        policy.persons.insert("bob".parse().unwrap(), bob);
        policy.rings[0].rules.kinds = vec![ApprovalKind::Technical];
        policy.rings[1].rules.kinds = vec![ApprovalKind::Technical];
    })
    .await;
    refused(publisher.promote(&fleet, "1.0", "early").await, "no technical approval");
    publisher.promote(&fleet, "1.0", "pilot").await.unwrap();
}

#[tokio::test]
async fn a_release_whose_plan_lacks_what_its_urgency_needs_is_promoted_nowhere() {
    let (fleet, mut publisher) = fleet(|_| {}).await;
    let asks = |rules: &[(&str, &[&str])]| wire::RolloutPolicy {
        product: "payments".into(),
        rings: vec![limits("pilot"), limits("early")],
        plan_rules: rules
            .iter()
            .map(|(urgency, fields)| wire::PlanRule {
                urgency: (*urgency).into(),
                fields: fields.iter().map(|field| (*field).into()).collect(),
            })
            .collect(),
        ..Default::default()
    };
    let set = async |policy, replaces_revision| {
        let request = wire::SetRolloutPolicyRequest { policy: Some(policy), replaces_revision };
        fleet.admin(&publisher.person).set_rollout_policy(request).await.map(drop)
    };
    set(asks(&[("emergency", &["owner"])]), 0).await.unwrap();
    let unknown = set(asks(&[("normal", &["gaol"])]), 1).await.unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument, "{unknown}");
    // Nothing is asked of a normal release yet.
    publisher.promote(&fleet, "1.0", "pilot").await.unwrap();

    let request = wire::SetRolloutPolicyRequest {
        policy: Some(asks(&[("normal", &["impact", "owner"]), ("emergency", &["owner"])])),
        replaces_revision: 1,
    };
    fleet.admin(&publisher.person).set_rollout_policy(request).await.unwrap();
    let lacks = "payments 1.0 lacks owner, impact";
    refused(publisher.promote(&fleet, "1.0", "early").await, lacks);
    // Nor is anybody asked to sign it.
    let draft = publisher.promotion(&fleet, "1.0", "early", terms());
    let change = change(&fleet, &publisher, &[&draft]).await;
    refused(propose(&fleet, &publisher.person, &change).await.map(drop), lacks);
    // What the ring names already may be signed anew, whatever the policy asks now.
    let again = publisher.draft(&fleet, &role("ring.payments.pilot"));
    publisher.push(&fleet, &[again]).await.unwrap();

    let mut urgent = Release::parse(&publisher.build(&fleet, "1.1", 2, b"program").await).unwrap();
    urgent.plan.urgency = Urgency::Emergency;
    urgent.plan.owner = "the payments team".into();
    let document = urgent.to_bytes();
    publisher.upload(&fleet, &document).await.unwrap();
    publisher.publish(&fleet, "1.1", &document).await.unwrap();
    publisher.promote(&fleet, "1.1", "early").await.unwrap();
}
