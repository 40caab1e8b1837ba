//! The status model filled from the store: read at one moment, planned at the same, never changed here.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use jiff::Timestamp;
use refit_proto::{
    names::{HostId, HostName, Product, RingName},
    trust::{Role, edit::Due},
    wire,
};
use serde_json::Value;
use tracing::warn;

use crate::{
    api::{ApiError, Shared},
    changes,
    fleet::{Host, HostState, OpenChange, Placement, ReleaseRecord, RingRecord},
    placing,
    product_view::ProductNow,
    rollout::Plan,
    status::{self, FleetView, HostView, PlacementView, ProductPart, StatusError, StatusSource},
    store::{Cells, HostQuery, HostRow, Listed, Reads as _, Rev, SignedFile, Store, StoreFault},
};

/// Hosts on a page, where nobody says how many.
const PAGE: usize = 100;
/// Hosts on a page, whatever somebody says.
const LARGEST_PAGE: usize = 1000;

/// The status as this server sees it.
#[derive(Clone)]
pub struct StatusReader(pub Arc<Shared>);

#[tonic::async_trait]
impl StatusSource for StatusReader {
    async fn fleet(&self, product: Option<&Product>) -> Result<wire::FleetStatus, StatusError> {
        let (shared, product) = (self.0.clone(), product.cloned());
        self.read(move |store| fleet(&shared, store, product.as_ref())).await
    }

    async fn hosts(
        &self,
        query: wire::ListHostsRequest,
    ) -> Result<wire::ListHostsReply, StatusError> {
        let asked = Asked::parse(&query)?;
        let shared = self.0.clone();
        self.read(move |store| hosts(&shared, store, &asked)).await
    }

    async fn ready(&self) -> Result<(), StatusError> {
        self.read(|store| Ok(store.audit_head().map(drop)?)).await
    }
}

impl StatusReader {
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, StatusError> {
        self.0.store.run(work).await.map_err(|error| {
            warn!(error = %error.chain(), "the status can't be read");
            StatusError::Unavailable
        })
    }
}

/// A product with its plan.
struct Planned {
    view: ProductNow,
    plan: Plan,
}

fn planned(shared: &Shared, store: &dyn Store, now: Timestamp) -> Result<Vec<Planned>, StoreFault> {
    let views = ProductNow::read_all(store)?.into_iter();
    Ok(views
        .map(|view| {
            let plan = view.plan(shared.listening_since, now, |_| Vec::new());
            Planned { view, plan }
        })
        .collect())
}

fn fleet(
    shared: &Shared,
    store: &dyn Store,
    product: Option<&Product>,
) -> Result<wire::FleetStatus, ApiError> {
    let now = shared.clock.now();
    let revision = *store.wake().borrow();
    let planned = planned(shared, store, now)?;
    let releases = store.all::<ReleaseRecord>()?;
    let shown = planned.iter().filter(|it| product.is_none_or(|asked| it.view.product == *asked));
    let mut rows = Vec::new();
    for it in shown {
        let name = &it.view.product;
        let mine = releases.iter().map(|held| &held.value).filter(|it| it.product == *name);
        let outside = store.tally(Cells::Ring(name, None))?.count(|_| true);
        rows.push((it, mine.cloned().collect::<Vec<_>>(), outside));
    }
    let products = rows.iter().map(|(it, releases, outside)| ProductPart {
        product: &it.view.product,
        releases,
        plan: &it.plan,
        hosts_without_ring: *outside,
    });
    let (hosts, hosts_without_ring) = counts(store, &planned)?;
    let files = store.newest_files()?;
    let version_of = |role: &Role| files.get(role).map_or(0, |file| file.version);
    let lacking = shared.healing.lacking(version_of);
    // What is not held in any version is lacking all the same.
    let absent = lacking.iter().filter(|(role, _)| !files.contains_key(role));
    let absent = absent.map(|(role, lacking)| wire::MetadataStatus {
        role: role.to_string(),
        lacking: *lacking,
        ..wire::MetadataStatus::default()
    });
    Ok(status::fleet(FleetView {
        at: now,
        revision,
        hosts,
        hosts_without_ring,
        troubled: shared.troubles.count(store, now)?,
        products: products.collect(),
        metadata: files.iter().map(|file| metadata(file, &lacking, now)).chain(absent).collect(),
        changes: open_changes(store, now)?,
        server: wire::ServerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            audit_length: store.audit_head()?.length,
            store_bytes: size_of_folder(&shared.settings.data.join("store")),
        },
    }))
}

/// Hosts that count, and those among them that no ring of any product selects. Every such host stands in
/// each product's cells, so one product's cells count the fleet.
fn counts(store: &dyn Store, planned: &[Planned]) -> Result<(u64, u64), StoreFault> {
    let Some(first) = planned.first() else {
        let count = count_hosts(store)?;
        return Ok((count, count));
    };
    let first = &first.view.product;
    let hosts = store.tally(Cells::Product(first))?.count(|_| true);
    if planned.len() == 1 {
        let outside = store.tally(Cells::Ring(first, None))?.count(|_| true);
        return Ok((hosts, outside));
    }
    let mut outside = 0;
    store.each_in_ring(first, None, |placement| {
        let host = store.host(&placement.host_id)?;
        let counts = host.is_some_and(|host| host.value.state != HostState::Retired);
        let placements = store.placements(&placement.host_id)?;
        if counts && placements.iter().all(|it| it.value.ring.is_none()) {
            outside += 1;
        }
        Ok(())
    })?;
    Ok((hosts, outside))
}

fn count_hosts(store: &dyn Store) -> Result<u64, StoreFault> {
    let (mut count, mut after) = (0, None);
    loop {
        let Listed { rows, next } =
            store.find(&HostQuery::default(), after.as_ref(), LARGEST_PAGE)?;
        let counted = rows.iter().filter(|row| row.host.value.state != HostState::Retired);
        count += counted.count() as u64;
        match next {
            Some(next) => after = Some(next),
            None => return Ok(count),
        }
    }
}

fn open_changes(store: &dyn Store, now: Timestamp) -> Result<Vec<wire::ChangeStatus>, ApiError> {
    let known = store.all::<OpenChange>()?;
    let open = known.iter().map(|held| &held.value).filter(|change| change.is_open(now));
    Ok(open.map(|change| changes::status(change, now)).collect::<Result<_, _>>()?)
}

fn metadata(
    (role, file): (&Role, &SignedFile),
    lacking: &BTreeMap<Role, u64>,
    now: Timestamp,
) -> wire::MetadataStatus {
    // Verified before it was stored; read again only for its date.
    let read = |bytes: &[u8]| {
        let file: Value = serde_json::from_slice(bytes).ok()?;
        Some(file.get("signed")?.get("expires")?.as_str()?.to_owned())
    };
    let expires = read(&file.bytes).unwrap_or_default();
    let due = expires.parse().map(|at| Due::of(role, at, now));
    let warning = due.map_or("", Due::word).to_owned();
    let version = file.version;
    let lacking = lacking.get(role).copied().unwrap_or(0);
    wire::MetadataStatus { role: role.to_string(), version, expires, warning, lacking }
}

fn size_of_folder(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size_of_folder(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// What a list of hosts asks for, parsed.
struct Asked {
    query: HostQuery,
    id: Option<HostId>,
    after: Option<HostId>,
    limit: usize,
}

impl Asked {
    fn parse(query: &wire::ListHostsRequest) -> Result<Asked, StatusError> {
        let bad =
            |error: refit_proto::names::NameError| StatusError::BadQuestion(error.to_string());
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let product = some(&query.product).map(|text| Product::parse(&text)).transpose();
        let ring = some(&query.ring).map(|text| RingName::parse(&text)).transpose();
        let after = some(&query.page_token).map(|text| HostId::parse(&text)).transpose();
        let id = HostId::parse(&query.host).ok();
        let name = some(&query.host).filter(|_| id.is_none());
        let name = name.map(|text| HostName::parse(&text)).transpose();
        let limit = match query.page_size as usize {
            0 => PAGE,
            asked => asked.min(LARGEST_PAGE),
        };
        let query = HostQuery {
            product: product.map_err(bad)?,
            ring: ring.map_err(bad)?,
            name: name.map_err(bad)?,
            state: None,
            label: None,
        };
        Ok(Asked { query, id, after: after.map_err(bad)?, limit })
    }
}

fn hosts(
    shared: &Shared,
    store: &dyn Store,
    asked: &Asked,
) -> Result<wire::ListHostsReply, ApiError> {
    let now = shared.clock.now();
    let Listed { mut rows, next } = match &asked.id {
        Some(id) => one(store, id, &asked.query)?,
        None => store.find(&asked.query, asked.after.as_ref(), asked.limit)?,
    };
    if let Some(name) = &asked.query.name {
        // A retired host leaves its name to the next one: who asks for a name means who has it now.
        let holder = store.host_named(name)?.map(|held| held.value.id);
        rows.sort_by_key(|row| Some(&row.host.value.id) != holder.as_ref());
    }
    let planned = planned(shared, store, now)?;
    let plans: BTreeMap<&Product, &Plan> =
        planned.iter().map(|it| (&it.view.product, &it.plan)).collect();
    let central = shared.labels.read(store, &shared.content)?;
    let rings = store.all::<RingRecord>()?;
    let products = placing::products(&rings);
    let hosts = rows.iter().map(|row| {
        let host: &Host = &row.host.value;
        let labels = central.labels_of(&host.id, &host.labels);
        let placements =
            row.placements.iter().filter(|held| products.contains(&held.value.product));
        let view = HostView {
            host,
            labels: &labels,
            last_seen: shared.presence.last_seen(&host.id, host.last_seen),
            placements: placements.map(|held| placement(&plans, held)).collect(),
        };
        status::host(&view, now)
    });
    let next_page_token = next.map(|id| id.to_string()).unwrap_or_default();
    Ok(wire::ListHostsReply { hosts: hosts.collect(), next_page_token })
}

fn placement<'a>(
    plans: &BTreeMap<&Product, &'a Plan>,
    held: &'a Rev<Placement>,
) -> PlacementView<'a> {
    let placement = &held.value;
    let plan = plans.get(&placement.product);
    let ring = placement.ring.as_ref().and_then(|ring| plan?.ring(ring));
    PlacementView { placement, ring }
}

fn one(store: &dyn Store, id: &HostId, query: &HostQuery) -> Result<Listed, StoreFault> {
    let Some(host) = store.host(id)? else { return Ok(Listed { rows: Vec::new(), next: None }) };
    let placements = store.placements(id)?;
    let selected = query.selects(&host.value, placements.iter().map(|held| &held.value));
    let rows = if selected { vec![HostRow { host, placements }] } else { Vec::new() };
    Ok(Listed { rows, next: None })
}
