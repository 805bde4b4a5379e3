//! The demo's load balancer: an HTTP reverse proxy with health checks, sticky sessions and connection draining.

mod backends;
mod proxy;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serve::serve;
use crate::signals::termination;
use backends::Backends;

/// What the hidden verb `balancer` takes.
#[derive(Debug, Parser)]
#[command(name = "balancer", about = "Spread HTTP requests over the instances that are healthy")]
struct Arguments {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// An instance; once for each.
    #[arg(long = "backend", value_name = "ADDRESS", required = true)]
    backends: Vec<SocketAddr>,
}

/// Runs the balancer until it is told to end.
pub(crate) async fn run(arguments: Vec<OsString>) -> anyhow::Result<u8> {
    let arguments = match crate::arguments::parse::<Arguments>("balancer", arguments) {
        Ok(arguments) => arguments,
        Err(code) => return Ok(code),
    };
    let listener =
        TcpListener::bind(arguments.listen).await.with_context(|| format!("listening on {}", arguments.listen))?;
    let shutdown = CancellationToken::new();
    let stopper = shutdown.clone();
    tokio::spawn(async move {
        termination().await;
        stopper.cancel();
    });
    forward(listener, arguments.backends, shutdown).await;
    Ok(0)
}

/// Serves until `shutdown`.
pub(crate) async fn forward(listener: TcpListener, backends: Vec<SocketAddr>, shutdown: CancellationToken) {
    let backends = Arc::new(Backends::new(backends));
    let watch = tokio::spawn(Arc::clone(&backends).watch(shutdown.clone()));
    let handler = move |request| {
        let backends = Arc::clone(&backends);
        async move { proxy::forward(&backends, request).await }
    };
    serve(listener, handler, shutdown).await;
    // It ends by the same token; that it was cancelled or panicked changes nothing any more.
    let _ = watch.await;
}

#[cfg(test)]
mod tests;
