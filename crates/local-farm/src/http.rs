//! A small HTTP/1.1 client for the demo's own parts: one connection per request, whole bodies, a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest body that is read: an attachment of 1 MiB, doubled for base64 and room.
pub(crate) const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Why there is no answer. What matters to a caller is whether the request may have been acted upon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No connection: the request was certainly not acted upon.
    #[error("no connection to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// The connection broke, or the answer did not come in time: the request may have been acted upon.
    #[error("no answer from {0}")]
    Broken(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends one request and reads the whole answer, both within `limit`.
pub(crate) async fn send(
    address: SocketAddr,
    request: Request<Bytes>,
    limit: Duration,
) -> Result<Response<Bytes>, HttpError> {
    let deadline = tokio::time::Instant::now() + limit;
    let stream = match tokio::time::timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(HttpError::Connect(address, error)),
        Err(elapsed) => return Err(HttpError::Connect(address, elapsed.into())),
    };
    let exchange = async {
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let response = sender.send_request(request.map(Full::new)).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        }
        .await;
        connection.abort();
        answer
    };
    match tokio::time::timeout_at(deadline, exchange).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(HttpError::Broken(address, error)),
        Err(elapsed) => Err(HttpError::Broken(address, elapsed.into())),
    }
}

/// Builds a request to a path of that address.
pub(crate) fn request(method: http::Method, address: SocketAddr, path: &str, body: Bytes) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, address.to_string())
        .body(body)
        .expect("the demo's own paths are valid and the host is an address")
}
