//! The loop that never ends: hands over what waits in the outbox, takes orders, keeps the certificate
//! young. Whatever fails, the next call comes; each failure is logged once, with its cause.

use std::{future::Future, sync::Arc, time::Duration};

use refit_proto::{
    names::Digest,
    wire::{SyncReply, SyncRequest},
};
use tokio::sync::Notify;

use super::{
    CallError, Pace, Trouble,
    orders::{Orders, Wanted},
    pace::chance,
};
use crate::{
    outbox::{Outbox, OutboxError},
    update::Running,
};

/// Reports in one call; the server takes up to 500.
const MOST_REPORTS: usize = 100;
/// Bytes of reports in one call: a few seconds on a slow link.
const MOST_BYTES: usize = 256 * 1024;
/// Calls in a row without a pause, for an outbox that has grown.
const MOST_CALLS: usize = 50;
/// How long to gather reports after the first: an update moves through several phases at once.
const GATHER: Duration = Duration::from_millis(100);

/// What the loop asks of the server and of the host.
pub trait Calls {
    /// Hands over reports and gets orders.
    fn sync(
        &self,
        request: SyncRequest,
    ) -> impl Future<Output = Result<SyncReply, CallError>> + Send;

    /// Renews the certificate if it is due, or if the server does not let it in.
    fn keep_certificate(&self, barred: bool) -> impl Future<Output = ()> + Send;

    /// Writes a report if the host's state is not the one last reported.
    fn report_changes(&self);

    /// Waits for so long.
    fn wait(&self, span: Duration) -> impl Future<Output = ()> + Send;

    /// The time now, and for how much longer the server has asked not to be called.
    fn now_and_rest(&self) -> (Running, Duration);
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("the server was not reached or did not answer as it should: {0}")]
    Call(#[from] CallError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error("the server's answer can't be used: {0}")]
    Answer(String),
}

/// The loop.
pub struct Sync<C> {
    calls: C,
    outbox: Arc<Outbox>,
    wanted: Arc<Wanted>,
    /// Told of each new report.
    news: Arc<Notify>,
    pace: Pace,
    /// The last failure that was logged, so that a server that is away for a day is one line.
    logged: Option<String>,
}

impl<C: Calls> Sync<C> {
    /// A loop that has not begun.
    pub fn new(
        calls: C,
        outbox: Arc<Outbox>,
        wanted: Arc<Wanted>,
        news: Arc<Notify>,
        pace: Pace,
    ) -> Sync<C> {
        Sync { calls, outbox, wanted, news, pace, logged: None }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.calls.keep_certificate(false).await;
            self.calls.report_changes();
            match self.round().await {
                Ok(period) => {
                    if self.logged.take().is_some() {
                        tracing::info!("the server answers again");
                    }
                    self.pace.succeeded(period);
                }
                Err(error) => self.note(&error).await,
            }
            self.pause().await;
        }
    }

    async fn note(&mut self, error: &RoundError) {
        self.pace.failed();
        let said = error.to_string();
        if self.logged.as_ref() != Some(&said) {
            tracing::warn!("{said}");
            self.logged = Some(said);
        }
        if matches!(error, RoundError::Call(error) if error.trouble == Trouble::Barred) {
            // Perhaps the certificate has expired and this host's clock does not know.
            self.calls.keep_certificate(true).await;
        }
    }

    /// Until the next call is due. News make it due at once, unless the last call failed: then a host
    /// with much to say would be the one that never lets its server come up.
    async fn pause(&self) {
        let (now, rest) = self.calls.now_and_rest();
        let delay = self.calls.wait(self.pace.delay(now, rest, chance()));
        if self.pace.failures() > 0 || !rest.is_zero() {
            return delay.await;
        }
        tokio::select! {
            () = delay => {}
            () = self.news.notified() => tokio::time::sleep(GATHER).await,
        }
    }

    /// Hands over everything that waits, and takes the orders of the last answer.
    async fn round(&self) -> Result<Duration, RoundError> {
        let mut last = None;
        for _ in 0..MOST_CALLS {
            let waited = self.outbox.count()?;
            let reports = self.outbox.waiting(MOST_REPORTS, MOST_BYTES)?;
            let some = !reports.is_empty();
            let reply =
                match self.calls.sync(SyncRequest { reports, ..SyncRequest::default() }).await {
                    // The server's chain may not be ours, or what waits is signed by the key of an earlier
                    // enrollment. An empty call tells where it stands, and whether we are let in at all.
                    Err(error)
                        if error.trouble == Trouble::Refused
                            || (error.trouble == Trouble::Barred && some) =>
                    {
                        tracing::warn!("the server refuses this host's reports: {error}");
                        self.calls.sync(SyncRequest::default()).await?
                    }
                    other => other?,
                };
            let hash = match reply.acknowledged_sha256.as_slice() {
                [] => None,
                bytes => Some(
                    Digest::from_bytes(bytes)
                        .map_err(|error| RoundError::Answer(error.to_string()))?,
                ),
            };
            self.outbox.acknowledge(reply.acknowledged, hash)?;
            last = Some(reply);
            let left = self.outbox.count()?;
            if left == 0 || left >= waited {
                // Done; or the server takes nothing, and is not asked again before the next period.
                break;
            }
        }
        let Some(reply) = last else { return Ok(Duration::ZERO) };
        let period = Duration::from_secs(reply.poll_after_seconds.into());
        let orders = reply.orders.ok_or_else(|| RoundError::Answer("it holds no orders".into()))?;
        let orders =
            Orders::read(&orders).map_err(|error| RoundError::Answer(error.to_string()))?;
        self.wanted.set(orders);
        Ok(period)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use refit_durable::MemStore;
    use refit_proto::{envelope, names::HostId, trust::LocalKey, wire};
    use tokio::time::Instant;

    use super::*;
    use crate::{
        link::Turn,
        outbox::{News, Weight},
    };

    /// A server that answers by a script, then always with its last line.
    #[derive(Clone)]
    struct Script {
        start: Instant,
        /// Until when the server has asked to be left alone.
        rest: Arc<Mutex<Option<Instant>>>,
        answers: Arc<Mutex<Vec<Result<SyncReply, Trouble>>>>,
        calls: Arc<Mutex<Vec<(Instant, usize)>>>,
        barred: Arc<AtomicU32>,
    }

    impl Calls for Script {
        async fn sync(&self, request: SyncRequest) -> Result<SyncReply, CallError> {
            self.calls.lock().unwrap().push((Instant::now(), request.reports.len()));
            let mut answers = self.answers.lock().unwrap();
            let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            drop(answers);
            answer.map_err(|trouble| match trouble {
                Trouble::Weather => tonic::Status::unavailable("away").into(),
                Trouble::Barred => tonic::Status::unauthenticated("expired").into(),
                Trouble::Absent => tonic::Status::not_found("nothing").into(),
                Trouble::Refused => tonic::Status::failed_precondition("gap").into(),
            })
        }
        async fn keep_certificate(&self, barred: bool) {
            self.barred.fetch_add(u32::from(barred), Ordering::Relaxed);
        }
        fn report_changes(&self) {}
        fn wait(&self, span: Duration) -> impl Future<Output = ()> + Send {
            tokio::time::sleep(span)
        }
        fn now_and_rest(&self) -> (Running, Duration) {
            let until = self.rest.lock().unwrap().unwrap_or(self.start);
            let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap();
            (Running::from_nanos(now), until.saturating_duration_since(Instant::now()))
        }
    }

    fn good() -> SyncReply {
        let orders = Some(envelope::wrap(&wire::Orders::default()));
        SyncReply { orders, poll_after_seconds: 60, ..SyncReply::default() }
    }

    struct Run {
        script: Script,
        outbox: Arc<Outbox>,
        wanted: Arc<Wanted>,
    }

    fn start(answers: Vec<Result<SyncReply, Trouble>>) -> Run {
        let script = Script {
            start: Instant::now(),
            rest: Arc::default(),
            answers: Arc::new(Mutex::new(answers)),
            calls: Arc::default(),
            barred: Arc::default(),
        };
        let news = Arc::new(Notify::new());
        let (store, host) = (Arc::new(MemStore::new()), HostId::of_public_key(b"host"));
        let (key, told) = (LocalKey::from_seed(&[1; 32]), news.clone());
        let outbox = Arc::new(Outbox::new(store, host, key, move || told.notify_one()));
        let wanted = Arc::new(Wanted::default());
        let sync = Sync::new(
            script.clone(),
            outbox.clone(),
            wanted.clone(),
            news,
            Pace::new(None, Turn::of(&HostId::of_public_key(b"host"), "sync")),
        );
        tokio::spawn(sync.run());
        Run { script, outbox, wanted }
    }

    impl Run {
        async fn pass(&self, seconds: u64) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }

        fn calls(&self) -> Vec<(Instant, usize)> {
            self.script.calls.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_fails_once_or_always_the_next_call_comes_within_two_periods() {
        let period = Duration::from_secs(60);
        let failures: [fn() -> Result<SyncReply, Trouble>; 6] = [
            || Err(Trouble::Weather),
            || Err(Trouble::Barred),
            || Err(Trouble::Refused),
            || Err(Trouble::Absent),
            || Ok(SyncReply { orders: None, ..good() }),
            || Ok(SyncReply { acknowledged: 1, acknowledged_sha256: vec![1], ..good() }),
        ];
        for (number, failure) in failures.into_iter().enumerate() {
            for answers in [vec![Ok(good()), failure(), Ok(good())], vec![Ok(good()), failure()]] {
                let run = start(answers);
                run.pass(3600).await;
                let calls = run.calls();
                assert!(calls.len() > 30, "failure {number}: {} calls in an hour", calls.len());
                for pair in calls.windows(2) {
                    let gap = pair[1].0 - pair[0].0;
                    assert!(gap <= period * 2, "failure {number}: {gap:?} without a call");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_be_left_alone_is_and_news_wait_too() {
        let run = start(vec![Ok(good()), Err(Trouble::Weather), Ok(good())]);
        let until = Instant::now() + Duration::from_secs(1000);
        *run.script.rest.lock().unwrap() = Some(until);
        run.pass(10).await;
        let news = News {
            at: String::new(),
            state: wire::HostState::default(),
            event: None,
            weight: Weight::Outcome,
        };
        run.outbox.report(news).unwrap();
        run.pass(985).await;
        assert_eq!(run.calls().len(), 1, "only the call that was told so");
        run.pass(125).await;
        assert!(run.calls()[1..].iter().all(|(at, _)| *at >= until));
        assert!(run.calls().len() >= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_not_let_in_tries_to_renew() {
        let run = start(vec![Err(Trouble::Barred), Ok(good())]);
        run.pass(30).await;
        assert_eq!(run.script.barred.load(Ordering::Relaxed), 1);
        assert!(run.calls().len() >= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn news_are_sent_at_once_and_what_is_not_acknowledged_again() {
        let run = start(vec![Ok(good())]);
        run.pass(1).await;
        let before = run.calls().len();
        let state = wire::HostState::default();
        let news = News { at: String::new(), state, event: None, weight: Weight::Outcome };
        run.outbox.report(news).unwrap();
        run.pass(1).await;
        let calls = run.calls();
        assert!(calls.len() > before, "news don't wait for the next period");
        assert!(calls[before..].iter().all(|(_, reports)| *reports == 1));
        assert_eq!(run.outbox.count().unwrap(), 1, "nobody has acknowledged it");
        assert!(run.wanted.orders().is_some());
    }
}
