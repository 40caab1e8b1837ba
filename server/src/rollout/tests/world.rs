//! A fleet in text: each line of a script is something that happens, and what follows an arrow is what
//! must then be said. Every line ends with the plan being applied; planning again must give nothing, and
//! the cells must be what a recount gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use refit_proto::{
    hours::{Freeze, HostPlace, Scope, WindowRule, Zone, Zones},
    names::{Digest, HostId, LabelName, LabelValue, Labels, Product, RingName, Version},
    policy::Selector,
    windows::{Window, Windows},
};

use crate::{
    fleet::{
        Have, Health, Phase, Placement, ReleaseId, ReportedFailure, ReportedHold, RingPolicy,
        RingRecord, Rollout, Tally, TallyKey,
    },
    rollout::{
        Admission, Ask, Decision, HoursNow, Plan, ProductReport, ProductView, RingView, Step,
        Watched, admit, decide, fold, fold::Attempt, give_back, leave, meet, narrows, pause, place,
        plan, resume, roll_back,
    },
};

/// Runs a script and compares what it says.
pub(crate) fn check(script: &str) {
    let mut world = World::default();
    for (number, line) in script.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (act, expected) = match line.split_once("->") {
            Some((act, expected)) => (act.trim(), Some(expected.trim())),
            None => (line, None),
        };
        let said = world.run(act);
        if let Some(expected) = expected {
            assert_eq!(said, expected, "line {}: {line}\n{}", number + 1, world.show());
        }
    }
}

/// `90s`, `5m`, `2h`.
fn span(text: &str) -> SignedDuration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: i64 = number.parse().unwrap();
    match unit {
        "s" => SignedDuration::from_secs(number),
        "m" => SignedDuration::from_mins(number),
        "h" => SignedDuration::from_hours(number),
        _ => panic!("no such unit: {unit}"),
    }
}

/// `pilot region=eu`: rings and labels.
fn scope(words: &[&str]) -> Scope {
    let (labels, rings): (Vec<&str>, Vec<&str>) = words.iter().partition(|it| it.contains('='));
    let labels = labels.iter().map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        (LabelName::parse(name).unwrap(), vec![LabelValue::parse(value).unwrap()])
    });
    let labels: BTreeMap<_, _> = labels.collect();
    let select = (!labels.is_empty()).then_some(Selector::Labels(labels));
    Scope { rings: rings.iter().map(|ring| RingName::parse(ring).unwrap()).collect(), select }
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn release(version: &str) -> ReleaseId {
    // 1.2 is the third: the counter is what tells order, not the label.
    let counter = version.bytes().fold(0, |sum, b| sum * 256 + u64::from(b));
    let digest = Digest::of(version.as_bytes());
    ReleaseId { version: Version::parse(version).unwrap(), digest, counter }
}

/// A product with its rings and hosts, kept as a store would keep it.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) product: Product,
    pub(crate) rings: Vec<(RingRecord, Option<RingPolicy>, Option<Rollout>)>,
    pub(crate) hosts: BTreeMap<String, Placement>,
    pub(crate) cells: BTreeMap<TallyKey, i64>,
    silent: BTreeSet<String>,
    last_seen: BTreeMap<String, Timestamp>,
    offers: BTreeMap<String, (crate::fleet::RolloutId, u32, ReleaseId)>,
    listening_since: Timestamp,
    withdrawn: Vec<Digest>,
    pub(crate) hours: HoursNow,
    labels: BTreeMap<String, Labels>,
    zones: BTreeMap<String, TimeZone>,
}

impl Default for World {
    fn default() -> World {
        World {
            now: start(),
            product: Product::parse("payments").unwrap(),
            rings: Vec::new(),
            hosts: BTreeMap::new(),
            cells: BTreeMap::new(),
            silent: BTreeSet::new(),
            last_seen: BTreeMap::new(),
            offers: BTreeMap::new(),
            listening_since: start(),
            withdrawn: Vec::new(),
            hours: HoursNow::default(),
            labels: BTreeMap::new(),
            zones: BTreeMap::new(),
        }
    }
}

impl World {
    /// Does one line and says what it makes of it.
    pub(crate) fn run(&mut self, act: &str) -> String {
        let words: Vec<&str> = act.split_whitespace().collect();
        let said = match words.as_slice() {
            ["ring", ring, rest @ ..] => self.add_ring(ring, rest),
            ["policy", ring, rest @ ..] => self.set_policy(ring, rest),
            ["promote", version, "to", ring, rest @ ..] => self.promote(version, ring, rest),
            ["renew", ring] => {
                // The file gets a new version; what is promoted stays as it was.
                self.ring(ring);
                String::new()
            }
            ["withdraw", version] => {
                self.withdrawn.push(release(version).digest);
                String::new()
            }
            ["window", kind, zone, days, times, rest @ ..] => {
                self.add_window((kind, zone), &format!("{days} {times}"), rest)
            }
            ["freeze", from, until, rest @ ..] => self.add_freeze(from, until, rest),
            ["settle", time] => {
                self.hours.hours.settle_seconds = span(time).as_secs().unsigned_abs();
                String::new()
            }
            ["no", "hours"] => {
                self.hours.hours.windows.clear();
                self.hours.hours.freezes.clear();
                self.hours.changed_at = Some(self.now);
                String::new()
            }
            ["pause", ring] => self.act(ring, |it, _, _, now| pause(it, "person ann", "", now)),
            ["resume", ring] => self.act(ring, |it, _, _, now| resume(it, now)),
            ["rollback", ring] => self.act(ring, roll_back),
            ["restart"] => {
                self.listening_since = self.now;
                String::new()
            }
            [time] if time.starts_with('+') => self.pass(&time[1..]),
            [ring] if self.rings.iter().any(|it| it.0.ring.as_str() == *ring) => {
                self.settle();
                return self.ring_text(ring);
            }
            ["counts", ring] => {
                self.settle();
                return self.counts_text(ring);
            }
            [host, verb @ ..] => self.host_act(host, verb),
            [] => String::new(),
        };
        self.settle();
        said
    }

    fn ring(&mut self, name: &str) -> &mut (RingRecord, Option<RingPolicy>, Option<Rollout>) {
        let found = self.rings.iter_mut().find(|it| it.0.ring.as_str() == name);
        found.unwrap_or_else(|| panic!("no ring {name}"))
    }

    fn add_ring(&mut self, name: &str, rest: &[&str]) -> String {
        let ring = RingRecord {
            product: self.product.clone(),
            ring: RingName::parse(name).unwrap(),
            order: u32::try_from(self.rings.len()).unwrap(),
            select: Selector::EveryHost,
            defined_at: self.now,
            gate: false,
            current: None,
            back: None,
            passed: Vec::new(),
            retry: Vec::new(),
            promotion: 0,
            promoted_by: "person ann".into(),
            promoted_at: None,
        };
        self.rings.push((ring, None, None));
        self.set_policy(name, rest)
    }

    fn set_policy(&mut self, name: &str, rest: &[&str]) -> String {
        let mut policy = RingPolicy {
            ring: RingName::parse(name).unwrap(),
            waves: Vec::new(),
            max_in_flight: 10,
            soak_seconds: 600,
            failures_count: 1,
            failures_percent: 0,
            silence_seconds: 300,
            update_limit_seconds: 3600,
            lease_seconds: 600,
            poll_seconds: 5,
        };
        for word in rest {
            let (key, value) = word.split_once('=').unwrap();
            let number = || value.parse::<u32>().unwrap();
            match key {
                "waves" => policy.waves = value.split(',').map(|n| n.parse().unwrap()).collect(),
                "flight" => policy.max_in_flight = number(),
                "soak" => policy.soak_seconds = u64::from(number()),
                "failures" => policy.failures_count = number(),
                "percent" => policy.failures_percent = number(),
                "silence" => policy.silence_seconds = u64::from(number()),
                "limit" => policy.update_limit_seconds = u64::from(number()),
                "hosts" => value.split(',').for_each(|host| self.add_host(host, name)),
                _ => panic!("no such setting: {key}"),
            }
        }
        let policy = Some(policy).filter(|_| !rest.contains(&"hosts=none"));
        self.ring(name).1 = policy;
        String::new()
    }

    fn add_host(&mut self, name: &str, ring: &str) {
        if name == "none" {
            return;
        }
        let id = Digest::of(name.as_bytes()).to_string()[..32].to_owned();
        let id = HostId::parse(&id).unwrap();
        let mut placement = Placement::new(self.product.clone(), id, self.now);
        placement = place(&placement, Some(RingName::parse(ring).unwrap()), self.now).placement;
        placement.health = Health::Good;
        placement.have = Some(have("1.0"));
        *self.cells.entry(TallyKey::of(&placement)).or_default() += 1;
        self.last_seen.insert(name.into(), self.now);
        self.hosts.insert(name.into(), placement);
    }

    fn add_window(&mut self, (kind, zone): (&str, &str), text: &str, rest: &[&str]) -> String {
        let windows = Windows::try_from(vec![text.parse::<Window>().unwrap()]).unwrap();
        let (open, avoid) = match kind {
            "open" => (Some(windows), None),
            "avoid" => (None, Some(windows)),
            _ => panic!("no such kind of window: {kind}"),
        };
        let (scope, zone) = (scope(rest), Zone::from(zone.to_owned()));
        self.hours.hours.windows.push(WindowRule { scope, zone, open, avoid });
        self.hours.changed_at = Some(self.now);
        self.hours.zones = Zones::of(&self.hours.hours, |name| TimeZone::get(name).ok());
        String::new()
    }

    fn add_freeze(&mut self, from: &str, until: &str, rest: &[&str]) -> String {
        let (from, until) = (self.now + span(from), self.now + span(until));
        let freeze = Freeze { scope: scope(rest), why: "closing".into(), from, until };
        self.hours.hours.freezes.push(freeze);
        self.hours.changed_at = Some(self.now);
        String::new()
    }

    fn place_of(&self, host: &str) -> HostPlace<'_> {
        static NONE: Labels = Labels::new();
        let labels = self.labels.get(host).unwrap_or(&NONE);
        HostPlace { labels, zone: self.zones.get(host) }
    }

    fn promote(&mut self, version: &str, ring: &str, rest: &[&str]) -> String {
        let ring = &mut self.ring(ring).0;
        let back = ring.current.take().or_else(|| Some(release("1.0")));
        let new = release(version);
        ring.back = back.filter(|back| back.digest != new.digest).or(ring.back.take());
        ring.retry = if rest.contains(&"retry") { vec![new.digest] } else { Vec::new() };
        let passed = rest.iter().filter_map(|word| word.strip_prefix("past="));
        ring.passed = passed.map(|gate| gate.parse().unwrap()).collect();
        ring.current = Some(new);
        ring.promotion += 1;
        String::new()
    }

    fn act(
        &mut self,
        ring: &str,
        act: impl Fn(
            &Rollout,
            &RingRecord,
            &[Digest],
            Timestamp,
        ) -> Result<Rollout, crate::rollout::ActError>,
    ) -> String {
        let (now, withdrawn) = (self.now, self.withdrawn.clone());
        let (record, _, rollout) = self.ring(ring);
        match act(rollout.as_ref().expect("a rollout"), record, &withdrawn, now) {
            Ok(next) => {
                *rollout = Some(next);
                String::new()
            }
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    }

    /// Time passes in steps, with everybody calling who is not silent.
    fn pass(&mut self, time: &str) -> String {
        let seconds = span(time).as_secs();
        for _ in 0..10 {
            self.now += SignedDuration::from_millis(seconds * 100);
            self.settle();
        }
        String::new()
    }

    fn host_act(&mut self, host: &str, verb: &[&str]) -> String {
        match verb {
            [] => {
                self.settle();
                self.decision_text(host)
            }
            ["asks"] => self.ask(host),
            ["has", label] => {
                let (name, value) = label.split_once('=').unwrap();
                let labels = self.labels.entry(host.into()).or_default();
                labels.insert(LabelName::parse(name).unwrap(), LabelValue::parse(value).unwrap());
                String::new()
            }
            ["lives", "in", zone] => {
                self.zones.insert(host.into(), TimeZone::get(zone).unwrap());
                String::new()
            }
            ["joins", ring] => {
                self.add_host(host, ring);
                String::new()
            }
            ["is", "silent"] => {
                self.silent.insert(host.into());
                String::new()
            }
            ["failure"] => {
                let failed = self.hosts[host].failed.as_ref();
                failed.map_or("none", |failed| failed.kind.word()).to_owned()
            }
            ["is", "back"] => {
                self.silent.remove(host);
                String::new()
            }
            ["moves", "to", ring] => {
                let ring = Some(*ring).filter(|ring| *ring != "none");
                let ring = ring.map(|ring| RingName::parse(ring).unwrap());
                let step = place(&self.hosts[host], ring, self.now);
                self.apply(host, step);
                String::new()
            }
            ["leaves"] => {
                self.silent.insert(host.into());
                let step = leave(&self.hosts[host], self.now);
                self.apply(host, step);
                String::new()
            }
            ["repeats"] => {
                let before = self.hosts[host].clone();
                let report = self.report_of(host, None);
                let (record, _, rollout) = self.ring_of(host);
                let step =
                    fold(&before, before.seq, &report, rollout.as_ref(), Some(&record), self.now);
                assert!(step.is_empty && step.tally.is_empty() && step.placement == before);
                String::new()
            }
            verb => self.report(host, verb),
        }
    }

    fn ring_of(&self, host: &str) -> (RingRecord, Option<RingPolicy>, Option<Rollout>) {
        let ring = self.hosts[host].ring.as_ref();
        self.rings.iter().find(|it| Some(&it.0.ring) == ring).cloned().expect("in a ring")
    }

    /// Asks for leave as an agent does: for what it was last offered.
    fn ask(&mut self, host: &str) -> String {
        self.remember_offer(host);
        let Some((rollout, attempt, release)) = self.offers.get(host).cloned() else {
            return self.decision_text(host);
        };
        let ask = Ask { rollout, attempt, digest: release.digest };
        let made = self.plan();
        let placement = &self.hosts[host];
        let ring = placement.ring.as_ref().and_then(|ring| made.ring(ring));
        match admit(ring, placement, self.place_of(host), &ask, self.now) {
            Admission::Granted(grant) => {
                let ring = grant.rollout.id.ring().to_string();
                if !grant.step.is_empty {
                    self.ring(&ring).2 = Some(grant.rollout.clone());
                }
                self.apply(host, grant.step);
                format!("lease {}s", grant.seconds)
            }
            Admission::Held(hold, step) => {
                if let Some(step) = step {
                    self.apply(host, *step);
                }
                hold.reason.word().to_owned()
            }
            Admission::PlanFirst => panic!("every line ends with the plan applied"),
        }
    }

    /// Two servers answer two hosts at once, from the same snapshot: the second to store finds another
    /// revision of the rollout and has to begin again. Says how many got leave.
    pub(crate) fn race(&mut self, hosts: [&str; 2]) -> usize {
        let made = self.plan();
        let mut granted = 0;
        let answers: Vec<_> = hosts
            .into_iter()
            .filter_map(|host| {
                self.remember_offer(host);
                let (rollout, attempt, release) = self.offers.get(host).cloned()?;
                let ask = Ask { rollout, attempt, digest: release.digest };
                let placement = &self.hosts[host];
                let ring = made.ring(placement.ring.as_ref()?);
                let read = ring.and_then(|ring| ring.rollout.clone());
                match admit(ring, placement, self.place_of(host), &ask, self.now) {
                    Admission::Granted(grant) => Some((host, read, *grant)),
                    Admission::Held(..) | Admission::PlanFirst => None,
                }
            })
            .collect();
        for (host, read, grant) in answers {
            let stored = self.ring(grant.rollout.id.ring().as_str());
            if grant.step.is_empty || stored.2 != read {
                continue;
            }
            stored.2 = Some(grant.rollout);
            self.apply(host, grant.step);
            granted += 1;
        }
        self.settle();
        granted
    }

    fn remember_offer(&mut self, host: &str) {
        let made = self.plan();
        let placement = &self.hosts[host];
        let ring = placement.ring.as_ref().and_then(|ring| made.ring(ring));
        if let Decision::Offer(offer) = decide(ring, placement) {
            self.offers.insert(host.into(), (offer.rollout, offer.attempt, offer.release));
        }
    }

    fn report_of(&self, host: &str, phase: Option<Phase>) -> ProductReport {
        let placement = &self.hosts[host];
        let attempt = self.offers.get(host).map(|(rollout, number, release)| Attempt {
            rollout: rollout.clone(),
            number: *number,
            digest: release.digest,
            leased: placement.flight.is_some(),
        });
        ProductReport {
            product: self.product.clone(),
            ring: placement.ring.clone(),
            have: placement.have.clone(),
            phase,
            attempt,
            failure: placement.failure.clone(),
            health: placement.health,
            quarantine: placement.quarantine.clone(),
            hold: None,
            ahead: placement.ahead,
            hooks: placement.hooks.clone(),
        }
    }

    fn report(&mut self, host: &str, verb: &[&str]) -> String {
        // What a host is in the middle of, it finishes; a new offer comes after that.
        if self.hosts[host].flight.is_none() {
            self.remember_offer(host);
        }
        let target = self.offers.get(host).map(|(_, _, release)| release.clone());
        let mut report = self.report_of(host, self.hosts[host].phase);
        let go = |report: &mut ProductReport, phase| report.phase = Some(phase);
        let fail = |report: &mut ProductReport, cause: &str| {
            let (text, help, log) = (String::new(), String::new(), String::new());
            report.failure = Some(ReportedFailure { cause: cause.into(), text, help, log });
        };
        match verb {
            ["fetches"] => go(&mut report, Phase::Fetching),
            ["waits"] => {
                go(&mut report, Phase::Waiting);
                if let Some(attempt) = &mut report.attempt {
                    attempt.leased = false;
                }
            }
            ["begins"] => go(&mut report, Phase::BackingUp),
            ["reboots"] => go(&mut report, Phase::Rebooting),
            ["switches"] => {
                go(&mut report, Phase::Probation);
                report.have = target.as_ref().map(|release| have(release.version.as_str()));
            }
            ["commits", health @ ..] => {
                report.phase = None;
                report.failure = None;
                report.have = target.as_ref().map(|release| have(release.version.as_str()));
                report.health = Health::parse(health.first().unwrap_or(&"good"));
            }
            ["rolls", "back"] => {
                go(&mut report, Phase::RolledBack);
                fail(&mut report, "health-check-failed");
                report.have = Some(have("1.0"));
                report.quarantine.extend(target.as_ref().map(|release| release.digest));
            }
            ["refuses", cause] => {
                go(&mut report, Phase::Refused);
                fail(&mut report, cause);
            }
            ["drops", "it"] => go(&mut report, Phase::Dropped),
            ["sticks"] => {
                go(&mut report, Phase::Stuck);
                fail(&mut report, "rollback-failed");
            }
            ["turns", health] => report.health = Health::parse(health),
            ["tells", "its", "hold"] => {
                let (reason, text, who) = ("tried-before".into(), String::new(), "time".into());
                let (since, until) = (Some(self.now), None);
                report.hold = Some(ReportedHold { reason, text, since, until, who });
            }
            ["runs", version] => report.have = Some(have(version)),
            ["runs", version, "ahead"] => {
                report.have = Some(have(version));
                report.ahead = true;
            }
            verb => panic!("no such verb: {verb:?}"),
        }
        let before = self.hosts[host].clone();
        let (record, _, rollout) = self.ring_of(host);
        self.last_seen.insert(host.into(), self.now);
        let step =
            fold(&before, before.seq + 1, &report, rollout.as_ref(), Some(&record), self.now);
        self.apply(host, step);
        let step = give_back(&self.hosts[host], self.now);
        self.apply(host, step);
        String::new()
    }

    pub(crate) fn apply(&mut self, host: &str, step: Step) {
        for (cell, n) in step.tally {
            *self.cells.entry(cell).or_default() += n;
        }
        self.hosts.insert(host.into(), step.placement);
    }

    fn tally(&self, ring: &RingName) -> Tally {
        let cells =
            self.cells.iter().filter(|(cell, n)| cell.ring.as_ref() == Some(ring) && **n != 0);
        Tally(cells.map(|(cell, n)| (cell.clone(), *n)).collect())
    }

    pub(crate) fn plan(&self) -> Plan {
        let tallies: Vec<Tally> = self.rings.iter().map(|it| self.tally(&it.0.ring)).collect();
        let policies =
            self.rings.iter().map(|(ring, policy, _)| Some(narrows(ring, policy.as_ref()?)));
        let policies: Vec<Option<RingPolicy>> = policies.collect();
        let kept = self.rings.iter().zip(&policies).zip(&tallies);
        let rings = kept.map(|(((ring, _, rollout), policy), tally)| {
            let policy = policy.as_ref();
            let here = self.hosts.iter().filter(|(_, it)| it.ring.as_ref() == Some(&ring.ring));
            let watched = here
                .map(|(name, placement)| Watched { placement, last_seen: self.last_seen[name] })
                .collect();
            let rollout = rollout.as_ref();
            RingView { ring, policy, rollout, tally, withdrawn: &self.withdrawn, watched }
        });
        let rings = rings.collect();
        let (product, listening_since) = (&self.product, self.listening_since);
        let hours = &Arc::new(self.hours.clone());
        plan(&ProductView { product, rings, hours, listening_since }, self.now)
    }

    fn store(&mut self, made: Plan) {
        for ring in made.rings {
            for step in ring.late {
                let host = self.name_of(&step.placement.host_id);
                self.apply(&host, step);
            }
            let newest = ring.rollout;
            self.ring(ring.ring.ring.as_str()).2 = newest;
        }
    }

    fn name_of(&self, id: &HostId) -> String {
        self.hosts.iter().find(|(_, it)| it.host_id == *id).map(|(name, _)| name.clone()).unwrap()
    }

    /// Everybody calls who is not silent, and the plan is applied: once is enough.
    pub(crate) fn settle(&mut self) {
        let made = self.plan();
        self.store(made);
        for name in self.hosts.keys().cloned().collect::<Vec<_>>() {
            if self.silent.contains(&name) {
                continue;
            }
            self.last_seen.insert(name.clone(), self.now);
            if self.hosts[&name].ring.is_none() {
                continue;
            }
            let (record, _, rollout) = self.ring_of(&name);
            let step = meet(&self.hosts[&name], rollout.as_ref(), Some(&record), self.now);
            self.apply(&name, step);
        }
        let made = self.plan();
        self.store(made);
        let again = self.plan();
        assert!(again.is_empty(), "a plan that was applied has nothing left to do: {again:#?}");
        let recount = Tally::recount(self.hosts.values());
        let kept: Vec<_> =
            self.cells.iter().filter(|(_, n)| **n != 0).map(|(c, n)| (c.clone(), *n)).collect();
        assert_eq!(Tally(kept), recount, "the cells are what a recount gives");
    }

    /// Whether the act can be done: people can only act on a rollout that is there.
    pub(crate) fn has_rollout(&self, act: &str) -> bool {
        match act.split_once(' ') {
            Some(("pause" | "resume" | "rollback", ring)) => {
                self.rings.iter().any(|it| it.0.ring.as_str() == ring && it.2.is_some())
            }
            _ => true,
        }
    }

    /// Whether a ring's failures have reached a limit, counted from the placements themselves.
    pub(crate) fn limit_is_reached(&self, ring: &str) -> bool {
        let (_, policy, rollout) =
            self.rings.iter().find(|it| it.0.ring.as_str() == ring).cloned().expect("a ring");
        let (Some(policy), Some(rollout)) = (policy, rollout) else { return false };
        let here = self.hosts.values().filter(|it| it.ring.as_ref() == Some(&policy.ring));
        let (mut total, mut failed) = (0_u32, 0_u32);
        for placement in here {
            total += 1;
            let counts =
                |it: &crate::fleet::Failed| it.rollout == rollout.id && it.count == rollout.count;
            failed += u32::from(placement.failed.as_ref().is_some_and(counts));
        }
        let count = policy.failures_count > 0 && failed >= policy.failures_count;
        let share = policy.failures_percent > 0 && failed * 100 >= policy.failures_percent * total;
        failed > 0 && (count || share)
    }

    /// Who is in flight, and for what.
    pub(crate) fn flights(&self) -> Vec<(String, crate::fleet::RolloutId)> {
        let flying = self.hosts.iter().filter_map(|(name, it)| Some((name, it.flight.as_ref()?)));
        flying.map(|(name, flight)| (name.clone(), flight.rollout.clone())).collect()
    }

    fn ring_text(&self, name: &str) -> String {
        let made = self.plan();
        let ring = made.ring(&RingName::parse(name).unwrap()).unwrap();
        let state = ring.rollout.as_ref().map_or("nothing", Rollout::word);
        let wave = match (&ring.rollout, &ring.policy) {
            (Some(rollout), Some(policy)) if !policy.waves.is_empty() => {
                format!(" wave {}", rollout.wave)
            }
            _ => String::new(),
        };
        let hold = match &ring.hold {
            Some(hold) if hold.reason.word() != state => format!(": {}", hold.reason.word()),
            _ => String::new(),
        };
        format!("{state}{wave}{hold}")
    }

    fn counts_text(&self, name: &str) -> String {
        let made = self.plan();
        let counts = &made.ring(&RingName::parse(name).unwrap()).unwrap().counts;
        let mut words = Vec::new();
        for (word, n) in [
            ("waiting", counts.waiting),
            ("in flight", counts.in_flight),
            ("healthy", counts.healthy),
            ("unproven", counts.unproven),
            ("failed", counts.failures()),
            ("away", counts.away),
            ("quarantined", counts.quarantined),
            ("ahead", counts.ahead),
        ] {
            if n > 0 {
                words.push(format!("{n} {word}"));
            }
        }
        words.join(", ")
    }

    fn decision_text(&self, host: &str) -> String {
        let made = self.plan();
        let placement = &self.hosts[host];
        let ring = placement.ring.as_ref().and_then(|ring| made.ring(ring));
        match decide(ring, placement) {
            Decision::Offer(offer) if offer.rollback => {
                format!("back to {}", offer.release.version)
            }
            Decision::Offer(offer) => format!("offer {} #{}", offer.release.version, offer.attempt),
            Decision::Hold(hold) => hold.reason.word().to_owned(),
            Decision::BackOut(_) => "back out".into(),
            Decision::UpToDate => "up to date".into(),
        }
    }

    fn show(&self) -> String {
        let rings = self.rings.iter().map(|it| {
            let name = it.0.ring.as_str();
            format!("{name}: {} ({})", self.ring_text(name), self.counts_text(name))
        });
        let hosts = self.hosts.keys().map(|host| format!("{host}: {}", self.decision_text(host)));
        rings.chain(hosts).collect::<Vec<_>>().join("\n")
    }
}

fn have(version: &str) -> Have {
    let release = release(version);
    Have { version: release.version, digest: release.digest }
}
