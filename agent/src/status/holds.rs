//! The holds' own socket: members of a group that root names may hold updates off, and nothing else. Who asks
//! is told by the system.

use std::{
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixListener as StdListener,
    },
    path::Path,
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    runtime::Handle,
};

use super::{AT_ONCE, LONGEST_QUESTION, PATIENCE, Question};
use crate::{
    holds::{HoldError, Holds},
    report::Reporter,
    update::LocalHold,
};

/// Where it is: a place that everybody can reach.
pub const SOCKET: &str = "/run/refit-agent/holds.sock";

/// Opens the socket for members of this group. Only for who holds the lock of the agent's data folder.
///
/// # Errors
/// If the host knows no such group, or the socket can't be opened.
pub fn listen(path: &Path, group: &str, runtime: &Handle) -> io::Result<UnixListener> {
    let gid = gid_of(group)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = StdListener::bind(path)?;
    // Nobody else's at any moment.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    chown(path, None, Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    let _inside = runtime.enter();
    UnixListener::from_std(listener)
}

fn gid_of(group: &str) -> io::Result<u32> {
    let groups = fs::read_to_string("/etc/group")?;
    let of = |line: &str| {
        let mut parts = line.split(':');
        (parts.next()? == group).then(|| parts.nth(1)?.parse().ok()).flatten()
    };
    groups.lines().find_map(of).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("/etc/group has no group {group}"))
    })
}

/// Answers for ever; without a socket it only never ends.
pub async fn serve(listener: Option<UnixListener>, reporter: Arc<Reporter>, holds: Arc<Holds>) {
    let Some(listener) = listener else { return std::future::pending().await };
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (reporter, holds) = (reporter.clone(), holds.clone());
                tokio::spawn(async move {
                    let answered = answer(stream, &reporter, &holds);
                    let _whoever_asked_is_gone = tokio::time::timeout(PATIENCE, answered).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a question on the socket of holds was not taken");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, reporter: &Reporter, holds: &Holds) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let mut question = Vec::new();
    (&mut stream).take(LONGEST_QUESTION).read_to_end(&mut question).await?;
    let answer = match serde_json::from_slice::<Question>(&question) {
        Ok(question) => about(question, uid, reporter, holds)?,
        Err(_) => None,
    };
    let refused = || serde_json::json!({ "error": "only holds are told here" }).to_string();
    stream.write_all(&answer.unwrap_or_else(|| refused().into_bytes())).await?;
    stream.shutdown().await
}

/// The answer to a question about holds by this user; `None`: it is about something else.
///
/// # Errors
/// Never for a hold: it has no keys but words.
pub(super) fn about(
    question: Question,
    uid: u32,
    reporter: &Reporter,
    holds: &Holds,
) -> io::Result<Option<Vec<u8>>> {
    let told = |result: Result<LocalHold, HoldError>| -> io::Result<Vec<u8>> {
        Ok(match result {
            Ok(hold) => {
                // The server hears of it, and what waited for it goes on.
                reporter.report_changes();
                reporter.wanted.stir();
                serde_json::to_vec(&hold)?
            }
            Err(error) => serde_json::to_vec(&serde_json::json!({ "error": error.to_string() }))?,
        })
    };
    Ok(match question {
        Question::Holds => Some(serde_json::to_vec(&holds.now())?),
        Question::Hold { hold } => Some(told(holds.add(hold, uid))?),
        Question::ReleaseHold { id } => Some(told(holds.release(&id, uid))?),
        Question::Status
        | Question::MayInstall { .. }
        | Question::Install { .. }
        | Question::Restore { .. }
        | Question::Forgive { .. }
        | Question::LiftQuarantine { .. } => None,
    })
}
