//! The page, JSON, metrics and probes, asked as a browser or Prometheus would.

use axum::{body::Body, http::Request};
use tower::ServiceExt as _;

use super::*;

/// A fleet with a halted ring, a ring behind it, and a host whose name tries to be markup.
#[derive(Default)]
struct Fleet {
    away: bool,
}

fn hold(reason: &str, text: &str) -> Option<wire::Hold> {
    Some(wire::Hold {
        reason: reason.into(),
        text: text.into(),
        since: "2026-01-01T00:00:00Z".into(),
        until: String::new(),
        who: "operator".into(),
    })
}

fn fleet() -> wire::FleetStatus {
    let counts = wire::RolloutCounts {
        total: 3,
        waiting: 1,
        healthy: 1,
        failed: 1,
        rolled_back: 1,
        halts_at: 1,
        ..Default::default()
    };
    let rollout = wire::RolloutStatus {
        id: "payments.pilot.2".into(),
        version: "1.2".into(),
        state: "halted".into(),
        promoted_by: "person ann".into(),
        wave: 1,
        waves: 1,
        counts: Some(counts),
        ..Default::default()
    };
    let installed = |version: &str, health: &str, hosts| wire::InstalledCount {
        version: version.into(),
        health: health.into(),
        hosts,
    };
    let pilot = wire::RingStatus {
        ring: "pilot".into(),
        hosts: 3,
        current: "1.2".into(),
        back: "1.1".into(),
        versions: [("1.1".to_owned(), 2), ("1.2".to_owned(), 1)].into(),
        rollout: Some(rollout),
        hold: hold("halted", "1 failed; the limit is 1"),
        installed: vec![installed("1.1", "good", 2), installed("1.2", "good", 1)],
        ..Default::default()
    };
    let early = wire::RingStatus {
        ring: "early".into(),
        order: 1,
        hosts: 1,
        hold: hold("nothing-promoted", "nothing has been promoted to this ring"),
        ..Default::default()
    };
    let product = wire::ProductStatus {
        product: "payments".into(),
        rings: vec![pilot, early],
        ..Default::default()
    };
    wire::FleetStatus {
        at: "2026-01-02T00:00:00Z".into(),
        revision: 9,
        hosts: 4,
        hosts_without_ring: 1,
        hosts_shared_identity: 1,
        hosts_metadata_expired: 3,
        hosts_metadata_refused: 2,
        hosts_audit_contradicted: 1,
        products: vec![product],
        metadata: vec![wire::MetadataStatus {
            role: "timestamp".into(),
            version: 5,
            expires: "2026-01-01T23:59:00Z".into(),
            warning: "expired".into(),
            lacking: 0,
        }],
        changes: vec![wire::ChangeStatus {
            role: "root".into(),
            lapses: "2026-01-02T00:01:00Z".into(),
            signatures_missing: 2,
            ..Default::default()
        }],
        server: Some(wire::ServerStatus {
            version: "0.1.0".into(),
            audit_length: 12,
            store_bytes: 4096,
        }),
    }
}

fn hosts() -> wire::ListHostsReply {
    let failure = wire::Failure {
        cause: "health-check-failed".into(),
        text: "<script>alert(1)</script>".into(),
        help: String::new(),
        ..Default::default()
    };
    let placement = wire::PlacementStatus {
        product: "payments".into(),
        ring: "pilot".into(),
        installed: "1.1".into(),
        wanted: "1.2".into(),
        phase: "rolled-back".into(),
        health: "good".into(),
        failure: Some(failure),
        hold: hold("quarantined", "release 0123456789ab failed on this host and is refused"),
        ..Default::default()
    };
    let web = wire::HostStatus {
        host_id: "0123456789abcdef0123456789abcdef".into(),
        name: "web-1".into(),
        state: "active".into(),
        last_seen: "2026-01-01T12:00:00Z".into(),
        products: vec![placement],
        ..Default::default()
    };
    let new =
        wire::HostStatus { name: "new-1".into(), state: "revoked".into(), ..Default::default() };
    wire::ListHostsReply { hosts: vec![web, new], next_page_token: "t/1".into() }
}

#[tonic::async_trait]
impl StatusSource for Fleet {
    async fn fleet(&self, product: Option<&Product>) -> Result<wire::FleetStatus, StatusError> {
        if self.away {
            return Err(StatusError::Unavailable);
        }
        let mut status = fleet();
        status.products.retain(|it| product.is_none_or(|product| it.product == product.as_str()));
        Ok(status)
    }

    async fn hosts(
        &self,
        query: wire::ListHostsRequest,
    ) -> Result<wire::ListHostsReply, StatusError> {
        assert!(query.page_size <= PAGE_SIZE && query.page_size > 0, "{}", query.page_size);
        if query.page_token == "broken" {
            return Err(StatusError::BadQuestion("the page token is not one of ours".into()));
        }
        Ok(hosts())
    }

    async fn ready(&self) -> Result<(), StatusError> {
        if self.away { Err(StatusError::Unavailable) } else { Ok(()) }
    }
}

async fn ask(fleet: Fleet, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, String) {
    let answer = router(Arc::new(fleet)).oneshot(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn get_path(path: &str) -> (StatusCode, axum::http::HeaderMap, String) {
    let request = Request::get(path).header("host", "localhost:7701").body(Body::empty()).unwrap();
    ask(Fleet::default(), request).await
}

#[tokio::test]
async fn the_page_shows_rings_rollouts_hosts_and_holds() {
    let (status, _, page) = get_path("/").await;
    assert_eq!(status, StatusCode::OK);
    for shown in [
        "payments",
        "pilot",
        "early",
        "halted",
        "1 healthy, 1 waiting, 1 failed",
        "1 failed; the limit is 1",
        "nothing has been promoted to this ring",
        "web-1",
        "health-check-failed",
        "quarantined",
        "revoked",
        "1 in no ring, left alone",
        "2026-01-01 00:00:00 UTC",
        "/?product=payments&#38;ring=pilot#hosts",
        "page_token=t%2F1",
        "(1 halted) Refit",
        "http-equiv=\"refresh\"",
    ] {
        assert!(page.contains(shown), "the page lacks {shown:?}:\n{page}");
    }
}

#[tokio::test]
async fn what_hosts_say_never_becomes_markup() {
    let (_, _, page) = get_path("/").await;
    assert!(!page.contains("<script"), "{page}");
    let (_, _, page) = get_path("/?host=%3Cscript%3E%22").await;
    assert!(!page.contains("<script"), "{page}");
}

#[tokio::test]
async fn the_page_asks_no_other_host_and_runs_nothing() {
    let (_, headers, page) = get_path("/").await;
    assert!(!page.contains("://"), "an address of another host: {page}");
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("script"), "{policy}");
    assert_eq!(headers["cache-control"], "no-store");
}

#[tokio::test]
async fn the_page_stops_reloading_when_asked() {
    let (_, _, page) = get_path("/?still=true").await;
    assert!(!page.contains("http-equiv"), "{page}");
}

#[tokio::test]
async fn json_is_the_model_itself() {
    let (status, headers, body) = get_path("/api/v1/status").await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap()),
        (StatusCode::OK, "application/json")
    );
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown, serde_json::to_value(fleet()).unwrap());
    assert_eq!(shown["products"][0]["rings"][0]["rollout"]["state"], "halted");
    let (_, _, body) = get_path("/api/v1/hosts?ring=pilot&page_size=4000000000").await;
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown, serde_json::to_value(hosts()).unwrap());
    let (_, _, body) = get_path("/api/v1/status?product=other").await;
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["products"], serde_json::json!([]));
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_with_its_reason() {
    for path in [
        "/api/v1/status?product=No%20Product",
        "/api/v1/hosts?page_size=-1",
        "/api/v1/hosts?nonsense=1",
        "/api/v1/hosts?page_token=broken",
        "/?page_size=x",
    ] {
        let (status, _, body) = get_path(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(shown["error"].as_str().is_some_and(|error| !error.is_empty()), "{path}: {body}");
    }
    assert_eq!(get_path("/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nothing_can_be_changed_here() {
    for path in ["/", "/api/v1/status", "/api/v1/hosts", "/metrics", "/healthz"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let request = Request::builder().method(method).uri(path).header("host", "localhost");
            let answer = ask(Fleet::default(), request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.0, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn metrics_say_what_the_model_says() {
    let (status, headers, text) = get_path("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], metrics::CONTENT_TYPE);
    for line in [
        "refit_server_info{version=\"0.1.0\"} 1",
        "refit_audit_entries 12",
        "refit_store_bytes 4096",
        "refit_fleet_hosts 4",
        "refit_fleet_hosts_without_ring 1",
        "refit_fleet_hosts_shared_identity 1",
        "refit_fleet_hosts_metadata_expired 3",
        "refit_fleet_hosts_metadata_refused 2",
        "refit_fleet_hosts_audit_contradicted 1",
        "refit_hosts{product=\"payments\",ring=\"pilot\",version=\"1.1\",health=\"good\"} 2",
        "refit_rollout_state{product=\"payments\",ring=\"pilot\",version=\"1.2\",state=\"halted\"} 1",
        "refit_rollout_state{product=\"payments\",ring=\"pilot\",version=\"1.2\",state=\"running\"} 0",
        "refit_rollout_hosts{product=\"payments\",ring=\"pilot\",version=\"1.2\",standing=\"failed\"} 1",
        "refit_rollout_failures{product=\"payments\",ring=\"pilot\",version=\"1.2\",kind=\"rolled-back\"} 1",
        "refit_ring_held{product=\"payments\",ring=\"early\",reason=\"nothing-promoted\"} 1",
        "refit_metadata_expiry_seconds{role=\"timestamp\"} -60",
        "refit_metadata_warning{role=\"timestamp\",warning=\"expired\"} 1",
        "refit_change_signatures_missing{role=\"root\"} 2",
        "refit_change_lapses_seconds{role=\"root\"} 60",
    ] {
        assert!(text.lines().any(|it| it == line), "no line {line:?} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn a_server_without_its_store_is_alive_but_not_ready() {
    for (path, expected) in [
        ("/healthz", StatusCode::OK),
        ("/readyz", StatusCode::SERVICE_UNAVAILABLE),
        ("/", StatusCode::SERVICE_UNAVAILABLE),
        ("/metrics", StatusCode::SERVICE_UNAVAILABLE),
        ("/api/v1/status", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let request = Request::get(path).header("host", "127.0.0.1").body(Body::empty()).unwrap();
        assert_eq!(ask(Fleet { away: true }, request).await.0, expected, "{path}");
    }
    assert_eq!(get_path("/readyz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn only_names_of_this_machine_are_answered_to() {
    for (host, answered) in [
        ("localhost", true),
        ("LOCALHOST:7701", true),
        ("127.0.0.1:7701", true),
        ("127.8.9.1", true),
        ("[::1]:7701", true),
        ("[::1]", true),
        ("evil.example:7701", false),
        ("localhost.evil.example", false),
        ("10.0.0.1", false),
        ("", false),
    ] {
        let request = Request::get("/healthz").header("host", host).body(Body::empty()).unwrap();
        let status = ask(Fleet::default(), request).await.0;
        assert_eq!(status == StatusCode::OK, answered, "{host:?}: {status}");
    }
    let request = Request::get("/healthz").body(Body::empty()).unwrap();
    assert_ne!(ask(Fleet::default(), request).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_page_listens_on_loopback_only() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let error = bind(address.parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, WebError::NotLoopback(_)), "{address}: {error}");
        assert!(error.to_string().contains("\nhelp: "), "{error}");
    }
    assert!(bind("127.0.0.1:0".parse().unwrap()).await.is_ok());
}

#[tokio::test]
async fn it_answers_over_a_socket_and_ends_when_told() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ended = async {
        stopped.await.ok();
    };
    let server = tokio::spawn(serve(listener, Arc::new(Fleet::default()), ended));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ready\n"), "{answer}");
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_given_up_and_ends_with_the_page() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ended = async {
        stopped.await.ok();
    };
    let server = tokio::spawn(serve(listener, Arc::new(Fleet::default()), ended));
    for said in ["", "GET /readyz HTTP/1.1\r\nhost: "] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Ends without an answer, or with a refusal: it does not wait for ever for the other half.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{said:?}");
    }
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
