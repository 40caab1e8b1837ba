//! An answer of whoever stands before the server, such as a load balancer that sheds: HTTP says no, and no
//! gRPC was spoken. It is made into the refusal that a server would have sent, so that what its headers
//! ask for is heard.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    Request, Response, StatusCode,
    header::{HeaderValue, RETRY_AFTER},
};
use tonic::{Code, body::Body, transport};
use tower::Service;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// A channel whose HTTP refusals are heard.
#[derive(Debug, Clone)]
pub struct Channel(transport::Channel);

impl From<transport::Channel> for Channel {
    fn from(channel: transport::Channel) -> Channel {
        Channel(channel)
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, transport::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { answer.await.map(as_grpc) })
    }
}

/// The headers alone make it a refusal; without a wish in them, it is what it was.
fn as_grpc(mut answer: Response<Body>) -> Response<Body> {
    let sheds = matches!(
        // What gRPC takes for "unavailable" (doc/http-grpc-status-mapping.md).
        answer.status(),
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    let headers = answer.headers();
    if !sheds || headers.contains_key(STATUS) || !headers.contains_key(RETRY_AFTER) {
        return answer;
    }
    let message = format!("HTTP {} from whoever stands before the server", answer.status());
    let headers = answer.headers_mut();
    headers.insert(STATUS, HeaderValue::from(Code::Unavailable as i32));
    if let Ok(message) = HeaderValue::from_str(&message.replace(' ', "%20")) {
        headers.insert(MESSAGE, message);
    }
    answer
}
