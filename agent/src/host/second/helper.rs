//! The helper's program: started for one request, heard while it works, ended when its time is over.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::Stdio,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use refit_proto::gathered::Gathered as _;

use refit_copy::{Answer, Request};

use super::SecondError;
use crate::host::process::{Program, kill_group, kill_marked};

/// Longest line that is heard: what is known of the parts of half a million files.
const LINE_MAX: u64 = 200 << 20;
/// How much of what it says beside its answers is kept.
const SAID_MAX: u64 = 4096;
/// How long its last words may take after its end.
const GRACE: Duration = Duration::from_secs(5);

/// What carries backups to a second place.
pub trait Copier: Send + Sync {
    /// Does what is asked for, within this time. Everything that it answers is handed on, also that it failed.
    ///
    /// # Errors
    /// If nobody can say what came of it.
    fn run(
        &self,
        request: &Request,
        within: Duration,
        heard: &mut dyn FnMut(Answer),
    ) -> Result<(), SecondError>;
}

/// `refit-copy`.
#[derive(Debug, Clone)]
pub struct Helper {
    program: PathBuf,
}

impl Helper {
    /// The one that is installed with this agent.
    pub fn beside_this_program() -> Helper {
        let own = std::env::current_exe().unwrap_or_default();
        Helper { program: own.with_file_name("refit-copy") }
    }

    fn failed(&self, text: impl Into<String>) -> SecondError {
        SecondError::Helper { program: self.program.clone(), text: text.into() }
    }
}

impl Copier for Helper {
    fn run(
        &self,
        request: &Request,
        within: Duration,
        heard: &mut dyn FnMut(Answer),
    ) -> Result<(), SecondError> {
        let until = Instant::now() + within;
        let program = Program {
            program: self.program.clone().into(),
            arguments: Vec::new(),
            folder: "/".into(),
            environment: keys(),
            mark: mark(),
        };
        let mut command = program.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.failed(error.to_string()))?;
        let request =
            serde_json::to_vec(request).map_err(|error| self.failed(error.to_string()))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(self.failed("it has no pipes"));
        };
        // Where it ends before it has read all, its end says so.
        thread::spawn(move || stdin.write_all(&request));
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.take(SAID_MAX).read_to_end(&mut said);
            String::from_utf8_lossy(&said).trim().to_owned()
        });
        let (sender, lines) = mpsc::sync_channel(64);
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                match lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) if sender.send(line).is_err() => return,
                    Ok(_) => {}
                }
            }
        });
        let (mut ended, mut said_why) = (Ok(()), false);
        while ended.is_ok() {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => match serde_json::from_slice::<Answer>(&line) {
                    Ok(answer) => {
                        said_why |= matches!(answer, Answer::Failed { .. });
                        heard(answer);
                    }
                    Err(_) => {
                        let why = "it answers something else: is it of another version?";
                        ended = Err(self.failed(why));
                    }
                },
                Err(mpsc::RecvTimeoutError::Timeout) => ended = Err(SecondError::TooSlow(within)),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        // By itself where it has said its last word; whatever it started ends with it in any case.
        let grace = Instant::now() + GRACE;
        let mut code = None;
        while ended.is_ok() && code.is_none() && Instant::now() < grace {
            code = child.try_wait().map_err(|error| self.failed(error.to_string()))?;
            if code.is_none() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        kill_group(&child);
        if let Err(error) = kill_marked(&program.mark) {
            tracing::warn!("something of refit-copy is left: {error}");
        }
        child.wait().map_err(|error| self.failed(error.to_string()))?;
        ended?;
        if code.is_some_and(|code| code.success()) || said_why {
            return Ok(());
        }
        let said = said.join().unwrap_or_default();
        Err(self.failed(format!("it ended without an answer: {said}")))
    }
}

/// A mark that no other run of the helper has.
fn mark() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    format!("refit-copy {} {}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
}

/// Keys of a store that the agent's own environment holds, for the helper alone.
fn keys() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("AWS_") || name == "TMPDIR")
        .gathered()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use refit_copy::{Job, Place, Why};

    use super::*;
    use crate::host::process::Process;

    fn script(folder: &std::path::Path, text: &str) -> Helper {
        let program = folder.join("refit-copy");
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Helper { program }
    }

    fn ask(helper: &Helper, within: Duration) -> (Vec<Answer>, Result<(), SecondError>) {
        let place = Place::Folder { path: "/x".into(), apart_from: None };
        let request = Request { place, host: "h".into(), job: Job::List };
        let mut heard = Vec::new();
        let done = helper.run(&request, within, &mut |answer| heard.push(answer));
        (heard, done)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_it_answers_is_heard_and_an_end_without_an_answer_is_told_by_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let good = script(folder.path(), "cat >/dev/null; echo '{\"answer\":\"done\"}'");
        assert!(matches!(ask(&good, LONG), (heard, Ok(())) if heard == [Answer::Done]));
        let failed = "{\"answer\":\"failed\",\"why\":\"away\",\"text\":\"unplugged\"}";
        let failed = script(folder.path(), &format!("echo '{failed}'; exit 1"));
        let (heard, done) = ask(&failed, LONG);
        assert!(done.is_ok() && matches!(heard[..], [Answer::Failed { why: Why::Away, .. }]));
        for (text, said) in [
            ("echo no more memory >&2; exit 3", "no more memory"),
            ("kill -9 $$", "without an answer"),
            ("echo hello", "another version"),
        ] {
            let error = ask(&script(folder.path(), text), LONG).1.unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("refit-copy"), "{error}");
        }
        let missing = Helper { program: folder.path().join("not-there") };
        let error = ask(&missing, LONG).1.unwrap_err().to_string();
        assert!(error.contains("install refit-copy"), "{error}");
    }

    #[test]
    fn one_that_takes_too_long_ends_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let number = folder.path().join("number");
        let text = format!("setsid sleep 600 & echo $! > {}; sleep 600", number.display());
        let slow = script(folder.path(), &text);
        let (_, done) = ask(&slow, Duration::from_secs(2));
        assert!(matches!(done, Err(SecondError::TooSlow(_))), "{done:?}");
        let number = fs::read_to_string(number).unwrap().trim().parse().unwrap();
        assert_eq!(Process::find(number), None);
    }
}
