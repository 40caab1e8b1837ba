//! Programs that read a file or whose output is taken as it comes: tools of databases, which write more
//! than memory holds. Bounded in time; what they write to their standard error is kept to its end.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};

use super::process::{OUTPUT_KEPT, Program, kill_marked, read_end};

/// A tool and the user that it runs as.
#[derive(Debug, Clone)]
pub(crate) struct Piped {
    /// The program; a mark of its own, since whatever else bears it is ended with it.
    pub(crate) program: Program,
    /// User and group, where they are others than the agent's.
    pub(crate) user: Option<(u32, u32)>,
    /// The longest that it may take.
    pub(crate) timeout: Duration,
}

/// Takes what a program writes.
pub(crate) type Take<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Why a tool did not do what it is for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    /// It could not be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} ended with {code:?}: {said}")]
    Failed {
        /// Which.
        program: String,
        /// Its exit code; `None`: by a signal.
        code: Option<i32>,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// It took too long and was ended, with everything it had started.
    #[error("{program} took longer than {seconds} s: {said}")]
    TimedOut {
        /// Which.
        program: String,
        /// How long it may take.
        seconds: u64,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// What it wrote was not taken.
    #[error("what {program} writes cannot be kept: {source}")]
    Taken {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// What it was to read cannot be read.
    #[error("what {program} is to read cannot be read: {source}")]
    Given {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// Longest of what a program said that is told: its last words.
const TOLD: usize = 400;

impl PipeError {
    /// The same, with no more than the last of what the program said.
    pub(crate) fn in_short(mut self) -> String {
        match &mut self {
            PipeError::Failed { said, .. } | PipeError::TimedOut { said, .. } => {
                let too_many = said.chars().count().saturating_sub(TOLD);
                *said = said.chars().skip(too_many).collect();
            }
            PipeError::Start { .. } | PipeError::Taken { .. } | PipeError::Given { .. } => {}
        }
        self.to_string()
    }
}

impl Piped {
    /// Runs the program to its end: it reads `input` and `take` gets what it writes. Whatever an earlier try
    /// or this one has left running is ended.
    ///
    /// # Errors
    /// If its exit code is not 0.
    pub(crate) fn run(
        &self,
        input: Option<Box<dyn io::Read + Send>>,
        take: Take<'_>,
    ) -> Result<(), PipeError> {
        let name = || self.program.program.to_string_lossy().into_owned();
        let start = |source| PipeError::Start { program: name(), source };
        kill_marked(&self.program.mark).map_err(start)?;
        let mut command = self.program.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        if let Some((uid, gid)) = self.user {
            // The agent's further groups are left behind too.
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().map_err(start)?;
        let (Some(mut writes), Some(mut says)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(start(io::Error::other("it has no output")));
        };
        let reads = child.stdin.take();
        let (over, turn) = mpsc::channel::<()>();
        let late = AtomicBool::new(false);
        let group = ProcessGroup::of(&child);
        let (status, taken, given, said) = thread::scope(|scope| {
            let late = &late;
            scope.spawn(move || {
                if let Err(mpsc::RecvTimeoutError::Timeout) = turn.recv_timeout(self.timeout) {
                    late.store(true, Ordering::Relaxed);
                    group.kill();
                    // What has left the group would hold the output open. Tried again below.
                    let _looked_for_again = kill_marked(&self.program.mark);
                }
            });
            let said = scope.spawn(move || read_end(&mut says, OUTPUT_KEPT));
            let given = scope.spawn(move || input.zip(reads).map_or(Ok(()), feed));
            let taken = pump(&mut writes, take);
            if taken.is_err() {
                group.kill();
            }
            drop(writes);
            let status = child.wait();
            group.kill();
            let ended = kill_marked(&self.program.mark);
            drop(over);
            let said = said.join().unwrap_or_default();
            let given = given.join().unwrap_or(Ok(()));
            (status.and_then(|status| ended.map(|()| status)), taken, given, said)
        });
        let (status, program) = (status.map_err(start)?, name());
        if late.load(Ordering::Relaxed) {
            return Err(PipeError::TimedOut { program, seconds: self.timeout.as_secs(), said });
        }
        taken.map_err(|source| PipeError::Taken { program: name(), source })?;
        given.map_err(|source| PipeError::Given { program: name(), source })?;
        match status.code() {
            Some(0) => Ok(()),
            code => Err(PipeError::Failed { program, code, said }),
        }
    }

    /// The same, of a program that writes little.
    ///
    /// # Errors
    /// If its exit code is not 0, or it writes more than `MOST`.
    pub(crate) fn ask(&self, input: impl Into<Vec<u8>>) -> Result<Vec<u8>, PipeError> {
        let mut answer = Vec::new();
        self.run(Some(Box::new(io::Cursor::new(input.into()))), &mut |bytes| {
            answer.extend_from_slice(bytes);
            match answer.len() > MOST {
                true => Err(io::Error::other("it is too much")),
                false => Ok(()),
            }
        })?;
        Ok(answer)
    }
}

/// Most that an answer may be: a line each of a hundred thousand tables.
const MOST: usize = 16 << 20;

/// A child's process group, which is its own.
#[derive(Clone, Copy)]
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn of(child: &Child) -> ProcessGroup {
        ProcessGroup(i32::try_from(child.id()).ok().and_then(Pid::from_raw))
    }

    fn kill(self) {
        if let Some(group) = self.0 {
            // A group that is gone already is what was wanted.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

fn pump(from: &mut impl io::Read, take: Take<'_>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A program that does not read to the end says by its exit code whether that was right.
fn feed((mut input, mut program): (Box<dyn io::Read + Send>, ChildStdin)) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                if program.write_all(&buffer[..read]).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::marked;

    fn shell(script: &str, seconds: u64) -> Piped {
        let program = Program {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("test piped {} {script}", std::process::id()),
        };
        Piped { program, user: None, timeout: Duration::from_secs(seconds) }
    }

    #[test]
    fn what_a_program_reads_and_writes_goes_through_whole() {
        let much = vec![b'x'; 3 << 20];
        assert_eq!(shell("cat", 60).ask(much.clone()).unwrap(), much);
        // One that does not read what it is given, and says that all is well.
        assert_eq!(shell("exec 0<&-; echo done", 60).ask(much).unwrap(), b"done\n");
    }

    #[test]
    fn a_program_that_fails_says_with_what_and_one_that_is_late_leaves_nothing() {
        let failed = shell("echo half; echo no such table >&2; exit 3", 60).ask("").unwrap_err();
        assert_eq!(failed.to_string(), "/bin/sh ended with Some(3): no such table");
        for script in ["setsid sleep 600 & sleep 600", "exec 1>&-; echo busy >&2; sleep 600"] {
            let late = shell(script, 1);
            let error = late.ask("").unwrap_err();
            assert!(matches!(error, PipeError::TimedOut { seconds: 1, .. }), "{error}");
            assert_eq!(marked(&late.program.mark).unwrap(), []);
        }
    }

    #[test]
    fn a_program_whose_output_is_not_taken_or_whose_input_breaks_off_has_failed() {
        let endless = shell("yes", 600);
        let error = endless.run(None, &mut |_| Err(io::Error::other("the disk is full")));
        assert!(matches!(error, Err(PipeError::Taken { .. })), "{error:?}");
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("EIO"))
            }
        }
        let error = shell("cat", 60).run(Some(Box::new(Broken)), &mut |_| Ok(()));
        assert!(matches!(error, Err(PipeError::Given { .. })), "{error:?}");
    }
}
