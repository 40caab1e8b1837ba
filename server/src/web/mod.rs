//! The page, the JSON, the metrics and the probes: read-only, on an address of their own. It knows no
//! sign-in, so it listens on loopback alone and answers only to names of this machine. What is shown is
//! built in `status`.

mod metrics;
mod page;
#[cfg(test)]
mod tests;

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use refit_proto::{names::Product, wire};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tracing::warn;

use crate::status::{StatusError, StatusSource};

/// How long the head of a request may take, and a connection stay open without one.
const HEAD: Duration = Duration::from_secs(5);
/// Connections at once: a browser or two, and whoever collects the metrics.
const CONNECTIONS: usize = 256;
/// After an error of `accept` it pays to let others finish.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Hosts that one answer holds, unless it is asked for fewer.
const PAGE_SIZE: u32 = 200;

/// Why the page cannot be shown at an address.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Others could reach it.
    #[error(
        "the page cannot listen on {0}: it knows no sign-in, and others could reach it there\n\
         help: use a loopback address such as 127.0.0.1:7701, and a tunnel from elsewhere"
    )]
    NotLoopback(SocketAddr),
    /// The port is taken, or may not be.
    #[error("the page cannot listen on {address}\nhelp: choose another port with --status-listen")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
}

/// Opens the page's port, on loopback only.
///
/// # Errors
/// Any other address, and what the system refuses.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, WebError> {
    if !address.ip().is_loopback() {
        return Err(WebError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|cause| WebError::Bind { address, cause })
}

/// Serves the page until `stop` comes, and ends the answers under way.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn StatusSource>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let service = TowerToHyperService::new(router(source));
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let ending = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let next = async { (places.clone().acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (http, service) = (http.clone(), service.clone());
                let mut ending = ending.subscribe();
                connections.spawn(async move {
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    let mut connection = pin!(connection);
                    tokio::select! {
                        // What becomes of one connection is nobody else's concern.
                        _ = &mut connection => return,
                        _ = ending.wait_for(|ending| *ending) => {
                            connection.as_mut().graceful_shutdown();
                        }
                    }
                    let _ = connection.await;
                    drop(place);
                });
            }
            // An error here must never end the page: usually there are no file descriptors left.
            Err(error) => {
                warn!(%error, "a connection to the page could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    ending.send_replace(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Everything that the address answers to.
pub fn router(source: Arc<dyn StatusSource>) -> Router {
    Router::new()
        .route("/", get(show_page))
        .route("/api/v1/status", get(show_status))
        .route("/api/v1/hosts", get(show_hosts))
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_ready))
        .layer(middleware::map_response(guard_answer))
        .layer(middleware::from_fn(only_for_this_machine))
        .with_state(source)
}

type Source = Arc<dyn StatusSource>;

/// Which part of the fleet is asked for.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Question {
    product: String,
    ring: String,
    host: String,
    page_size: u32,
    page_token: String,
    /// The page is not to reload itself.
    still: bool,
}

impl Question {
    fn product(&self) -> Result<Option<Product>, Problem> {
        let given = Some(self.product.as_str()).filter(|product| !product.is_empty());
        let parsed = given.map(Product::parse).transpose();
        parsed.map_err(|error| Problem::BadQuestion(error.to_string()))
    }

    fn hosts(&self) -> wire::ListHostsRequest {
        let page_size = match self.page_size {
            0 => PAGE_SIZE,
            asked => asked.min(PAGE_SIZE),
        };
        wire::ListHostsRequest {
            product: self.product.clone(),
            ring: self.ring.clone(),
            host: self.host.clone(),
            page_size,
            page_token: self.page_token.clone(),
        }
    }
}

async fn show_page(
    State(source): State<Source>,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    let Query(question) = question?;
    // The rings are always shown whole; the question narrows the hosts.
    let fleet = source.fleet(None).await?;
    let hosts = source.hosts(question.hosts()).await?;
    page::render(&question, &fleet, &hosts).map(Html).map_err(|_| Problem::Unavailable)
}

async fn show_status(
    State(source): State<Source>,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<wire::FleetStatus>, Problem> {
    let Query(question) = question?;
    Ok(Json(source.fleet(question.product()?.as_ref()).await?))
}

async fn show_hosts(
    State(source): State<Source>,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<wire::ListHostsReply>, Problem> {
    let Query(question) = question?;
    Ok(Json(source.hosts(question.hosts()).await?))
}

async fn show_metrics(State(source): State<Source>) -> Result<Response, Problem> {
    let fleet = source.fleet(None).await?;
    let text = metrics::render(&fleet).map_err(|_| Problem::Unavailable)?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn show_ready(State(source): State<Source>) -> Response {
    match source.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Problem {
    BadQuestion(String),
    Unavailable,
}

#[derive(Serialize)]
struct ProblemBody {
    error: String,
}

impl From<StatusError> for Problem {
    fn from(error: StatusError) -> Problem {
        match error {
            StatusError::BadQuestion(text) => Problem::BadQuestion(text),
            StatusError::Unavailable => Problem::Unavailable,
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::BadQuestion(rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Problem::BadQuestion(error) => (StatusCode::BAD_REQUEST, error),
            Problem::Unavailable => {
                let text = StatusError::Unavailable.to_string();
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
        };
        (status, Json(ProblemBody { error })).into_response()
    }
}

/// A page of another site that a browser on this machine shows may reach loopback under its own name
/// (DNS rebinding), and would then read the fleet. So only names of this machine are answered to.
async fn only_for_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_this_machine) {
        return next.run(request).await;
    }
    let error = "the page answers to localhost, 127.0.0.1 and [::1] only".to_owned();
    (StatusCode::MISDIRECTED_REQUEST, Json(ProblemBody { error })).into_response()
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// No other host is asked, nothing is run, nothing is kept.
async fn guard_answer(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
