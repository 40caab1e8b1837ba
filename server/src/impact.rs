//! What a published release would do to the fleet before anything starts: which hosts it is for, what stands in
//! their way, how much they have to fetch, and when each ring would be through. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use refit_proto::{
    names::{Digest, HostName, Labels, Platform, Product, RingName, Version},
    package::{FileRef, Health, Manifest, PackageRef, Release},
    wire,
};

mod blocked;

use blocked::Blocked;

use crate::{
    api::{ApiError, Shared},
    fleet::{Host, HostState, Phase, Placement, ReleaseRecord, RingRecord, RolloutPolicy},
    product_view::{ProductNow, RingNow},
    publication,
    rollout::{Course, Crowd, Hold, HoldReason, HoursNow, forecast, narrows},
    store::{Cells, Reads as _, Rev, Store},
};

/// Names of blocked hosts that are told for each reason.
const NAMES: usize = 20;
/// A host that was not heard for so long is away, where no policy says how long, seconds. After a restart of the
/// server it is known to five minutes only when a host was last heard.
const SILENCE: u64 = 900;
const COARSE: u64 = 600;
/// For all of an update that is no health check: preflight, backup and switch, seconds.
const WORK: u64 = 60;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Of which product.
    pub product: Product,
    /// Which release.
    pub version: Version,
    /// How long one update is taken to have; `None`: as its health checks say.
    pub update: Option<SignedDuration>,
}

/// The answer.
///
/// # Errors
/// If there is no such release, or store or content can't be read.
pub fn impact(
    shared: &Shared,
    store: &dyn Store,
    question: &Question,
) -> Result<wire::Impact, ApiError> {
    let views = ProductNow::read_all(store)?;
    let view = views.iter().find(|view| view.product == question.product);
    of(shared, store, view, question)
}

/// The same of a product that was read already; `None`: it has no rings.
///
/// # Errors
/// As [`impact`].
pub fn of(
    shared: &Shared,
    store: &dyn Store,
    view: Option<&ProductNow>,
    question: &Question,
) -> Result<wire::Impact, ApiError> {
    let Question { product, version, update } = question;
    let releases = store.all::<ReleaseRecord>()?;
    let known = releases.iter().map(|held| &held.value);
    let record = known.clone().find(|it| it.product == *product && it.version == *version);
    let record = record.ok_or_else(|| {
        ApiError::NotFound(format!(
            "there is no release {product} {version}\nhelp: `refit release list {product}` shows those that are published"
        ))
    })?;
    let shelf = Shelf { shared, read: BTreeMap::new() };
    let (release, needs) = shelf.release(record)?;
    let policy = store.read::<RolloutPolicy>(product.clone())?.map(|held| held.value);
    let lacks = policy.map(|policy| policy.plan.missing(&release)).unwrap_or_default();
    let update = update.unwrap_or_else(|| SignedDuration::from_secs(needs.seconds));
    let mut look = Look {
        shared,
        store,
        record,
        release: &release,
        needs,
        shelf,
        now: shared.clock.now(),
        update,
        releases: known.map(|it| (it.digest, it)).collect(),
    };
    let rings = view.map(|view| look.rings(view)).transpose()?.unwrap_or_default();
    Ok(wire::Impact {
        product: product.to_string(),
        version: version.to_string(),
        digest: record.digest.to_string(),
        withdrawn: record.withdrawn,
        plan_lacks: lacks.iter().map(|field| field.as_str().to_owned()).collect(),
        update_seconds: update.as_secs().unsigned_abs(),
        rings,
        hosts_without_ring: store.tally(Cells::Ring(product, None))?.count(|_| true),
    })
}

/// What a release brings to each platform.
#[derive(Debug, Clone, Default)]
struct Needs {
    content: BTreeMap<Platform, BTreeSet<FileRef>>,
    /// How long its health checks take at least.
    seconds: i64,
}

impl Needs {
    fn files(&self, platform: &Platform) -> Option<&BTreeSet<FileRef>> {
        self.content.get(platform).or_else(|| self.content.get("any"))
    }

    fn bytes(&self, platform: &Platform) -> u64 {
        self.files(platform).map_or(0, |files| files.iter().map(|file| file.length).sum())
    }

    /// What it brings that another release has not brought.
    fn beside(&self, before: Option<&Needs>, platform: &Platform) -> u64 {
        let held = before.and_then(|before| before.files(platform));
        let new = self.files(platform).into_iter().flatten();
        let new = new.filter(|file| held.is_none_or(|held| !held.contains(file)));
        new.map(|file| file.length).sum()
    }
}

/// Releases as they were published, each read once.
struct Shelf<'a> {
    shared: &'a Shared,
    read: BTreeMap<Digest, Option<Needs>>,
}

impl Shelf<'_> {
    fn release(&self, record: &ReleaseRecord) -> Result<(Release, Needs), ApiError> {
        let content = &self.shared.content;
        let document = format!("release {} {}", record.product, record.version);
        let bytes = content.read_up_to(record.digest, Release::MAX_LENGTH);
        let bytes = bytes.map_err(|cause| publication::PublicationError::Content {
            document: document.clone(),
            cause,
        })?;
        let release = Release::parse(&bytes)
            .map_err(|cause| publication::PublicationError::Document { document, cause })?;
        let mut needs = Needs::default();
        for (platform, packages) in &release.platforms {
            let files = needs.content.entry(platform.clone()).or_default();
            let mut seconds = 0;
            for PackageRef { name, manifest } in packages {
                let document = format!("manifest of {name}");
                let limit = Manifest::MAX_LENGTH;
                let bytes = publication::read(content, &document, *manifest, limit)?;
                let manifest = Manifest::parse(&bytes)
                    .map_err(|cause| publication::PublicationError::Document { document, cause })?;
                files.extend(manifest.content());
                seconds = seconds.max(checks(&manifest.health));
            }
            needs.seconds = needs.seconds.max(seconds);
        }
        needs.seconds += WORK.cast_signed();
        Ok((release, needs))
    }

    /// What another release brought; `None` where that can't be read any more.
    fn needs(&mut self, record: &ReleaseRecord) -> Option<&Needs> {
        if !self.read.contains_key(&record.digest) {
            let needs = self.release(record).ok().map(|(_, needs)| needs);
            self.read.insert(record.digest, needs);
        }
        self.read.get(&record.digest)?.as_ref()
    }
}

fn checks(health: &Health) -> i64 {
    match health {
        Health::Checked(observed) => {
            let seconds =
                [observed.start_seconds, observed.good_seconds, observed.baseline_seconds];
            seconds.into_iter().map(i64::from).sum()
        }
        Health::None => 0,
    }
}

struct Look<'a> {
    shared: &'a Shared,
    store: &'a dyn Store,
    record: &'a ReleaseRecord,
    release: &'a Release,
    needs: Needs,
    shelf: Shelf<'a>,
    now: Timestamp,
    update: SignedDuration,
    releases: BTreeMap<Digest, &'a ReleaseRecord>,
}

/// What gathers of one ring.
#[derive(Default)]
struct Gathered {
    told: wire::RingImpact,
    blocked: BTreeMap<(String, String), (Blocked, Vec<HostName>)>,
    /// Those that would go, by what the clock asks of them.
    crowds: BTreeMap<(Labels, String), u64>,
}

impl Look<'_> {
    fn rings(&mut self, view: &ProductNow) -> Result<Vec<wire::RingImpact>, ApiError> {
        let plan = view.plan(self.shared.listening_since, self.now, |_| Vec::new());
        // After a promotion nothing begins at once where there are windows.
        let settle = match view.hours.hours.windows.is_empty() {
            true => 0,
            false => view.hours.hours.settle_seconds,
        };
        let mut begins = Ok(self.now + SignedDuration::from_secs(settle.cast_signed()));
        let mut rings = Vec::new();
        for ring in &view.rings {
            let name = &ring.ring.value.ring;
            let mut gathered = self.gather(ring, name)?;
            let hold = plan.ring(name).filter(|planned| {
                planned.rollout.as_ref().is_some_and(|it| it.release.digest == self.record.digest)
            });
            gathered.told.hold = hold.and_then(|planned| planned.hold.clone()).map(Hold::into);
            begins = self.times(ring, &view.hours, begins, &mut gathered);
            rings.push(gathered.finish(name));
        }
        Ok(rings)
    }

    /// When the ring begins and is through, if the ring before is proven at `begins`; and when the next may begin.
    fn times(
        &self,
        ring: &RingNow,
        hours: &HoursNow,
        begins: Result<Timestamp, String>,
        gathered: &mut Gathered,
    ) -> Result<Timestamp, String> {
        // A ring without hosts proves nothing and stops nothing.
        if gathered.told.hosts == 0 {
            return begins;
        }
        let name = &ring.ring.value.ring;
        let played = begins.and_then(|begins| {
            if gathered.told.to_update + gathered.told.on_release == 0 {
                return Err(format!("no host of ring {name} would go to it, so none proves it"));
            }
            let policy = ring.policy().ok_or_else(|| {
                format!("nobody has set limits for ring {name}, so nothing moves (refit apply)")
            })?;
            let crowds = gathered.crowds.iter().map(|((labels, zone), hosts)| Crowd {
                labels: labels.clone(),
                zone: TimeZone::get(zone).ok(),
                hosts: *hosts,
            });
            let crowds: Vec<Crowd> = crowds.collect();
            let ring = self.under(&ring.ring.value);
            let policy = &narrows(&ring, policy);
            let course = Course { ring: &ring, policy, hours, update: self.update };
            let played = forecast(&course, &crowds, begins);
            played.ok_or_else(|| {
                format!(
                    "the windows of ring {name} do not let all of its hosts begin within a year"
                )
            })
        });
        match played {
            Ok(played) => {
                let (told, idle) = (&mut gathered.told, gathered.crowds.is_empty());
                if !idle {
                    told.starts = played.starts.to_string();
                    told.through = played.through.to_string();
                }
                told.proven = played.proven.to_string();
                Ok(played.proven)
            }
            Err(why) => {
                gathered.told.no_times.clone_from(&why);
                Err(why)
            }
        }
    }

    /// The ring under a promotion of this release: what that of another passes over says nothing of it.
    fn under(&self, ring: &RingRecord) -> RingRecord {
        let promoted = ring.current.as_ref().is_some_and(|it| it.digest == self.record.digest);
        let passed = if promoted { ring.passed.clone() } else { Vec::new() };
        RingRecord { passed, ..ring.clone() }
    }

    fn gather(&mut self, ring: &RingNow, name: &RingName) -> Result<Gathered, ApiError> {
        let mut gathered = Gathered::default();
        let central = self.shared.labels.read(self.store, &self.shared.content)?;
        let silence = ring.policy().map_or(SILENCE, |policy| policy.silence_seconds);
        let store = self.store;
        store.each_in_ring(&self.record.product, Some(name), |placement| {
            if let Some(Rev { value: host, .. }) = store.host(&placement.host_id)? {
                let labels = central.labels_of(&host.id, &host.labels);
                self.count(&host, labels, placement, silence, &mut gathered);
            }
            Ok(())
        })?;
        Ok(gathered)
    }

    fn count(
        &mut self,
        host: &Host,
        labels: Labels,
        placement: &Placement,
        silence: u64,
        gathered: &mut Gathered,
    ) {
        if host.state == HostState::Retired {
            return;
        }
        gathered.told.hosts += 1;
        if placement.runs(&self.record.digest) {
            gathered.told.on_release += 1;
            return;
        }
        if let Some(blocked) = self.blocked(host, placement, silence) {
            let key = (blocked.word().to_owned(), blocked.text());
            gathered.blocked.entry(key).or_insert((blocked, Vec::new())).1.push(host.name.clone());
            return;
        }
        let told = &mut gathered.told;
        told.to_update += 1;
        let one_more = |counts: &mut BTreeMap<String, u64>, what: String| {
            *counts.entry(what).or_default() += 1;
        };
        one_more(&mut told.platforms, host.platform.to_string());
        for (name, value) in &labels {
            one_more(&mut told.labels, format!("{name}={value}"));
        }
        let have = placement.have.as_ref();
        let version = have.map_or("nothing".to_owned(), |have| have.version.to_string());
        one_more(&mut told.versions, version);
        let before = have.and_then(|have| self.releases.get(&have.digest).copied());
        let before = before.and_then(|before| self.shelf.needs(before));
        told.bytes = told.bytes.saturating_add(self.needs.beside(before, &host.platform));
        *gathered.crowds.entry((labels, host.time_zone.clone())).or_default() += 1;
    }

    /// What keeps the host from going to the release as it stands now, whatever the clock says.
    fn blocked(&self, host: &Host, placement: &Placement, silence: u64) -> Option<Blocked> {
        let because = |reason| Some(Blocked::Held(reason));
        match host.state {
            HostState::Active => {}
            HostState::Shared => return because(HoldReason::SharedIdentity),
            HostState::Revoked | HostState::Retired => return because(HoldReason::Revoked),
        }
        if !self.release.is_removal() && self.release.packages_for(&host.platform).is_none() {
            return Some(Blocked::Platform(host.platform.clone()));
        }
        if placement.quarantine.contains(&self.record.digest) {
            return because(HoldReason::Quarantined(self.record.digest));
        }
        let newer = placement.have.as_ref().and_then(|have| self.releases.get(&have.digest));
        if newer.is_some_and(|newer| newer.counter > self.record.counter) {
            return because(HoldReason::Ahead);
        }
        if placement.phase == Some(Phase::Stuck) {
            return Some(Blocked::Stuck);
        }
        let heard = self.shared.presence.last_seen(&host.id, host.last_seen);
        let quiet = self.now.duration_since(heard).as_secs();
        if quiet > silence.max(COARSE).cast_signed() {
            return Some(Blocked::Silent);
        }
        if let Some(hold) = host.holds.first() {
            return because(HoldReason::Host(hold.clone()));
        }
        if host.metadata_expired {
            return Some(Blocked::Expired);
        }
        let needed = self.needs.bytes(&host.platform);
        (host.free_bytes > 0 && host.free_bytes < needed).then_some(Blocked::Disk { needed })
    }
}

impl Gathered {
    fn finish(self, ring: &RingName) -> wire::RingImpact {
        let blocked = self.blocked.into_values().map(|(blocked, mut names)| {
            names.sort();
            wire::BlockedHosts {
                reason: blocked.word().to_owned(),
                text: blocked.text(),
                who: blocked.who().to_owned(),
                hosts: names.len() as u64,
                names: names.iter().take(NAMES).map(ToString::to_string).collect(),
            }
        });
        wire::RingImpact { ring: ring.to_string(), blocked: blocked.collect(), ..self.told }
    }
}
