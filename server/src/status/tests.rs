//! The model shows what the records say, and everything that stands still says why.

use jiff::Timestamp;
use refit_proto::names::{Digest, HostId, HostName, Labels, Platform};

use super::*;
use crate::{
    fleet::{Certificate, Host, HostState, ReleaseRecord, ReportKey},
    rollout::testing::{World, release},
};

fn fleet_of(world: &World) -> wire::FleetStatus {
    let plan = world.plan();
    let id = release("1.1");
    let releases = [ReleaseRecord {
        product: world.product.clone(),
        version: id.version,
        digest: id.digest,
        counter: id.counter,
        published_by: "ci build".into(),
        published_at: Timestamp::UNIX_EPOCH,
        withdrawn: false,
    }];
    let without = world.hosts.values().filter(|it| it.ring.is_none()).count() as u64;
    fleet(FleetView {
        at: world.now,
        revision: 7,
        hosts: world.hosts.len() as u64,
        hosts_without_ring: without,
        troubled: Default::default(),
        products: vec![ProductPart {
            product: &world.product,
            releases: &releases,
            plan: &plan,
            hosts_without_ring: without,
        }],
        metadata: Vec::new(),
        changes: Vec::new(),
        server: wire::ServerStatus::default(),
    })
}

fn host_of(world: &World, name: &str, state: HostState) -> wire::HostStatus {
    let placement = &world.hosts[name];
    let host_record = Host {
        id: placement.host_id.clone(),
        name: HostName::parse(name).unwrap(),
        labels: Labels::new(),
        state,
        platform: Platform::parse("linux-x86_64").unwrap(),
        agent_version: "0.1.0".into(),
        time_zone: String::new(),
        free_bytes: 0,
        certificate: Certificate {
            serial: "01".into(),
            not_after: Timestamp::UNIX_EPOCH,
            public_key: Digest::of(b"key"),
            authority: None,
        },
        report_key: ReportKey::from_bytes(&[7; 32]).unwrap(),
        report_counter: 0,
        report_hash: None,
        token_id: "t".into(),
        enrolled_at: Timestamp::UNIX_EPOCH,
        last_seen: world.now,
        timestamp_version: 1,
        metadata_expired: false,
        server: String::new(),
        metadata_failure: None,
        audit_held: None,
        audit_failure: None,
        holds: Vec::new(),
        backups: Vec::new(),
        verify: Vec::new(),
    };
    let plan = world.plan();
    let ring = placement.ring.as_ref().and_then(|ring| plan.ring(ring));
    let view = HostView {
        host: &host_record,
        labels: &Labels::new(),
        last_seen: world.now,
        placements: vec![PlacementView { placement, ring }],
    };
    host(&view, world.now)
}

fn world(script: &str) -> World {
    let mut world = World::default();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        world.run(line);
    }
    world
}

#[test]
fn the_model_counts_what_the_records_say() {
    let world = world(
        "ring pilot hosts=a,b,c,d waves=2 failures=2
         ring early hosts=e
         e moves to none
         promote 1.1 to pilot
         a asks
         a commits
         b asks
         b rolls back
         c asks",
    );
    let status = fleet_of(&world);
    assert_eq!((status.hosts, status.hosts_without_ring), (5, 1));
    let product = &status.products[0];
    assert_eq!(product.hosts_without_ring, 1);
    let [pilot, early] = product.rings.as_slice() else { panic!("two rings") };
    assert_eq!((pilot.current.as_str(), pilot.back.as_str(), pilot.hosts), ("1.1", "1.0", 4));
    assert_eq!(pilot.versions, [("1.0".into(), 3), ("1.1".into(), 1)].into());
    assert_eq!(pilot.hold, None, "a ring with a host in flight moves");
    let rollout = pilot.rollout.as_ref().unwrap();
    assert_eq!((rollout.state.as_str(), rollout.wave, rollout.waves), ("running", 1, 2));
    let counts = rollout.counts.as_ref().unwrap();
    assert_eq!((counts.total, counts.healthy, counts.in_flight, counts.waiting), (4, 1, 1, 1));
    assert_eq!((counts.failed, counts.rolled_back, counts.halts_at), (1, 1, 2));
    assert_eq!(early.hold.as_ref().unwrap().reason, "nothing-promoted");
    let hosts: u64 = pilot.installed.iter().map(|row| row.hosts).sum();
    assert_eq!(hosts, pilot.hosts, "every host has one version and one health");
}

#[test]
fn whatever_stands_still_says_why_and_who_can_change_it() {
    let world = world(
        "ring pilot hosts=a,b,c,d flight=1 failures=3
         ring early hosts=e,f
         f moves to none
         d runs 2.0 ahead
         promote 1.1 to pilot
         promote 1.1 to early
         a asks
         a rolls back
         b refuses no-space
         c waits",
    );
    for (host, reason) in [
        ("a", "quarantined"),
        ("b", "failed"),
        ("c", "hosts-not-ready"),
        ("d", "ahead"),
        ("e", "behind"),
        ("f", "no-ring"),
    ] {
        let status = host_of(&world, host, HostState::Active);
        let hold = status.products[0].hold.clone().unwrap_or_else(|| panic!("{host} has no hold"));
        assert_eq!(hold.reason, reason, "{host}");
        assert!(
            !hold.text.is_empty() && !hold.who.is_empty() && !hold.since.is_empty(),
            "{hold:?}"
        );
    }
    let revoked = host_of(&world, "c", HostState::Revoked);
    assert_eq!(revoked.products[0].hold.as_ref().unwrap().reason, "revoked");
    for ring in &fleet_of(&world).products[0].rings {
        let hold = ring.hold.as_ref();
        let hold = hold.unwrap_or_else(|| panic!("{} stands and does not say why", ring.ring));
        assert!(!hold.who.is_empty() && !hold.since.is_empty(), "{hold:?}");
    }
    let revoked = revoked.products[0].hold.clone().unwrap();
    assert!(!revoked.who.is_empty() && !revoked.since.is_empty(), "{revoked:?}");
}

#[test]
fn a_host_that_is_away_is_shown_as_away() {
    let world = world(
        "ring pilot hosts=a,b
         b is silent
         promote 1.1 to pilot
         +6m",
    );
    let hold = host_of(&world, "b", HostState::Active).products[0].hold.clone().unwrap();
    assert_eq!(hold.reason, "away");
    let id = HostId::parse(&host_of(&world, "b", HostState::Active).host_id).unwrap();
    assert_eq!(id, world.hosts["b"].host_id);
}

#[test]
fn a_host_that_works_has_no_hold() {
    let world = world(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a begins
         b fetches",
    );
    for host in ["a", "b"] {
        assert_eq!(host_of(&world, host, HostState::Active).products[0].hold, None, "{host}");
    }
}
