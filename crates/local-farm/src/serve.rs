//! The HTTP/1.1 server that the sample vault and the balancer share: whole bodies in, whole bodies out, and an end
//! that lets requests under way finish.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::BODY_BYTES_MAX;

/// Connections served at once; the demo's load has a dozen.
const CONNECTIONS_MAX: usize = 256;

/// How long requests under way may take to finish after shutdown was asked for.
const FINISH: Duration = Duration::from_secs(5);

/// After a failed accept (no file descriptors left, say) a moment's rest keeps the loop from spinning.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then lets open requests finish.
pub(crate) async fn serve<H, F>(listener: TcpListener, handler: H, shutdown: CancellationToken)
where
    H: Fn(Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send,
{
    let handler = Arc::new(handler);
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        let handler = Arc::clone(&handler);
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let _permit = permit;
            // Without it a small answer may wait for the client's acknowledgement; failing to set it only costs time.
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| {
                let handler = Arc::clone(&handler);
                async move { Ok::<_, Infallible>(answer(&*handler, request).await.map(Full::new)) }
            });
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FINISH, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "requests under way did not finish and are cut off");
    }
}

/// Reads the whole body and hands the request over.
async fn answer<H, F>(handler: &H, request: Request<Incoming>) -> Response<Bytes>
where
    H: Fn(Request<Bytes>) -> F,
    F: Future<Output = Response<Bytes>>,
{
    let (parts, body) = request.into_parts();
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => handler(Request::from_parts(parts, body.to_bytes())).await,
        Err(error) => plain(StatusCode::PAYLOAD_TOO_LARGE, &format!("the request's body was not read: {error}")),
    }
}

/// An answer of one line of text.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(text.as_bytes()));
    *response.status_mut() = status;
    response
}
