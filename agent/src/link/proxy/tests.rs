//! A host behind a proxy, good and bad ones, with a server of real TLS behind it.

use std::sync::{Arc, Mutex};

use refit_proto::{
    names::{Digest, Labels},
    token::Token,
    trust::Role,
    wire::{EnrollReply, GetMetadataReply},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use super::{tunnel::open, *};
use crate::{
    identity::{Identity, IdentityFolder, Keys, Ways},
    link::{Access, Patience, Server, Trouble, enroll, testing::*},
    trusted::Source as _,
};

/// What a proxy does once it has read the head of a request.
#[derive(Clone, Copy)]
enum Does {
    /// Its work.
    Leads,
    /// Its work, until so many bytes have come from the server.
    DiesAfter(usize),
    /// Writes this and hangs up.
    Says(&'static str),
    /// Writes a head that does not end.
    NeverEnds,
}

/// A proxy on loopback, and what it was asked.
struct Between {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Between {
    async fn start(does: Does) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, does, seen.clone()));
            }
        });
        Between { address, heads }
    }

    fn proxies(&self) -> Proxies {
        let login = Login::Plain { user: "me".into(), password: "secret".into() };
        let proxy = self.address.parse::<Proxy>().unwrap().with_login(login);
        Proxies::through(proxy, Exceptions::default())
    }
}

async fn serve(mut stream: TcpStream, does: Does, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().push(head);
    const YES: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 between\r\n\r\n";
    match does {
        Does::Leads => {
            let mut server = TcpStream::connect(target).await.unwrap();
            stream.write_all(YES).await.unwrap();
            let _either_side_ends = copy_bidirectional(&mut stream, &mut server).await;
        }
        Does::DiesAfter(bytes) => {
            let server = TcpStream::connect(target).await.unwrap();
            stream.write_all(YES).await.unwrap();
            let (from_server, mut to_server) = server.into_split();
            let (mut from_host, mut to_host) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_host, &mut to_server).await });
            let _cut = tokio::io::copy(&mut from_server.take(bytes as u64), &mut to_host).await;
        }
        Does::Says(text) => {
            let _gone = stream.write_all(text.as_bytes()).await;
            // Hung up with something unread, it would be a reset, which may overtake what was said.
            let _gone = stream.shutdown().await;
            let _gone = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
        Does::NeverEnds => {
            let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        }
    }
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        Host { dir: tempfile::tempdir().unwrap() }
    }

    fn folder(&self) -> IdentityFolder {
        IdentityFolder::at(self.dir.path().join("identity"))
    }

    async fn enroll(&self, token: &Token, proxies: &Proxies) -> Result<Identity, String> {
        let (name, platform) = ("web-1".parse().unwrap(), "linux-x86_64".parse().unwrap());
        let enrolled = enroll(token, name, &platform, &self.folder(), clock(NOW), proxies).await;
        enrolled.map_err(|error| error.to_string())
    }
}

async fn server() -> (FakeServer, Token) {
    let server = FakeServer::start(Arc::new(Authority::new()), GOOD).await;
    let authority = server.authority.clone();
    server.answers().enroll = Some(Box::new(move |request| {
        Ok(EnrollReply {
            host_id: host_id(&request.certificate_request).to_string(),
            certificates: authority.issue(&request.certificate_request, GOOD),
            labels: [].into(),
            root_sha256: Digest::of(b"root").to_string(),
        })
    }));
    let token = server.token(&Labels::new(), b"root");
    (server, token)
}

#[tokio::test]
async fn the_server_is_reached_through_a_proxy_with_a_login() {
    let (server, token) = server().await;
    let (between, host) = (Between::start(Does::Leads).await, Host::new());
    let identity = host.enroll(&token, &between.proxies()).await.unwrap();
    let head = between.heads.lock().unwrap()[0].clone();
    let target = server.address;
    assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains(&format!("\r\nhost: {target}\r\n")), "{head}");
    assert!(head.contains("\r\nproxy-authorization: basic bwu6c2vjcmv0\r\n"), "{head}");

    // And all else goes the same way.
    server.answers().metadata = Some(Box::new(|_| Ok(GetMetadataReply { file: vec![7] })));
    let keys = Keys::load(&host.folder()).unwrap();
    let link = Server::new(&identity, &keys, Ways::of(&identity, None), clock(NOW)).unwrap();
    let link = link.with_proxies(between.proxies()).unwrap();
    let file = link.metadata(&Role::Root, None, 100).await.unwrap();
    assert_eq!(file, Some(vec![7]));
    link.stranger().unwrap().metadata(&Role::Root, None, 100).await.unwrap();
    assert_eq!(between.heads.lock().unwrap().len(), 3);

    // But not who is excepted.
    let direct = Exceptions::new(["127.0.0.0/8"]).unwrap();
    let proxies = Proxies::through(between.address.parse().unwrap(), direct);
    Host::new().enroll(&token, &proxies).await.unwrap();
    assert_eq!(between.heads.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_proxy_that_does_not_lead_there_is_named_with_the_cause_and_the_remedy() {
    let html =
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>";
    for (does, cause, remedy) in [
        (
            Does::Says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
            "does not take the login of \"me\"",
            "proxy.user",
        ),
        (
            Does::Says("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope"),
            "it answers 403",
            "permit CONNECT",
        ),
        (
            Does::Says("HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n"),
            "it answers 302",
            "CONNECT",
        ),
        (Does::Says(html), "does not speak TLS", "login page"),
        (Does::Says(""), "closes the connection", "look whether the proxy runs"),
        (Does::Says("HTTP/1.1 20"), "", "look whether the proxy runs"),
        (Does::Says("SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP", "look whether the proxy runs"),
        (Does::NeverEnds, "no HTTP", "look whether the proxy runs"),
        (Does::Says("HTTP/1.1 200 OK\r\n\r\n"), "ended before its time", "goes on"),
    ] {
        let (_server, token) = server().await;
        let (between, host) = (Between::start(does).await, Host::new());
        let said = host.enroll(&token, &between.proxies()).await.unwrap_err();
        let named = format!("the proxy {} does not lead to {}", between.address, token.server);
        assert!(said.contains(&named) && said.contains(cause), "{cause}: {said}");
        let help: Vec<&str> = said.split("\nhelp: ").skip(1).collect();
        assert!(help.len() == 1 && help[0].contains(remedy), "{cause}: {said}");
        assert!(!said.contains("secret") && !said.contains("bWU6c2VjcmV0"), "{said}");
        assert_eq!(Identity::load_if_enrolled(&host.folder()).unwrap(), None);
    }
    // Nobody is there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxies = Proxies::through(format!("{nobody}").parse().unwrap(), Exceptions::default());
    let (_server, token) = server().await;
    let said = Host::new().enroll(&token, &proxies).await.unwrap_err();
    assert!(
        said.contains(&format!("the proxy http://{nobody}")) && said.contains("help"),
        "{said}"
    );
}

#[tokio::test]
async fn a_proxy_that_dies_in_the_middle_is_weather_and_the_next_call_gets_through() {
    let (server, token) = server().await;
    let (good, host) = (Between::start(Does::Leads).await, Host::new());
    let identity = host.enroll(&token, &good.proxies()).await.unwrap();
    server.answers().metadata =
        Some(Box::new(|_| Ok(GetMetadataReply { file: vec![7; 1_000_000] })));
    let keys = Keys::load(&host.folder()).unwrap();
    let link = |proxies| {
        let link = Server::new(&identity, &keys, Ways::of(&identity, None), clock(NOW)).unwrap();
        link.with_proxies(proxies).unwrap()
    };
    let dying = Between::start(Does::DiesAfter(200_000)).await;
    let role = Role::Root;
    let error = link(dying.proxies()).metadata(&role, None, 2_000_000).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Weather);
    assert!(!error.is_impostor());
    let said = error.with_help();
    assert!(said.contains(&dying.address) && said.contains("ended before its time"), "{said}");
    let file = link(good.proxies()).metadata(&role, None, 2_000_000).await.unwrap();
    assert_eq!(file.unwrap().len(), 1_000_000);
}

#[tokio::test]
async fn a_proxy_that_asks_to_be_left_alone_is() {
    let (_server, token) = server().await;
    let (host, full) = (
        Host::new(),
        Between::start(Does::Says("HTTP/1.1 503 Full\r\nRetry-After: 120\r\n\r\n")).await,
    );
    let identity = host.enroll(&token, &Proxies::default()).await.unwrap();
    let keys = Keys::load(&host.folder()).unwrap();
    let link = Server::new(&identity, &keys, Ways::of(&identity, None), clock(NOW)).unwrap();
    let link = link.with_proxies(full.proxies()).unwrap();
    let error = link.metadata(&Role::Root, None, 100).await.unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(120)));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_never_answers_or_drips_its_answer_is_given_up() {
    let proxy: Proxy = "proxy.test:1".parse().unwrap();
    for drips in [false, true] {
        let (near, mut far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            while drips && far.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            tokio::time::sleep(Duration::from_secs(3600)).await;
        });
        let begun = Instant::now();
        let why = open(&proxy, near, "refit.test:7700").await.unwrap_err();
        assert!(matches!(why, Why::Slow(_)), "{why}");
        assert!(begun.elapsed() <= Duration::from_secs(60));
    }
}

#[tokio::test]
async fn a_password_that_can_not_be_read_is_told_and_nothing_is_sent() {
    let (_server, token) = server().await;
    let (between, host) = (Between::start(Does::Leads).await, Host::new());
    let login = Login::File { user: "me".into(), path: host.dir.path().join("none") };
    let proxy = between.address.parse::<Proxy>().unwrap().with_login(login);
    let proxies = Proxies::through(proxy, Exceptions::default());
    let said = host.enroll(&token, &proxies).await.unwrap_err();
    assert!(said.contains("password") && said.contains("none") && said.contains("600"), "{said}");
    assert!(between.heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_network_half_is_handed_the_password_and_a_new_one_is_handed_over_again() {
    let (_server, token) = server().await;
    let host = Host::new();
    let identity = host.enroll(&token, &Proxies::default()).await.unwrap();
    let keys = Keys::load(&host.folder()).unwrap();
    let path = host.dir.path().join("password");
    let put = |password: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&path, password).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("secret");
    let login = Login::File { user: "me".into(), path: path.clone() };
    let proxy = "proxy.test:1".parse::<Proxy>().unwrap().with_login(login);
    let access = Access::new(&identity, &keys, Ways::of(&identity, None), Patience::default())
        .through(Proxies::through(proxy, Exceptions::new(["10.0.0.0/8"]).unwrap()));
    let handed = Access::parse(&access.to_bytes()).unwrap();
    assert_eq!(handed.id(), access.id());
    let sent = handed.proxies.to_server("refit.test", 1).unwrap().authorization().unwrap();
    assert_eq!(sent.as_deref(), Some("Basic bWU6c2VjcmV0"));
    assert!(handed.proxies.to_server("10.1.2.3", 1).is_none());
    assert!(access.renewed().is_none(), "nothing has changed");
    put("another");
    let renewed = access.renewed().unwrap();
    assert_ne!(renewed.id(), access.id());
}
