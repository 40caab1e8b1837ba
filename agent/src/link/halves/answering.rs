//! The network half: does what it is asked with the access that it was handed, and keeps nothing else.
//! Decides nothing about this host.

use std::sync::{Arc, PoisonError, RwLock};

use prost::Message;
use refit_proto::{names::Digest, servers::Mirror, trust::Role};

use super::{
    access::Access,
    ask::{Answer, Ask, Giver, Whom},
    chunks::Chunks,
};
use crate::{
    clock::Clock,
    link::{CallError, Server, mirrors},
    trusted::Source as _,
};

/// The half that talks to the server and to mirrors.
pub struct NetworkHalf {
    clock: Clock,
    held: RwLock<Option<(Digest, Arc<Server>)>>,
}

impl NetworkHalf {
    /// One that can call nobody yet.
    pub fn new(clock: Clock) -> NetworkHalf {
        NetworkHalf { clock, held: RwLock::new(None) }
    }

    /// What time it is here.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Calls with this access from now on. What is under way ends on the old connection.
    ///
    /// # Errors
    /// If it can't be used; then nothing has changed.
    pub fn hold(&self, access: &Access) -> Result<Arc<Server>, CallError> {
        if let Some(server) = self.server(&access.id()) {
            return Ok(server);
        }
        let server = Server::of(access, self.clock.clone())
            .map_err(|error| CallError::refused(error.to_string()))?;
        let server = Arc::new(server);
        let held = Some((access.id(), server.clone()));
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(server)
    }

    /// The way to the server by this access, if it is the one that is held.
    pub fn server(&self, access: &Digest) -> Option<Arc<Server>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|(id, _)| id == access).map(|(_, server)| server.clone())
    }
}

/// Does what is asked; what comes in chunks begins with [`begin_frame`].
///
/// # Errors
/// If the server could not be asked, or refuses.
pub(super) async fn answer(
    server: &Server,
    ask: Ask,
    body: &[u8],
) -> Result<(Answer, Vec<u8>), CallError> {
    let came = match ask {
        Ask::Use | Ask::Frame { .. } => Vec::new(),
        Ask::Sync => {
            if let Err(error) = server.prefer() {
                // Each address of an access was parsed before.
                tracing::warn!("the preferred address can't be used: {error}");
            }
            server.sync(read(body)?).await?.encode_to_vec()
        }
        Ask::Offer => server.offer(read(body)?).await?.encode_to_vec(),
        Ask::Lease => server.lease(read(body)?).await?.encode_to_vec(),
        Ask::Reboot => server.reboot(read(body)?).await?.encode_to_vec(),
        Ask::Renew => server.renew(read(body)?).await?.encode_to_vec(),
        Ask::MoveOn => {
            server.move_on().map_err(|error| CallError::refused(error.to_string()))?;
            Vec::new()
        }
        Ask::Metadata { whom, role, version } => {
            match metadata(server, whom, &role, version).await? {
                Some(file) => file,
                None => return Ok((Answer::Absent, Vec::new())),
            }
        }
        Ask::Content { whom: Whom::Server, digest, length } => {
            server.content(&digest, length).await?
        }
        Ask::Content { whom: Whom::Stranger, digest, length } => {
            stranger(server)?.content(&digest, length).await?
        }
    };
    Ok((Answer::Done { address: server.address() }, came))
}

/// Begins to bring a frame.
///
/// # Errors
/// If nothing comes.
pub(super) async fn begin_frame(
    server: &Server,
    from: &Giver,
    digest: &Digest,
    offset: u64,
) -> Result<Chunks, CallError> {
    match from {
        Giver::Server => Ok(Chunks::of_server(server.download(digest, offset).await?)),
        Giver::Mirror(mirror) => {
            let mirror: Mirror =
                mirror.parse().map_err(|error| CallError::refused(format!("{error}")))?;
            let body =
                mirrors::begin(server.patience(), server.proxies(), &mirror, (*digest, offset))
                    .await;
            Ok(Chunks::of_mirror(body?))
        }
    }
}

async fn metadata(
    server: &Server,
    whom: Whom,
    role: &str,
    version: Option<u64>,
) -> Result<Option<Vec<u8>>, CallError> {
    let role = Role::parse(role).map_err(|error| CallError::refused(error.to_string()))?;
    // How long it may be is for the root half to judge.
    match whom {
        Whom::Server => server.metadata(&role, version, u64::MAX).await,
        Whom::Stranger => stranger(server)?.metadata(&role, version, u64::MAX).await,
    }
}

fn stranger(server: &Server) -> Result<crate::link::stranger::Somebody, CallError> {
    server.stranger().map_err(|error| CallError::refused(error.to_string()))
}

fn read<T: Message + Default>(body: &[u8]) -> Result<T, CallError> {
    T::decode(body).map_err(|error| CallError::refused(format!("the question: {error}")))
}
