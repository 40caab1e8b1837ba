//! `fleet.toml`: products, their rings in order, and labels set from the centre, as people write them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use refit_proto::{
    hours,
    names::{HostId, LabelName, LabelValue, Labels, PersonName, Product, RingName},
    package::PlanRules,
    policy::{
        ApprovalKind, Gate, LabelPolicy, Person, ProductPolicy, RingDefinition, Rules, Selector,
        Signatories, limits,
    },
    servers::{Address, Authority, Mirror, ServersPolicy},
    trust::KeyId,
    wire,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use rustls::pki_types::CertificateDer;

use super::hours::{Around, FreezeFile, WindowFile};
use crate::{duration, servers, toml_text};

/// What the fleet should be.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) products: Vec<WantedProduct>,
    /// `None` where the file says nothing of labels: then they stay as they are.
    pub(super) labels: Option<LabelPolicy>,
    /// `None` where the file says nothing of servers: then they stay as they are.
    pub(super) servers: Option<WantedServers>,
}

/// Where the servers are, with authorities still in files.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedServers {
    addresses: Vec<Address>,
    #[serde(default)]
    mirrors: Vec<Mirror>,
    /// Files with certificates, beside the description; none: the one of the own login.
    #[serde(default)]
    authorities: Vec<PathBuf>,
}

/// One product: the part that is signed and the part that only narrows.
#[derive(Debug)]
pub(super) struct WantedProduct {
    pub(super) policy: ProductPolicy,
    pub(super) rollout: wire::RolloutPolicy,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FleetFile {
    #[serde(default)]
    product: Vec<ProductFile>,
    labels: Option<BTreeMap<HostId, Labels>>,
    servers: Option<WantedServers>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ProductFile {
    name: Product,
    /// Each person's keys, with the kinds of approval that each may give.
    #[serde(default)]
    persons: BTreeMap<PersonName, BTreeMap<String, BTreeSet<ApprovalKind>>>,
    /// What a release has to say of itself, by urgency.
    #[serde(default)]
    plan: PlanRules,
    /// When its updates may begin.
    #[serde(default)]
    window: Vec<WindowFile>,
    #[serde(default)]
    freeze: Vec<FreezeFile>,
    /// So long nothing begins after a change of that.
    #[serde(default = "settle")]
    settle: Seconds,
    #[serde(default)]
    ring: Vec<RingFile>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    name: RingName,
    #[serde(default)]
    select: BTreeMap<LabelName, Values>,
    #[serde(default)]
    every_host: bool,
    #[serde(default)]
    gate: bool,
    #[serde(default)]
    kinds: Vec<ApprovalKind>,
    #[serde(default)]
    after: Vec<RingName>,
    #[serde(default)]
    demands: BTreeSet<Gate>,
    #[serde(default)]
    overridable: BTreeSet<Gate>,
    #[serde(default)]
    waves: Vec<u32>,
    #[serde(default = "one")]
    max_in_flight: u32,
    #[serde(default = "hour")]
    soak: Seconds,
    #[serde(default)]
    halt: Halt,
    #[serde(default = "quarter")]
    silence: Seconds,
    #[serde(default = "hour")]
    update_limit: Seconds,
    #[serde(default = "ten_minutes")]
    lease: Seconds,
    #[serde(default = "half_minute")]
    poll: Seconds,
}

/// One value or several.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Values {
    One(LabelValue),
    Any(Vec<LabelValue>),
}

/// The failures that halt; 0 switches a limit off.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Halt {
    #[serde(default)]
    failures: u32,
    #[serde(default)]
    percent: u32,
}

/// Who says nothing gets the careful brake: the first failure halts.
impl Default for Halt {
    fn default() -> Halt {
        Halt { failures: 1, percent: 0 }
    }
}

/// A span of time, written "10m".
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Seconds(pub(super) u64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Seconds, D::Error> {
        let text = String::deserialize(reader)?;
        duration::seconds(&text).map(Seconds).map_err(D::Error::custom)
    }
}

fn one() -> u32 {
    1
}

fn hour() -> Seconds {
    Seconds(3600)
}

fn quarter() -> Seconds {
    Seconds(900)
}

/// The design's own: after a pause no host begins later than this.
fn ten_minutes() -> Seconds {
    Seconds(600)
}

fn settle() -> Seconds {
    Seconds(hours::SETTLE)
}

fn half_minute() -> Seconds {
    Seconds(30)
}

/// The keys that words of the file mean.
pub(super) trait Keys {
    /// The key of a person.
    fn of_person(&self, word: &str) -> anyhow::Result<KeyId>;

    /// The server's gate key.
    fn gate(&self) -> anyhow::Result<KeyId>;
}

/// Reads the file.
pub(super) fn read(path: &Path, keys: &dyn Keys, now: Timestamp) -> anyhow::Result<Fleet> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let around = Around { folder, now };
    toml_text::load::<FleetFile>(path)?.fleet(&path.display().to_string(), keys, around)
}

/// What the file asks of the change plans of a product; no key in it is looked for.
pub(super) fn plan_rules(path: &Path, product: &Product) -> anyhow::Result<PlanRules> {
    let file = toml_text::load::<FleetFile>(path)?;
    let mut named = file.product.into_iter().filter(|found| found.name == *product);
    let found = named
        .next()
        .with_context(|| format!("{} describes no product {product}", path.display()))?;
    Ok(found.plan)
}

impl FleetFile {
    fn fleet(self, name: &str, keys: &dyn Keys, around: Around<'_>) -> anyhow::Result<Fleet> {
        let mut products: Vec<WantedProduct> = Vec::new();
        for product in self.product {
            let wanted = product.wanted(keys, around)?;
            ensure!(
                !RESERVED.contains(&wanted.policy.product.as_str()),
                "{name}: no product can be called {}\nhelp: choose another name",
                wanted.policy.product
            );
            ensure!(
                products.iter().all(|before| before.policy.product != wanted.policy.product),
                "{name}: product {} stands twice",
                wanted.policy.product
            );
            products.push(wanted);
        }
        let labels = self.labels.map(LabelPolicy::new);
        Ok(Fleet { products, labels, servers: self.servers })
    }
}

/// Names that documents of the policy role have which are no product's.
const RESERVED: [&str; 2] = ["labels", "servers"];

impl WantedServers {
    /// The document, with the certificates read from files beside `described`; those believed now stand
    /// where none is named.
    pub(super) fn document(
        &self,
        described: &Path,
        believed: &[CertificateDer<'static>],
    ) -> anyhow::Result<ServersPolicy> {
        let folder = described.parent().unwrap_or(Path::new(""));
        let mut authorities = Vec::new();
        for path in &self.authorities {
            let path = folder.join(path);
            let read = || -> anyhow::Result<Authority> {
                Ok(Authority::from_der(&servers::certificate(&path)?)?)
            };
            authorities.push(read().with_context(|| format!("{}", path.display()))?);
        }
        if authorities.is_empty() {
            for authority in believed {
                authorities.push(Authority::from_der(authority)?);
            }
        }
        Ok(ServersPolicy::new(self.addresses.clone(), self.mirrors.clone(), authorities)?)
    }
}

impl ProductFile {
    fn wanted(self, keys: &dyn Keys, around: Around<'_>) -> anyhow::Result<WantedProduct> {
        let ProductFile { name, persons, plan, ring, window, freeze, settle } = self;
        ensure!(ring.len() <= limits::RINGS, "{name} has more than {} rings", limits::RINGS);
        let mut definitions = Vec::new();
        let mut rings = Vec::new();
        for ring in ring {
            ring.check(&name)?;
            rings.push(ring.narrows()?);
            definitions.push(ring.definition(&name)?);
        }
        let plan_rules = plan.into();
        let names: Vec<&RingName> = definitions.iter().map(|ring| &ring.ring).collect();
        let hours = super::hours::hours(window, freeze, settle, &names, around);
        let hours = Some(hours.with_context(|| format!("{name}: when updates may begin"))?);
        let product = name.to_string();
        let rollout = wire::RolloutPolicy { product, rings, plan_rules, hours, revision: 0 };

        let gated = definitions.iter().any(|ring| ring.gate);
        let signatories = Signatories {
            persons: persons
                .into_iter()
                .map(|(person, held)| Ok((person, person_of(held, keys)?)))
                .collect::<anyhow::Result<_>>()?,
            gate_key: gated.then(|| keys.gate()).transpose()?,
        };
        let policy = ProductPolicy::with_signatories(name, definitions, signatories)?;
        Ok(WantedProduct { policy, rollout })
    }
}

fn person_of(
    held: BTreeMap<String, BTreeSet<ApprovalKind>>,
    keys: &dyn Keys,
) -> anyhow::Result<Person> {
    let held = held.into_iter().map(|(word, kinds)| Ok((keys.of_person(&word)?, kinds)));
    Ok(Person { keys: held.collect::<anyhow::Result<_>>()? })
}

impl RingFile {
    fn check(&self, product: &Product) -> anyhow::Result<()> {
        let ring = &self.name;
        let refuse = |problem: &str| bail!("{product}/{ring}: {problem}");
        let spans = [("soak", self.soak, limits::SPAN), ("silence", self.silence, limits::SPAN)];
        let more = [
            ("update_limit", self.update_limit, limits::SPAN),
            ("lease", self.lease, limits::LEASE),
            ("poll", self.poll, limits::LEASE),
        ];
        for (key, span, longest) in spans.into_iter().chain(more) {
            ensure!(
                span.0 <= longest,
                "{product}/{ring}: {key} is {} s\nhelp: use at most {longest} s",
                span.0
            );
        }
        match () {
            () if self.waves.len() > limits::WAVES => {
                bail!("{product}/{ring} has more than {} waves", limits::WAVES)
            }
            () if self.max_in_flight == 0 => refuse("max_in_flight is 0: no host could ever begin"),
            () if self.waves.contains(&0) => refuse("a wave of 0 hosts can't be finished"),
            () if self.halt.failures == 0 && self.halt.percent == 0 => {
                refuse("halt has no limit\nhelp: give failures, percent, or both")
            }
            () if self.halt.percent > 100 => refuse("halt.percent is more than 100"),
            () if [self.silence.0, self.update_limit.0, self.lease.0, self.poll.0].contains(&0) => {
                refuse("silence, update_limit, lease and poll must be longer than nothing")
            }
            () => Ok(()),
        }
    }

    /// What only narrows.
    fn narrows(&self) -> anyhow::Result<wire::RingPolicy> {
        Ok(wire::RingPolicy {
            ring: self.name.to_string(),
            waves: self.waves.clone(),
            max_in_flight: self.max_in_flight,
            soak_seconds: self.soak.0,
            failures_count: self.halt.failures,
            failures_percent: self.halt.percent,
            silence_seconds: self.silence.0,
            update_limit_seconds: self.update_limit.0,
            lease_seconds: self.lease.0,
            poll_seconds: u32::try_from(self.poll.0)?,
        })
    }

    /// What widens or assigns.
    fn definition(self, product: &Product) -> anyhow::Result<RingDefinition> {
        let ring = self.name.clone();
        let select = match (self.select.is_empty(), self.every_host) {
            (false, false) => Selector::Labels(
                self.select.clone().into_iter().map(|(name, any)| (name, any.into())).collect(),
            ),
            (true, true) => Selector::EveryHost,
            (true, false) => bail!(
                "{product}/{ring} selects no host\n\
                 help: write select = {{ LABEL = \"VALUE\" }}, or every_host = true"
            ),
            (false, true) => bail!("{product}/{ring} has both select and every_host"),
        };
        let RingFile { gate, kinds, after, demands, overridable, .. } = self;
        let rules = Rules { kinds, after, demands, overridable };
        Ok(RingDefinition { ring, select, gate, rules })
    }
}

impl From<Values> for Vec<LabelValue> {
    fn from(values: Values) -> Vec<LabelValue> {
        match values {
            Values::One(value) => vec![value],
            Values::Any(values) => values,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const EXAMPLE: &str = r#"
[[product]]
name = "payments"

[[product.ring]]
name = "pilot"
select = { pilot = "yes" }
gate = true
max_in_flight = 2
soak = "36h"
halt = { failures = 1 }

[[product.ring]]
name = "early"
select = { region = ["eu", "us"], role = "db" }
waves = [1, 10]
halt = { failures = 5, percent = 10 }
lease = "5m"
poll = "1m"

[[product.ring]]
name = "broad"
every_host = true

[labels.00112233445566778899aabbccddeeff]
role = "db"
"#;

    pub(in super::super) fn parse(text: &str) -> anyhow::Result<Fleet> {
        parse_in(Path::new("/nonexistent"), text)
    }

    fn parse_in(folder: &Path, text: &str) -> anyhow::Result<Fleet> {
        let around = Around { folder, now: "2026-11-30T00:00:00Z".parse().unwrap() };
        toml_text::parse::<FleetFile>("fleet.toml", text)?.fleet("fleet.toml", &TestKeys, around)
    }

    /// Every word is a key of its own.
    struct TestKeys;

    pub(in super::super) fn key(word: &str) -> KeyId {
        KeyId::parse(&refit_proto::names::Digest::of(word.as_bytes()).to_string()).unwrap()
    }

    impl Keys for TestKeys {
        fn of_person(&self, word: &str) -> anyhow::Result<KeyId> {
            Ok(key(word))
        }

        fn gate(&self) -> anyhow::Result<KeyId> {
            Ok(key("gate"))
        }
    }

    const PEOPLE: &str = r#"
[[product]]
name = "payments"

[product.persons.alice]
alice = ["technical", "business"]
spare = []

[product.persons.bob]
bob = ["technical"]

[[product.ring]]
name = "pilot"
select = { pilot = "yes" }

[[product.ring]]
name = "broad"
every_host = true
gate = true
kinds = ["technical", "business"]
after = ["pilot"]
demands = ["security", "change-plan"]
overridable = ["after"]
"#;

    #[test]
    fn persons_and_what_a_ring_asks_for_are_signed() {
        let fleet = parse(PEOPLE).unwrap();
        let policy = &fleet.products[0].policy;
        assert_eq!(policy.required, ["approvals"]);
        assert_eq!(policy.gate_key, Some(key("gate")));
        assert_eq!(policy.person_of(&key("spare")).unwrap().as_str(), "alice");
        let rules = &policy.rings[1].rules;
        assert_eq!(rules.kinds, [ApprovalKind::Technical, ApprovalKind::Business]);
        assert_eq!((rules.after[0].as_str(), rules.demands.len()), ("pilot", 2));
        assert!(rules.overridable.contains(&Gate::After));
        assert!(parse(EXAMPLE).unwrap().products[0].policy.persons.is_empty());
        for (change, to, part) in [
            ("bob = [\"technical\"]", "alice = [\"technical\"]", "is of alice and of bob"),
            ("bob = [\"technical\"]", "bob = [\"legal\"]", "unknown variant `legal`"),
            (
                "bob = [\"technical\"]",
                "bob = [\"operations\"]",
                "approval that no person is left to give",
            ),
            ("after = [\"pilot\"]", "after = [\"early\"]", "comes after early, which is no ring"),
            ("after = [\"pilot\"]", "after = [\"broad\"]", "comes after itself"),
            ("\"change-plan\"]", "\"after\"]", "name the rings under `after`"),
        ] {
            let text = PEOPLE.replacen(change, to, 1);
            assert_ne!(text, PEOPLE, "{change}");
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(part), "{change}: {error}");
        }
    }

    #[test]
    fn a_fleet_file_gives_a_signed_part_and_a_part_that_only_narrows() {
        let fleet = parse(EXAMPLE).unwrap();
        let WantedProduct { policy, rollout } = &fleet.products[0];
        let names: Vec<_> = policy.rings.iter().map(|ring| ring.ring.to_string()).collect();
        assert_eq!(names, ["pilot", "early", "broad"]);
        assert!(policy.rings[0].gate && !policy.rings[1].gate);
        assert_eq!(policy.rings[2].select, Selector::EveryHost);
        let Selector::Labels(labels) = &policy.rings[1].select else { panic!() };
        assert_eq!(labels["region"].len(), 2);
        let early = &rollout.rings[1];
        assert_eq!(
            (early.waves.as_slice(), early.lease_seconds, early.poll_seconds),
            (&[1, 10][..], 300, 60)
        );
        assert_eq!((early.failures_count, early.failures_percent), (5, 10));
        assert_eq!(rollout.rings[0].soak_seconds, 129_600);
        assert_eq!(fleet.labels.unwrap().hosts.len(), 1);
    }

    #[test]
    fn unknown_keys_and_values_are_refused_by_file_line_and_key() {
        for (change, to, part) in [
            ("max_in_flight", "max_inflight", "fleet.toml:9: unknown field `max_inflight`"),
            ("failures = 1", "failure = 1", "fleet.toml:11: unknown field `failure`"),
            ("\"36h\"", "\"soon\"", "fleet.toml:10: \"soon\" is not a span of time"),
            ("\"pilot\"", "\"Pilot\"", "fleet.toml:6: ring \"Pilot\" is not valid"),
            ("[labels.", "[lables.", "unknown field `lables`"),
            ("max_in_flight = 2", "max_in_flight = 0", "payments/pilot: max_in_flight is 0"),
            ("{ failures = 1 }", "{}", "payments/pilot: halt has no limit"),
            ("percent = 10", "percent = 101", "more than 100"),
            ("[1, 10]", "[0]", "payments/early: a wave of 0"),
            ("every_host = true", "", "payments/broad selects no host"),
            ("lease = \"5m\"", "lease = \"0s\"", "longer than nothing"),
            ("lease = \"5m\"", "lease = \"2h\"", "payments/early: lease is 7200 s"),
            ("\"36h\"", "\"500d\"", "payments/pilot: soak is 43200000 s"),
            ("failures = 1", "failures = -1", "fleet.toml:11"),
            ("name = \"early\"", "name = \"pilot\"", "ring pilot stands twice"),
            ("labels.0", "labels.x", "host id"),
            ("soak = \"36h\"", "soak = 36", "fleet.toml:10"),
        ] {
            let text = EXAMPLE.replacen(change, to, 1);
            assert_ne!(text, EXAMPLE, "{change}");
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(part), "{change}: {error}");
        }
    }

    pub(in super::super) const HOURS: &str = r#"
[[product]]
name = "payments"
settle = "5m"

[[product.ring]]
name = "pilot"
every_host = true

[[product.window]]
rings = ["pilot"]
select = { region = ["eu", "us"], role = "db" }
zone = "Europe/Berlin"
open = ["mon-thu 22:00-04:00"]
avoid = ["thu 23:00-24:00"]

[[product.freeze]]
why = "year-end closing"
from = "2026-12-20T00:00:00+01:00"
until = "2027-01-02T00:00:00+01:00"
"#;

    #[test]
    fn windows_and_freezes_are_of_the_part_that_only_narrows() {
        let fleet = parse(HOURS).unwrap();
        let hours = fleet.products[0].rollout.hours.clone().unwrap();
        assert_eq!((hours.windows.len(), hours.settle_seconds), (1, 300));
        let window = &hours.windows[0];
        assert_eq!(window.open, ["mon,tue,wed,thu 22:00-04:00"]);
        let scope = window.scope.as_ref().unwrap();
        assert_eq!((scope.rings.as_slice(), scope.select.len()), (&["pilot".to_owned()][..], 2));
        assert_eq!(hours.freezes[0].from, "2026-12-19T23:00:00Z");
        let silent = &parse(EXAMPLE).unwrap().products[0].rollout;
        assert_eq!(silent.hours.as_ref().unwrap().settle_seconds, 600);
        for (change, to, part) in [
            ("Europe/Berlin", "Europe/Bonn", "there is no time zone \"Europe/Bonn\""),
            ("zone = \"Europe/Berlin\"", "", "missing field `zone`"),
            ("[\"pilot\"]", "[\"early\"]", "is about ring early, which the product does not have"),
            ("mon-thu 22:00", "mon-thu 22", "is no window: write days and times"),
            ("open =", "opens =", "fleet.toml:14: unknown field `opens`"),
            ("role = \"db\"", "role = []", "a rule selects by no label"),
            ("year-end closing", "", "a freeze does not say why"),
            ("why = \"year-end closing\"", "", "neither one time nor a calendar"),
            ("2027-01-02", "2026-01-02", "the later one last"),
            ("00:00+01:00\"\nuntil", "00:00\"\nuntil", "two times with their zone"),
            ("\"5m\"", "\"5\"", "is not a span of time"),
        ] {
            let text = HOURS.replacen(change, to, 1);
            assert_ne!(text, HOURS, "{change}");
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(part), "{change}: {error}");
        }
    }

    #[test]
    fn each_event_of_a_calendar_beside_the_file_is_a_freeze_of_the_same_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let event = |day: u32| {
            format!(
                "BEGIN:VEVENT\r\nUID:{day}\r\nSUMMARY:closing\r\nDTSTART;VALUE=DATE:202612{day}\r\nEND:VEVENT\r\n"
            )
        };
        let events = event(24) + &event(31);
        let text = format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{events}END:VCALENDAR\r\n");
        std::fs::write(folder.path().join("closing.ics"), text).unwrap();
        let times = HOURS.split_once("why = ").unwrap();
        let file =
            format!("{}rings = [\"pilot\"]\ncalendar = \"closing.ics\"\nzone = \"UTC\"\n", times.0);
        let fleet = parse_in(folder.path(), &file).unwrap();
        let freezes = fleet.products[0].rollout.hours.clone().unwrap().freezes;
        let from: Vec<&str> = freezes.iter().map(|freeze| &*freeze.from).collect();
        assert_eq!(from, ["2026-12-24T00:00:00Z", "2026-12-31T00:00:00Z"]);
        let rings = |freeze: &wire::Freeze| freeze.scope.clone().unwrap().rings;
        assert!(freezes.iter().all(|freeze| rings(freeze) == ["pilot"] && freeze.why == "closing"));
        for (change, to, part) in [
            ("closing.ics", "opening.ics", "opening.ics"),
            (
                "zone = \"UTC\"",
                "",
                "closing.ics: event \"closing\": DTSTART \"20261224\": it names no time zone",
            ),
            ("zone = \"UTC\"", "why = \"x\"", "neither one time nor a calendar"),
        ] {
            let error =
                format!("{:#}", parse_in(folder.path(), &file.replace(change, to)).unwrap_err());
            assert!(error.contains(part), "{change}: {error}");
        }
    }

    #[test]
    fn who_says_nothing_of_failures_is_halted_by_the_first() {
        let fleet =
            parse("[[product]]\nname = \"a\"\n[[product.ring]]\nname = \"r\"\nevery_host = true\n");
        let ring = &fleet.unwrap().products[0].rollout.rings[0];
        assert_eq!((ring.failures_count, ring.failures_percent, ring.max_in_flight), (1, 0, 1));
        assert_eq!((ring.lease_seconds, ring.soak_seconds), (600, 3600));
    }
}
