//! `refit trust drill`: rehearses the bad days in a folder of its own, with keys made for it: a holder who
//! lost a key, one who left, a stolen freshness key, and a host that was off meanwhile. What is real here
//! are the rules and the files: nothing of the own fleet is read or touched.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use refit_proto::trust::{
    KeyId, LocalKey, Next, Refresh, Role, Signer as _, Stored, TrustedSet, Write,
    change::{Base, ChangeFile},
    edit::{Draft, KeyList, RootKeys},
    repository,
};

use super::paper;
use crate::{Context, output};

/// Options of `refit trust drill`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Keep the folder, to look at the files that went round.
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("refit-drill-").tempdir()?;
    let lines = rehearse(folder.path(), context.now)?;
    output::line(&lines.join("\n"))?;
    if args.keep {
        output::line(&format!("kept {}", folder.keep().display()))?;
    }
    Ok(())
}

/// The whole rehearsal; one line for what was done and seen.
fn rehearse(folder: &Path, now: Timestamp) -> anyhow::Result<Vec<String>> {
    let mut drill = Drill::begin(folder, now)?;
    drill.lost()?;
    drill.left()?;
    drill.stolen()?;
    drill.away()?;
    Ok(drill.told)
}

/// Three holders, a repository, and a host.
struct Drill<'a> {
    folder: &'a Path,
    now: Timestamp,
    keys: BTreeMap<&'static str, LocalKey>,
    holders: Vec<&'static str>,
    freshness: &'static str,
    newest: Stored,
    every: BTreeMap<(Role, u64), Vec<u8>>,
    host: Stored,
    told: Vec<String>,
}

impl<'a> Drill<'a> {
    fn begin(folder: &'a Path, now: Timestamp) -> anyhow::Result<Drill<'a>> {
        let mut keys = BTreeMap::new();
        for name in ["alice", "bob", "carol", "dave", "freshness", "freshness-2"] {
            keys.insert(name, LocalKey::generate()?);
        }
        let mut drill = Drill {
            folder,
            now,
            keys,
            holders: vec!["alice", "bob", "carol"],
            freshness: "freshness",
            newest: Stored::new(),
            every: BTreeMap::new(),
            host: Stored::new(),
            told: Vec::new(),
        };
        let root = drill.name(Draft::first_root(&drill.root_keys(), now)?);
        let targets = Draft::first(Role::Targets, now)?;
        drill.round("founded", &[root, targets], &["alice", "bob"])?;
        let root = drill.newest.get(&Role::Root).context("root")?.clone();
        drill.host = Stored::from([(Role::Root, root)]);
        drill.visit()?;
        drill.say(
            "founded: root and targets are signed by 2 of alice, bob and carol; a host follows",
        );
        Ok(drill)
    }

    fn say(&mut self, text: &str) {
        self.told.push(text.to_owned());
    }

    fn list(&self, names: &[&str], threshold: u64) -> KeyList {
        let keys = names.iter().filter_map(|name| self.keys.get(name));
        KeyList::new(keys.map(|key| key.public().clone()), threshold)
    }

    fn root_keys(&self) -> RootKeys {
        let people = self.list(&self.holders, 2);
        let fresh = self.list(&[self.freshness], 1);
        RootKeys {
            root: people.clone(),
            targets: people,
            snapshot: fresh.clone(),
            timestamp: fresh,
        }
    }

    fn name(&self, mut draft: Draft) -> Draft {
        let named = self.holders.iter().filter_map(|name| Some((self.keys.get(name)?, name)));
        let named: BTreeMap<KeyId, String> =
            named.map(|(key, name)| (key.public().id(), (*name).to_owned())).collect();
        draft.name_holders(&named);
        draft
    }

    fn next_root(&self) -> anyhow::Result<Draft> {
        let held = self.newest.get(&Role::Root).context("root")?;
        let mut draft = Draft::next(Role::Root, held, self.now)?;
        draft.set_root_keys(&self.root_keys())?;
        Ok(self.name(draft))
    }

    fn next_targets(&self) -> anyhow::Result<Draft> {
        let held = self.newest.get(&Role::Targets).context("targets")?;
        Ok(Draft::next(Role::Targets, held, self.now)?)
    }

    /// A change goes round as a file, signatures come back as files, and it is published.
    fn round(&mut self, name: &str, drafts: &[Draft], signers: &[&str]) -> anyhow::Result<()> {
        let roots =
            (1..).map_while(|version| self.every.get(&(Role::Root, version)).cloned()).collect();
        let held = self.newest.get(&Role::Targets).cloned();
        let base =
            Base { roots, held: held.map(|file| (Role::Targets, file)).into_iter().collect() };
        let steps = drafts.iter().map(|draft| Ok((draft.role().clone(), draft.unsigned()?)));
        let steps = steps.collect::<anyhow::Result<Vec<_>>>()?;
        let path = self.folder.join(format!("{name}.change"));
        paper::write(&path, &ChangeFile::new("drill".into(), self.now, base, steps))?;
        let mut whole = paper::change(&path)?;
        for signer in signers {
            let key = self.keys.get(signer).context("a holder")?;
            let handed = paper::change(&path)?;
            let lines = handed.judge(None, self.now)?.sign(key)?;
            paper::write_signatures(&path, key.public().id(), &lines)?;
            for line in &lines {
                whole.add(line, self.now)?;
            }
        }
        let judged = whole.judge(None, self.now)?;
        ensure!(judged.is_complete(), "{}", judged.standing().join("; "));
        self.publish(whole.steps())
    }

    fn publish(&mut self, files: &[(Role, Vec<u8>)]) -> anyhow::Result<()> {
        let key = self.keys.get(self.freshness).context("the freshness key")?;
        let accepted = repository::accept(&self.newest, files, &|_| None, key, self.now)?;
        for write in accepted.writes {
            if let Write::Put { role, version, bytes } = &write {
                self.every.insert((role.clone(), *version), bytes.clone());
            }
            write.apply(&mut self.newest);
        }
        Ok(())
    }

    /// The host asks for what is new, and verifies it.
    fn visit(&mut self) -> anyhow::Result<TrustedSet> {
        let mut refresh = Refresh::start(self.host.clone(), &[], self.now)?;
        while let Next::Fetch(request) = refresh.next()? {
            let found = match request.version {
                Some(version) => self.every.get(&(request.role.clone(), version)),
                None => self.newest.get(&request.role),
            };
            match found {
                Some(bytes) => {
                    for write in refresh.supply(bytes)? {
                        write.apply(&mut self.host);
                    }
                }
                None => refresh.absent()?,
            }
        }
        Ok(refresh.into_set()?)
    }

    fn pass(&mut self, days: i64) -> anyhow::Result<()> {
        self.now = self.now.checked_add(SignedDuration::from_hours(days * 24))?;
        Ok(())
    }

    fn lost(&mut self) -> anyhow::Result<()> {
        self.pass(1)?;
        self.holders = vec!["alice", "carol", "dave"];
        let drafts = [self.next_root()?, self.next_targets()?];
        self.round("bob-lost-a-key", &drafts, &["alice", "carol"])?;
        self.visit()?;
        let by_bob = self.next_targets()?.sign(&[self.key("alice")?, self.key("bob")?])?;
        ensure!(self.publish(&[(Role::Targets, by_bob)]).is_err(), "bob's lost key still counts");
        self.say(
            "bob lost a key: alice and carol put dave in his place; the lost key counts no more",
        );
        Ok(())
    }

    fn left(&mut self) -> anyhow::Result<()> {
        self.pass(1)?;
        self.holders = vec!["alice", "dave"];
        let drafts = [self.next_root()?, self.next_targets()?];
        self.round("carol-left", &drafts, &["alice", "dave"])?;
        self.visit()?;
        let by_carol = self.next_targets()?.sign(&[self.key("alice")?, self.key("carol")?])?;
        ensure!(self.publish(&[(Role::Targets, by_carol)]).is_err(), "carol still counts");
        self.say(
            "carol left: what she signed was signed anew by those who stay, in the same round",
        );
        Ok(())
    }

    fn stolen(&mut self) -> anyhow::Result<()> {
        self.pass(1)?;
        self.freshness = "freshness-2";
        let drafts = [self.next_root()?];
        self.round("freshness-stolen", &drafts, &["alice", "dave"])?;
        let set = self.visit()?;
        let thief = self.key("freshness")?.public().id();
        ensure!(!set.timestamp().signers().contains(&thief), "the thief still counts");
        self.say("the freshness key was stolen: the server has a new one, and hosts dropped what the old one signed");
        Ok(())
    }

    fn away(&mut self) -> anyhow::Result<()> {
        let before = self.host.clone();
        for (round, holders) in
            [["alice", "dave", "bob"], ["alice", "dave", "carol"]].into_iter().enumerate()
        {
            self.pass(150)?;
            self.holders = holders.to_vec();
            let drafts = [self.next_root()?, self.next_targets()?];
            self.round(&format!("while-away-{}", round + 1), &drafts, &["alice", "dave"])?;
        }
        self.host = before;
        let set = self.visit()?;
        let version = set.version(&Role::Root).unwrap_or(0);
        self.say(&format!("a host was off for 300 days: it walked to root {version} and went on"));
        self.say("not rehearsed, since nothing helps: too few root keys left. Then hosts are enrolled anew");
        Ok(())
    }

    fn key(&self, name: &str) -> anyhow::Result<&LocalKey> {
        self.keys.get(name).context("a key of the drill")
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_drill_ends_well_and_leaves_the_files_that_went_round() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let told = super::rehearse(folder.path(), now).unwrap();
        assert!(told.iter().any(|line| line.contains("walked to root 6")), "{told:?}");
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 6 * 3, "six changes, each with two signatures");
    }
}
