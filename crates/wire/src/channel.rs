//! The client's side of a connection: dials, shakes hands, and checks that the server is the one expected.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::identity::{Peer, ReadIdentityError, Role, read_identity};
use crate::tls::Tls;
use crate::trust::Untrusted;

/// Longest wait for a TCP connection: a node that takes longer is as good as down for work with deadlines.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for the TLS handshake that follows. Longer than a server's [`crate::serve::ACCEPT_TIMEOUT`], so that
/// callers who block a server's handshakes are gone before others give up.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(6);
/// How often a connection is probed, idle or not: with [`PROBE_TIMEOUT`] a dead or frozen peer is noticed in seconds,
/// where TCP alone would wait for many minutes.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How long a probe may stay unanswered; longer than a busy machine's worst pause.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// An address that cannot be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not an address; write it as https://host:port")]
pub struct InvalidAddress {
    /// What was given.
    pub address: String,
}

/// Which server a client expects at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedPeer {
    /// Its role.
    pub role: Role,
    /// Its name; `None` when any holder of the role will do.
    pub name: Option<String>,
}

impl ExpectedPeer {
    fn matches(&self, farm: &str, found: &Peer) -> bool {
        found.farm == farm && found.role == self.role && self.name.as_ref().is_none_or(|name| *name == found.name)
    }

    fn describe(&self, farm: &str) -> String {
        match &self.name {
            Some(name) => format!("{} {name} of farm {farm}", self.role),
            None => format!("any {} of farm {farm}", self.role),
        }
    }
}

/// A connection that was not made. It stands in the source chain of the failed call's status.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there, the name is unknown, the network is down.
    #[error("{address} cannot be reached")]
    Dial {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("{address} did not answer within {} s", waited.as_secs())]
    Timeout {
        /// Where.
        address: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// What listens there cannot prove that it belongs to the farm.
    #[error("no trusted connection to {address}")]
    Handshake {
        /// Where.
        address: String,
        /// Why.
        source: Untrusted,
    },
    /// Its certificate does not say whose it is.
    #[error("the server at {address} does not say who it is")]
    NoIdentity {
        /// Where.
        address: String,
        /// Why.
        source: ReadIdentityError,
    },
    /// It is another server.
    #[error("the server at {address} is {found}, and {expected} was expected there; check the address")]
    WrongPeer {
        /// Where.
        address: String,
        /// Who it is.
        found: String,
        /// Who it was to be.
        expected: String,
    },
}

impl Tls {
    /// A channel to the server at `address` (`https://host:port`) that connects when it is first used and again
    /// whenever the connection is lost, each time with the identity as it is then. The server must be `expect`.
    pub fn channel(&self, address: &str, expect: ExpectedPeer) -> Result<Channel, InvalidAddress> {
        self.channel_over(address, expect, dial)
    }

    /// As [`Tls::channel`], over streams that `dial` makes for `host:port`: a simulated network, a proxy.
    pub fn channel_over<D, F, S>(&self, address: &str, expect: ExpectedPeer, dial: D) -> Result<Channel, InvalidAddress>
    where
        D: Fn(String) -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let target = Target::parse(address)?;
        // tonic refuses the scheme https unless it does the TLS itself, so it is told of it as the origin only.
        let invalid = || InvalidAddress { address: address.to_owned() };
        let endpoint = Endpoint::from_shared(format!("http://{}", target.authority)).map_err(|_| invalid())?;
        let origin = format!("https://{}", target.authority).parse::<Uri>().map_err(|_| invalid())?;
        Ok(endpoint
            .origin(origin)
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .keep_alive_timeout(PROBE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(Connector { tls: self.clone(), target, expect, dial }))
    }
}

async fn dial(authority: String) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(authority).await?;
    // Messages are small and wait for each other; gathering them would only delay them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whom to call: `host:port`, and the name that the certificate must hold.
#[derive(Debug, Clone)]
struct Target {
    authority: String,
    name: ServerName<'static>,
}

impl Target {
    fn parse(address: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress { address: address.to_owned() };
        let uri: Uri = address.parse().map_err(|_| invalid())?;
        let (Some("https"), Some(host), Some(port)) = (uri.scheme_str(), uri.host(), uri.port_u16()) else {
            return Err(invalid());
        };
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_user || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid());
        }
        // An IPv6 address stands in brackets in a URI, and without them in a certificate.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| invalid())?;
        Ok(Self { authority: format!("{host}:{port}"), name })
    }
}

#[derive(Clone)]
struct Connector<D> {
    tls: Tls,
    target: Target,
    expect: ExpectedPeer,
    dial: D,
}

impl<D, F, S> Service<Uri> for Connector<D>
where
    D: Fn(String) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Response = TokioIo<TlsStream<S>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

impl<D, F, S> Connector<D>
where
    D: Fn(String) -> F,
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    async fn connect(self) -> Result<TlsStream<S>, ConnectError> {
        let address = || format!("https://{}", self.target.authority);
        let dialled = timeout(DIAL_TIMEOUT, (self.dial)(self.target.authority.clone())).await;
        let stream = dialled
            .map_err(|_| ConnectError::Timeout { address: address(), waited: DIAL_TIMEOUT })?
            .map_err(|source| ConnectError::Dial { address: address(), source })?;

        let loaded = self.tls.loaded();
        let connector = TlsConnector::from(loaded.client.clone());
        let shaken = timeout(HANDSHAKE_TIMEOUT, connector.connect(self.target.name.clone(), stream)).await;
        let stream = shaken
            .map_err(|_| ConnectError::Timeout { address: address(), waited: HANDSHAKE_TIMEOUT })?
            .map_err(|error| ConnectError::Handshake { address: address(), source: error.into() })?;

        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = chain.first().expect("a server's certificate has just been verified");
        let found = read_identity(leaf).map_err(|source| ConnectError::NoIdentity { address: address(), source })?;
        let farm = &loaded.identity.farm;
        if self.expect.matches(farm, &found) {
            Ok(stream)
        } else {
            let expected = self.expect.describe(farm);
            Err(ConnectError::WrongPeer {
                address: address(),
                found: format!("{found} of farm {}", found.farm),
                expected,
            })
        }
    }
}
