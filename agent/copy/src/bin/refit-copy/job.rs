//! The jobs, whatever the place: payload before record, each pack read back before it counts; removing goes
//! the other way round.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::Path,
};

use refit_copy::{
    Answer, File, Job, Listed, Pack, Part, Record, Request, Verified, Why, is_name, is_sha256,
};
use sha2::{Digest as _, Sha256};

use super::{
    pack::{Filling, Identities, Recipients, STORED_MAX, sha256, unpack},
    place::{self, Failed, Place},
};

/// Largest record: 100,000 packs.
const RECORD_MAX: u64 = 32 << 20;

type Say<'a> = &'a mut dyn FnMut(Answer) -> Result<(), Failed>;

/// Does what is asked for.
///
/// # Errors
/// Why it is not done; what was answered until then stands.
pub fn run(request: Request, say: Say<'_>) -> Result<(), Failed> {
    let Request { place, host, job } = request;
    let mut place = place::open(&place)?;
    let place = &mut *place;
    if let Job::Hosts = job {
        let hosts = place.list("")?.into_iter().filter(|name| is_name(name)).collect();
        return say(Answer::Hosts { hosts });
    }
    if !is_name(&host) {
        return Err(Failed::new(Why::Host, format!("`{host}` is no name of a host")));
    }
    let mut at = At { place, host };
    match job {
        Job::Save { files, unsure, sure, encrypt_to, record } => {
            at.save(&files, unsure, sure, &encrypt_to, record, say)
        }
        Job::List => {
            let mut backups = Vec::new();
            for id in at.ids()? {
                backups.push(match at.record(&id) {
                    Ok(record) => Listed::Recorded { record },
                    Err(Failed { why: Why::Damaged, text }) => Listed::Damaged { id, text },
                    Err(failed) => return Err(failed),
                });
            }
            say(Answer::List { backups })
        }
        Job::Hosts => Ok(()),
        Job::Verify { ids } => at.verify(ids, say),
        Job::Fetch { id, to, identity } => {
            let record = at.fetch(&id, &to, identity.as_deref())?;
            say(Answer::Fetched { record })
        }
        Job::Prune { remove, keep } => {
            at.prune(&remove, &keep)?;
            say(Answer::Done)
        }
    }
}

struct At<'a> {
    place: &'a mut dyn Place,
    host: String,
}

impl At<'_> {
    fn packs(&self) -> String {
        format!("{}/packs", self.host)
    }

    fn pack_name(&self, sha256: &str) -> String {
        format!("{}/packs/{sha256}", self.host)
    }

    fn record_name(&self, id: &str) -> Result<String, Failed> {
        if !is_name(id) {
            return Err(Failed::new(Why::Host, format!("`{id}` is no id of a backup")));
        }
        Ok(format!("{}/backups/{id}.json", self.host))
    }

    fn ids(&mut self) -> Result<Vec<String>, Failed> {
        let names = self.place.list(&format!("{}/backups", self.host))?;
        let ids = names.iter().filter_map(|name| name.strip_suffix(".json"));
        Ok(ids.filter(|id| is_name(id)).map(str::to_owned).collect())
    }

    fn record(&mut self, id: &str) -> Result<Record, Failed> {
        let name = self.record_name(id)?;
        let damaged = |text: String| Failed::new(Why::Damaged, format!("{name} there: {text}"));
        let bytes = self.place.get(&name, RECORD_MAX)?;
        let bytes = bytes.ok_or_else(|| damaged("it is not there".into()))?;
        let record = Record::parse(&bytes).map_err(|error| damaged(error.to_string()))?;
        if (record.id.as_str(), record.host.as_str()) != (id, self.host.as_str()) {
            return Err(damaged(format!("it is of backup {} of {}", record.id, record.host)));
        }
        Ok(record)
    }

    /// The bytes of a pack that is there, as they were stored.
    fn pack(&mut self, sha: &str) -> Result<Vec<u8>, Failed> {
        let name = self.pack_name(sha);
        match self.place.get(&name, STORED_MAX)? {
            Some(bytes) if sha256(&bytes) == sha => Ok(bytes),
            Some(_) => {
                let text = format!("{name} there: its bytes are not those that were stored");
                Err(Failed::new(Why::Damaged, text))
            }
            None => Err(Failed::new(Why::Damaged, format!("{name} is not there"))),
        }
    }

    fn save(
        &mut self,
        files: &[File],
        unsure: Vec<Pack>,
        mut good: Vec<Pack>,
        encrypt_to: &[String],
        record: Option<Record>,
        say: Say<'_>,
    ) -> Result<(), Failed> {
        let recipients = Recipients::parse(encrypt_to)?;
        let wanted: BTreeSet<&str> = files.iter().map(|file| file.sha256.as_str()).collect();
        let holds = |pack: &Pack| pack.holds.iter().any(|part| wanted.contains(part.file.as_str()));
        good.retain(holds);
        for pack in unsure.into_iter().filter(holds) {
            match self.pack(&pack.sha256) {
                Ok(_) => {
                    say(Answer::Stored { pack: pack.clone() })?;
                    good.push(pack);
                }
                // Stored anew below.
                Err(Failed { why: Why::Damaged, .. }) => {}
                Err(failed) => return Err(failed),
            }
        }
        let missing: Vec<&File> = {
            let parts = parts_of(&good);
            files.iter().filter(|file| !is_covered(file, &parts)).collect()
        };
        let mut filling = Filling::default();
        for file in missing {
            filling = self.pack_file(file, filling, &mut |at, full| {
                good.push(at.store(full, &recipients, say)?);
                Ok(())
            })?;
        }
        if !filling.is_empty() {
            good.push(self.store(filling, &recipients, say)?);
        }
        if let Some(mut record) = record {
            record.encrypted_to = encrypt_to.to_vec();
            let names: BTreeMap<String, u64> =
                good.into_iter().map(|pack| (pack.sha256, pack.length)).collect();
            let packs = names.into_iter();
            record.packs =
                packs.map(|(sha256, length)| Pack { sha256, length, holds: Vec::new() }).collect();
            let (name, bytes) = (self.record_name(&record.id)?, record.to_bytes());
            self.place.put(&name, &bytes)?;
            if self.place.get(&name, RECORD_MAX)?.as_deref() != Some(&bytes) {
                let text = format!("{name} reads back as something else than was stored");
                return Err(Failed::new(Why::Damaged, text));
            }
        }
        say(Answer::Done)
    }

    /// Puts a file into packs. Its bytes have to be those of its hash.
    fn pack_file(
        &mut self,
        file: &File,
        mut filling: Filling,
        full: &mut dyn FnMut(&mut Self, Filling) -> Result<(), Failed>,
    ) -> Result<Filling, Failed> {
        let failed = |why: &dyn std::fmt::Display| {
            Failed::new(Why::Host, format!("{} can't be stored: {why}", file.path.display()))
        };
        let mut source = fs::File::open(&file.path).map_err(|error| failed(&error))?;
        let (mut hash, mut offset) = (Sha256::new(), 0_u64);
        loop {
            if filling.room() == 0 {
                full(self, std::mem::take(&mut filling))?;
            }
            let most = u64::try_from(filling.room()).unwrap_or(u64::MAX).min(file.length - offset);
            let mut bytes = Vec::new();
            source.by_ref().take(most).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
            if bytes.len() as u64 != most {
                return Err(failed(&"it is shorter than it was"));
            }
            hash.update(&bytes);
            let part = Part { file: file.sha256.clone(), offset, length: most };
            filling.take(part, file.length, &bytes)?;
            offset += most;
            if offset == file.length {
                break;
            }
        }
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != file.sha256 {
            return Err(failed(&"its bytes are not those that were saved"));
        }
        Ok(filling)
    }

    /// Stores a pack and reads it back.
    fn store(&mut self, filling: Filling, to: &Recipients, say: Say<'_>) -> Result<Pack, Failed> {
        let (bytes, holds) = filling.close(to)?;
        let sha = sha256(&bytes);
        self.place.put(&self.pack_name(&sha), &bytes)?;
        self.pack(&sha)?;
        let pack = Pack { sha256: sha, length: bytes.len() as u64, holds };
        say(Answer::Stored { pack: pack.clone() })?;
        Ok(pack)
    }

    fn verify(&mut self, ids: Vec<String>, say: Say<'_>) -> Result<(), Failed> {
        let ids = if ids.is_empty() { self.ids()? } else { ids };
        // What several backups share is read once.
        let mut seen: BTreeMap<String, Option<String>> = BTreeMap::new();
        for id in ids {
            let mut verified = Verified { id: id.clone(), bytes: 0, damages: Vec::new() };
            match self.record(&id) {
                Ok(record) => {
                    for pack in record.packs {
                        verified.bytes += pack.length;
                        if !seen.contains_key(&pack.sha256) {
                            let wrong = match self.pack(&pack.sha256) {
                                Ok(_) => None,
                                Err(Failed { why: Why::Damaged, text }) => Some(text),
                                Err(failed) => return Err(failed),
                            };
                            seen.insert(pack.sha256.clone(), wrong);
                        }
                        verified.damages.extend(seen.get(&pack.sha256).cloned().flatten());
                    }
                }
                Err(Failed { why: Why::Damaged, text }) => verified.damages.push(text),
                Err(failed) => return Err(failed),
            }
            say(Answer::Verified { verified })?;
        }
        Ok(())
    }

    fn fetch(&mut self, id: &str, to: &Path, identity: Option<&Path>) -> Result<Record, Failed> {
        let record = self.record(id)?;
        let identities = match (record.encrypted_to.is_empty(), identity) {
            (true, _) => None,
            (false, Some(path)) => Some(Identities::read(path)?),
            (false, None) => {
                let text = format!(
                    "backup {id} is encrypted to {}: name the file of its identity",
                    record.encrypted_to.join(", ")
                );
                return Err(Failed::new(Why::Host, text));
            }
        };
        let here = |error: std::io::Error| {
            Failed::new(Why::Host, format!("cannot write into {}: {error}", to.display()))
        };
        let content = to.join("content");
        fs::create_dir(&content).map_err(here)?;
        for pack in &record.packs {
            let bytes = self.pack(&pack.sha256)?;
            unpack(&bytes, identities.as_ref(), &content).map_err(|failed| {
                let text = format!("{}: {}", self.pack_name(&pack.sha256), failed.text);
                Failed { text, ..failed }
            })?;
        }
        let index = content.join(&record.seal);
        if !index.is_file() {
            let text = format!("no pack of backup {id} holds its index {}", record.seal);
            return Err(Failed::new(Why::Damaged, text));
        }
        fs::rename(&index, to.join("index.json")).map_err(here)?;
        fs::write(to.join("seal"), &record.seal).map_err(here)?;
        Ok(record)
    }

    /// Records go first, so that no backup that counts lacks a pack; and no pack goes that one refers to.
    fn prune(&mut self, remove: &[String], keep: &[String]) -> Result<(), Failed> {
        for id in remove {
            let name = self.record_name(id)?;
            self.place.remove(&name)?;
        }
        let mut needed: BTreeSet<String> = keep.iter().cloned().collect();
        for id in self.ids()? {
            let record = self.record(&id).map_err(|failed| {
                let text =
                    format!("no pack is removed, since one record can't be read: {}", failed.text);
                Failed { text, ..failed }
            })?;
            needed.extend(record.packs.into_iter().map(|pack| pack.sha256));
        }
        for name in self.place.list(&self.packs())? {
            // Also what a power cut left half written; nobody else writes here.
            let ours = is_sha256(name.strip_prefix(".new.").unwrap_or(&name));
            if ours && !needed.contains(&name) {
                self.place.remove(&format!("{}/{name}", self.packs()))?;
            }
        }
        Ok(())
    }
}

fn parts_of(packs: &[Pack]) -> BTreeMap<&str, Vec<(u64, u64)>> {
    let mut parts: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for part in packs.iter().flat_map(|pack| &pack.holds) {
        let end = part.offset.saturating_add(part.length);
        parts.entry(&part.file).or_default().push((part.offset, end));
    }
    parts
}

/// Whether these parts are all of a file.
fn is_covered(file: &File, parts: &BTreeMap<&str, Vec<(u64, u64)>>) -> bool {
    let Some(parts) = parts.get(file.sha256.as_str()) else { return false };
    let mut parts = parts.clone();
    parts.sort_unstable();
    let mut reached = 0;
    for (from, to) in parts {
        if from > reached {
            return false;
        }
        reached = reached.max(to);
    }
    reached >= file.length
}

#[cfg(test)]
mod tests;
