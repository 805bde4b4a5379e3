//! Who may call what: one table for all services. A method that does not stand in it is denied to everybody.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::Limited;
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tower::{Layer, Service};

pub use crate::identity::{Peer, Role};
use crate::status;

use Role::{Agent, Coordinator, Operator, Viewer};

const ANYBODY: &[Role] = &[Coordinator, Agent, Operator, Viewer];
const COORDINATORS: &[Role] = &[Coordinator];
const OPERATORS: &[Role] = &[Operator];
const READERS: &[Role] = &[Operator, Viewer];

/// Every method of every service that a Keyturn process serves, with the roles that may call it.
pub const METHODS: &[(&str, &[Role])] = &[
    ("/keyturn.v1.Operator/GetFarm", READERS),
    ("/keyturn.v1.Operator/EnrollNode", OPERATORS),
    ("/keyturn.v1.Operator/RemoveNode", OPERATORS),
    ("/keyturn.v1.Operator/PlanRotation", OPERATORS),
    ("/keyturn.v1.Operator/StartRotation", OPERATORS),
    ("/keyturn.v1.Operator/AbortRotation", OPERATORS),
    ("/keyturn.v1.Operator/PauseRotation", OPERATORS),
    ("/keyturn.v1.Operator/ResumeRotation", OPERATORS),
    ("/keyturn.v1.Operator/RetryRotation", OPERATORS),
    ("/keyturn.v1.Operator/ThrottleRotation", OPERATORS),
    ("/keyturn.v1.Operator/RetireRotation", OPERATORS),
    ("/keyturn.v1.Operator/GetRotation", READERS),
    ("/keyturn.v1.Operator/ListRotations", READERS),
    ("/keyturn.v1.Operator/WatchRotation", READERS),
    ("/keyturn.v1.Operator/ListReplicas", READERS),
    ("/keyturn.v1.Operator/ChangeReplicas", OPERATORS),
    ("/keyturn.v1.Agent/Execute", COORDINATORS),
    ("/keyturn.v1.Agent/Adopt", OPERATORS),
    ("/keyturn.v1.Agent/Describe", ANYBODY),
    ("/keyturn.v1.Raft/AppendEntries", COORDINATORS),
    ("/keyturn.v1.Raft/Vote", COORDINATORS),
    ("/keyturn.v1.Raft/InstallSnapshot", COORDINATORS),
    ("/keyturn.v1.Raft/Probe", COORDINATORS),
    ("/grpc.health.v1.Health/Check", ANYBODY),
    ("/grpc.health.v1.Health/Watch", ANYBODY),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANYBODY),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ANYBODY),
];

/// Largest request to a method that viewers may call: it names a rotation at most. Anybody of the farm could otherwise
/// fill a server's memory with as many of the largest messages as a connection takes at once.
pub const QUESTION_BYTES_MAX: usize = 64 * 1024;

/// Whether the method only answers questions.
fn only_answers(path: &str) -> bool {
    METHODS.iter().any(|(method, roles)| *method == path && roles.contains(&Viewer))
}

/// Decides whether `peer` may call the method at `path`; a refusal names the role and the method.
pub fn check(path: &str, peer: Option<&Peer>) -> Result<(), Status> {
    let Some(peer) = peer else {
        return Err(status::error(
            Code::Unauthenticated,
            "NO_IDENTITY",
            format!("{path} was called over a connection without a certificate"),
            "call over mutual TLS with a certificate of the farm's CA",
        ));
    };
    let Some((_, roles)) = METHODS.iter().find(|(method, _)| *method == path) else {
        return Err(status::error(
            Code::PermissionDenied,
            "METHOD_DENIED",
            format!("{path} is not a method that any role may call"),
            "use a client of the same release as the server",
        ));
    };
    if roles.contains(&peer.role) {
        return Ok(());
    }
    let allowed: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    Err(status::error(
        Code::PermissionDenied,
        "ROLE_DENIED",
        format!("{peer} may not call {path}: its role is {}, and the method is for {}", peer.role, allowed.join(", ")),
        &format!("use a certificate of role {}, made by `keyturn pki issue`", allowed.join(" or ")),
    ))
}

/// What is known of a connection; tonic puts it into the extensions of every request that arrives over it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Who called.
    pub peer: Arc<Peer>,
    /// From where.
    pub address: SocketAddr,
}

/// Who sent the request; `None` when it did not arrive through [`crate::serve::serve`].
pub fn peer<T>(request: &Request<T>) -> Option<&Peer> {
    request.extensions().get::<Connection>().map(|connection| connection.peer.as_ref())
}

/// Puts [`check`] before a server's services.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessLayer;

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner }
    }
}

/// Made by [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct Access<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for Access<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<Connection>();
        match check(request.uri().path(), connection.map(|connection| connection.peer.as_ref())) {
            Ok(()) if only_answers(request.uri().path()) => {
                Box::pin(self.inner.call(request.map(|body| Body::new(Limited::new(body, QUESTION_BYTES_MAX)))))
            }
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(refusal) => {
                let address = connection.map(|connection| connection.address);
                tracing::warn!(?address, "refused: {}", refusal.message());
                Box::pin(std::future::ready(Ok(refusal.into_http())))
            }
        }
    }
}
