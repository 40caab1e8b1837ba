//! What holds whatever happens in which order. The world itself checks after every step that a plan which
//! was applied has nothing left to do, and that the cells are what a recount gives.

use proptest::prelude::*;

use super::world::World;
use crate::fleet::RolloutState;

const PILOT: [&str; 4] = ["a", "b", "c", "d"];
const EARLY: [&str; 3] = ["e", "f", "g"];

fn any_host() -> impl Strategy<Value = &'static str> {
    prop::sample::select([PILOT.as_slice(), EARLY.as_slice()].concat())
}

/// Something that happens. The failures are rarer than what goes well, or no script would come far.
fn any_act() -> impl Strategy<Value = String> {
    let verb = prop_oneof![
        8 => Just("asks"),
        6 => Just("commits"),
        1 => Just("commits unproven"),
        2 => Just("waits"),
        2 => Just("begins"),
        1 => Just("switches"),
        1 => Just("rolls back"),
        1 => Just("refuses no-space"),
        1 => Just("refuses fetch-failed"),
        1 => Just("drops it"),
        1 => Just("sticks"),
        1 => Just("turns bad"),
        2 => Just("turns good"),
        1 => Just("is silent"),
        2 => Just("is back"),
        1 => Just("leaves"),
    ];
    prop_oneof![
        30 => (any_host(), verb).prop_map(|(host, verb)| format!("{host} {verb}")),
        3 => (0..PILOT.len(), 0..PILOT.len()).prop_map(|(one, two)| format!("race {one} {two}")),
        4 => prop::sample::select(vec!["+30s", "+4m", "+6m", "+11m", "+2h"]).prop_map(String::from),
        1 => prop::sample::select(vec!["pause pilot", "pause early"]).prop_map(String::from),
        3 => prop::sample::select(vec!["resume pilot", "resume early"]).prop_map(String::from),
        1 => prop::sample::select(vec!["rollback pilot", "rollback early"]).prop_map(String::from),
        1 => prop::sample::select(vec![
            "promote 1.1 to pilot retry", "promote 1.1 to early", "promote 1.2 to pilot",
            "promote 1.2 to early", "restart", "a moves to early", "a moves to pilot",
        ]).prop_map(String::from),
    ]
}

fn fleet(waves: &str) -> World {
    let mut world = World::default();
    world.run(&format!("ring pilot hosts=a,b,c,d flight=2 failures=2 percent=50 soak=600{waves}"));
    world.run("ring early hosts=e,f,g flight=1 soak=600");
    world.run("promote 1.1 to pilot");
    world.run("promote 1.1 to early");
    world
}

/// Does one act, and says whether somebody got leave by it.
fn step(world: &mut World, act: &str) -> bool {
    if !world.has_rollout(act) {
        return false;
    }
    match act.strip_prefix("race ") {
        Some(two) => {
            let pick = |n: &str| PILOT[n.parse::<usize>().unwrap()];
            let (one, two) = two.split_once(' ').unwrap();
            world.race([pick(one), pick(two)]) > 0
        }
        None => world.run(act).starts_with("lease"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn at_most_n_hosts_are_ever_in_flight(acts in prop::collection::vec(any_act(), 1..60)) {
        let mut world = fleet("");
        for act in &acts {
            step(&mut world, act);
            for (ring, most) in [("pilot", 2), ("early", 1)] {
                // A host that moves takes its slot along; so count those that were let in here.
                let flying = world.hosts.values().filter_map(|it| it.flight.as_ref());
                let here = flying.filter(|flight| flight.rollout.ring().as_str() == ring).count();
                prop_assert!(here <= most, "{here} in flight in {ring} after {act}");
            }
        }
    }

    #[test]
    fn nobody_begins_once_a_limit_is_reached(acts in prop::collection::vec(any_act(), 1..60)) {
        let mut world = fleet("");
        for act in &acts {
            let spent: Vec<_> = ["pilot", "early"].into_iter().filter(|ring| world.limit_is_reached(ring)).collect();
            let before = world.flights();
            step(&mut world, act);
            for (host, rollout) in world.flights() {
                let known = before.contains(&(host.clone(), rollout.clone()));
                // A resume, a new promotion and a rollback each begin another count.
                let ring = rollout.ring().as_str();
                prop_assert!(known || !spent.contains(&ring), "{host} began in {ring} by {act}");
            }
        }
    }

    #[test]
    fn nothing_is_offered_to_early_before_pilot_is_proven(
        acts in prop::collection::vec(any_act(), 1..60),
    ) {
        let mut world = fleet(" waves=1");
        for act in &acts {
            step(&mut world, act);
            let pilot = world.rings[0].2.clone();
            for host in EARLY {
                let said = world.run(host);
                let Some(version) = said.strip_prefix("offer ") else { continue };
                let pilot = pilot.as_ref().expect("pilot has a rollout");
                let proven = matches!(pilot.state, RolloutState::Done { .. });
                let same = version.starts_with(pilot.release.version.as_str());
                prop_assert!(proven && same, "{host} was told {said:?} after {act}: {pilot:?}");
            }
        }
    }

    #[test]
    fn a_proven_ring_has_had_its_soak(acts in prop::collection::vec(any_act(), 1..60)) {
        let mut world = fleet("");
        let mut seen: Option<RolloutState> = None;
        for act in &acts {
            let before = world.now;
            step(&mut world, act);
            let state = world.rings[0].2.clone().expect("a rollout");
            if let (RolloutState::Done { .. }, "done") = (&state.state, state.word())
                && !matches!(seen, Some(RolloutState::Done { .. } | RolloutState::Paused { .. } | RolloutState::Halted { .. }))
            {
                // It was soaking before, or time has passed in which it soaked.
                let soaked = matches!(seen, Some(RolloutState::Soaking { .. })) || (world.now - before).total(jiff::Unit::Minute).unwrap() >= 10.0;
                prop_assert!(soaked, "proven from {seen:?} by {act}");
            }
            seen = Some(state.state);
        }
    }
}
