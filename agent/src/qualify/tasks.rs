//! What a new agent does to show that it may take over. Touches nothing outside the folder that it is given;
//! what it reads besides is this host's settings, identity, and its own release where it stands prepared.

use std::{
    fmt::Display,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use refit_durable::{Batch, Options, SledStore};
use refit_proto::{
    names::{Digest, Product},
    sorted,
};

use super::{
    BEFORE, STATE, TRUST,
    answer::{Answer, Checked, Finding, Task},
    sample::sample_way_back,
};
use crate::{
    clock::Clock,
    host::{
        backup::{About, BackupError, Backups, Cover, Role},
        files::{self, FileError, RealFiles},
        tree::{Extras, Tree},
    },
    identity::{Identity, Keys, Ways},
    journal::{Journal as _, StoreJournal},
    link::{self, Server},
    machine,
    settings::Settings,
    trusted::{Holder, Trust, TrustFolder},
    update::{
        BackupId, Baseline, Change, InstallId, LeaseId, Phase, Probation, SealedBackup, Update,
    },
    version::version,
    way_back::{self, NoServices, Place, UnitsError},
};

/// What the agent that runs asks.
#[derive(Debug, Clone)]
pub struct Question {
    /// The folder in which everything may be tried.
    pub scratch: PathBuf,
    /// This agent's own release.
    pub release: Digest,
    /// Its product.
    pub product: Product,
    /// Whether there is a server to reach.
    pub server: bool,
}

/// Why a task did not go well.
struct Trouble(Finding, String);

impl Trouble {
    fn bad(text: impl Display) -> Trouble {
        let text = text.to_string();
        Trouble(Finding::Bad, text.split("\nhelp:").next().unwrap_or_default().to_owned())
    }
}

impl From<FileError> for Trouble {
    fn from(error: FileError) -> Trouble {
        let finding = if error.is_full() { Finding::Host } else { Finding::Bad };
        Trouble(finding, Trouble::bad(error).1)
    }
}

impl From<BackupError> for Trouble {
    fn from(error: BackupError) -> Trouble {
        match error {
            BackupError::File(error) => error.into(),
            BackupError::Full { .. } => Trouble(Finding::Host, Trouble::bad(error).1),
            BackupError::Busy(_)
            | BackupError::Unsaveable { .. }
            | BackupError::Unrestorable { .. }
            | BackupError::Damaged { .. }
            | BackupError::Variable(_) => Trouble::bad(error),
        }
    }
}

/// Does every task, each for itself, and says how it went.
pub fn answer(question: &Question, data: &Path, clock: &Clock) -> Answer {
    let mut tasks = Vec::new();
    let mut told = |task: Task, went: Result<String, Trouble>| {
        let (finding, text) = match went {
            Ok(text) => (Finding::Good, text),
            Err(Trouble(finding, text)) => (finding, text),
        };
        tasks.push(Checked { task: task.as_str().into(), finding, text });
    };
    let known = Known::load(data);
    told(
        Task::Settings,
        known.as_ref().map(|known| known.identity.host.to_string()).map_err(again),
    );
    let at = At { question, clock };
    let sealed = at.backup();
    let journal = match &sealed {
        Ok((_, sealed)) => at.journal(sealed),
        Err(_) => Err(Trouble::bad("without a backup there is nothing to write into a journal")),
    };
    told(Task::Journal, journal);
    told(Task::WayBack, at.way_back_of_before());
    told(Task::Package, known.as_ref().map_err(again).and_then(|known| at.package(known)));
    told(Task::Backup, sealed.map(|(text, _)| text));
    told(Task::Rescuer, at.rescuer());
    if question.server {
        told(Task::Server, known.as_ref().map_err(again).and_then(|known| at.server(known)));
    }
    Answer { version: version().to_owned(), tasks }
}

fn again(trouble: &Trouble) -> Trouble {
    Trouble(trouble.0, trouble.1.clone())
}

/// What this host has, read.
struct Known {
    settings: Settings,
    identity: Identity,
    keys: Keys,
    ways: Ways,
}

impl Known {
    fn load(data: &Path) -> Result<Known, Trouble> {
        let settings = Settings::load(data, None).map_err(Trouble::bad)?;
        let (identity, keys) = Identity::load(&settings.identity()).map_err(Trouble::bad)?;
        let named = Ways::load(&settings.identity()).map_err(Trouble::bad)?;
        let ways = Ways::of(&identity, named.as_ref());
        Ok(Known { settings, identity, keys, ways })
    }
}

/// The names of what is only tried.
const SAMPLE: &str = "sample";

fn sample_id() -> Result<(InstallId, BackupId), Trouble> {
    Ok((
        InstallId::parse(SAMPLE).map_err(Trouble::bad)?,
        BackupId::parse(SAMPLE).map_err(Trouble::bad)?,
    ))
}

struct At<'a> {
    question: &'a Question,
    clock: &'a Clock,
}

impl At<'_> {
    fn scratch(&self, name: &str) -> PathBuf {
        self.question.scratch.join(name)
    }

    /// Reads all of the journal, and saves the update as it would stand in Probation.
    fn journal(&self, sealed: &SealedBackup) -> Result<String, Trouble> {
        let options = Options::new(self.scratch(STATE), self.clock.now());
        let opened = SledStore::open(options).map_err(Trouble::bad)?;
        if opened.created || opened.lost || opened.set_aside.is_some() {
            return Err(Trouble::bad("the copy of the journal's store was not taken for one"));
        }
        let mut journal = StoreJournal::new(Arc::new(opened.store));
        let under_way = journal.load().map_err(Trouble::bad)?;
        let Some(Update::Fetching { attempt, terms, .. }) = under_way else {
            let found = under_way.map(|update| update.phase());
            return Err(Trouble::bad(format!("the update under way is read as {found:?}")));
        };
        if attempt.release.digest != self.question.release {
            let found = attempt.release.digest;
            return Err(Trouble::bad(format!("the update under way is read as one to {found}")));
        }
        let ended = journal.history().map_err(Trouble::bad)?.len();
        journal.lasts().map_err(Trouble::bad)?;
        journal.queue().map_err(Trouble::bad)?;
        let quarantined = journal.quarantine().map_err(Trouble::bad)?.len();
        let install = attempt.install.clone();
        let change = Change {
            attempt,
            terms,
            lease: LeaseId::parse(SAMPLE).map_err(Trouble::bad)?,
            backup: sealed.id.clone(),
            baseline: None,
            before: Baseline::default(),
            starts: 1,
        };
        let probation = Probation::begin(self.clock.moment());
        let standing = Update::Probation { change, sealed: sealed.clone(), probation };
        journal.save(&standing, Batch::new()).map_err(Trouble::bad)?;
        if journal.load().map_err(Trouble::bad)? != Some(standing) {
            return Err(Trouble::bad("what it saves it does not read back"));
        }
        Ok(format!(
            "update {install} in {}, {ended} ended, {quarantined} quarantined",
            Phase::Fetching
        ))
    }

    /// What the agent of before writes is read here by both programs.
    fn way_back_of_before(&self) -> Result<String, Trouble> {
        let folder = self.scratch(BEFORE);
        let place = Place::in_folder(Arc::new(RealFiles), &folder);
        let read = place.load().map_err(Trouble::bad)?;
        let read = read.ok_or_else(|| Trouble::bad("the way back is not seen"))?;
        let steps = shown_steps(&folder, &read.install)?;
        if steps != read.steps.len() {
            let (own, rescuers) = (read.steps.len(), steps);
            return Err(Trouble::bad(format!("it reads {own} steps, its rescuer {rescuers}")));
        }
        Ok(format!("{steps} steps"))
    }

    fn package(&self, known: &Known) -> Result<String, Trouble> {
        let holder = Holder {
            host: known.identity.host.clone(),
            labels: known.identity.labels.clone(),
            root: known.identity.root,
        };
        let folder = TrustFolder::at(self.scratch(TRUST));
        let trust = Trust::load(folder, holder, self.clock.clone());
        let view = trust.view();
        let view = view.ok_or_else(|| Trouble::bad("no signed metadata can be used"))?;
        let Question { product, release, .. } = self.question;
        let (ring, _) = view.permit(product, release, self.clock.now()).map_err(Trouble::bad)?;
        let settings = &known.settings;
        let root = machine::install_root(&RealFiles, settings);
        let tree = Tree::new(&RealFiles, root, settings.platform.clone());
        let documents = tree.documents(product, release).map_err(Trouble::bad)?;
        tree.verify(&documents, Extras::Refused).map_err(Trouble::bad)?;
        let files = documents.content().len();
        Ok(format!("permitted in ring {ring}, {files} files are as they were signed"))
    }

    /// Saves a few files, changes them, and brings them back.
    fn backup(&self) -> Result<(String, SealedBackup), Trouble> {
        let (install, id) = sample_id()?;
        let folder = self.scratch(SAMPLE);
        make_sample(&folder)?;
        let before = seen(&folder)?;
        let backups = Backups::new(&RealFiles, self.question.scratch.clone());
        let covers = [Cover { path: folder.clone(), role: Role::Declared }];
        backups.save(&id, &covers)?;
        let about = About {
            id: id.clone(),
            product: self.question.product.clone(),
            from: None,
            to: None,
            made: self.clock.now().as_second(),
        };
        let sealed = backups.seal(&about, &covers)?;
        spoil(&folder)?;
        if seen(&folder)? == before {
            return Err(Trouble::bad("the sample could not be changed"));
        }
        let index = backups.verify(&sealed)?;
        let steps = backups.undo_steps(&index, &install)?;
        let place = Place::in_folder(Arc::new(RealFiles), &self.question.scratch);
        place.arm(&sample_way_back(&install, self.clock, steps)).map_err(Trouble::bad)?;
        let armed = place.load().map_err(Trouble::bad)?;
        let armed = armed.ok_or_else(|| Trouble::bad("what was armed is not there"))?;
        // The sample has neither services nor commands.
        let none = |_: &[String]| Err(UnitsError("the sample has no commands".into()));
        way_back::run(&armed, &RealFiles, &mut NoServices(none)).map_err(Trouble::bad)?;
        backups.finish(&index, &install)?;
        if seen(&folder)? != before {
            return Err(Trouble::bad("what was brought back is not what was saved"));
        }
        Ok((format!("{} things saved and brought back", before.len()), sealed))
    }

    /// The way back of the sample backup stays armed for the agent of before to read; here this agent's
    /// rescuer does.
    fn rescuer(&self) -> Result<String, Trouble> {
        let (install, _) = sample_id()?;
        let place = Place::in_folder(Arc::new(RealFiles), &self.question.scratch);
        let armed = place.load().map_err(Trouble::bad)?;
        let armed = armed.ok_or_else(|| Trouble::bad("nothing is armed to look after"))?;
        let steps = shown_steps(&self.question.scratch, &install)?;
        match steps == armed.steps.len() {
            true => Ok(format!("{steps} steps")),
            false => Err(Trouble::bad(format!("it reads {steps} of {} steps", armed.steps.len()))),
        }
    }

    fn server(&self, known: &Known) -> Result<String, Trouble> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Trouble::bad)?;
        let server = {
            let _inside = runtime.enter();
            let ways = known.ways.clone();
            Server::new(&known.identity, &known.keys, ways, self.clock.clone())
        };
        let server = server.map_err(Trouble::bad)?;
        let mut last = String::new();
        for _ in 0..known.ways.addresses.len().max(1) {
            match runtime.block_on(link::reach(&server)) {
                Ok(()) => return Ok(server.address()),
                Err(error) => last = format!("{}: {error}", server.address()),
            }
            server.move_on().map_err(Trouble::bad)?;
        }
        Err(Trouble(Finding::Away, last))
    }
}

/// How many steps this agent's rescuer reads in the way back of a folder.
fn shown_steps(folder: &Path, install: &InstallId) -> Result<usize, Trouble> {
    let program = std::env::current_exe().map_err(Trouble::bad)?.with_file_name("refit-rescue");
    let mut show = Command::new(&program);
    show.args(["show", "--data"]).arg(folder).stdin(Stdio::null());
    let shown = show.output();
    let shown = shown
        .map_err(|error| Trouble::bad(format!("{} does not start: {error}", program.display())))?;
    if !shown.status.success() {
        return Err(Trouble::bad(String::from_utf8_lossy(&shown.stderr).trim()));
    }
    let shown = String::from_utf8_lossy(&shown.stdout);
    if !shown.lines().any(|line| line == format!("update {install}")) {
        return Err(Trouble::bad(format!("the rescuer does not see update {install}")));
    }
    Ok(shown.lines().filter(|line| line.starts_with("step ")).count())
}

fn make_sample(folder: &Path) -> Result<(), Trouble> {
    files::create_dirs(&RealFiles, &folder.join("folder"), 0o750)?;
    files::write_file(&RealFiles, &folder.join("folder/file"), b"as it was", 0o640)?;
    files::write_file(&RealFiles, &folder.join("large"), &vec![7; 300_000], 0o600)?;
    symlink("folder/file", folder.join("link")).map_err(Trouble::bad)?;
    std::fs::hard_link(folder.join("large"), folder.join("again")).map_err(Trouble::bad)
}

fn spoil(folder: &Path) -> Result<(), Trouble> {
    files::write_file(&RealFiles, &folder.join("folder/file"), b"spoilt", 0o777)?;
    files::write_file(&RealFiles, &folder.join("new"), b"new", 0o644)?;
    files::remove_tree(&RealFiles, &folder.join("large"))?;
    Ok(())
}

/// What stands in the sample: names, modes and bytes.
fn seen(folder: &Path) -> Result<Vec<(PathBuf, u32, Digest)>, Trouble> {
    use files::{Files as _, Kind};
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in RealFiles.list(&folder)? {
            let path = folder.join(name);
            let Some(stat) = RealFiles.stat(&path)? else { continue };
            let bytes = match stat.kind {
                Kind::File => files::read_file(&RealFiles, &path, 1 << 20)?,
                Kind::Link => RealFiles.read_link(&path)?.into_os_string().into_encoded_bytes(),
                Kind::Directory => {
                    folders.push(path.clone());
                    Vec::new()
                }
                Kind::Socket | Kind::Special => continue,
            };
            found.push((path, stat.mode, Digest::of(&bytes)));
        }
    }
    sorted::sort(&mut found);
    Ok(found)
}
