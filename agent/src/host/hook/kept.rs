//! What hooks wrote, kept for each update: whole on the host, its end for reports. A file of JSON for each
//! update, since more than this agent may want to read it. That it can't be kept stops no update.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use refit_proto::sorted;

use super::HookRun;
use crate::{
    host::{
        files::{self, FileError, Files},
        process::end_of_text,
    },
    update::InstallId,
};

/// Of how many updates it is kept.
const UPDATES: usize = 20;
/// What is reported of each hook, bytes.
const REPORTED: usize = 4 << 10;
/// And of all hooks of one update: a report stays small however many there are.
const REPORTED_IN_ALL: usize = 16 << 10;
/// Longest file that is read: of hooks with as much output as is kept, each byte of it escaped, hundreds.
const LONGEST: u64 = 64 << 20;

/// How the hooks of updates went, as reports say it.
pub type HookRuns = BTreeMap<InstallId, Vec<HookRun>>;

/// The folder of what hooks wrote.
pub struct KeptRuns {
    folder: PathBuf,
    reported: HookRuns,
}

impl KeptRuns {
    /// What is in this folder. What can't be read is left out, with a line in the log.
    pub fn load(files: &dyn Files, folder: PathBuf) -> KeptRuns {
        let mut kept = KeptRuns { folder, reported: HookRuns::new() };
        for name in files.list(&kept.folder).unwrap_or_default() {
            let name = name.to_string_lossy();
            let install = name.strip_suffix(".json").map(InstallId::parse);
            let Some(Ok(install)) = install else { continue };
            match kept.read(files, &install) {
                Ok(runs) => drop(kept.reported.insert(install, shortened(&runs))),
                Err(error) => tracing::warn!("how hooks went can't be reported: {error}"),
            }
        }
        kept
    }

    /// How hooks went, as reports say it.
    pub fn reported(&self) -> &HookRuns {
        &self.reported
    }

    /// Keeps how a hook went, in place of an earlier run of the same hook in the same update.
    pub fn keep(&mut self, files: &dyn Files, install: &InstallId, run: HookRun) {
        let mut runs = self.read(files, install).unwrap_or_default();
        let same = |other: &HookRun| {
            (&other.package, other.when, other.number) == (&run.package, run.when, run.number)
        };
        runs.retain(|other| !same(other));
        runs.push(run);
        self.reported.insert(install.clone(), shortened(&runs));
        let kept = self.tidy(files, install).and_then(|()| self.write(files, install, &runs));
        if let Err(error) = kept {
            tracing::warn!("what a hook wrote is not kept on this host: {error}");
        }
    }

    fn path(&self, install: &InstallId) -> PathBuf {
        self.folder.join(format!("{install}.json"))
    }

    fn read(&self, files: &dyn Files, install: &InstallId) -> Result<Vec<HookRun>, FileError> {
        let path = self.path(install);
        if files.stat(&path)?.is_none() {
            return Ok(Vec::new());
        }
        let bytes = files::read_file(files, &path, LONGEST)?;
        let read = serde_json::from_slice(&bytes).map_err(std::io::Error::from);
        read.map_err(FileError::at(files::Action::Read, &path))
    }

    fn write(
        &self,
        files: &dyn Files,
        install: &InstallId,
        runs: &[HookRun],
    ) -> Result<(), FileError> {
        files::create_dirs(files, &self.folder, 0o700)?;
        let bytes = serde_json::to_vec_pretty(runs).unwrap_or_default();
        files::write_file(files, &self.path(install), &bytes, 0o600)
    }

    /// Removes the oldest updates' where there are too many.
    fn tidy(&mut self, files: &dyn Files, but: &InstallId) -> Result<(), FileError> {
        let mut older = Vec::new();
        for install in self.reported.keys().filter(|install| *install != but) {
            let changed = files.stat(&self.path(install))?.map(|stat| stat.modified);
            older.push((changed, install.clone()));
        }
        sorted::sort(&mut older);
        let too_many = (older.len() + 1).saturating_sub(UPDATES);
        for (_, install) in older.into_iter().take(too_many) {
            files::remove_tree(files, &self.path(&install))?;
            self.reported.remove(&install);
        }
        Ok(())
    }
}

/// Where hooks' output is kept in the agent's data folder.
pub fn folder(data: &Path) -> PathBuf {
    data.join("hooks")
}

fn shortened(runs: &[HookRun]) -> Vec<HookRun> {
    let each = REPORTED.min(REPORTED_IN_ALL / runs.len().max(1));
    let short = |run: &HookRun| HookRun {
        output: end_of_text(&run.output, each).to_owned(),
        ..run.clone()
    };
    runs.iter().map(short).collect()
}

#[cfg(test)]
mod tests {
    use refit_proto::{names::PackageName, package::HookTime};

    use super::*;
    use crate::host::{boxed::End, recording::RecordingFiles};

    fn run(number: usize, output: &str) -> HookRun {
        HookRun {
            package: PackageName::parse("payments").unwrap(),
            when: HookTime::AfterSwitch,
            number,
            end: End::Failed { code: 3 },
            seconds: 5,
            memory_mb: 64,
            missing: vec![],
            output: output.to_owned(),
        }
    }

    fn install(number: usize) -> InstallId {
        InstallId::parse(&format!("i-{number:03}")).unwrap()
    }

    #[test]
    fn what_hooks_wrote_is_read_back_by_the_next_agent_and_reported_by_its_end() {
        let files = RecordingFiles::default();
        let mut kept = KeptRuns::load(&files, "/data/hooks".into());
        let long = "x".repeat(REPORTED) + "\nthe end";
        kept.keep(&files, &install(1), run(0, "first"));
        kept.keep(&files, &install(1), run(1, &long));
        // Repeated after a cut.
        kept.keep(&files, &install(1), run(0, "again"));
        let again = KeptRuns::load(&files, "/data/hooks".into());
        assert_eq!(again.reported(), kept.reported());
        let outputs: Vec<_> =
            again.reported()[&install(1)].iter().map(|run| run.output.as_str()).collect();
        assert_eq!(outputs, ["the end", "again"]);
        assert_eq!(again.read(&files, &install(1)).unwrap()[0].output, long);
    }

    #[test]
    fn only_so_many_updates_are_kept_and_a_report_stays_small() {
        let files = RecordingFiles::default();
        let mut kept = KeptRuns::load(&files, "/data/hooks".into());
        for number in 0..UPDATES + 5 {
            kept.keep(&files, &install(number), run(0, "x"));
        }
        assert_eq!(kept.reported().len(), UPDATES);
        assert!(kept.reported().contains_key(&install(UPDATES + 4)));
        assert_eq!(files.list(Path::new("/data/hooks")).unwrap().len(), UPDATES);
        for number in 0..100 {
            kept.keep(&files, &install(1), run(number, &"y".repeat(5000)));
        }
        let sum: usize = kept.reported()[&install(1)].iter().map(|run| run.output.len()).sum();
        assert!(sum <= REPORTED_IN_ALL, "{sum}");
    }
}
