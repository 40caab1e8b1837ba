//! The `deb` installer: Debian packages, by dpkg. The release stands in its own folder first, so the `.deb`
//! files that were installed last are there to go back to. Of what Refit did not install, the file is looked
//! for where apt keeps it; without one there is no way back, and the release is refused.
//!
//! Configuration that a package brings (conffiles) is in the backup and stays as the host's owner has it.
//! dpkg runs in a unit of its own where systemd runs the host: it ends in its own time, whatever becomes of
//! the agent.

mod differences;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use refit_proto::{
    gathered::Gathered as _,
    package::{Entry, Installer},
};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{
    backup::{Cover, Role},
    documents::Documents,
    files::{self, FileError, Files},
    process::{Ended, Program, system_program},
};
use crate::{
    update::InstallId,
    way_back::{UndoStep, Undoing},
};

/// Held by every program that installs packages, as long as it does.
const LOCKS: [&str; 2] = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"];
/// Where apt keeps what it fetched.
const CACHE: &str = "/var/cache/apt/archives";
/// Where dpkg keeps what packages bring for it.
const INFO: &str = "/var/lib/dpkg/info";
/// Longer than any package takes; a maintainer script that waits for an answer never ends.
const LONGEST: Duration = Duration::from_secs(1800);
/// The plan's name in the folder of a backup.
const PLAN: &str = "debs.json";
const LONGEST_PLAN: u64 = 1 << 20;

/// Why packages can't be installed, or could not be.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// No Debian.
    #[error("the release brings Debian packages, and this host has no dpkg")]
    NoDpkg,
    /// Another program installs.
    #[error("another program installs packages: {0} is locked")]
    Locked(&'static str),
    /// A package is half installed.
    #[error("dpkg was interrupted on this host: {0} (`dpkg --configure -a` mends it)")]
    Interrupted(String),
    /// There is nothing to go back to.
    #[error(
        "no .deb of {name} {version}, which is installed, is in {CACHE}, so there would be no way back \
         (`apt-get install --reinstall --download-only {name}={version}` brings it)"
    )]
    NoWayBack {
        /// The package.
        name: String,
        /// Its version.
        version: String,
    },
    /// dpkg would not take the packages.
    #[error("dpkg would not install the packages: {0}")]
    Refused(String),
    /// dpkg failed.
    #[error("dpkg failed: {0}")]
    Failed(String),
    /// dpkg said something that nobody understands, or could not be asked.
    #[error("{0} can't be asked: {1}")]
    Unasked(String, String),
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What it takes to go back to the packages of before: told before anything is changed, and kept beside the
/// backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    /// Files to install.
    install: Vec<PathBuf>,
    /// Packages that were not there.
    purge: Vec<String>,
    /// Packages that somebody has removed and not purged: their configuration, and what a script of theirs would
    /// take, was there.
    #[serde(default)]
    remove: Vec<String>,
}

/// One `.deb` file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Deb {
    path: PathBuf,
    name: String,
    version: String,
    /// What it takes once installed, bytes.
    size: u64,
}

/// The installer, on this host.
pub struct Debs<'a> {
    files: &'a dyn Files,
    systemd: bool,
}

impl<'a> Debs<'a> {
    /// On this host; under systemd, dpkg runs as a unit of its own.
    pub fn new(files: &'a dyn Files, systemd: bool) -> Debs<'a> {
        Debs { files, systemd }
    }

    /// Whether a release brings packages.
    pub fn brings(release: &Documents) -> bool {
        release.packages.iter().any(|package| package.manifest.installer == Installer::Deb)
    }

    /// Whether packages can be installed now.
    ///
    /// # Errors
    /// Who or what stands in the way.
    pub fn ready(&self) -> Result<(), DebError> {
        system_program("dpkg").ok_or(DebError::NoDpkg)?;
        for lock in LOCKS {
            if is_locked(Path::new(lock)) {
                return Err(DebError::Locked(lock));
            }
        }
        let audit = ask("dpkg", &["--audit"])?;
        match audit.text.trim() {
            "" => Ok(()),
            said => Err(DebError::Interrupted(first_lines(said))),
        }
    }

    /// Whether dpkg would take the packages of a release that stands in this folder. Says how many bytes
    /// they take once installed. Changes nothing.
    ///
    /// # Errors
    /// Why it would not.
    pub fn check(&self, release: &Documents, folder: &Path) -> Result<u64, DebError> {
        let debs = self.debs(release, folder)?;
        if debs.is_empty() {
            return Ok(0);
        }
        let mut words = vec!["--no-act".to_owned(), "--install".to_owned()];
        words.extend(paths(&debs));
        let tried = ask("dpkg", &words)?;
        if !tried.good {
            return Err(DebError::Refused(tried.text));
        }
        Ok(debs.iter().map(|deb| deb.size).sum())
    }

    fn debs(&self, release: &Documents, folder: &Path) -> Result<Vec<Deb>, DebError> {
        let mut debs = Vec::new();
        for package in &release.packages {
            if package.manifest.installer != Installer::Deb {
                continue;
            }
            for entry in &package.manifest.entries {
                if let Entry::File { path, .. } = entry {
                    debs.push(read(&folder.join(package.name.as_str()).join(path.as_str()))?);
                }
            }
        }
        Ok(debs)
    }

    /// What has to be saved before: the conffiles of all packages that come, go or are replaced, and the
    /// files to go back to where they are not Refit's own. Writes down how to go back, in `backup`.
    ///
    /// # Errors
    /// If there is no way back.
    pub fn save(
        &self,
        before: Option<(&Documents, &Path)>,
        after: (&Documents, &Path),
        backup: &Path,
    ) -> Result<Vec<Cover>, DebError> {
        let (plan, covers) = self.plan(before, after)?;
        if plan != Plan::default() {
            files::create_dirs(self.files, backup, 0o700)?;
            let bytes = serde_json::to_vec(&plan)
                .map_err(|error| DebError::Unasked("the plan".into(), error.to_string()))?;
            files::write_file(self.files, &backup.join(PLAN), &bytes, 0o600)?;
        }
        Ok(covers)
    }

    fn plan(
        &self,
        before: Option<(&Documents, &Path)>,
        after: (&Documents, &Path),
    ) -> Result<(Plan, Vec<Cover>), DebError> {
        let own = match before {
            Some((release, folder)) => self.debs(release, folder)?,
            None => Vec::new(),
        };
        let new = self.debs(after.0, after.1)?;
        let names: BTreeSet<&String> = own.iter().chain(&new).map(|deb| &deb.name).gathered();
        let mut plan = Plan::default();
        let mut covered = BTreeSet::new();
        for deb in &new {
            covered.extend(conffiles_of_file(&deb.path)?);
        }
        for name in names {
            let version = match standing(name)? {
                Standing::Installed(version) => version,
                Standing::Removed => {
                    covered.extend(conffiles_of(name)?);
                    plan.remove.push(name.clone());
                    continue;
                }
                Standing::Unknown => {
                    plan.purge.push(name.clone());
                    continue;
                }
            };
            covered.extend(conffiles_of(name)?);
            let ours = own.iter().find(|deb| deb.name == *name && deb.version == version);
            match ours {
                Some(deb) => plan.install.push(deb.path.clone()),
                None => {
                    let kept = self.cached(name, &version)?;
                    covered.insert(kept.clone());
                    plan.install.push(kept);
                }
            }
        }
        let covers = covered.into_iter().map(|path| Cover { path, role: Role::Placed });
        Ok((plan, covers.collect()))
    }

    fn cached(&self, name: &str, version: &str) -> Result<PathBuf, DebError> {
        let none = || DebError::NoWayBack { name: name.to_owned(), version: version.to_owned() };
        if !files::exists(self.files, Path::new(CACHE))? {
            return Err(none());
        }
        let begins = format!("{name}_");
        let listed = self.files.list(Path::new(CACHE))?;
        let found = listed.iter().filter_map(|file| file.to_str()).find_map(|file| {
            if !file.starts_with(&begins) || !file.ends_with(".deb") {
                return None;
            }
            let deb = read(&Path::new(CACHE).join(file)).ok()?;
            (deb.name == name && deb.version == version).then_some(deb.path)
        });
        found.ok_or_else(none)
    }

    /// Installs the packages of `after` and removes those that only `before` had. Safe to repeat: a dpkg that
    /// an earlier try left running is waited for.
    ///
    /// # Errors
    /// What dpkg said.
    pub fn switch(
        &self,
        install: &InstallId,
        before: Option<(&Documents, &Path)>,
        after: (&Documents, &Path),
    ) -> Result<(), DebError> {
        let new = self.debs(after.0, after.1)?;
        if !new.is_empty() {
            let mut words = vec!["--install".to_owned(), "--force-confold".to_owned()];
            words.extend(paths(&new));
            self.run(install, "install", words)?;
        }
        let Some((release, folder)) = before else { return Ok(()) };
        let old = self.debs(release, folder)?;
        let gone: Vec<String> = old
            .iter()
            .map(|deb| deb.name.clone())
            .filter(|name| !new.iter().any(|deb| deb.name == *name))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.run(install, "remove", [vec!["--remove".to_owned()], gone.clone()].concat())?;
        // Purging takes the conffiles, which are saved. A package's own script may take data, which is not.
        let mut harmless = Vec::new();
        for name in gone {
            if after.0.release.removal.purge || !self.has_script(&name)? {
                harmless.push(name);
            }
        }
        match harmless.is_empty() {
            true => Ok(()),
            false => self.run(install, "purge", [vec!["--purge".to_owned()], harmless].concat()),
        }
    }

    fn has_script(&self, name: &str) -> Result<bool, DebError> {
        Ok(files::exists(self.files, &Path::new(INFO).join(format!("{name}.postrm")))?)
    }

    fn run(&self, install: &InstallId, what: &str, words: Vec<String>) -> Result<(), DebError> {
        let dpkg = system_program("dpkg").ok_or(DebError::NoDpkg)?;
        let name = format!("refit-dpkg-{install}-{what}");
        let systemd_run = system_program("systemd-run").filter(|_| self.systemd);
        let plain = Program {
            program: dpkg.into(),
            arguments: words,
            folder: "/".into(),
            environment: [("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())]
                .into_iter()
                .gathered(),
            mark: name.clone(),
        };
        let program = match systemd_run {
            Some(systemd_run) => in_unit(&systemd_run, &name, plain),
            None => plain,
        };
        // Whoever holds the lock now was not there in preflight, or is the dpkg of an earlier try.
        let until = Instant::now() + LONGEST;
        while LOCKS.iter().any(|lock| is_locked(Path::new(lock))) && Instant::now() < until {
            thread::sleep(Duration::from_millis(200));
        }
        let said = match program.run(LONGEST) {
            Ok(Ended::Exited { code: Some(0), .. }) => return Ok(()),
            Ok(Ended::Exited { output, .. }) => output,
            Ok(Ended::TimedOut { output }) => {
                format!("it took longer than {} s: {output}", LONGEST.as_secs())
            }
            Err(error) => format!("it does not start: {error}"),
        };
        Err(DebError::Failed(said))
    }

    /// The steps that bring back the packages of before, by what [`Self::save`] wrote down.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn undo_steps(&self, backup: &Path) -> Result<Vec<UndoStep>, DebError> {
        Ok(plan_steps(self.written(backup)?))
    }

    /// The same where other releases came after that backup, and `now` runs: what only that brought goes.
    ///
    /// # Errors
    /// If what was written down, or a package of `now`, cannot be read.
    pub fn undo_from(
        &self,
        backup: &Path,
        now: &Documents,
        folder: &Path,
    ) -> Result<Vec<UndoStep>, DebError> {
        let mut plan = self.written(backup)?;
        let mut stay = BTreeSet::new();
        for path in &plan.install {
            stay.insert(read(path)?.name);
        }
        for deb in self.debs(now, folder)? {
            let goes = plan.purge.iter().chain(&plan.remove).any(|name| *name == deb.name);
            if !stay.contains(&deb.name) && !goes {
                plan.purge.push(deb.name);
            }
        }
        Ok(plan_steps(plan))
    }

    fn written(&self, backup: &Path) -> Result<Plan, DebError> {
        let path = backup.join(PLAN);
        if !files::exists(self.files, &path)? {
            return Ok(Plan::default());
        }
        let bytes = files::read_file(self.files, &path, LONGEST_PLAN)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| DebError::Unasked(path.display().to_string(), error.to_string()))
    }
}

/// dpkg, tried again where another program holds the lock for a moment.
fn patiently(words: impl Iterator<Item = String>) -> UndoStep {
    let script = "n=0; until DEBIAN_FRONTEND=noninteractive dpkg \"$@\"; do \
                  n=$((n+1)); [ $n -lt 10 ] || exit 1; sleep 3; done";
    let shell = ["/bin/sh", "-c", script, "dpkg"].map(str::to_owned);
    let command = shell.into_iter().chain(words).collect();
    let timeout_seconds = u32::try_from(LONGEST.as_secs()).unwrap_or(u32::MAX);
    Undoing::Run { command, timeout_seconds }.into()
}

/// The same in a unit of its own, where systemd runs the host.
pub(super) fn in_unit(systemd_run: &Path, name: &str, dpkg: Program) -> Program {
    let mut arguments: Vec<String> =
        ["--wait", "--pipe", "--collect", "--quiet", "--service-type=exec"]
            .map(str::to_owned)
            .to_vec();
    arguments.push(format!("--unit={name}"));
    arguments.push(format!("--property=RuntimeMaxSec={}", LONGEST.as_secs()));
    arguments.extend(dpkg.environment.iter().map(|(key, value)| format!("--setenv={key}={value}")));
    arguments.push("--".into());
    arguments.push(dpkg.program.to_string_lossy().into_owned());
    arguments.extend(dpkg.arguments.iter().map(|word| word.replace('$', "$$")));
    let environment = BTreeMap::new();
    Program { program: systemd_run.into(), arguments, environment, ..dpkg }
}

fn paths(debs: &[Deb]) -> impl Iterator<Item = String> {
    debs.iter().map(|deb| deb.path.display().to_string())
}

/// Whether another program holds this lock. Taken for the moment of the look.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let taken = rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
    matches!(taken, Err(rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN))
}

struct Answer {
    good: bool,
    text: String,
}

/// Asks one of dpkg's programs, in its own words whatever the host's language.
fn ask<W: AsRef<str>>(program: &str, words: &[W]) -> Result<Answer, DebError> {
    let path = system_program(program).ok_or(DebError::NoDpkg)?;
    let mut command = Command::new(path);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.args(words.iter().map(AsRef::as_ref)).current_dir("/").stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| DebError::Unasked(program.to_owned(), error.to_string()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    Ok(Answer { good: output.status.success(), text })
}

fn read(path: &Path) -> Result<Deb, DebError> {
    let format = "--showformat=${Package}\t${Version}\t${Installed-Size}\n";
    let answer = ask("dpkg-deb", &["--show", format, &path.display().to_string()])?;
    let unasked = || DebError::Refused(answer.text.clone());
    if !answer.good {
        return Err(unasked());
    }
    let mut fields = answer.text.trim_end_matches('\n').split('\t');
    let mut field = || fields.next().map(str::to_owned).ok_or_else(unasked);
    let (name, version, kib) = (field()?, field()?, field()?);
    let size = kib.parse::<u64>().unwrap_or(0).saturating_mul(1024);
    Ok(Deb { path: path.to_owned(), name, version, size })
}

/// How a package stands on the host.
enum Standing {
    /// In this version.
    Installed(String),
    /// But for its configuration it is gone.
    Removed,
    /// dpkg knows nothing of it.
    Unknown,
}

/// The version of a package that is installed.
fn installed(name: &str) -> Result<Option<String>, DebError> {
    match standing(name)? {
        Standing::Installed(version) => Ok(Some(version)),
        Standing::Removed | Standing::Unknown => Ok(None),
    }
}

fn standing(name: &str) -> Result<Standing, DebError> {
    let format = "--showformat=${db:Status-Status}\t${Version}\n";
    let answer = ask("dpkg-query", &["--show", format, name])?;
    if !answer.good {
        return Ok(Standing::Unknown);
    }
    let (status, version) = answer.text.trim_end().split_once('\t').unwrap_or_default();
    Ok(match status {
        "" | "not-installed" => Standing::Unknown,
        "config-files" => Standing::Removed,
        _ => Standing::Installed(version.to_owned()),
    })
}

fn conffiles_of(name: &str) -> Result<Vec<PathBuf>, DebError> {
    let answer = ask("dpkg-query", &["--show", "--showformat=${Conffiles}\n", name])?;
    let lines = answer.text.lines().filter_map(|line| line.split_whitespace().next());
    Ok(lines.filter(|path| path.starts_with('/')).map(PathBuf::from).collect())
}

fn conffiles_of_file(deb: &Path) -> Result<Vec<PathBuf>, DebError> {
    let answer = ask("dpkg-deb", &["--info", &deb.display().to_string(), "conffiles"])?;
    // A package without any has no such part, which is an error to dpkg-deb.
    let lines = answer.text.lines().filter(|_| answer.good);
    let paths = lines.filter_map(|line| line.split_whitespace().last());
    Ok(paths.filter(|path| path.starts_with('/')).map(PathBuf::from).collect())
}

fn first_lines(said: &str) -> String {
    said.split_whitespace().take(40).collect::<Vec<_>>().join(" ")
}

/// What is in the plan, as dpkg is told it.
fn plan_steps(plan: Plan) -> Vec<UndoStep> {
    let mut steps = Vec::new();
    if !plan.install.is_empty() {
        let files = plan.install.iter().map(|path| path.display().to_string());
        let words = ["--install", "--force-downgrade", "--force-confold"].map(str::to_owned);
        steps.push(patiently(words.into_iter().chain(files)));
    }
    if !plan.purge.is_empty() {
        steps.push(patiently(std::iter::once("--purge".to_owned()).chain(plan.purge)));
    }
    if !plan.remove.is_empty() {
        steps.push(patiently(std::iter::once("--remove".to_owned()).chain(plan.remove)));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_told_from_a_changed_conffile() {
        let changed = |line| differences::difference(line).map(|(path, _)| path);
        assert_eq!(changed("??5??????   /usr/bin/pay"), Some("/usr/bin/pay".into()));
        assert_eq!(changed("missing     /usr/bin/pay"), Some("/usr/bin/pay".into()));
        assert_eq!(changed("??5?????? c /etc/pay.conf"), None);
        assert_eq!(changed(""), None);
    }

    #[test]
    fn going_back_waits_for_a_lock_and_hands_names_on_as_they_are() {
        let step = patiently(["--purge".to_owned(), "a b$c".to_owned()].into_iter());
        let Undoing::Run { command, .. } = step.undoing else { panic!() };
        assert_eq!(command[0], "/bin/sh");
        assert_eq!(command[3..], ["dpkg", "--purge", "a b$c"]);
    }
}
