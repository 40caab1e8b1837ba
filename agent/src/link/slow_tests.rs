//! Links that are slow, silent, cut or far away, in virtual time: gRPC over TLS over a pipe that is as bad as the
//! test says. What makes no progress is noticed within a minute; what lives, however slowly, is never cut.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use refit_proto::{names::Digest, wire::GetMetadataReply};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{Instant, sleep, sleep_until},
};

use super::{dial::Dial, proxy::Stream, testing::*, *};
use crate::{
    identity::{Identity, IdentityFolder, Keys, Ways},
    trusted::Source as _,
};

/// How bad a link is.
#[derive(Clone, Copy)]
struct Bad {
    /// Bytes per second, each way.
    rate: usize,
    /// How long a byte is under way.
    latency: Duration,
    /// After so many bytes from the server nothing comes any more, in either direction.
    hole_after: usize,
    /// After so many bytes from the server the connection is cut.
    cut_after: usize,
    /// After so long the connection is cut.
    cut_at: Duration,
    /// After so long nothing comes any more, in either direction.
    hole_at: Duration,
}

const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

const GOOD_LINK: Bad = Bad {
    rate: 10 << 20,
    latency: Duration::ZERO,
    hole_after: usize::MAX,
    cut_after: usize::MAX,
    cut_at: FOR_EVER,
    hole_at: FOR_EVER,
};

/// Moves bytes in one direction, as slowly and as far as the link does.
async fn carry(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    bad: Bad,
    from_server: bool,
) {
    let (queue, mut queued) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(64);
    tokio::spawn(async move {
        while let Some((due, bytes)) = queued.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut seen = 0;
    let mut buffer = vec![0; (bad.rate / 4).clamp(1, 64 * 1024)];
    loop {
        let limit = if from_server { bad.hole_after.min(bad.cut_after) } else { usize::MAX };
        let room = buffer.len().min(limit.saturating_sub(seen));
        if room == 0 {
            if bad.hole_after <= bad.cut_after {
                sleep(FOR_EVER).await;
            }
            return;
        }
        let Ok(read @ 1..) = from.read(&mut buffer[..room]).await else { return };
        seen += read;
        sleep(Duration::from_secs_f64(read as f64 / bad.rate as f64)).await;
        if queue.send((Instant::now() + bad.latency, buffer[..read].to_vec())).await.is_err() {
            return;
        }
    }
}

/// A link: the host's end, and the server's.
fn link(bad: Bad) -> (DuplexStream, DuplexStream) {
    let (near, a) = duplex(16 * 1024);
    let (b, far) = duplex(16 * 1024);
    let ((a_read, a_write), (b_read, b_write)) = (tokio::io::split(a), tokio::io::split(b));
    tokio::spawn(async move {
        let up = pin!(carry(a_read, b_write, bad, false));
        let down = pin!(carry(b_read, a_write, bad, true));
        // Whichever ends first takes both ends along.
        tokio::select! {
            () = up => {}
            () = down => {}
            () = sleep(bad.cut_at) => {}
            () = sleep(bad.hole_at) => sleep(FOR_EVER).await,
        }
    });
    (near, far)
}

/// A host with a server behind such a link.
struct Far {
    server: Server,
    fake: FakeServer,
    dialled: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

fn far(bad: Bad) -> Far {
    let address = "127.0.0.1:7700".parse().unwrap();
    let (fake, connections) = FakeServer::over(Arc::new(Authority::new()), GOOD, address);
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::load_or_make(&IdentityFolder::at(dir.path().join("identity"))).unwrap();
    let chain = fake.authority.issue(&keys.certificate_request().unwrap(), GOOD);
    let identity = Identity {
        host: keys.host_id(),
        name: "web-1".parse().unwrap(),
        server: address.to_string(),
        labels: Default::default(),
        root: Digest::of(b"root"),
        authority: fake.authority.certificate.clone(),
        certificates: chain.into_iter().map(Into::into).collect(),
    };
    let dialled = Arc::new(AtomicUsize::new(0));
    let count = dialled.clone();
    let dial = Dial::with(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let connections = connections.clone();
        async move {
            let (near, far) = link(bad);
            let _the_test_is_over = connections.send(Box::new(far)).await;
            Ok::<Box<dyn Stream>, _>(Box::new(near))
        }
    });
    let server = Server::new(&identity, &keys, Ways::of(&identity, None), clock(NOW)).unwrap();
    let server = server.with_dial(dial).unwrap();
    fake.answers().metadata = Some(Box::new(|_| Ok(GetMetadataReply { file: vec![7; 100] })));
    Far { server, fake, dialled, _dir: dir }
}

fn bytes(length: usize) -> Arc<Vec<u8>> {
    Arc::new((0..length).map(|at| (at * 31 % 251) as u8).collect())
}

impl Far {
    /// Fetches from this offset on into `into`, as far as it comes.
    async fn fetch(&self, into: &mut Vec<u8>) -> Result<(), CallError> {
        let mut download = self.server.download(&Digest::of(b"x"), into.len() as u64).await?;
        while let Some(bytes) = download.next().await? {
            into.extend(bytes);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_kilobyte_per_second_for_half_an_hour_is_a_link_that_lives() {
    let far = far(Bad { rate: 1024, ..GOOD_LINK });
    let content = bytes(30 * 60 * 1024);
    far.fake.answers().content = content.clone();
    let (begun, mut came) = (Instant::now(), Vec::new());
    far.fetch(&mut came).await.unwrap();
    assert!(came == *content);
    assert!(begun.elapsed() >= 30 * MINUTE);
    assert_eq!(far.dialled.load(Ordering::Relaxed), 1, "it was never cut");
}

#[tokio::test(start_paused = true)]
async fn a_slow_far_link_that_breaks_again_and_again_brings_a_release_in_the_end() {
    let bad = Bad { rate: 8000, latency: Duration::from_secs(2), cut_at: 5 * MINUTE, ..GOOD_LINK };
    let far = far(bad);
    let content = bytes(10 << 20);
    far.fake.answers().content = content.clone();
    let (begun, mut came, mut tries) = (Instant::now(), Vec::new(), 0);
    loop {
        tries += 1;
        let before = came.len();
        match far.fetch(&mut came).await {
            Ok(()) => break,
            Err(error) => assert_eq!(error.trouble, Trouble::Weather, "{error}"),
        }
        assert!(came.len() > before, "each try goes on: {before} after {tries}");
        assert!(tries < 20);
    }
    assert!(came == *content);
    println!("{tries} tries, {} min", begun.elapsed().as_secs() / 60);
    assert!(tries > 3 && begun.elapsed() >= 20 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_for_a_day_is_kept_and_used_again() {
    let far = far(GOOD_LINK);
    for _ in 0..3 {
        far.server.metadata(&refit_proto::trust::Role::Root, None, 100).await.unwrap();
        sleep(Duration::from_secs(24 * 3600)).await;
    }
    assert_eq!(far.dialled.load(Ordering::Relaxed), 1);
}

/// A black hole in each phase: nothing at all, in the middle of TLS, before the headers, in the body.
#[tokio::test(start_paused = true)]
async fn a_black_hole_in_any_phase_is_noticed_within_a_minute() {
    // What a whole fetch takes from the server.
    let whole = 500_000;
    for hole_after in [0, 1, 700, 1400, 2500, 3000, 20_000, whole / 2, whole] {
        let far = far(Bad { hole_after, rate: 1 << 20, ..GOOD_LINK });
        far.fake.answers().content = bytes(whole);
        let (begun, mut came) = (Instant::now(), Vec::new());
        let error = far.fetch(&mut came).await.unwrap_err();
        let took = begun.elapsed();
        println!("hole after {hole_after}: {} s, {} bytes, {error}", took.as_secs(), came.len());
        assert_eq!(error.trouble, Trouble::Weather);
        // The second in which the bytes before the hole come is progress.
        assert!(took <= MINUTE + Duration::from_secs(5), "hole after {hole_after}: {took:?}");
    }
}

/// Nobody is woken up to find it: the call that comes finds it, and the next one has a new connection.
#[tokio::test(start_paused = true)]
async fn a_link_that_became_a_black_hole_while_it_was_idle_is_noticed_by_the_next_call_within_a_minute()
 {
    for idle in [MINUTE / 2, MINUTE, 60 * MINUTE] {
        let far = far(Bad { hole_at: Duration::from_secs(1), ..GOOD_LINK });
        let ask = || far.server.metadata(&refit_proto::trust::Role::Root, None, 100);
        ask().await.unwrap();
        sleep(idle).await;
        let begun = Instant::now();
        let error = ask().await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Weather);
        assert!(begun.elapsed() <= MINUTE, "after {idle:?}: {:?}", begun.elapsed());
        ask().await.unwrap();
        assert_eq!(far.dialled.load(Ordering::Relaxed), 2, "after {idle:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_never_connected_at_all_is_told_so_within_a_minute() {
    let far = far(GOOD_LINK);
    let never = Dial::with(std::future::pending);
    let server = far.server.with_dial(never).unwrap();
    let begun = Instant::now();
    let error = server.metadata(&refit_proto::trust::Role::Root, None, 100).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Weather);
    assert!(begun.elapsed() <= MINUTE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_anywhere_is_weather_and_what_came_is_the_beginning() {
    let content = bytes(100_000);
    let cuts = (0..3000).step_by(97).chain((3000..110_000).step_by(4999));
    for cut_after in cuts {
        let far = far(Bad { cut_after, ..GOOD_LINK });
        far.fake.answers().content = content.clone();
        let mut came = Vec::new();
        match far.fetch(&mut came).await {
            Ok(()) => assert!(came == *content, "cut after {cut_after}: it looked whole"),
            Err(error) => {
                assert_eq!(error.trouble, Trouble::Weather, "cut after {cut_after}: {error}");
                assert!(!error.is_impostor());
                assert!(content.starts_with(&came), "cut after {cut_after}");
            }
        }
    }
}
