//! Content up and down: whole files by digest, as zstd frames. What comes down is checked against what
//! was signed before anybody reads it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
};

use anyhow::{Context as _, ensure};
use refit_proto::{
    names::Digest,
    package::{FileRef, compress, decompress},
    wire::{GetContentRequest, MissingContentRequest, PutContentRequest},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{connect::Connection, failure::refused};

/// Data in one message.
const CHUNK: usize = 256 * 1024;

/// Messages that wait for the network: a file is never in memory as a whole.
const WAITING: usize = 8;

/// Digests asked about at once.
const BATCH: usize = 1000;

/// Which of these the server lacks.
pub(crate) async fn missing(
    connection: &Connection,
    wanted: &BTreeSet<FileRef>,
) -> anyhow::Result<Vec<FileRef>> {
    let wanted: Vec<FileRef> = wanted.iter().copied().collect();
    let mut missing = Vec::new();
    for batch in wanted.chunks(BATCH) {
        let sha256 = batch.iter().map(|file| file.sha256.as_bytes().to_vec()).collect();
        let reply = connection.repository().missing_content(MissingContentRequest { sha256 }).await;
        let lacking = reply.map_err(refused("ask which content is missing"))?.into_inner().sha256;
        let lacking: BTreeSet<Vec<u8>> = lacking.into_iter().collect();
        missing.extend(batch.iter().filter(|file| lacking.contains(&file.sha256.as_bytes()[..])));
    }
    Ok(missing)
}

/// Uploads one file.
pub(crate) async fn upload_file(
    connection: &Connection,
    file: File,
    expected: FileRef,
) -> anyhow::Result<()> {
    upload(connection, Box::new(file), expected).await
}

/// Uploads bytes, if the server lacks them.
pub(crate) async fn upload_bytes(connection: &Connection, bytes: Vec<u8>) -> anyhow::Result<()> {
    let expected = FileRef::to(&bytes);
    if missing(connection, &[expected].into()).await?.is_empty() {
        return Ok(());
    }
    upload(connection, Box::new(io::Cursor::new(bytes)), expected).await
}

async fn upload(
    connection: &Connection,
    mut plain: Box<dyn Read + Send>,
    expected: FileRef,
) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let packing = tokio::task::spawn_blocking(move || {
        let mut frame = Outgoing { sender, expected, head_sent: false, buffer: Vec::new() };
        let found = compress(&mut plain, &mut frame)?;
        frame.flush()?;
        Ok::<_, io::Error>(found)
    });
    let sent = connection.repository().put_content(ReceiverStream::new(receiver)).await;
    let found = packing.await.context("packing was interrupted")?;
    // The server's word comes first: where it hung up, packing failed only because of that.
    sent.map_err(refused(format!("upload content {}", expected.sha256.short())))?;
    let (sha256, length) = found.context("cannot pack content")?;
    ensure!(
        FileRef { sha256, length } == expected,
        "content {} changed while it was sent",
        expected.sha256
    );
    Ok(())
}

/// Cuts a frame into messages; the first says what it is.
struct Outgoing {
    sender: mpsc::Sender<PutContentRequest>,
    expected: FileRef,
    head_sent: bool,
    buffer: Vec<u8>,
}

impl Outgoing {
    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.buffer);
        let FileRef { sha256, length } = self.expected;
        let message = if self.head_sent {
            PutContentRequest { sha256: Vec::new(), length: 0, data }
        } else {
            PutContentRequest { sha256: sha256.as_bytes().to_vec(), length, data }
        };
        self.head_sent = true;
        let hung_up = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the server hung up");
        self.sender.blocking_send(message).map_err(hung_up)
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() || !self.head_sent {
            self.send()?;
        }
        Ok(())
    }
}

/// Fetches a document that signed metadata names. What does not fit is never returned.
pub(crate) async fn fetch(
    connection: &Connection,
    digest: Digest,
    length: u64,
    limit: u64,
) -> anyhow::Result<Vec<u8>> {
    ensure!(
        length <= limit,
        "content {digest} has {length} bytes, more than the {limit} that are read"
    );
    let act = || format!("fetch content {}", digest.short());
    let request = GetContentRequest { sha256: digest.as_bytes().to_vec(), offset: 0 };
    let stream = connection.repository().get_content(request).await;
    let mut stream = stream.map_err(refused(act()))?.into_inner();
    let mut frame = Vec::new();
    while let Some(chunk) = stream.message().await.map_err(refused(act()))? {
        frame.extend_from_slice(&chunk.data);
        ensure!(
            frame.len() as u64 <= longest_frame(length),
            "the server sends more of content {digest} than there can be"
        );
    }
    let mut plain = Vec::new();
    decompress(&mut frame.as_slice(), &mut plain, digest, length)?;
    Ok(plain)
}

/// A content file as the server keeps it, on its way.
pub(crate) struct Frame {
    /// Of the frame.
    pub(crate) length: u64,
    act: String,
    first: Option<Vec<u8>>,
    stream: tonic::Streaming<refit_proto::wire::ContentChunk>,
}

/// Begins to fetch a content file's frame. Whoever takes it checks it.
pub(crate) async fn frame(connection: &Connection, wanted: FileRef) -> anyhow::Result<Frame> {
    let act = format!("fetch content {}", wanted.sha256.short());
    let request = GetContentRequest { sha256: wanted.sha256.as_bytes().to_vec(), offset: 0 };
    let stream = connection.repository().get_content(request).await;
    let mut stream = stream.map_err(refused(act.clone()))?.into_inner();
    let chunk = stream.message().await.map_err(refused(act.clone()))?;
    let chunk = chunk.with_context(|| format!("cannot {act}: nothing came"))?;
    ensure!(
        chunk.frame_length <= longest_frame(wanted.length),
        "the server has more of content {} than there can be",
        wanted.sha256
    );
    Ok(Frame { length: chunk.frame_length, act, first: Some(chunk.data), stream })
}

impl Frame {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let chunk = self.stream.message().await.map_err(refused(self.act.clone()))?;
        Ok(chunk.map(|chunk| chunk.data))
    }
}

/// What cannot be compressed grows by 3 bytes in 128 KiB, and a frame has a head.
fn longest_frame(length: u64) -> u64 {
    length + length / 1024 + 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(plain: Vec<u8>) -> Vec<PutContentRequest> {
        let (sender, mut receiver) = mpsc::channel(1000);
        let expected = FileRef::to(&plain);
        let mut frame = Outgoing { sender, expected, head_sent: false, buffer: Vec::new() };
        std::thread::spawn(move || {
            compress(&mut plain.as_slice(), &mut frame).unwrap();
            frame.flush().unwrap();
        })
        .join()
        .unwrap();
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    #[test]
    fn a_file_of_any_size_goes_out_in_small_messages_and_comes_back_whole() {
        // Numbers that do not compress, so that there are several messages.
        let mut state = 1_u64;
        let long: Vec<u8> = (0..600_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        for plain in [Vec::new(), b"x".to_vec(), long] {
            let messages = messages(plain.clone());
            assert_eq!(messages[0].sha256, Digest::of(&plain).as_bytes());
            assert_eq!(messages[0].length, plain.len() as u64);
            assert!(messages[1..].iter().all(|message| message.sha256.is_empty()));
            assert!(messages.iter().all(|message| message.data.len() <= CHUNK));
            let frame: Vec<u8> = messages.into_iter().flat_map(|message| message.data).collect();
            assert!(frame.len() as u64 <= longest_frame(plain.len() as u64));
            let mut back = Vec::new();
            let (digest, length) = (Digest::of(&plain), plain.len() as u64);
            decompress(&mut frame.as_slice(), &mut back, digest, length).unwrap();
            assert_eq!(back, plain);
        }
    }
}
