//! The halves over a real socket: with each other, and the root half with one that somebody has taken over.

use std::{path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use refit_proto::{
    envelope,
    names::Digest,
    trust::Role,
    wire::{self, GetMetadataReply, LeaseReply, RenewReply, SyncReply, SyncRequest},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Notify,
    time::timeout,
};

use super::*;
use crate::{
    identity::{Identity, IdentityFolder, Keys, Ways},
    link::{
        self, CallError, Patience, Trouble,
        testing::{Authority, FakeServer, GOOD, NOW, clock},
    },
    trusted::Source as _,
};

/// An enrolled host, its server, and a place for a socket.
struct Enrolled {
    server: FakeServer,
    folder: tempfile::TempDir,
    identity: Identity,
    keys: Keys,
}

impl Enrolled {
    async fn new() -> Enrolled {
        let server = FakeServer::start(Arc::new(Authority::new()), GOOD).await;
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_make(&IdentityFolder::at(folder.path())).unwrap();
        let chain = server.authority.issue(&keys.certificate_request().unwrap(), GOOD);
        let identity = Identity {
            host: keys.host_id(),
            name: "web-1".parse().unwrap(),
            server: server.address.to_string(),
            labels: Default::default(),
            root: Digest::of(b"root"),
            authority: server.authority.certificate.clone(),
            certificates: chain.into_iter().map(Into::into).collect(),
        };
        Enrolled { server, folder, identity, keys }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("socket")
    }

    fn access(&self) -> Access {
        let patience = Patience { window: Duration::from_secs(1), slowest: 1 };
        Access::new(&self.identity, &self.keys, Ways::of(&self.identity, None), patience)
    }

    fn link(&self) -> Link {
        Link::by_socket(self.access(), clock(NOW), self.socket()).unwrap()
    }

    /// A network half on the socket, in the place of one that has ended.
    fn start_half(&self) -> tokio::task::JoinHandle<()> {
        let _none_before = std::fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let half = NetworkHalf::new(clock(NOW));
        tokio::spawn(async move { serve(listener, half, &Notify::new()).await })
    }
}

fn answer_all(server: &FakeServer) {
    let authority = server.authority.clone();
    let mut answers = server.answers();
    answers.sync = Some(Box::new(|_| {
        let orders = Some(envelope::wrap(&wire::Orders { issued: 7, ..wire::Orders::default() }));
        Ok(SyncReply { orders, poll_after_seconds: 60, ..SyncReply::default() })
    }));
    answers.metadata = Some(Box::new(|request| match request.role.as_str() {
        "root" => Ok(GetMetadataReply { file: b"the root".to_vec() }),
        _ => Err(tonic::Status::not_found("no such role")),
    }));
    answers.lease = Some(Box::new(|_| Ok(LeaseReply { answer: None })));
    answers.renew = Some(Box::new(move |request| {
        Ok(RenewReply { certificates: authority.issue(&request.certificate_request, GOOD) })
    }));
}

#[tokio::test]
async fn over_the_socket_everything_is_as_in_one_process() {
    let host = Enrolled::new().await;
    answer_all(&host.server);
    let _half = host.start_half();
    for link in [Link::here(host.access(), clock(NOW)).unwrap(), host.link()] {
        let reply = link.sync(SyncRequest::default()).await.unwrap();
        assert_eq!((reply.poll_after_seconds, reply.orders.is_some()), (60, true));
        assert_eq!(link.address(), host.server.address.to_string());
        let root = link.metadata(Whom::Server, &Role::Root, Some(1)).await.unwrap();
        assert_eq!(root.as_deref(), Some(&b"the root"[..]));
        assert_eq!(link.metadata(Whom::Server, &Role::Targets, None).await.unwrap(), None);
        let whoever = link.stranger();
        let root = whoever.metadata(&Role::Root, Some(1), 100).await.unwrap();
        assert_eq!(root.as_deref(), Some(&b"the root"[..]));
        assert_eq!(link.lease(Default::default()).await.unwrap().answer, None);
        // A server of before there were boots.
        assert!(link.reboot(Default::default()).await.unwrap().may);
        let error = link.content(Whom::Server, &Digest::of(b"x"), 1).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Absent);
        let error = link.frame(Giver::Server, &Digest::of(b"x"), 0).await.err().unwrap();
        assert_eq!(error.trouble, Trouble::Absent);
        let folder = IdentityFolder::at(host.folder.path());
        let renewed = link::renew(&link, &host.identity, &host.keys, &folder, &clock(NOW)).await;
        assert_ne!(renewed.unwrap().certificates, host.identity.certificates);
        link.sync(SyncRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_network_half_that_ended_is_missed_for_no_longer_than_it_is_away() {
    let host = Enrolled::new().await;
    answer_all(&host.server);
    let link = host.link();
    let away = link.sync(SyncRequest::default()).await.unwrap_err();
    assert!(away.trouble == Trouble::Weather && away.to_string().contains("is away"), "{away}");
    for _ in 0..3 {
        let half = host.start_half();
        link.sync(SyncRequest::default()).await.unwrap();
        half.abort();
        let _it_was_aborted = half.await;
        let away = link.sync(SyncRequest::default()).await.unwrap_err();
        assert_eq!(away.trouble, Trouble::Weather);
    }
}

#[tokio::test]
async fn what_cannot_prove_to_be_the_server_is_told_as_such_through_the_socket_too() {
    let host = Enrolled::new().await;
    let _half = host.start_half();
    let another = Ways { authorities: vec![Authority::new().certificate], ..host.access().ways };
    let link = host.link();
    link.change_ways(another).unwrap();
    let error = link.sync(SyncRequest::default()).await.unwrap_err();
    assert!(error.is_impostor(), "{error}");
    link.change_ways(host.access().ways).unwrap();
    answer_all(&host.server);
    link.sync(SyncRequest::default()).await.unwrap();
}

/// A half that was taken over: to each question it says these bytes, and then ends or goes on for ever.
async fn says(socket: &Path, said: Vec<u8>, endless: bool) -> tokio::task::JoinHandle<()> {
    let _none_before = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = said.clone();
            tokio::spawn(async move {
                let mut question = [0; 1024];
                let _a_part_will_do = stream.read(&mut question).await;
                while stream.write_all(&said).await.is_ok() && endless {}
            });
        }
    })
}

async fn message(answer: &Answer, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    super::message::write(&mut bytes, answer, body).await.unwrap();
    bytes
}

fn announced(head: u32, body: u32, rest: &[u8]) -> Vec<u8> {
    [&head.to_be_bytes()[..], &body.to_be_bytes(), rest].concat()
}

#[tokio::test]
async fn whatever_a_network_half_that_was_taken_over_says_every_question_ends_with_an_error() {
    let host = Enrolled::new().await;
    let done = Answer::Done { address: "evil.example:1".into() };
    let failed = Failed {
        trouble: Trouble::Weather,
        text: "\u{1b}[2J".repeat(10_000),
        impostor: false,
        rests_milliseconds: Some(u64::MAX),
    };
    let said = [
        (Vec::new(), false),
        (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), true),
        (announced(u32::MAX, u32::MAX, b""), true),
        (announced(2, u32::MAX, b"{}"), false),
        (announced(2, 0, b"{}"), true),
        (announced(9, 100, b"\"unready\""), false),
        (announced(64 * 1024, 0, &vec![b'['; 64 * 1024]), false),
        (message(&done, &[0xff; 100]).await, true),
        (message(&done, &vec![0; 5 << 20]).await, false),
        (message(&Answer::Unready, b"").await, true),
        (message(&Answer::Chunk, b"x").await, true),
        (message(&Answer::End, b"").await, true),
        (message(&Answer::OtherInterface { interface: 7 }, b"").await, true),
        (message(&Answer::Failed(failed), b"").await, true),
    ];
    for (number, (said, endless)) in said.into_iter().enumerate() {
        let half = says(&host.socket(), said, endless).await;
        let link = host.link();
        let digest = Digest::of(b"x");
        let soon = Duration::from_secs(30);
        let errors: [Option<CallError>; 4] = [
            timeout(soon, link.sync(SyncRequest::default())).await.unwrap().err(),
            timeout(soon, link.content(Whom::Server, &digest, 10)).await.unwrap().err(),
            timeout(soon, link.frame(Giver::Server, &digest, 0)).await.unwrap().err(),
            timeout(soon, link.lease(Default::default())).await.unwrap().err(),
        ];
        for (question, error) in errors.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("{number}: {question} was answered"));
            assert!(
                error.to_string().chars().count() <= 1200,
                "{number}: it is repeated at length"
            );
        }
        assert_eq!(link.address(), host.server.address.to_string(), "{number}: a foreign address");
        half.abort();
    }
}

#[tokio::test]
async fn a_frame_that_never_ends_stands_still_or_is_made_of_nothing_is_given_up() {
    let host = Enrolled::new().await;
    let begins = message(&Answer::Begins { frame_length: Some(u64::MAX) }, b"").await;
    let empty = message(&Answer::Chunk, b"").await;
    let cut = announced(20, 6 << 20, br#"{"answer":"chunk"}  "#);
    for (rest, again) in [(Vec::new(), false), (empty, true), (cut, false)] {
        let socket = host.socket();
        let _none_before = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let begins = begins.clone();
        let half = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _a_part_will_do = stream.read(&mut [0; 1024]).await;
            stream.write_all(&begins).await.unwrap();
            while stream.write_all(&rest).await.is_ok() && again {
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        });
        let link = host.link();
        let mut frame = link.frame(Giver::Server, &Digest::of(b"x"), 0).await.unwrap();
        let ended = async { while let Ok(Some(_)) = frame.next().await {} };
        timeout(Duration::from_secs(60), ended).await.expect("it is given up");
        half.abort();
    }
}

#[tokio::test]
async fn a_question_that_is_none_ends_the_conversation_and_nothing_else() {
    let host = Enrolled::new().await;
    answer_all(&host.server);
    let _half = host.start_half();
    let link = host.link();
    link.sync(SyncRequest::default()).await.unwrap();
    for question in [
        announced(u32::MAX, 0, b""),
        announced(2, 0, b"{}"),
        announced(0, u32::MAX, b""),
        announced(30, 0, br#"{"ask":"install","bundle":"/x"}"#),
        b"\0\0".to_vec(),
    ] {
        let mut stream = UnixStream::connect(host.socket()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // What was said behind it is not even read.
        if let Err(error) = stream.read_to_end(&mut answer).await {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(answer, b"", "it says nothing to what it does not understand");
    }
    link.sync(SyncRequest::default()).await.unwrap();
}

#[tokio::test]
async fn halves_of_other_interfaces_part_and_the_network_half_ends() {
    let host = Enrolled::new().await;
    let half = host.start_half();
    let asked = Asked { interface: INTERFACE + 1, ..Asked::new(Digest::of(b""), 0, Ask::Sync) };
    let mut stream = UnixStream::connect(host.socket()).await.unwrap();
    super::message::write(&mut stream, &asked, b"").await.unwrap();
    let answer: Message<Answer> = super::message::read(&mut stream, 0).await.unwrap().unwrap();
    assert_eq!(answer.head, Answer::OtherInterface { interface: INTERFACE });
    timeout(Duration::from_secs(30), half).await.expect("it ends").unwrap();
}

#[test]
fn the_halves_speak_with_root_and_with_their_own_user_and_with_nobody_else() {
    let own = rustix::process::geteuid().as_raw();
    assert!(serving::may_speak(0) && serving::may_speak(own));
    assert!(!serving::may_speak(own + 1) && !serving::may_speak(u32::MAX));
}

#[tokio::test]
async fn an_access_is_the_same_on_both_sides_and_tells_nothing_of_the_key_by_its_name() {
    let host = Enrolled::new().await;
    let access = host.access();
    let read = Access::parse(&access.to_bytes()).unwrap();
    assert_eq!((read.id(), &read.key), (access.id(), &access.key));
    assert_ne!(access.with(Vec::new()).id(), access.id());
    let whole = access.to_bytes();
    for length in 0..whole.len() {
        assert!(Access::parse(&whole[..length]).is_err(), "cut at {length}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_hold_more_than_it_takes_or_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        small in any::<bool>(),
        longest in 0_u32..300,
    ) {
        // Lengths that fit, now and then: else hardly any gets past them.
        let bytes = match small {
            true => [&[0, 0, 0, 20, 0, 0, 0, 10][..], &bytes].concat(),
            false => bytes,
        };
        runtime().block_on(async {
            let mut from = bytes.as_slice();
            while let Ok(Some(came)) = super::message::read::<serde_json::Value>(&mut from, longest).await {
                assert!(came.body.len() <= longest as usize);
            }
            let _either = super::message::read::<Asked>(&mut bytes.as_slice(), longest).await;
            let _either = super::message::read::<Answer>(&mut bytes.as_slice(), longest).await;
        });
    }

    #[test]
    fn every_question_and_answer_reads_back_as_it_was_written(
        role in "[a-z.]{1,40}", version in any::<Option<u64>>(), offset in any::<u64>(),
        text in ".*", body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let digest = Digest::of(text.as_bytes());
        let asks = [
            Ask::Use, Ask::Sync, Ask::Offer, Ask::Lease, Ask::Reboot, Ask::Renew, Ask::MoveOn,
            Ask::Metadata { whom: Whom::Stranger, role, version },
            Ask::Content { whom: Whom::Server, digest, length: offset },
            Ask::Frame { from: Giver::Mirror(text.clone()), digest, offset },
            Ask::Frame { from: Giver::Server, digest, offset },
        ];
        let failed = Failed {
            trouble: Trouble::Barred,
            text,
            impostor: true,
            rests_milliseconds: None,
        };
        let answers = [
            Answer::Failed(failed), Answer::Begins { frame_length: version }, Answer::Absent,
        ];
        runtime().block_on(async {
            for ask in asks {
                let head = Asked::new(digest, -1, ask);
                let mut bytes = Vec::new();
                super::message::write(&mut bytes, &head, &body).await.unwrap();
                let read = super::message::read(&mut bytes.as_slice(), 300).await.unwrap();
                assert_eq!(read, Some(Message { head, body: body.clone() }));
            }
            for head in answers {
                let mut bytes = Vec::new();
                super::message::write(&mut bytes, &head, &body).await.unwrap();
                let read = super::message::read(&mut bytes.as_slice(), 300).await.unwrap();
                assert_eq!(read, Some(Message { head, body: body.clone() }));
            }
        });
    }
}
