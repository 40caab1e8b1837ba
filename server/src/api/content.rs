//! Content on its way in and out, in pieces. The folder checks; here nothing is kept in memory but a
//! piece or two.

use std::{
    io::Read as _,
    sync::Arc,
    time::{Duration, Instant},
};

use refit_proto::{names::Digest, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Api, ApiError, Shared};
use crate::content::{ContentError, Frame, Upload};

/// One message of a download to a quick reader.
const PIECE: usize = 256 * 1024;
/// The same to a slow one, or to one that is not known yet. A host counts what has come by whole messages, and
/// over a link of a kilobyte per second a large one takes longer than it waits for bytes.
const SMALL_PIECE: usize = 16 * 1024;
/// A reader that has taken so much within [`QUICK`] is a quick one: more than what lies between here and there.
const ENOUGH: usize = 1 << 20;
const QUICK: Duration = Duration::from_secs(2);
/// Messages read ahead of a slow reader.
const AHEAD: usize = 2;

/// A download under way.
pub(super) type Chunks = ReceiverStream<Result<wire::ContentChunk, Status>>;

impl Api {
    /// Sends a stored frame from an offset on.
    pub(super) async fn send_frame(&self, digest: Digest, offset: u64) -> Result<Chunks, ApiError> {
        let frame = self.on_disk(move |shared| shared.content.open_frame(digest, offset)).await?;
        if offset > frame.length {
            let text = format!("content {digest} has {} bytes, none at {offset}", frame.length);
            return Err(ApiError::Invalid(text));
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || pump(frame, &sender));
        Ok(ReceiverStream::new(receiver))
    }

    /// Takes a frame in, piece by piece.
    pub(super) async fn take_frame(
        &self,
        messages: &mut Streaming<wire::PutContentRequest>,
    ) -> Result<Digest, ApiError> {
        let first = next(messages)
            .await?
            .ok_or_else(|| ApiError::Invalid("the upload has no message".into()))?;
        let digest = Digest::from_bytes(&first.sha256)?;
        let length = first.length;
        let begun = self.on_disk(move |shared| shared.content.begin(digest, length)).await?;
        let mut upload = write(begun, first.data).await?;
        while let Some(message) = next(messages).await? {
            if !message.sha256.is_empty() || message.length != 0 {
                let text = "only the first message of an upload names digest and length";
                return Err(ApiError::Invalid(text.into()));
            }
            upload = write(upload, message.data).await?;
        }
        blocking(move || upload.finish()).await?;
        Ok(digest)
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let shared = Arc::clone(&self.0);
        blocking(move || work(&shared)).await
    }
}

async fn next(
    messages: &mut Streaming<wire::PutContentRequest>,
) -> Result<Option<wire::PutContentRequest>, ApiError> {
    messages.message().await.map_err(|status| ApiError::BrokenOff(status.message().to_owned()))
}

async fn write(mut upload: Upload, data: Vec<u8>) -> Result<Upload, ApiError> {
    blocking(move || upload.write(&data).map(|()| upload)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| ApiError::Internal(error.to_string()))??)
}

fn pump(mut frame: Frame, sender: &mpsc::Sender<Result<wire::ContentChunk, Status>>) {
    // In the first message only; after that 0.
    let mut frame_length = frame.length;
    let (mut pieces, begun) = (Pieces::default(), Instant::now());
    loop {
        let piece = pieces.size;
        let mut data = Vec::with_capacity(piece);
        let read = frame.file.by_ref().take(piece as u64).read_to_end(&mut data);
        let chunk = match read {
            Ok(0) if frame_length == 0 => return,
            Ok(_) => Ok(wire::ContentChunk { data, frame_length }),
            Err(error) => {
                tracing::warn!(%error, "content could not be read");
                Err(Status::internal("the server can't read this content"))
            }
        };
        frame_length = 0;
        let last = chunk.is_err();
        // Whoever asked has gone.
        if sender.blocking_send(chunk).is_err() || last {
            return;
        }
        pieces.taken(piece, begun.elapsed());
    }
}

/// How large the messages to one reader are.
struct Pieces {
    size: usize,
    /// What it has taken since then.
    taken: usize,
    since: Duration,
}

impl Default for Pieces {
    fn default() -> Pieces {
        Pieces { size: SMALL_PIECE, taken: 0, since: Duration::ZERO }
    }
}

impl Pieces {
    /// It has taken so many bytes more, so long after the beginning.
    fn taken(&mut self, bytes: usize, now: Duration) {
        self.taken += bytes;
        let slow = now.saturating_sub(self.since) > QUICK;
        if slow || self.taken >= ENOUGH {
            self.size = if slow { SMALL_PIECE } else { PIECE };
            (self.taken, self.since) = (0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_gets_small_pieces_and_a_quick_one_large_ones() {
        let (mut pieces, mut now, mut sent) = (Pieces::default(), Duration::ZERO, 0);
        // What lies between here and there is taken at once; then comes a kilobyte per second.
        while sent < 4 << 20 {
            assert_eq!(pieces.size, SMALL_PIECE, "after {sent} bytes");
            sent += pieces.size;
            if sent > 500 << 10 {
                now += Duration::from_secs(16);
            }
            pieces.taken(pieces.size, now);
        }
        let mut pieces = Pieces::default();
        for _ in 0..(ENOUGH / SMALL_PIECE) {
            pieces.taken(SMALL_PIECE, Duration::from_millis(100));
        }
        assert_eq!(pieces.size, PIECE);
        // It becomes slow.
        pieces.taken(PIECE, Duration::from_secs(60));
        assert_eq!(pieces.size, SMALL_PIECE);
    }
}
