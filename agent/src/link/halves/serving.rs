//! The network half on a socket: takes questions of root, and of its own user for tests; of nobody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    io::AsyncReadExt as _,
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};

use super::{
    INTERFACE,
    access::Access,
    answering::{self, NetworkHalf},
    ask::{Answer, Ask, Asked},
    chunks::Chunks,
    message::{self, Message, MessageError},
};
use crate::link::{CallError, server::LARGEST};

/// Conversations at a time; the root half has a few.
const AT_ONCE: usize = 16;
/// How long a question may take to arrive, and a part of an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one of another version goes on: so often it may end where it is what lies on the disk.
const OTHER_VERSION: Duration = Duration::from_secs(600);

/// Whether the halves of the agent speak with this user.
pub(super) fn may_speak(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Why the network half ends by itself.
#[derive(Default)]
struct Ending {
    is: AtomicBool,
    told: Notify,
}

impl Ending {
    fn end(&self, why: &str) {
        if !self.is.swap(true, Ordering::Relaxed) {
            tracing::info!("{why}; this one ends, and the next one is started when it is needed");
        }
        self.told.notify_one();
    }
}

/// Answers questions until the root half turns out to be of another version than this program. Tells `asked` of
/// each.
pub async fn serve(listener: UnixListener, half: NetworkHalf, asked: &Notify) {
    let (half, ending) = (Arc::new(half), Arc::new(Ending::default()));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let began = Instant::now();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ending.told.notified() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                asked.notify_one();
                let (half, ending) = (half.clone(), ending.clone());
                tokio::spawn(async move {
                    if let Err(error) = conversation(stream, &half, &ending, began).await {
                        tracing::debug!(%error, "a conversation with the root half ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a question was not taken");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn conversation(
    stream: UnixStream,
    half: &NetworkHalf,
    ending: &Ending,
    began: Instant,
) -> Result<(), MessageError> {
    let user = stream.peer_cred()?.uid();
    if !may_speak(user) {
        tracing::warn!(user, "somebody who is not root asks the network half, and gets no answer");
        return Ok(());
    }
    let (mut reader, mut writer) = stream.into_split();
    let largest = u32::try_from(LARGEST).unwrap_or(u32::MAX);
    while let Some(Message { head, body }) = soon(message::read(&mut reader, largest)).await? {
        let asked: Asked = head;
        if asked.interface != INTERFACE {
            let other = Answer::OtherInterface { interface: INTERFACE };
            let written = message::write(&mut writer, &other, &[]).await;
            ending.end("the root half knows another interface");
            return Ok(written?);
        }
        if let Ok(floor) = Timestamp::from_second(asked.not_before) {
            half.clock().raise_floor(floor);
        }
        // Whoever hangs up wants no answer any more.
        tokio::select! {
            said = say(half, &asked, body, &mut writer) => said?,
            _spoken_or_gone = reader.read_u8() => return Ok(()),
        }
        let version = env!("CARGO_PKG_VERSION");
        if asked.version != version && began.elapsed() >= OTHER_VERSION {
            ending.end("the root half is of another version");
        }
    }
    Ok(())
}

async fn say(
    half: &NetworkHalf,
    asked: &Asked,
    body: Vec<u8>,
    writer: &mut OwnedWriteHalf,
) -> Result<(), MessageError> {
    if asked.ask == Ask::Use {
        let taken = Access::parse(&zeroize::Zeroizing::new(body))
            .map_err(|error| CallError::refused(format!("the access: {error}")))
            .and_then(|access| half.hold(&access));
        let answer = match taken {
            Ok(server) => Answer::Done { address: server.address() },
            Err(error) => (&error).into(),
        };
        return Ok(soon_written(writer, &answer, &[]).await?);
    }
    let Some(server) = half.server(&asked.access) else {
        return Ok(soon_written(writer, &Answer::Unready, &[]).await?);
    };
    if let Ask::Frame { from, digest, offset } = &asked.ask {
        return match answering::begin_frame(&server, from, digest, *offset).await {
            Ok(chunks) => hand_on(chunks, writer).await,
            Err(error) => Ok(soon_written(writer, &(&error).into(), &[]).await?),
        };
    }
    let (answer, body) = match answering::answer(&server, asked.ask.clone(), &body).await {
        Ok(answered) => answered,
        Err(error) => ((&error).into(), Vec::new()),
    };
    Ok(soon_written(writer, &answer, &body).await?)
}

async fn hand_on(mut chunks: Chunks, writer: &mut OwnedWriteHalf) -> Result<(), MessageError> {
    let begins = Answer::Begins { frame_length: chunks.frame_length };
    // Whoever asked may limit how fast it takes them: no time is set for that.
    message::write(writer, &begins, &[]).await?;
    loop {
        let end = match chunks.next().await {
            Ok(Some(bytes)) => {
                message::write(writer, &Answer::Chunk, &bytes).await?;
                continue;
            }
            Ok(None) => Answer::End,
            Err(error) => (&error).into(),
        };
        return Ok(message::write(writer, &end, &[]).await?);
    }
}

async fn soon<T>(
    reading: impl Future<Output = Result<T, MessageError>>,
) -> Result<T, MessageError> {
    match timeout(PATIENCE, reading).await {
        Ok(read) => read,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

async fn soon_written(
    writer: &mut OwnedWriteHalf,
    answer: &Answer,
    body: &[u8],
) -> std::io::Result<()> {
    match timeout(PATIENCE, message::write(writer, answer, body)).await {
        Ok(written) => written,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
