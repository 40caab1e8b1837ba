//! What the root half has of the network: the other half, in this process or behind a private socket.
//! Every answer is bounded in length and in time, and is believed in nothing.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use refit_proto::{
    names::Digest,
    servers::Mirror,
    transport::TransportError,
    trust::Role,
    wire::{
        LeaseReply, LeaseRequest, OfferMetadataReply, OfferMetadataRequest, RebootReply,
        RebootRequest, RenewReply, RenewRequest, SyncReply, SyncRequest,
    },
};
use rustls::pki_types::CertificateDer;
use tokio::{net::UnixStream, time::timeout};

use super::{
    access::Access,
    answering::{self, NetworkHalf},
    ask::{Answer, Ask, Asked, Failed, Giver, Whom},
    chunks::{Chunks, GRACE, said_wrong},
    message::{self, Message},
};
use crate::{
    clock::Clock,
    identity::{Identity, Ways},
    link::{
        CallError, Patience, Trouble, Turn,
        call::{LARGE, SMALL},
        pace::again,
        rest::Rests,
        server::LARGEST,
    },
    update::Running,
};

/// Longest text of a failure that is repeated.
const LONGEST_TEXT: usize = 1000;

/// The way to the server, by the network half.
pub struct Link {
    access: RwLock<Arc<Access>>,
    /// The server's address in use, as the network half said last.
    address: RwLock<String>,
    clock: Clock,
    half: Half,
    rests: Rests,
    /// When in a period this host tries again what failed with the server.
    turn: Turn,
}

enum Half {
    /// In this process.
    Here(NetworkHalf),
    /// Behind this socket.
    There(PathBuf),
}

impl Link {
    /// The network half in this process.
    ///
    /// # Errors
    /// An access that can't be used.
    pub fn here(access: Access, clock: Clock) -> Result<Link, TransportError> {
        let half = Half::Here(NetworkHalf::new(clock.clone()));
        Link::new(access, clock, half)
    }

    /// The network half behind a socket that root has made. Nobody is asked yet.
    ///
    /// # Errors
    /// An access that can't be used.
    pub fn by_socket(
        access: Access,
        clock: Clock,
        socket: PathBuf,
    ) -> Result<Link, TransportError> {
        Link::new(access, clock, Half::There(socket))
    }

    fn new(access: Access, clock: Clock, half: Half) -> Result<Link, TransportError> {
        access.check(clock.clone())?;
        let address = access.ways.addresses.first().cloned().unwrap_or_default();
        let access = RwLock::new(Arc::new(access));
        let (rests, turn) = (Rests::default(), Turn::default());
        Ok(Link { access, address: RwLock::new(address), clock, half, rests, turn })
    }

    /// The same, of a host with this turn.
    #[must_use]
    pub fn with_turn(self, turn: Turn) -> Link {
        Link { turn, ..self }
    }

    /// As it is now: a proxy's password may have been changed in its file.
    fn access(&self) -> Arc<Access> {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(newer) = access.renewed() else { return access };
        let mut held = self.access.write().unwrap_or_else(PoisonError::into_inner);
        // Unless it was changed meanwhile.
        if held.id() == access.id() {
            *held = Arc::new(newer);
        }
        held.clone()
    }

    /// Who has asked to be left alone for a while.
    pub fn rests(&self) -> &Rests {
        &self.rests
    }

    /// For how much longer the server has asked not to be called.
    pub fn rests_for(&self) -> Duration {
        self.rests.server_for(self.now())
    }

    /// The running time.
    pub(in crate::link) fn now(&self) -> Running {
        self.clock.running()
    }

    /// What the server answered, noting what it asks for.
    ///
    /// # Errors
    /// The call's own.
    pub(in crate::link) fn heed<T>(&self, answer: Result<T, CallError>) -> Result<T, CallError> {
        if let Err(error) = &answer {
            if let Some(span) = error.retry_after {
                self.rests.server_rests(self.now(), span);
            }
            if error.trouble == Trouble::Weather {
                self.rests.was_away();
            }
        }
        answer
    }

    /// How long to wait before something is tried again that failed with this server: at least `pause`, and longer
    /// if the server was away or has asked to be left alone.
    pub fn again(&self, pause: Duration, chance: f64) -> Duration {
        let (now, rest) = (self.now(), self.rests_for());
        let (least, away) = match rest.is_zero() {
            true => (pause, self.rests.away()),
            false => (pause.max(rest), Some(self.rests.period())),
        };
        again(least, away, (now, self.turn), chance)
    }

    /// How slow a download may be.
    pub fn patience(&self) -> Patience {
        self.access().patience
    }

    /// The address in use.
    pub fn address(&self) -> String {
        self.address.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The authorities that count now; the first is the one that issues.
    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        self.access().ways.authorities.clone()
    }

    /// Copies of the server's content.
    pub fn mirrors(&self) -> Vec<Mirror> {
        self.access().ways.mirrors.clone()
    }

    /// Uses another certificate from now on, for the same key.
    ///
    /// # Errors
    /// A certificate that cannot be used; then the old one stays in use.
    pub fn change_identity(&self, identity: &Identity) -> Result<(), TransportError> {
        self.change(self.access().with(identity.certificates.clone()))
    }

    /// Uses other addresses and authorities from now on, the preferred address first.
    ///
    /// # Errors
    /// Ways that cannot be used; then the old ones stay in use.
    pub fn change_ways(&self, ways: Ways) -> Result<(), TransportError> {
        let access = self.access();
        if access.ways == ways {
            return Ok(());
        }
        self.change(access.by(ways))
    }

    fn change(&self, access: Access) -> Result<(), TransportError> {
        access.check(self.clock.clone())?;
        let first = access.ways.addresses.first().cloned().unwrap_or_default();
        let before = std::mem::replace(
            &mut *self.access.write().unwrap_or_else(PoisonError::into_inner),
            Arc::new(access),
        );
        if before.id() != self.access().id() {
            *self.address.write().unwrap_or_else(PoisonError::into_inner) = first;
        }
        Ok(())
    }

    /// Hands over reports and gets orders.
    ///
    /// # Errors
    /// If the server does not take them.
    pub async fn sync(&self, request: SyncRequest) -> Result<SyncReply, CallError> {
        self.call(Ask::Sync, &request, SMALL).await
    }

    /// Gives a server back what it has lost.
    ///
    /// # Errors
    /// If it does not take it.
    pub async fn offer(
        &self,
        offer: OfferMetadataRequest,
    ) -> Result<OfferMetadataReply, CallError> {
        self.call(Ask::Offer, &offer, LARGE).await
    }

    /// Asks for the leave to begin.
    ///
    /// # Errors
    /// If the server could not be asked.
    pub async fn lease(&self, request: LeaseRequest) -> Result<LeaseReply, CallError> {
        self.call(Ask::Lease, &request, SMALL).await
    }

    /// Asks whether the host may boot now.
    ///
    /// # Errors
    /// If the server could not be asked.
    pub async fn reboot(&self, request: RebootRequest) -> Result<RebootReply, CallError> {
        self.call(Ask::Reboot, &request, SMALL).await
    }

    /// Asks for a new certificate.
    ///
    /// # Errors
    /// If the server gives none.
    pub async fn renew(&self, request: RenewRequest) -> Result<RenewReply, CallError> {
        self.call(Ask::Renew, &request, SMALL).await
    }

    /// The address in use did not answer: the next one is.
    ///
    /// # Errors
    /// If the network half can't.
    pub async fn move_on(&self) -> Result<(), CallError> {
        self.ask(Ask::MoveOn, &[], SMALL, 0).await.map(drop)
    }

    /// A role's file; `None` where there is none.
    ///
    /// # Errors
    /// If nobody could be asked.
    pub async fn metadata(
        &self,
        whom: Whom,
        role: &Role,
        version: Option<u64>,
    ) -> Result<Option<Vec<u8>>, CallError> {
        let ask = Ask::metadata(whom, role, version);
        // Whether the file is too long for its role is judged with the file.
        let answer = self.ask(ask, &[], LARGE, LARGEST).await;
        match self.heed_if(whom, answer) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.trouble == crate::link::Trouble::Absent => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of a small file, plain and not verified.
    ///
    /// # Errors
    /// If it does not come, or is longer than it may be.
    pub async fn content(
        &self,
        whom: Whom,
        digest: &Digest,
        length: u64,
    ) -> Result<Vec<u8>, CallError> {
        let longest = usize::try_from(length).unwrap_or(LARGEST).min(LARGEST);
        let answer =
            self.ask(Ask::Content { whom, digest: *digest, length }, &[], LARGE, longest).await;
        self.heed_if(whom, answer)
    }

    fn heed_if<T>(&self, whom: Whom, answer: Result<T, CallError>) -> Result<T, CallError> {
        match whom {
            Whom::Server => self.heed(answer),
            // Whoever it is has no say in when the server is called.
            Whom::Stranger => answer,
        }
    }

    /// Begins to fetch a file's frame, from an offset into it.
    ///
    /// # Errors
    /// If nothing comes.
    pub async fn frame(
        &self,
        from: Giver,
        digest: &Digest,
        offset: u64,
    ) -> Result<Chunks, CallError> {
        let of_server = from == Giver::Server;
        let begun = self.begin_frame(from, digest, offset).await;
        if of_server { self.heed(begun) } else { begun }
    }

    async fn begin_frame(
        &self,
        from: Giver,
        digest: &Digest,
        offset: u64,
    ) -> Result<Chunks, CallError> {
        let access = self.access();
        match &self.half {
            Half::Here(half) => {
                answering::begin_frame(&*half.hold(&access)?, &from, digest, offset).await
            }
            Half::There(_) => {
                let ask = Ask::Frame { from, digest: *digest, offset };
                let longest = access.patience.window.saturating_add(GRACE);
                let (answer, stream) = within(longest, self.converse(&access, ask, &[], 0)).await?;
                match answer.head {
                    Answer::Begins { frame_length } => {
                        Ok(Chunks::of_half(stream, frame_length, access.patience))
                    }
                    other => Err(not_done(other)),
                }
            }
        }
    }

    async fn call<Q: prost::Message, A: prost::Message + Default>(
        &self,
        ask: Ask,
        request: &Q,
        longest: Duration,
    ) -> Result<A, CallError> {
        let reply = self.ask(ask, &request.encode_to_vec(), longest, LARGEST).await;
        let reply = self.heed(reply)?;
        A::decode(reply.as_slice()).map_err(|error| said_wrong(&error.to_string()))
    }

    /// Asks, and gives what comes beside the answer.
    async fn ask(
        &self,
        ask: Ask,
        body: &[u8],
        longest: Duration,
        longest_body: usize,
    ) -> Result<Vec<u8>, CallError> {
        let access = self.access();
        let (answer, body) = match &self.half {
            Half::Here(half) => answering::answer(&*half.hold(&access)?, ask, body).await?,
            Half::There(_) => {
                let conversation = self.converse(&access, ask, body, longest_body);
                let (answer, _) = within(longest.saturating_add(GRACE), conversation).await?;
                (answer.head, answer.body)
            }
        };
        match answer {
            Answer::Done { address } => {
                // One of those that it was given, or it is none.
                if access.ways.addresses.contains(&address) {
                    *self.address.write().unwrap_or_else(PoisonError::into_inner) = address;
                }
                Ok(body)
            }
            other => Err(not_done(other)),
        }
    }

    /// Asks over the socket. A half that was started anew is handed the access first.
    async fn converse(
        &self,
        access: &Access,
        ask: Ask,
        body: &[u8],
        longest: usize,
    ) -> Result<(Message<Answer>, UnixStream), CallError> {
        let Half::There(socket) = &self.half else { return Err(said_wrong("it is no socket")) };
        let mut stream = connected(socket).await?;
        let floor = self.clock.known_to_have_passed().as_second();
        let asked = |ask| Asked::new(access.id(), floor, ask);
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        let answer = exchange(&mut stream, &asked(ask.clone()), body, longest).await?;
        if answer.head != Answer::Unready {
            return Ok((answer, stream));
        }
        let taken = exchange(&mut stream, &asked(Ask::Use), &access.to_bytes(), 0).await?;
        match taken.head {
            Answer::Done { .. } => {}
            other => return Err(not_done(other)),
        }
        Ok((exchange(&mut stream, &asked(ask), body, longest).await?, stream))
    }
}

/// Only what root has made, or this program's own user, is the network half.
async fn connected(socket: &Path) -> Result<UnixStream, CallError> {
    let away = |why: String| {
        CallError::weather(format!("this host's network half is away: {}: {why}", socket.display()))
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| away(error.to_string()))?;
    let peer = stream.peer_cred().map_err(|error| away(error.to_string()))?.uid();
    if !super::serving::may_speak(peer) {
        return Err(away(format!("the socket belongs to user {peer}, and is not talked to")));
    }
    Ok(stream)
}

async fn exchange(
    stream: &mut UnixStream,
    asked: &Asked,
    body: &[u8],
    longest: u32,
) -> Result<Message<Answer>, CallError> {
    let wrong = |error: message::MessageError| match error {
        // More than was signed, or than any message holds.
        message::MessageError::TooLong { .. } => CallError::refused(error.to_string()),
        message::MessageError::Broken(_) | message::MessageError::NotUnderstood(_) => {
            said_wrong(&error.to_string())
        }
    };
    message::write(stream, asked, body).await.map_err(|error| wrong(error.into()))?;
    let answer = message::read(stream, longest).await.map_err(wrong)?;
    answer.ok_or_else(|| said_wrong("it ended without an answer"))
}

async fn within<T>(
    longest: Duration,
    conversation: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let ended = timeout(longest, conversation).await;
    ended.unwrap_or_else(|_| Err(said_wrong("it does not answer in time")))
}

fn not_done(answer: Answer) -> CallError {
    match answer {
        Answer::Failed(failed) => failed.into(),
        Answer::Absent => CallError::absent("the server does not have it"),
        Answer::OtherInterface { interface } => said_wrong(&format!(
            "it knows interface {interface}, this half {}; it ends, and the next one is asked",
            super::INTERFACE
        )),
        Answer::Done { .. }
        | Answer::Begins { .. }
        | Answer::Chunk
        | Answer::End
        | Answer::Unready => said_wrong("that is no answer to the question"),
    }
}

impl From<Failed> for CallError {
    fn from(failed: Failed) -> CallError {
        let text = failed.text.chars().take(LONGEST_TEXT).collect();
        let rests = failed.rests_milliseconds.map(Duration::from_millis);
        CallError::told(failed.trouble, text, failed.impostor).and_rests(rests)
    }
}
