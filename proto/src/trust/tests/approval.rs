//! What a ring's rules ask of a promotion beyond its threshold: persons, kinds, rings before, digests.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::{
    names::{Digest, Labels, Product},
    package::{Release, plan_digest},
    policy::{
        ApprovalKind::{self, Business, Operations, Technical},
        EvidenceKind, Gate, Person, ProductPolicy, RingDefinition, Rules, Selector, Signatories,
    },
    trust::{
        KeyId, LocalKey, Signer,
        approval::{Party, Unapproved},
        permission::{
            Closed, Denied, Misfit, Permission, Unreliable, fits_document, permit, trusted_policy,
        },
        promotion::{Evidence, Override, Promotion, Standing, Terms},
        role::Role,
        testing::{TestHost, TestRepository, key, role},
    },
};

fn payments() -> Product {
    "payments".parse().unwrap()
}

fn id(name: &str) -> KeyId {
    key(name).public().id()
}

/// Alice has two keys and may give two kinds; bob and carol have one of each.
fn signatories() -> Signatories {
    let person = |keys: &[(&str, &[ApprovalKind])]| Person {
        keys: keys
            .iter()
            .map(|(name, kinds)| (id(name), kinds.iter().copied().collect()))
            .collect(),
    };
    let persons = BTreeMap::from([
        ("alice".parse().unwrap(), person(&[("a1", &[Technical]), ("a2", &[Business])])),
        ("bob".parse().unwrap(), person(&[("b", &[Technical])])),
        ("carol".parse().unwrap(), person(&[("c", &[Business, Operations])])),
    ]);
    Signatories { persons, gate_key: Some(id("gate")) }
}

/// Product `payments` with a ring `pilot` of one key of whoever, and a ring `broad` of threshold 2, whose
/// rules are given. A host is in `broad`.
struct Fleet {
    repository: TestRepository,
    policy: ProductPolicy,
}

const KEYS: [&str; 6] = ["a1", "a2", "b", "c", "gate", "nobody"];

impl Fleet {
    fn new(rules: Rules) -> Fleet {
        Fleet::with(rules, false)
    }

    fn with(rules: Rules, gate: bool) -> Fleet {
        let mut repository = TestRepository::new();
        repository.delegate("release.payments", &["release.payments"], 1);
        repository.delegate("policy", &["policy", "second"], 2);
        repository.delegate("ring.payments.pilot", &["a1", "b", "ring.payments.pilot"], 1);
        repository.delegate("ring.payments.broad", &KEYS, 2);
        let labels = BTreeMap::from([("pilot".parse().unwrap(), vec!["yes".parse().unwrap()])]);
        let rings = vec![
            RingDefinition {
                ring: "pilot".parse().unwrap(),
                select: Selector::Labels(labels),
                gate: false,
                rules: Rules::default(),
            },
            RingDefinition {
                ring: "broad".parse().unwrap(),
                select: Selector::EveryHost,
                gate,
                rules,
            },
        ];
        let policy = ProductPolicy::with_signatories(payments(), rings, signatories()).unwrap();
        let bytes = policy.to_bytes();
        repository.edit("policy", |draft| draft.set_policy("payments.json", &bytes).unwrap());
        repository.release("1.0");
        let mut fleet = Fleet { repository, policy };
        fleet.promote("pilot", "1.0", terms(), &["a1"]);
        fleet
    }

    fn promote(&mut self, ring: &str, version: &str, terms: Terms, signers: &[&str]) {
        let role = role(&format!("ring.payments.{ring}"));
        let releases = self.repository.release_file();
        let mut draft = self.repository.draft(&role.to_string());
        draft.promote(&releases, &version.parse().unwrap(), 7, terms).unwrap();
        let keys: Vec<LocalKey> = signers.iter().map(|name| key(name)).collect();
        let keys: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        self.repository.push(&[(role, draft.sign(&keys).unwrap())]).unwrap();
    }

    fn permitted(&self) -> Result<Permission, Denied> {
        let wanted = ["policy", "release.payments", "ring.payments.pilot", "ring.payments.broad"];
        let set = TestHost::new(&self.repository).refresh(&self.repository, &wanted).unwrap();
        let policy = trusted_policy(&set, &payments(), &self.policy.to_bytes())?;
        permit(&set, &policy, &Labels::new(), &payments(), self.repository.now)
    }

    /// The one reason for which `broad` keeps its current release closed.
    fn closed(&self) -> Closed {
        let permission = self.permitted().unwrap();
        assert_eq!(permission.current, None);
        let [closed] = &permission.closed[..] else { panic!("{:?}", permission.closed) };
        closed.clone()
    }

    fn is_open(&self) -> bool {
        self.permitted().is_ok_and(|permission| permission.current.is_some())
    }
}

fn terms() -> Terms {
    Terms::new(Standing::Current)
}

fn kinds(kinds: &[ApprovalKind]) -> Rules {
    Rules { kinds: kinds.to_vec(), ..Rules::default() }
}

/// Why `broad` permits nothing when these keys signed for it.
fn unapproved(rules: Rules, gate: bool, signers: &[&str]) -> Option<Unapproved> {
    let mut fleet = Fleet::with(rules, gate);
    fleet.promote("broad", "1.0", terms(), signers);
    match fleet.permitted() {
        Ok(permission) => {
            assert!(permission.current.is_some());
            None
        }
        Err(Denied::Unapproved { ring, cause }) => {
            assert_eq!(ring.as_str(), "broad");
            Some(cause)
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn two_keys_of_one_person_are_one_person() {
    let alone = Some(Unapproved::TooFew { persons: 1, needed: 2 });
    assert_eq!(unapproved(Rules::default(), false, &["a1", "a2"]), alone);
    assert_eq!(unapproved(Rules::default(), false, &["a1", "b"]), None);
}

#[test]
fn a_key_of_nobody_counts_for_nobody() {
    let alone = Some(Unapproved::TooFew { persons: 1, needed: 2 });
    assert_eq!(unapproved(Rules::default(), false, &["a1", "nobody"]), alone);
}

#[test]
fn the_gate_key_counts_where_the_ring_lets_it_and_nowhere_else() {
    let alone = Some(Unapproved::TooFew { persons: 1, needed: 2 });
    assert_eq!(unapproved(Rules::default(), false, &["a1", "gate"]), alone);
    assert_eq!(unapproved(Rules::default(), true, &["a1", "gate"]), None);
    // It gives no kind of approval.
    let missing = Some(Unapproved::Kinds(vec![Business]));
    assert_eq!(unapproved(kinds(&[Technical, Business]), true, &["a1", "gate"]), missing);
}

#[test]
fn every_kind_of_approval_comes_from_another_person() {
    let both = || kinds(&[Technical, Business]);
    let missing = |kind| Some(Unapproved::Kinds(vec![kind]));
    assert_eq!(unapproved(both(), false, &["a1", "b"]), missing(Business));
    // Alice gives one kind, though her two keys may give both; with her, carol gives the other.
    assert_eq!(unapproved(both(), false, &["a1", "a2", "gate", "nobody"]), {
        Some(Unapproved::TooFew { persons: 1, needed: 2 })
    });
    assert_eq!(unapproved(both(), true, &["a1", "a2", "gate"]), missing(Business));
    assert_eq!(unapproved(both(), false, &["a1", "c"]), None);
    assert_eq!(unapproved(both(), false, &["a2", "b"]), None);
    // A key gives only the kinds that the policy says of it.
    assert_eq!(unapproved(kinds(&[Operations]), false, &["a1", "b"]), missing(Operations));
    let text = Unapproved::Kinds(vec![Business, Operations]).to_string();
    assert!(text.starts_with("no business and no operations approval"), "{text}");
}

#[test]
fn where_nobody_is_named_each_key_stands_for_itself() {
    let mut fleet = Fleet::new(Rules::default());
    let rings = fleet.policy.rings.clone();
    fleet.policy = ProductPolicy::new(payments(), rings).unwrap();
    let bytes = fleet.policy.to_bytes();
    fleet.repository.edit("policy", |draft| draft.set_policy("payments.json", &bytes).unwrap());
    fleet.promote("broad", "1.0", terms(), &["a1", "a2"]);
    assert!(fleet.is_open());
}

fn after_pilot() -> Rules {
    Rules { after: vec!["pilot".parse().unwrap()], ..Rules::default() }
}

#[test]
fn a_ring_takes_only_what_the_rings_before_it_name_now() {
    let mut fleet = Fleet::new(after_pilot());
    for version in ["1.1", "1.2", "1.3"] {
        fleet.repository.release(version);
    }
    fleet.promote("broad", "1.1", terms(), &["a1", "b"]);
    assert!(matches!(fleet.closed(), Closed::NotBefore { version, before, .. }
        if version.as_str() == "1.1" && before.as_str() == "pilot"));
    fleet.promote("pilot", "1.1", terms(), &["a1"]);
    assert!(fleet.is_open());
    // The ring before has gone on by one release: what it can go back to is still vouched for.
    fleet.promote("pilot", "1.2", terms(), &["a1"]);
    assert!(fleet.is_open());
    // By two: nobody there runs it any more, and it names it no longer.
    fleet.promote("pilot", "1.3", terms(), &["a1"]);
    assert!(matches!(fleet.closed(), Closed::NotBefore { .. }));
}

#[test]
fn what_a_ring_goes_back_to_needs_no_ring_before_it() {
    let mut fleet = Fleet::new(after_pilot());
    for version in ["1.1", "1.2", "1.3"] {
        fleet.repository.release(version);
        fleet.promote("pilot", version, terms(), &["a1"]);
        fleet.promote("broad", version, terms(), &["a1", "b"]);
    }
    fleet.repository.release("1.4");
    fleet.promote("pilot", "1.4", terms(), &["a1"]);
    let permission = fleet.permitted().unwrap();
    assert_eq!(permission.current.unwrap().version.as_str(), "1.3");
    // Pilot names 1.4 and 1.3 alone.
    assert_eq!(permission.back.unwrap().version.as_str(), "1.2");
}

#[test]
fn a_ring_before_that_the_right_people_did_not_sign_vouches_for_nothing() {
    let mut fleet = Fleet::new(after_pilot());
    fleet.promote("broad", "1.0", terms(), &["a1", "b"]);
    fleet.promote("pilot", "1.0", terms(), &["a1"]);
    assert!(fleet.is_open());
    // A key of the ring, but of no person.
    fleet.promote("pilot", "1.0", terms(), &["ring.payments.pilot"]);
    assert!(matches!(
        fleet.closed(),
        Closed::UnknownBefore {
            cause: Unreliable::Unapproved(Unapproved::TooFew { persons: 0, needed: 1 }),
            ..
        }
    ));
}

#[test]
fn a_ring_before_whose_file_has_expired_vouches_for_nothing() {
    let mut fleet = Fleet::new(after_pilot());
    fleet.promote("pilot", "1.0", terms(), &["a1"]);
    // Signed later, so it lasts longer.
    fleet.repository.now += SignedDuration::from_hours(24 * 100);
    fleet.promote("broad", "1.0", terms(), &["a1", "b"]);
    fleet.repository.now += SignedDuration::from_hours(24 * 79);
    for name in ["policy", "targets", "release.payments"] {
        let role = role(name);
        let mut draft = fleet.repository.draft(name);
        draft.expire_in_days(300);
        let file = match role {
            Role::Targets => draft.sign(&[&key("targets")]).unwrap(),
            _ => fleet.repository.sign(&draft),
        };
        fleet.repository.push(&[(role, file)]).unwrap();
    }
    fleet.repository.renew().unwrap();
    assert!(fleet.is_open());
    fleet.repository.now += SignedDuration::from_hours(48);
    assert!(matches!(fleet.closed(), Closed::UnknownBefore { cause: Unreliable::File(_), .. }));
}

#[test]
fn a_promotion_binds_the_digests_that_its_ring_demands() {
    let demands = || [Gate::Security, Gate::ChangePlan].into();
    let security = Evidence { kind: EvidenceKind::Security, sha256: Digest::of(b"scan") };
    let other = Evidence { kind: EvidenceKind::Functional, ..security.clone() };
    let change_plan = Some(Digest::of(b"plan"));
    for (bound, missing) in [
        (terms(), Some(Gate::Security)),
        (Terms { evidence: vec![other], change_plan, ..terms() }, Some(Gate::Security)),
        (Terms { evidence: vec![security.clone()], ..terms() }, Some(Gate::ChangePlan)),
        (Terms { evidence: vec![security], change_plan, ..terms() }, None),
    ] {
        let mut fleet = Fleet::new(Rules { demands: demands(), ..Rules::default() });
        fleet.promote("broad", "1.0", bound, &["a1", "b"]);
        match missing {
            Some(missing) => {
                assert!(matches!(fleet.closed(), Closed::Demanded { gate, .. } if gate == missing));
            }
            None => assert!(fleet.is_open()),
        }
    }
}

#[test]
fn only_what_the_ring_allows_is_passed_over_and_only_for_a_reason() {
    let passing =
        |gate| Terms { overrides: vec![Override { gate, reason: "incident 7".into() }], ..terms() };
    let rules = |overridable: &[Gate]| Rules {
        demands: [Gate::Performance].into(),
        overridable: overridable.iter().copied().collect(),
        ..after_pilot()
    };
    let closed = |overridable: &[Gate], terms: Terms| {
        let mut fleet = Fleet::new(rules(overridable));
        fleet.repository.release("1.1");
        fleet.promote("broad", "1.1", terms, &["a1", "b"]);
        (!fleet.is_open()).then(|| fleet.closed())
    };
    let both = || Terms {
        overrides: [passing(Gate::Performance), passing(Gate::After)]
            .into_iter()
            .flat_map(|terms| terms.overrides)
            .collect(),
        ..terms()
    };
    assert_eq!(closed(&[Gate::Performance, Gate::After], both()), None);
    assert!(matches!(
        closed(&[Gate::After], both()),
        Some(Closed::NotOverridable { gate: Gate::Performance, .. })
    ));
    assert!(matches!(
        closed(&[], passing(Gate::Security)),
        Some(Closed::NotOverridable { gate: Gate::Security, .. })
    ));
    assert!(matches!(
        closed(&[Gate::Performance, Gate::After], passing(Gate::Performance)),
        Some(Closed::NotBefore { .. })
    ));
    assert!(matches!(
        closed(&[Gate::Performance, Gate::After], passing(Gate::After)),
        Some(Closed::Demanded { gate: Gate::Performance, .. })
    ));

    // Without a reason it is no promotion, and is not even signed.
    let repository = Fleet::new(rules(&[Gate::After])).repository;
    let mut draft = repository.draft("ring.payments.broad");
    let blank =
        Terms { overrides: vec![Override { gate: Gate::After, reason: " ".into() }], ..terms() };
    draft.promote(&repository.release_file(), &"1.0".parse().unwrap(), 7, blank).unwrap();
    let error = draft.sign(&[&key("a1"), &key("b")]).unwrap_err().to_string();
    assert!(error.contains("passes over after for no reason"), "{error}");
}

fn changed(release: &Release, change: fn(&mut Release)) -> Release {
    let mut release = release.clone();
    change(&mut release);
    release
}

#[test]
fn a_promotion_fits_its_releases_document_or_is_refused() {
    let mut release = Release::new(payments(), "1.0".parse().unwrap(), 7, BTreeMap::new());
    release.plan.goal = "faster".into();
    let document = release.to_bytes();
    let plan = plan_digest(&document).unwrap();
    let mut fleet = Fleet::new(Rules::default());
    let mut misfit = |terms: Terms, release: &Release| {
        fleet.promote("broad", "1.0", terms, &["a1", "b"]);
        let permission = fleet.permitted().unwrap();
        let promotion: Promotion = permission.current.unwrap();
        fits_document(&payments(), &promotion, &release.to_bytes(), release).err()
    };
    let bound = |change_plan| Terms { change_plan: Some(change_plan), ..terms() };
    let floor = |floor| Terms { min_release_counter: Some(floor), ..terms() };
    assert_eq!(misfit(bound(plan), &release), None);
    assert_eq!(misfit(floor(7), &release), None);
    let version = || "1.0".parse().unwrap();
    let other = misfit(bound(Digest::of(b"plan")), &release);
    assert_eq!(other, Some(Misfit::OtherPlan { version: version() }));
    let lower = changed(&release, |release| release.counter = 6);
    let above = Misfit::Floor { version: version(), floor: 7, counter: 6 };
    assert_eq!(misfit(floor(7), &lower), Some(above));
    for other in [
        changed(&release, |release| release.product = "billing".parse().unwrap()),
        changed(&release, |release| release.version = "1.1".parse().unwrap()),
    ] {
        assert!(matches!(misfit(terms(), &other), Some(Misfit::OtherRelease { .. })));
    }
    // Members of a plan that we don't know belong to it.
    let later =
        String::from_utf8(document).unwrap().replace("\"goal\"", "\"risk\":\"low\",\"goal\"");
    assert_ne!(plan_digest(later.as_bytes()), Some(plan));
    assert_eq!(plan_digest(b"{}"), None);
}

#[test]
fn those_who_signed_are_told_by_name() {
    let fleet = Fleet::with(Rules::default(), true);
    let broad = fleet.policy.ring(&"broad".parse().unwrap()).unwrap();
    let signers = ["a1", "a2", "c", "gate", "nobody"].map(id).into();
    let parties = crate::trust::approval::parties(&fleet.policy, broad, &signers);
    let names: Vec<_> = parties.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["alice", "carol", "the server's gate key"]);
    assert_eq!(parties[&Party::Person("alice".parse().unwrap())], [Technical, Business].into());
}

#[test]
fn whether_those_on_call_reach_a_ring_is_what_their_signatures_would_say() {
    let fleet = Fleet::with(kinds(&[Technical, Business]), true);
    let set = TestHost::new(&fleet.repository).refresh(&fleet.repository, &["policy"]).unwrap();
    let targets = set.targets();
    let reached = |ring: &str, persons: &[&str]| {
        let definition = fleet.policy.ring(&ring.parse().unwrap()).unwrap();
        let persons = persons.iter().map(|name| name.parse().unwrap()).collect();
        crate::trust::approval::within_reach(&fleet.policy, definition, targets, &persons).unwrap()
    };
    assert!(reached("broad", &["alice", "bob"]).is_ok());
    assert!(reached("broad", &["bob", "carol"]).is_ok());
    // One person counts once, whatever number of keys and kinds; the server gives no approval.
    assert_eq!(reached("broad", &["alice"]).unwrap_err(), Unapproved::Kinds(vec![Business]));
    assert_eq!(reached("broad", &["bob"]).unwrap_err(), Unapproved::Kinds(vec![Business]));
    let few = Unapproved::TooFew { persons: 1, needed: 2 };
    assert_eq!(reached("broad", &[]).unwrap_err(), few);
    assert_eq!(reached("broad", &["dave"]).unwrap_err(), few);
    // Carol has no key of the pilot ring.
    assert!(reached("pilot", &["alice"]).is_ok());
    let none = Unapproved::TooFew { persons: 0, needed: 1 };
    assert_eq!(reached("pilot", &["carol"]).unwrap_err(), none);
}
