//! Content by digest, as the server streams it: goes on where an earlier try ended, and gives up only when
//! nothing at all has come for a while, so that a slow link that lives is never cut. Proves nothing: what
//! arrives is checked by whoever asked for it, against what was signed.

use std::{future::Future, time::Duration};

use refit_proto::{
    names::Digest,
    package,
    trust::Role,
    wire::{
        ContentChunk, GetContentRequest, GetMetadataRequest, repository_client::RepositoryClient,
    },
};
use tonic::{Streaming, transport::Channel};

use super::{
    CallError, Server, Trouble,
    call::{self, within},
};
use crate::trusted::Source;

/// How long nothing may come before a download counts as dead.
pub(super) const NO_PROGRESS: Duration = Duration::from_secs(60);

/// Most bytes by which a zstd frame is longer than what it holds.
fn longest_frame(plain: u64) -> u64 {
    plain.saturating_add(plain / 128).saturating_add(1024)
}

/// A download under way.
pub struct Download {
    stream: Streaming<ContentChunk>,
    /// Length of the whole frame, where the server has said it.
    pub frame_length: Option<u64>,
    first: Option<Vec<u8>>,
}

impl Server {
    /// Begins to fetch a file's frame, from an offset into it.
    ///
    /// # Errors
    /// If nothing comes.
    pub async fn download(&self, digest: &Digest, offset: u64) -> Result<Download, CallError> {
        begin(self.repository(), digest, offset).await
    }
}

/// Begins to fetch a file's frame.
pub(super) async fn begin(
    mut repository: RepositoryClient<Channel>,
    digest: &Digest,
    offset: u64,
) -> Result<Download, CallError> {
    let request = GetContentRequest { sha256: digest.as_bytes().to_vec(), offset };
    let stream = within(NO_PROGRESS, repository.get_content(request)).await?;
    let mut download = Download { stream, frame_length: None, first: None };
    if let Some(chunk) = next(&mut download.stream).await? {
        download.frame_length = (chunk.frame_length > 0).then_some(chunk.frame_length);
        download.first = Some(chunk.data);
    }
    Ok(download)
}

impl Download {
    /// The next bytes of the frame; `None` at its end.
    ///
    /// # Errors
    /// If the stream breaks, or nothing comes for a minute.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        Ok(next(&mut self.stream).await?.map(|chunk| chunk.data))
    }
}

async fn next(stream: &mut Streaming<ContentChunk>) -> Result<Option<ContentChunk>, CallError> {
    loop {
        let message = moving(async { stream.message().await.map_err(CallError::from) }).await?;
        match message {
            // An empty message is no progress, and no end either.
            Some(chunk) if chunk.data.is_empty() && chunk.frame_length == 0 => {}
            other => return Ok(other),
        }
    }
}

async fn moving<T>(next: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    match tokio::time::timeout(NO_PROGRESS, next).await {
        Ok(result) => result,
        Err(_) => Err(CallError::weather(format!(
            "the download stopped: nothing came for {} s",
            NO_PROGRESS.as_secs()
        ))),
    }
}

/// A role's file; `None` where there is none.
pub(super) async fn metadata(
    mut repository: RepositoryClient<Channel>,
    role: &Role,
    version: Option<u64>,
    max_length: u64,
) -> Result<Option<Vec<u8>>, CallError> {
    let request =
        GetMetadataRequest { role: role.to_string(), version: version.unwrap_or_default() };
    match within(call::LARGE, repository.get_metadata(request)).await {
        Ok(reply) if reply.file.len() as u64 > max_length => Err(CallError::refused(format!(
            "the server's file of role {role} is larger than {max_length} bytes"
        ))),
        Ok(reply) => Ok(Some(reply.file)),
        Err(error) if error.trouble == Trouble::Absent => Ok(None),
        Err(error) => Err(error),
    }
}

/// All of a small file, plain.
pub(super) async fn whole(
    mut download: Download,
    digest: &Digest,
    length: u64,
) -> Result<Vec<u8>, CallError> {
    let limit = longest_frame(length);
    let mut frame = Vec::new();
    while let Some(bytes) = download.next().await? {
        if (frame.len() + bytes.len()) as u64 > limit {
            return Err(CallError::refused(format!("content {digest} is longer than signed")));
        }
        frame.extend(bytes);
    }
    let mut plain = Vec::new();
    package::decompress(&mut frame.as_slice(), &mut plain, *digest, length)
        .map_err(|error| CallError::refused(error.to_string()))?;
    Ok(plain)
}

impl Source for Server {
    async fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        max_length: u64,
    ) -> Result<Option<Vec<u8>>, CallError> {
        metadata(self.repository(), role, version, max_length).await
    }

    async fn content(&self, digest: &Digest, length: u64) -> Result<Vec<u8>, CallError> {
        whole(self.download(digest, 0).await?, digest, length).await
    }
}
