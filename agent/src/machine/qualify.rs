//! Running a new release of the agent beside this one, before anything is changed: in a folder of its own,
//! with everything else read-only where systemd can make it so, for a bounded time.

use std::path::{Path, PathBuf};

use refit_proto::{
    names::PackageName,
    package::{AGENT, AGENT_PROGRAM},
};

use super::{HostMachine, failures::failure};
use crate::{
    host::{
        boxed::{Boxed, End, Limits, Walls},
        files::{self, Files, Kind},
        process::Program,
    },
    qualify,
    update::{Attempt, Cause, Failure},
    way_back::Place,
};

/// How long a new agent may take to qualify, seconds: a server that is away is waited for a minute for each
/// address.
const LONGEST: u32 = 600;
/// What it may take beside the running one: many times what it needs.
const MEMORY: u64 = 512 << 20;
const TASKS: u32 = 64;

/// More than any answer needs.
const LONGEST_ANSWER: u64 = 64 << 10;

impl HostMachine {
    fn scratch(&self) -> PathBuf {
        self.data.join(qualify::SCRATCH)
    }

    pub(super) fn remove_scratch(&self) -> Result<(), Failure> {
        files::remove_tree(&*self.files, &self.scratch())?;
        Ok(())
    }

    pub(super) fn scratch_to_qualify(&mut self, attempt: &Attempt) -> Result<PathBuf, Failure> {
        self.remove_scratch()?;
        let scratch = self.scratch();
        let before = scratch.join(qualify::BEFORE);
        files::create_dirs(&*self.files, &scratch, 0o700)?;
        files::create_dirs(&*self.files, &before, 0o700)?;
        copy_folder(&*self.files, &self.data.join("trust"), &scratch.join(qualify::TRUST))?;
        let steps = qualify::of_every_kind();
        let sample = qualify::sample_way_back(&attempt.install, &self.clock, steps);
        Place::in_folder(self.files.clone(), &before).arm(&sample)?;
        Ok(scratch)
    }

    pub(super) fn qualify_beside(
        &mut self,
        attempt: &Attempt,
        server: bool,
    ) -> Result<(), Failure> {
        let words = self.run_beside(attempt, server)?;
        let path = self.scratch().join(qualify::ANSWER);
        let answer = match files::exists(&*self.files, &path)? {
            true => Some(files::read_file(&*self.files, &path, LONGEST_ANSWER)?),
            false => None,
        };
        qualify::judge(answer.as_deref(), &words, &attempt.release.version, server)?;
        self.reads_what_the_new_one_writes()
    }

    /// This agent, or its rescuer, may have to go back by what the new one has armed.
    fn reads_what_the_new_one_writes(&self) -> Result<(), Failure> {
        let refused = |error: &dyn std::fmt::Display| failure(Cause::NotQualified, error);
        let armed = Place::in_folder(self.files.clone(), &self.scratch()).load();
        if armed.map_err(|error| refused(&error))?.is_none() {
            return Err(refused(&"the new agent has left no way back to read"));
        }
        match &self.rescue {
            Some(rescue) => rescue.reads(&self.scratch()).map_err(|error| refused(&error)),
            None => Ok(()),
        }
    }

    /// Runs it to its end and says its last words.
    fn run_beside(&self, attempt: &Attempt, server: bool) -> Result<String, Failure> {
        let package = PackageName::parse(AGENT)
            .map_err(|error| Failure::new(Cause::HostFault, error.to_string()))?;
        let folder = self.folder(&attempt.product, &attempt.release.digest, package.as_str());
        let mut arguments: Vec<String> = vec![
            "qualify".into(),
            "--data".into(),
            self.data.to_string_lossy().into_owned(),
            "--scratch".into(),
            self.scratch().to_string_lossy().into_owned(),
            "--release".into(),
            attempt.release.digest.to_string(),
        ];
        if !server {
            arguments.push("--without-server".into());
        }
        let own = Program {
            program: folder.join(AGENT_PROGRAM).into(),
            arguments,
            folder,
            environment: Default::default(),
            mark: format!("refit-qualify-{}", attempt.install),
        };
        let why = match self.hooks.run_boxed(&self.beside(own)) {
            // What it says of itself tells the rest.
            Ok((End::Good, output)) => return Ok(output),
            Ok((end, output)) => format!("{end:?}: {output}"),
            Err(error) => error.to_string(),
        };
        match self.nothing_runs_beside() {
            None => Err(Failure::new(Cause::NotQualified, format!("the new agent: {why}"))),
            Some(host) => {
                let text = format!("nothing can be run beside this agent: {host}");
                Err(Failure::new(Cause::HostFault, text))
            }
        }
    }

    fn beside(&self, program: Program) -> Boxed {
        let limits = Limits { seconds: LONGEST, memory: MEMORY, tasks: TASKS };
        let walls = Walls { writes: vec![self.scratch()], network: true, ..Walls::default() };
        Boxed { program, limits, walls: Some(walls) }
    }

    /// Why this very program can't be run there either: then it is not the new one's fault.
    fn nothing_runs_beside(&self) -> Option<String> {
        let own = Program {
            program: self.own.as_deref()?.program().into(),
            arguments: vec!["--version".into()],
            folder: "/".into(),
            environment: Default::default(),
            mark: "refit-qualify-own".into(),
        };
        match self.hooks.run_boxed(&self.beside(own)) {
            Ok((End::Good, _)) => None,
            Ok((end, output)) => Some(format!("{end:?}: {output}")),
            Err(error) => Some(error.to_string()),
        }
    }
}

fn copy_folder(files: &dyn Files, from: &Path, to: &Path) -> Result<(), Failure> {
    const LARGEST: u64 = 64 << 20;
    files::create_dirs(files, to, 0o700)?;
    for name in files.list(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        match files.stat(&from)?.map(|stat| stat.kind) {
            Some(Kind::Directory) => copy_folder(files, &from, &to)?,
            Some(Kind::File) => {
                let bytes = files::read_file(files, &from, LARGEST)?;
                files::write_file(files, &to, &bytes, 0o600)?;
            }
            Some(Kind::Link | Kind::Socket | Kind::Special) | None => {}
        }
    }
    Ok(())
}
