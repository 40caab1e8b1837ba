//! What the agent on this host is doing, for people on the host: the running agent answers on a socket
//! in its data folder, readable by its owner alone; where none runs, its store is read. Shows the same
//! state that is reported. The socket can't make the agent install anything: it takes no words at all
//! but the name of a quarantine to lift, of a backup to bring back, a hold to make or release, and the install of a bundle that its
//! owner has put into the agent's folder, to hear how it goes.

mod explain;
pub mod holds;
mod install;
mod text;

pub use explain::explain;
pub use install::Progress;
pub use text::show;

use std::{
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use refit_durable::Batch;
use refit_proto::names::{Digest, Product};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    runtime::Handle,
};

use crate::{
    bundle::Spool,
    holds::{Holds, NewHold},
    journal::{Journal as _, JournalError, StoreJournal},
    report::Reporter,
    restore::{self, Requests, RestoreError},
    update::{BackupId, InstallId},
};

/// Longest question and longest answer.
const LONGEST_QUESTION: u64 = 4096;
const LONGEST_ANSWER: u64 = 16 << 20;
/// How long a question or an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions that are answered at a time.
const AT_ONCE: usize = 8;

/// A question on the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Question {
    /// What is the host's state?
    Status,
    /// May root install something of this product from a bundle now?
    MayInstall {
        /// Of which product.
        product: Product,
    },
    /// How does the install of a bundle go?
    Install {
        /// Which one.
        install: InstallId,
    },
    /// Bring this backup back, which the agent itself has made and sealed, and how does that go? It undoes
    /// an update; it can bring nothing that was not here.
    Restore {
        /// Which backup.
        backup: BackupId,
        /// Names the request: asked again, it is the same one.
        install: InstallId,
    },
    /// Count the failures of this product on this host no more, since a person on the host says so.
    Forgive {
        /// Of which product.
        product: Product,
    },
    /// Let nothing begin for a while: it can only keep the agent from something.
    Hold {
        /// What is asked for.
        hold: NewHold,
    },
    /// What is held?
    Holds,
    /// End a hold before its time: what may begin then is permitted and signed as ever.
    ReleaseHold {
        /// Which.
        id: String,
    },
    /// Take this release out of quarantine, since a person on the host names it.
    LiftQuarantine {
        /// Of which product.
        product: Product,
        /// Which release document.
        digest: Digest,
    },
}

impl Question {
    /// Whether asking changes nothing: then it may be asked of somebody else too.
    fn only_looks(&self) -> bool {
        match self {
            Question::Status
            | Question::MayInstall { .. }
            | Question::Install { .. }
            | Question::Holds => true,
            Question::Restore { .. }
            | Question::Forgive { .. }
            | Question::Hold { .. }
            | Question::ReleaseHold { .. }
            | Question::LiftQuarantine { .. } => false,
        }
    }
}

/// Takes a release out of quarantine; says whether it was in.
///
/// # Errors
/// If that can't be told or saved.
pub fn lift(
    journal: &StoreJournal,
    product: &Product,
    digest: &Digest,
) -> Result<bool, JournalError> {
    let named = journal
        .quarantine()?
        .iter()
        .any(|quarantined| quarantined.digest == *digest && quarantined.product == *product);
    if named {
        journal.lift(digest, Batch::new())?;
    }
    Ok(named)
}

/// Opens the socket, in the place of one that an ended agent left. Only for who holds the lock.
///
/// # Errors
/// If it can't be opened.
pub fn listen(path: &Path, runtime: &Handle) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = StdListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let _inside = runtime.enter();
    UnixListener::from_std(listener)
}

/// Answers questions for ever.
pub async fn serve(
    listener: UnixListener,
    reporter: Arc<Reporter>,
    spool: Arc<Spool>,
    restores: Arc<Requests>,
    of_host: Arc<Holds>,
) {
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = (reporter.clone(), spool.clone(), restores.clone(), of_host.clone());
                tokio::spawn(async move {
                    let (reporter, spool, restores, of_host) = asked;
                    let answered = answer(stream, &reporter, &spool, &restores, &of_host);
                    let _whoever_asked_is_gone = tokio::time::timeout(PATIENCE, answered).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a question on the socket was not taken");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    reporter: &Reporter,
    spool: &Spool,
    restores: &Requests,
    of_host: &Holds,
) -> io::Result<()> {
    // Whoever was handed the open socket by somebody else is not heard either.
    let user = stream.peer_cred()?.uid();
    if !may_ask(user) {
        tracing::warn!(user, "somebody who is not root asks the agent, and gets no answer");
        return Ok(());
    }
    let mut question = Vec::new();
    (&mut stream).take(LONGEST_QUESTION).read_to_end(&mut question).await?;
    let answer = match serde_json::from_slice(&question) {
        Ok(Question::MayInstall { product }) => {
            let stop = reporter.wanted.stop(&product);
            serde_json::to_vec(&serde_json::json!({ "stopped": stop }))?
        }
        Ok(Question::Install { install }) => {
            serde_json::to_vec(&install::how_it_goes(&install, reporter, spool))?
        }
        Ok(Question::Restore { backup, install }) => {
            serde_json::to_vec(&restore_it(&backup, &install, reporter, restores))?
        }
        Ok(Question::Forgive { product }) => match reporter.journal.forgive(&product) {
            Ok(forgiven) => {
                reporter.wanted.stir();
                serde_json::to_vec(&serde_json::json!({ "forgiven": forgiven }))?
            }
            Err(error) => serde_json::to_vec(&serde_json::json!({ "error": error.to_string() }))?,
        },
        Ok(question @ (Question::Hold { .. } | Question::Holds | Question::ReleaseHold { .. })) => {
            holds::about(question, user, reporter, of_host)?.unwrap_or_default()
        }
        Ok(Question::Status) => serde_json::to_vec(&explain(reporter)?)?,
        Ok(Question::LiftQuarantine { product, digest }) => {
            let lifted = lift(&reporter.journal, &product, &digest);
            reporter.report_changes();
            match lifted {
                Ok(lifted) => serde_json::to_vec(&serde_json::json!({ "lifted": lifted }))?,
                Err(error) => {
                    serde_json::to_vec(&serde_json::json!({ "error": error.to_string() }))?
                }
            }
        }
        Err(error) => serde_json::to_vec(&serde_json::json!({ "error": error.to_string() }))?,
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// Root, and whom the agent itself runs as.
fn may_ask(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

fn restore_it(
    backup: &BackupId,
    install: &InstallId,
    reporter: &Reporter,
    restores: &Requests,
) -> restore::Progress {
    let progress = restores.ask(install, backup);
    if progress != restore::Progress::Waiting {
        return progress;
    }
    // Who carries an update sees the request only when it is over, which can take a day.
    if let Ok(Some(update)) = reporter.journal.load() {
        let under_way = RestoreError::UnderWay(update.attempt().product.clone());
        let refused = restore::Progress::Refused { text: under_way.to_string() };
        restores.stands(install, refused.clone());
        return refused;
    }
    reporter.wanted.stir();
    progress
}

/// Asks the running agent; `None` if none runs, or it ends before it answers what changes nothing.
///
/// # Errors
/// If it runs and does not answer as it should.
pub fn ask(path: &Path, question: &Question) -> io::Result<Option<serde_json::Value>> {
    let mut stream = match StdStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match exchange(&mut stream, question) {
        Ok(answer) => Ok(Some(serde_json::from_slice(&answer)?)),
        Err(error) if question.only_looks() && has_ended(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn exchange(stream: &mut StdStream, question: &Question) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&serde_json::to_vec(question)?)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The ear that was there is gone: its agent was killed, or a child that was just being started held it a moment longer.
fn has_ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_ends_before_it_hears_is_none_for_who_only_looks_and_an_error_for_who_acts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let digest = Digest::of(b"x");
        let lift = Question::LiftQuarantine { product: "p".parse().unwrap(), digest };
        for (question, looks) in [(Question::Status, true), (Question::Holds, true), (lift, false)]
        {
            let listener = StdListener::bind(&path).unwrap();
            let asks = std::thread::spawn({
                let path = path.clone();
                move || ask(&path, &question)
            });
            // Taken, and gone with what was asked.
            let (taken, _) = listener.accept().unwrap();
            let mut first = [0];
            (&taken).read_exact(&mut first).unwrap();
            drop((taken, listener));
            let answer = asks.join().unwrap();
            assert_eq!(answer.is_ok(), looks, "{answer:?}");
            assert!(!looks || answer.unwrap().is_none());
            std::fs::remove_file(&path).unwrap();
        }
    }

    /// CVE-2022-28756: what asks on this host can't make the agent install anything.
    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_knows_no_question_that_installs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let _listener = listen(&path, &Handle::current()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for question in [
            r#"{"ask":"install","file":"/tmp/evil.bundle"}"#,
            r#"{"ask":"run","command":["/bin/sh"]}"#,
            r#"{"ask":"offer","version":"6.6.6"}"#,
            r#"{"ask":"lift-quarantine","product":"../etc","digest":""}"#,
            "",
        ] {
            assert!(serde_json::from_str::<Question>(question).is_err(), "{question}");
        }
        // All that there is: a new word on this socket has to be weighed here.
        let digest = Digest::of(b"x");
        let lift = Question::LiftQuarantine { product: "p".parse().unwrap(), digest };
        for question in [Question::Status, lift] {
            let said = serde_json::to_value(&question).unwrap()["ask"].clone();
            match question {
                Question::Status => assert_eq!(said, "status"),
                Question::LiftQuarantine { .. } => assert_eq!(said, "lift-quarantine"),
                // They ask how an install goes, and name no file.
                Question::MayInstall { .. } | Question::Install { .. } => {}
                // It forgets what failed, and brings nothing.
                Question::Forgive { .. } => {}
                // It names a backup that this agent has sealed, and undoes an update.
                Question::Restore { .. } => {}
                // They keep the agent from beginning, or let go of that.
                Question::Hold { .. } | Question::Holds | Question::ReleaseHold { .. } => {}
            }
        }
    }
}
