//! The unsigned part of the rings, which only narrows: waves, caps, soak, limits. A policy that could
//! never stop anything, or never let anything move, is refused when it is set.

use jiff::Timestamp;
use refit_proto::{
    hours::{Hours, HoursError},
    names::{NameError, Product, RingName},
    package::{PlanRules, UnknownRule},
    policy::limits,
    wire,
};
use serde::{Deserialize, Serialize};

use super::Record;

/// What narrows the rollouts of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPolicy {
    /// Of which product.
    pub product: Product,
    /// In the order in which they were given.
    pub rings: Vec<RingPolicy>,
    /// What a release has to say of itself before it is promoted.
    #[serde(default)]
    pub plan: PlanRules,
    /// When its updates may begin.
    #[serde(default)]
    pub hours: Hours,
    /// When that was last changed.
    #[serde(default)]
    pub hours_changed_at: Option<Timestamp>,
    /// Grows by one with each change.
    pub revision: u64,
}

impl Record for RolloutPolicy {
    const NAME: &'static str = "rollout policy";
}

/// What narrows the rollouts of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingPolicy {
    /// Of which ring.
    pub ring: RingName,
    /// Hosts in wave 1, 2, ...; one wave more takes all that are left.
    pub waves: Vec<u32>,
    /// At most so many hosts are in flight at once.
    pub max_in_flight: u32,
    /// From the last host's commit to the moment the ring counts as proven.
    pub soak_seconds: u64,
    /// So many failures halt; 0: no such limit.
    pub failures_count: u32,
    /// So many failures in a hundred hosts of the ring halt; 0: no such limit.
    pub failures_percent: u32,
    /// A host that has not been heard for so long is silent.
    pub silence_seconds: u64,
    /// A host that is longer in flight has timed out.
    pub update_limit_seconds: u64,
    /// How long the leave to begin lasts.
    pub lease_seconds: u32,
    /// How often a host asks.
    pub poll_seconds: u32,
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A name in it is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The same ring twice.
    #[error("ring {0} stands twice in the policy\nhelp: describe each ring once")]
    RingTwice(RingName),
    /// More than anyone needs.
    #[error("the policy has more than {most} {what}\nhelp: use fewer")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// A ring that nothing would ever stop.
    #[error(
        "ring {0} has no failure limit, so nothing would ever stop a bad release\n\
         help: set failures_count, failures_percent, or both"
    )]
    NoFailureLimit(RingName),
    /// A rule for change plans that this server does not know.
    #[error(
        "{0}\n\
         help: use an urgency (normal, high, emergency) once, with parts that docs/FILES.md lists; \
         or update the server first"
    )]
    PlanRule(#[from] UnknownRule),
    /// A rule about hours that makes no sense.
    #[error(transparent)]
    Hours(#[from] HoursError),
    /// A clock that nobody could read.
    #[error(
        "this server knows no time zone {0:?}\nhelp: write one like \"Europe/Berlin\", or install the server's tzdata"
    )]
    Zone(String),
    /// A number that makes no sense there.
    #[error("ring {ring}: {field} is {value}\nhelp: {rule}")]
    Value {
        /// The ring.
        ring: RingName,
        /// The setting, as in the file.
        field: &'static str,
        /// What stands there.
        value: u64,
        /// What may stand there.
        rule: &'static str,
    },
}

impl TryFrom<wire::RolloutPolicy> for RolloutPolicy {
    type Error = PolicyError;

    fn try_from(wire: wire::RolloutPolicy) -> Result<Self, PolicyError> {
        if wire.rings.len() > limits::RINGS {
            return Err(PolicyError::TooMany { what: "rings", most: limits::RINGS });
        }
        let product = Product::parse(&wire.product)?;
        let mut rings: Vec<RingPolicy> = Vec::with_capacity(wire.rings.len());
        for ring in wire.rings {
            let ring = RingPolicy::try_from(ring)?;
            if rings.iter().any(|other| other.ring == ring.ring) {
                return Err(PolicyError::RingTwice(ring.ring));
            }
            rings.push(ring);
        }
        let plan = PlanRules::try_from(wire.plan_rules)?;
        let hours = Hours::try_from(wire.hours.unwrap_or_else(|| Hours::default().into()))?;
        hours.check_rings(rings.iter().map(|ring| &ring.ring))?;
        let revision = wire.revision;
        Ok(RolloutPolicy { product, rings, plan, hours, hours_changed_at: None, revision })
    }
}

impl TryFrom<wire::RingPolicy> for RingPolicy {
    type Error = PolicyError;

    fn try_from(wire: wire::RingPolicy) -> Result<Self, PolicyError> {
        let ring = RingName::parse(&wire.ring)?;
        if wire.waves.len() > limits::WAVES {
            return Err(PolicyError::TooMany { what: "waves in a ring", most: limits::WAVES });
        }
        if wire.failures_count == 0 && wire.failures_percent == 0 {
            return Err(PolicyError::NoFailureLimit(ring));
        }
        let check = |field, value: u64, least: u64, most: u64, rule| {
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(PolicyError::Value { ring: ring.clone(), field, value, rule })
            }
        };
        for wave in &wire.waves {
            check(
                "a wave",
                u64::from(*wave),
                1,
                u64::from(u32::MAX),
                "a wave has at least 1 host",
            )?;
        }
        let in_flight = u64::from(wire.max_in_flight);
        check("max_in_flight", in_flight, 1, u64::from(u32::MAX), "let at least 1 host move")?;
        let percent = u64::from(wire.failures_percent);
        check("failures_percent", percent, 0, 100, "use 1 to 100, or 0 for none")?;
        check("soak", wire.soak_seconds, 0, limits::SPAN, "use at most a year")?;
        check("silence", wire.silence_seconds, 1, limits::SPAN, "use 1 second to a year")?;
        check(
            "update_limit",
            wire.update_limit_seconds,
            1,
            limits::SPAN,
            "use 1 second to a year",
        )?;
        let lease = check("lease", wire.lease_seconds, 1, limits::LEASE, "use 1 second to 1 hour")?;
        let poll = u64::from(wire.poll_seconds);
        check("poll", poll, 1, limits::LEASE, "use 1 second to 1 hour")?;
        Ok(RingPolicy {
            ring,
            waves: wire.waves,
            max_in_flight: wire.max_in_flight,
            soak_seconds: wire.soak_seconds,
            failures_count: wire.failures_count,
            failures_percent: wire.failures_percent,
            silence_seconds: wire.silence_seconds,
            update_limit_seconds: wire.update_limit_seconds,
            lease_seconds: u32::try_from(lease).unwrap_or(u32::MAX),
            poll_seconds: wire.poll_seconds,
        })
    }
}

impl From<RolloutPolicy> for wire::RolloutPolicy {
    fn from(policy: RolloutPolicy) -> Self {
        wire::RolloutPolicy {
            product: policy.product.to_string(),
            rings: policy.rings.into_iter().map(wire::RingPolicy::from).collect(),
            plan_rules: policy.plan.into(),
            hours: Some(policy.hours.into()),
            revision: policy.revision,
        }
    }
}

impl From<RingPolicy> for wire::RingPolicy {
    fn from(ring: RingPolicy) -> Self {
        wire::RingPolicy {
            ring: ring.ring.to_string(),
            waves: ring.waves,
            max_in_flight: ring.max_in_flight,
            soak_seconds: ring.soak_seconds,
            failures_count: ring.failures_count,
            failures_percent: ring.failures_percent,
            silence_seconds: ring.silence_seconds,
            update_limit_seconds: ring.update_limit_seconds,
            lease_seconds: u64::from(ring.lease_seconds),
            poll_seconds: ring.poll_seconds,
        }
    }
}

impl RolloutPolicy {
    /// What narrows this ring; `None`: nobody has set it, and nothing moves there.
    pub fn ring(&self, ring: &RingName) -> Option<&RingPolicy> {
        self.rings.iter().find(|policy| policy.ring == *ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> wire::RingPolicy {
        wire::RingPolicy {
            ring: "pilot".into(),
            waves: vec![1, 5],
            max_in_flight: 2,
            soak_seconds: 60,
            failures_count: 1,
            failures_percent: 10,
            silence_seconds: 60,
            update_limit_seconds: 600,
            lease_seconds: 600,
            poll_seconds: 5,
        }
    }

    #[test]
    fn a_good_policy_comes_back_as_it_was() {
        let plan_rules = vec![wire::PlanRule {
            urgency: "emergency".into(),
            fields: vec!["goal".into(), "runbook".into()],
        }];
        let hours = wire::Hours {
            windows: vec![wire::WindowRule {
                scope: Some(wire::Scope {
                    rings: vec!["pilot".into()],
                    select: vec![wire::LabelRule {
                        label: "region".into(),
                        values: vec!["eu".into(), "us".into()],
                    }],
                }),
                zone: "host".into(),
                open: vec!["daily 22:00-04:00".into()],
                avoid: vec!["sun 00:00-00:00".into()],
            }],
            freezes: vec![wire::Freeze {
                scope: Some(wire::Scope::default()),
                why: "closing".into(),
                from: "2026-12-20T00:00:00Z".into(),
                until: "2027-01-02T00:00:00Z".into(),
            }],
            settle_seconds: 60,
        };
        let (product, rings) = ("payments".into(), vec![good()]);
        let policy =
            wire::RolloutPolicy { product, rings, plan_rules, hours: Some(hours), revision: 3 };
        let parsed = RolloutPolicy::try_from(policy.clone()).unwrap();
        assert_eq!(wire::RolloutPolicy::from(parsed.clone()), policy);
        assert_eq!(RolloutPolicy::decode(&parsed.encode().unwrap()).unwrap(), parsed);
    }

    #[test]
    fn a_policy_that_could_stop_nothing_or_move_nothing_is_refused() {
        let bad: [fn(&mut wire::RingPolicy); 9] = [
            |ring| (ring.failures_count, ring.failures_percent) = (0, 0),
            |ring| ring.failures_percent = 101,
            |ring| ring.max_in_flight = 0,
            |ring| ring.waves = vec![1, 0],
            |ring| ring.waves = vec![1; 65],
            |ring| ring.silence_seconds = 0,
            |ring| ring.update_limit_seconds = 0,
            |ring| ring.lease_seconds = 3601,
            |ring| ring.ring = "Pilot".into(),
        ];
        for (number, spoil) in bad.into_iter().enumerate() {
            let mut ring = good();
            spoil(&mut ring);
            assert!(RingPolicy::try_from(ring).is_err(), "case {number}");
        }
        let rings = vec![good(), good()];
        let twice = wire::RolloutPolicy { product: "payments".into(), rings, ..Default::default() };
        assert!(matches!(RolloutPolicy::try_from(twice), Err(PolicyError::RingTwice(_))));
    }

    #[test]
    fn a_rule_for_plans_that_is_not_known_is_refused_and_none_is_dropped() {
        let rule = |urgency: &str, field: &str| wire::PlanRule {
            urgency: urgency.into(),
            fields: vec![field.into()],
        };
        for rules in [
            vec![rule("normal", "gaol")],
            vec![rule("at once", "goal")],
            vec![rule("high", "goal"), rule("high", "owner")],
        ] {
            let policy = wire::RolloutPolicy {
                product: "payments".into(),
                rings: vec![good()],
                plan_rules: rules,
                ..Default::default()
            };
            let refused = RolloutPolicy::try_from(policy);
            assert!(matches!(refused, Err(PolicyError::PlanRule(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_record_of_another_format_is_refused_not_guessed() {
        for bytes in [&b""[..], b"\x02{}", b"\x01", b"\x01{}"] {
            assert!(RolloutPolicy::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
