//! How a question or an answer travels: the lengths of its two parts, four bytes each and big-endian; its
//! words as JSON; then the bytes beside them. Whoever reads says how much it takes, and holds no more than
//! has come. Whatever else comes is an error, and the end of that conversation.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The most that the words of a message take.
pub const LONGEST_HEAD: u32 = 64 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<T> {
    /// Its words.
    pub head: T,
    /// What travels beside them.
    pub body: Vec<u8>,
}

/// What came is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The conversation is over, or broke.
    #[error("the conversation broke: {0}")]
    Broken(#[from] io::Error),
    /// More than is taken.
    #[error("a part of {length} bytes came where at most {longest} are taken")]
    TooLong {
        /// What was announced.
        length: u32,
        /// What is taken.
        longest: u32,
    },
    /// Words that nobody understands.
    #[error("what came is no message: {0}")]
    NotUnderstood(String),
}

/// Writes a message.
///
/// # Errors
/// If it is longer than lengths tell, or the other side is gone.
pub(super) async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    head: &T,
    body: &[u8],
) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let length = |part: &[u8]| u32::try_from(part.len()).map_err(io::Error::other);
    let mut start = Vec::with_capacity(8 + head.len());
    start.extend(length(&head)?.to_be_bytes());
    start.extend(length(body)?.to_be_bytes());
    start.extend(head);
    to.write_all(&start).await?;
    to.write_all(body).await?;
    to.flush().await
}

/// Reads the next message; `None` where the other side has ended the conversation between two.
///
/// # Errors
/// If it is none, is longer than is taken here, or ends in the middle.
pub(super) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    longest_body: u32,
) -> Result<Option<Message<T>>, MessageError> {
    let mut lengths = [0; 8];
    if from.read(&mut lengths[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut lengths[1..]).await?;
    let [a, b, c, d, e, f, g, h] = lengths;
    let head = within(u32::from_be_bytes([a, b, c, d]), LONGEST_HEAD)?;
    let body = within(u32::from_be_bytes([e, f, g, h]), longest_body)?;
    let head = part(from, head).await?;
    let head = serde_json::from_slice(&head)
        .map_err(|error| MessageError::NotUnderstood(error.to_string()))?;
    Ok(Some(Message { head, body: part(from, body).await? }))
}

fn within(length: u32, longest: u32) -> Result<u32, MessageError> {
    if length > longest { Err(MessageError::TooLong { length, longest }) } else { Ok(length) }
}

/// Grows with what comes: an announced length costs nothing.
async fn part(from: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    let mut part = Vec::new();
    from.take(length.into()).read_to_end(&mut part).await?;
    if part.len() as u64 == u64::from(length) {
        Ok(part)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
