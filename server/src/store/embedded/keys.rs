//! How things are named in the store on disk. The bytes are a format: they stay as they are.
//! Names never hold a zero byte, so that one can end them, and keys sort as their parts do.

use refit_durable::Table;
use refit_proto::{
    names::{Digest, HostId, HostName, Product, RingName},
    trust::Role,
};

use crate::{
    fleet::{Placement, RolloutId, TallyKey},
    store::{Cells, DocKey, DocKind, RingCursor},
};

/// host -> revision and host.
pub(super) const HOST: Table = Table::new(1);
/// Name of a host that is not retired -> host.
pub(super) const HOST_NAME: Table = Table::new(2);
/// host, product -> revision and placement.
pub(super) const PLACEMENT: Table = Table::new(3);
/// product, ring, order key, host -> nothing.
pub(super) const RING: Table = Table::new(4);
/// rollout, host -> nothing.
pub(super) const FLIGHT: Table = Table::new(5);
/// product, ring, hash of the cell -> sum and cell.
pub(super) const TALLY: Table = Table::new(6);
/// kind, name -> revision and document.
pub(super) const DOC: Table = Table::new(7);
/// role, version -> signed file.
pub(super) const FILE: Table = Table::new(8);
/// role -> newest version.
pub(super) const FILE_NEWEST: Table = Table::new(9);
/// revision -> note.
pub(super) const CHANGE: Table = Table::new(10);
/// sequence -> line.
pub(super) const AUDIT: Table = Table::new(11);
/// name -> lease.
pub(super) const LEASE: Table = Table::new(12);
/// Nothing -> how long audit log and notes are.
pub(super) const HEADS: Table = Table::new(13);
/// table, key, number -> what did not fit under the key.
pub(super) const PARTS: Table = Table::new(14);
/// product, ring -> number of the newest rollout.
pub(super) const NEWEST_ROLLOUT: Table = Table::new(15);

/// A key under construction.
#[derive(Default)]
struct Path(Vec<u8>);

impl Path {
    fn text(mut self, text: &str) -> Path {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Path {
        self.0.extend_from_slice(bytes);
        self
    }
}

pub(super) fn host(id: &HostId) -> Vec<u8> {
    Path::default().text(id.as_str()).0
}

pub(super) fn host_name(name: &HostName) -> Vec<u8> {
    Path::default().text(name.as_str()).0
}

pub(super) fn placement(host: &HostId, product: &Product) -> Vec<u8> {
    Path::default().text(host.as_str()).text(product.as_str()).0
}

/// Ring names are never empty, so that an empty one can stand for none.
fn ring_path(product: &Product, ring: Option<&RingName>) -> Path {
    Path::default().text(product.as_str()).text(ring.map_or("", RingName::as_str))
}

pub(super) fn ring(product: &Product, ring: Option<&RingName>) -> Vec<u8> {
    ring_path(product, ring).0
}

pub(super) fn in_ring(product: &Product, ring: Option<&RingName>, at: &RingCursor) -> Vec<u8> {
    let order = at.order_key.0.to_be_bytes();
    ring_path(product, ring).bytes(&order).text(at.host_id.as_str()).0
}

pub(super) fn placed_in_ring(placement: &Placement) -> Vec<u8> {
    in_ring(&placement.product, placement.ring.as_ref(), &RingCursor::of(placement))
}

/// The host at the end of a key of [`RING`] or [`FLIGHT`].
pub(super) fn last_host(key: &[u8]) -> Option<HostId> {
    let text = key.strip_suffix(&[0])?;
    HostId::parse(std::str::from_utf8(text.get(text.len().checked_sub(32)?..)?).ok()?).ok()
}

fn rollout_path(id: &RolloutId) -> Path {
    ring_path(id.product(), Some(id.ring())).bytes(&id.number().to_be_bytes())
}

pub(super) fn flight(rollout: &RolloutId) -> Vec<u8> {
    rollout_path(rollout).0
}

pub(super) fn in_flight(rollout: &RolloutId, host: &HostId) -> Vec<u8> {
    rollout_path(rollout).text(host.as_str()).0
}

pub(super) fn cells(cells: Cells<'_>) -> Vec<u8> {
    match cells {
        Cells::Fleet => Vec::new(),
        Cells::Product(product) => Path::default().text(product.as_str()).0,
        Cells::Ring(product, ring) => self::ring(product, ring),
    }
}

/// `json` is the cell as it is kept: too long for a key.
pub(super) fn cell(cell: &TallyKey, json: &[u8]) -> Vec<u8> {
    ring_path(&cell.product, cell.ring.as_ref()).bytes(Digest::of(json).as_bytes()).0
}

fn kind_byte(kind: DocKind) -> u8 {
    match kind {
        DocKind::Person => 1,
        DocKind::Token => 2,
        DocKind::Release => 3,
        DocKind::Ring => 4,
        DocKind::Policy => 5,
        DocKind::Rollout => 6,
        DocKind::Change => 7,
        DocKind::Readmission => 8,
    }
}

pub(super) fn docs(kind: DocKind) -> Vec<u8> {
    vec![kind_byte(kind)]
}

pub(super) fn doc(key: &DocKey) -> Vec<u8> {
    let path = Path(docs(key.kind()));
    match key {
        DocKey::Person(name) => path.text(name.as_str()).0,
        DocKey::Token(id) => path.text(id).0,
        DocKey::Release(product, version) => path.text(product.as_str()).text(version.as_str()).0,
        DocKey::Ring(product, ring) => path.text(product.as_str()).text(ring.as_str()).0,
        DocKey::Policy(product) => path.text(product.as_str()).0,
        DocKey::Rollout(id) => path.bytes(&rollout_path(id).0).0,
        DocKey::Change(role) => path.text(&role.to_string()).0,
        DocKey::Readmission => path.0,
    }
}

/// The number at the end of a rollout's key.
pub(super) fn newest_rollout(id: &RolloutId) -> Vec<u8> {
    ring(id.product(), Some(id.ring()))
}

pub(super) fn role(role: &Role) -> Vec<u8> {
    Path::default().text(&role.to_string()).0
}

pub(super) fn file(role: &Role, version: u64) -> Vec<u8> {
    Path(self::role(role)).bytes(&version.to_be_bytes()).0
}

pub(super) fn number(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

pub(super) fn lease(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

pub(super) fn part(table: Table, key: &[u8], number: u8) -> Vec<u8> {
    [&[table.byte()], key, &[number]].concat()
}
