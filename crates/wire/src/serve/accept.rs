//! The server's side of a connection: accepts, shakes hands within bounds, and learns who is calling.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::access::Connection;
use crate::identity::{Peer, ReadIdentityError, read_identity};
use crate::tls::Tls;
use crate::trust::Untrusted;

/// Longest handshake: an honest one takes milliseconds.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Most handshakes under way at once; further callers wait in the listener's backlog. A handshake costs a signature and
/// memory before the caller has proved anything, and each ends within [`ACCEPT_TIMEOUT`].
pub const HANDSHAKES_MAX: usize = 64;
/// Connections that are ready and not yet taken over by the server.
const READY_MAX: usize = 16;
/// The pause after a failure to accept, such as too many open files, which passes when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from: TCP, or a simulated network.
pub trait Listener: Send + 'static {
    /// What is accepted.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next caller. Must lose none when the future is dropped.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, address) = TcpListener::accept(self).await?;
        // Only a connection that has ended already refuses this; the handshake will find out.
        let _ = stream.set_nodelay(true);
        Ok((stream, address))
    }
}

/// A caller that was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the handshake took longer than {} s", ACCEPT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the handshake failed")]
    Tls(#[source] Untrusted),
    #[error("the caller hung up during the handshake")]
    HungUp,
    #[error("the certificate does not say whose it is")]
    Identity(#[source] ReadIdentityError),
    #[error("the certificate is that of {found} of farm {}, and this is farm {own}", found.farm)]
    OtherFarm { found: Peer, own: String },
}

/// An authenticated connection.
pub(crate) struct ServerIo<S> {
    stream: TlsStream<S>,
    connection: Connection,
    cut: CancellationToken,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Connections that have passed the handshake. They end when `cut` is cancelled.
pub(super) fn incoming<L: Listener>(
    listener: L,
    tls: Tls,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<ServerIo<L::Io>>> {
    let (sender, receiver) = mpsc::channel(READY_MAX);
    tokio::spawn(accept_all(listener, tls, cut, sender));
    ReceiverStream::new(receiver)
}

/// Accepts until the receiver is gone; then the listener is dropped and its port is free.
async fn accept_all<L: Listener>(
    mut listener: L,
    tls: Tls,
    cut: CancellationToken,
    sender: mpsc::Sender<io::Result<ServerIo<L::Io>>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            () = sender.closed() => return,
            Some(_) = handshakes.join_next() => {}
            accepted = listener.accept(), if handshakes.len() < HANDSHAKES_MAX => match accepted {
                Ok((stream, address)) => {
                    let (tls, cut, sender) = (tls.clone(), cut.clone(), sender.clone());
                    handshakes.spawn(async move {
                        match handshake(&tls, stream, address, cut).await {
                            // A send fails only when the server is ending.
                            Ok(connection) => drop(sender.send(Ok(connection)).await),
                            Err(error) => log_refusal(address, &error),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Lets one caller in, or says why not.
pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &Tls,
    stream: S,
    address: SocketAddr,
    cut: CancellationToken,
) -> Result<ServerIo<S>, HandshakeError> {
    let loaded = tls.loaded();
    let acceptor = TlsAcceptor::from(loaded.server.clone());
    let stream = timeout(ACCEPT_TIMEOUT, acceptor.accept(stream)).await.map_err(|_| HandshakeError::Timeout)?.map_err(
        |error| match error.kind() {
            io::ErrorKind::UnexpectedEof => HandshakeError::HungUp,
            _ => HandshakeError::Tls(error.into()),
        },
    )?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = chain.first().expect("the handshake succeeds only with a client's certificate");
    let peer = read_identity(leaf).map_err(HandshakeError::Identity)?;
    let own = &loaded.identity.farm;
    if peer.farm != *own {
        return Err(HandshakeError::OtherFarm { found: peer, own: own.clone() });
    }
    let is_cut = Box::pin(cut.clone().cancelled_owned());
    Ok(ServerIo { stream, connection: Connection { peer: Arc::new(peer), address }, cut, is_cut })
}

fn log_refusal(address: SocketAddr, error: &HandshakeError) {
    let reason = crate::status::chain(error);
    match error {
        // Somebody who only tries whether the port is open, as load balancers do.
        HandshakeError::HungUp => tracing::debug!(%address, "connection refused: {reason}"),
        HandshakeError::Timeout
        | HandshakeError::Tls(_)
        | HandshakeError::Identity(_)
        | HandshakeError::OtherFarm { .. } => tracing::warn!(%address, "connection refused: {reason}"),
    }
}

impl<S> ServerIo<S> {
    #[cfg(test)]
    pub(crate) fn peer(&self) -> &Peer {
        &self.connection.peer
    }
}

impl<S> Connected for ServerIo<S> {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

fn ended<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has ended")))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ServerIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 reads all the time, so this alone wakes an idle connection.
        if self.is_cut.as_mut().poll(context).is_ready() {
            return ended();
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServerIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.is_cancelled() {
            return ended();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
