//! The bytes of a frame as they come, from wherever they come.

use std::time::Duration;

use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};

use super::{
    ask::Answer,
    message::{self, Message},
};
use crate::link::{CallError, Download, Patience, mirrors::Body, patience::Meter, server::LARGEST};

/// How much longer than the network half the root half waits: the one that calls is the one to say that a
/// download is too slow; the other holds where it says nothing at all.
pub(super) const GRACE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// A frame that comes.
pub struct Chunks {
    /// Length of the whole frame, where it is known.
    pub frame_length: Option<u64>,
    source: Source,
}

enum Source {
    Server(Box<Download>),
    Mirror(Box<Body>),
    Half(FromHalf),
}

impl Chunks {
    pub(super) fn of_server(download: Download) -> Chunks {
        Chunks { frame_length: download.frame_length, source: Source::Server(Box::new(download)) }
    }

    pub(super) fn of_mirror(body: Body) -> Chunks {
        Chunks { frame_length: None, source: Source::Mirror(Box::new(body)) }
    }

    pub(super) fn of_half(
        stream: UnixStream,
        frame_length: Option<u64>,
        patience: Patience,
    ) -> Chunks {
        let window = patience.window.saturating_add(GRACE);
        let meter = Meter::new(Patience { window, ..patience });
        Chunks { frame_length, source: Source::Half(FromHalf { stream, meter }) }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// If they break off, or come too slowly.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        match &mut self.source {
            Source::Server(download) => download.next().await,
            Source::Mirror(body) => {
                let came = body.next().await;
                let came = came.map_err(|error| CallError::weather(error.to_string()))?;
                Ok(came.map(Vec::from))
            }
            Source::Half(half) => half.next().await,
        }
    }
}

struct FromHalf {
    stream: UnixStream,
    meter: Meter,
}

impl FromHalf {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        loop {
            let asked = Instant::now();
            let largest = u32::try_from(LARGEST).unwrap_or(u32::MAX);
            let reading = message::read::<Answer>(&mut self.stream, largest);
            let Ok(came) = timeout(self.meter.left(), reading).await else {
                // A message of which a part has come is lost with it: nothing can be read behind it.
                return Err(CallError::weather("the network half brings nothing (slow-retrieval)"));
            };
            let came = came.map_err(|error| said_wrong(&error.to_string()))?;
            let bytes = came.as_ref().map_or(0, |message| message.body.len());
            self.meter.count(asked.elapsed(), bytes)?;
            match came {
                None => return Err(said_wrong("it ended in the middle of a frame")),
                Some(Message { head: Answer::Chunk, body }) if body.is_empty() => {}
                Some(Message { head: Answer::Chunk, body }) => return Ok(Some(body)),
                Some(Message { head: Answer::End, .. }) => return Ok(None),
                Some(Message { head: Answer::Failed(failed), .. }) => return Err(failed.into()),
                Some(Message {
                    head:
                        Answer::Done { .. }
                        | Answer::Absent
                        | Answer::Begins { .. }
                        | Answer::Unready
                        | Answer::OtherInterface { .. },
                    ..
                }) => return Err(said_wrong("that is no part of a frame")),
            }
        }
    }
}

/// The network half is away or says what it should not: weather, since it may be another one tomorrow.
pub(super) fn said_wrong(why: &str) -> CallError {
    CallError::weather(format!("this host's network half does not answer as it should: {why}"))
}
