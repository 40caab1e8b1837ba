//! The gRPC health protocol (`grpc.health.v1`), asked over plain HTTP/2 as a service on this host speaks it.

use std::{
    io,
    net::TcpStream,
    sync::Mutex,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::{Uri, uri::PathAndQuery},
    transport::Endpoint,
};
use tonic_prost::ProstCodec;

use super::{Answer, connect};

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks whether this service serves; empty: the server as a whole.
pub(super) fn ask(address: &str, service: &str, timeout: Duration) -> Answer {
    let deadline = Instant::now() + timeout;
    let stream = match connect(address, deadline) {
        Ok(stream) => stream,
        Err(answer) => return answer,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Answer::Unknown(format!("{address} can't be asked: {error}")),
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let asked = async { tokio::time::timeout(left, call(stream, address, service)).await };
    match runtime.block_on(asked) {
        Ok(Ok(status)) => judge(address, service, status),
        Ok(Err(status)) => refused(address, service, &status),
        Err(_) => Answer::Failed(format!("{address} took longer than {} s", timeout.as_secs())),
    }
}

async fn call(stream: TcpStream, address: &str, service: &str) -> Result<i32, Status> {
    let broken = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
    stream.set_nonblocking(true).map_err(|error| broken(&error))?;
    // One connection, which is there already: a second one would be another answer.
    let once = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        async move {
            let stream = stream.ok_or(io::ErrorKind::ConnectionAborted)?;
            Ok::<_, io::Error>(TokioIo::new(tokio::net::TcpStream::from_std(stream)?))
        }
    });
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| broken(&error))?;
    let channel = endpoint.connect_with_connector(connector).await.map_err(|it| broken(&it))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| broken(&error))?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    Ok(client.unary(request, path, codec).await?.into_inner().status)
}

/// What the protocol's `ServingStatus` says.
fn judge(address: &str, service: &str, status: i32) -> Answer {
    match status {
        1 => Answer::Good,
        0 => Answer::Unknown(format!("{address} does not know whether it serves {service:?}")),
        2 => Answer::Failed(format!("{address} does not serve {service:?}")),
        3 => Answer::Failed(format!("{address} does not know the service {service:?}")),
        other => Answer::Failed(format!("{address} answers with status {other} for {service:?}")),
    }
}

fn refused(address: &str, service: &str, status: &Status) -> Answer {
    match status.code() {
        Code::NotFound => {
            Answer::Failed(format!("{address} does not know the service {service:?}"))
        }
        Code::Unimplemented => {
            Answer::Failed(format!("{address} does not speak the gRPC health protocol"))
        }
        code => Answer::Failed(format!("{address} answers {code:?}: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use tonic::{
        body::Body,
        codegen::{BoxFuture, Service, http},
    };

    use super::*;

    /// Answers like a server of the protocol: by the name of the service that is asked for.
    #[derive(Clone)]
    struct Health;

    impl tonic::server::UnaryService<HealthCheckRequest> for Health {
        type Response = HealthCheckResponse;
        type Future = BoxFuture<tonic::Response<HealthCheckResponse>, Status>;

        fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
            let service = request.into_inner().service;
            Box::pin(async move {
                let status = match service.as_str() {
                    "" | "ledger" => 1,
                    "unknown" => 0,
                    "down" => 2,
                    "hangs" => return std::future::pending().await,
                    _ => return Err(Status::not_found("no such service")),
                };
                Ok(tonic::Response::new(HealthCheckResponse { status }))
            })
        }
    }

    impl Service<http::Request<Body>> for Health {
        type Response = http::Response<Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            Box::pin(async move {
                let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
                let mut server = tonic::server::Grpc::new(codec);
                Ok(server.unary(Health, request).await)
            })
        }
    }

    impl tonic::server::NamedService for Health {
        const NAME: &'static str = "grpc.health.v1.Health";
    }

    #[derive(Clone)]
    struct Other;

    impl Service<http::Request<Body>> for Other {
        type Response = http::Response<Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            Box::pin(async { Ok(Status::unimplemented("no").into_http()) })
        }
    }

    impl tonic::server::NamedService for Other {
        const NAME: &'static str = "other.Service";
    }

    fn serve(health: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let mut server = tonic::transport::Server::builder();
                let router = match health {
                    true => server.add_service(Health),
                    false => server.add_service(Other),
                };
                router.serve_with_incoming(incoming).await.unwrap();
            });
        });
        address
    }

    #[test]
    fn a_service_is_good_only_if_it_says_that_it_serves() {
        let address = serve(true).to_string();
        let said = |service: &str| match ask(&address, service, Duration::from_secs(2)) {
            Answer::Good => "good".to_owned(),
            Answer::Failed(why) => format!("failed: {why}"),
            Answer::Unknown(why) => format!("unknown: {why}"),
            Answer::Measured(_) | Answer::Absent(_) => "no answer".to_owned(),
        };
        assert_eq!(said(""), "good");
        assert_eq!(said("ledger"), "good");
        assert!(said("unknown").starts_with("unknown: "));
        assert!(
            said("down").contains("failed: ") && said("down").contains("does not serve \"down\"")
        );
        assert!(said("other").contains("does not know the service"));
        assert!(said("hangs").contains("took longer than 2 s"));
    }

    #[test]
    fn what_speaks_no_grpc_health_fails_and_an_empty_port_too() {
        let second = Duration::from_secs(2);
        let other = ask(&serve(false).to_string(), "", second);
        assert!(
            matches!(&other, Answer::Failed(why) if why.contains("does not speak")),
            "{other:?}"
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            use io::Write as _;
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
        });
        let ssh = ask(&address, "", second);
        assert!(matches!(ssh, Answer::Failed(_)), "{ssh:?}");
        thread.join().unwrap();
        let nobody = ask(&address, "", second);
        assert!(matches!(nobody, Answer::Failed(_)), "{nobody:?}");
    }
}
