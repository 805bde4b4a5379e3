//! Serves gRPC over mutual TLS: access control before every method, health and reflection beside the services.

pub(crate) mod accept;

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;

pub use accept::{ACCEPT_TIMEOUT, HANDSHAKES_MAX, Listener};

use crate::FILE_DESCRIPTOR_SET;
use crate::access::AccessLayer;
use crate::channel::{PROBE_INTERVAL, PROBE_TIMEOUT};
use crate::tls::Tls;

/// How long calls under way may still take when the server is told to end; what lasts longer is cut off. Work is
/// idempotent and streams are taken up again, so there is nothing to wait for but short calls.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// After this a connection takes no new calls, and its client makes a new one: so a caller whose certificate is no
/// longer accepted stays for as long at most. Calls under way go on.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// Most calls at once over one connection: an agent runs a handful, an operator watches a few rotations.
const STREAMS_MAX: u32 = 256;

/// The services that every server has beside its own.
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Serves `routes` until `shutdown`, which ends it within [`SHUTDOWN_GRACE`]; no connection outlives it, even when
/// this future is dropped. `services` are the full names (`keyturn.v1.Agent`) that health and reflection speak of.
pub async fn serve<L: Listener>(
    listener: L,
    tls: &Tls,
    routes: Routes,
    services: &[&str],
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let incoming = accept::incoming(listener, tls.clone(), cut);

    let (health, health_server) = tonic_health::server::health_reporter();
    for service in services {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let routes = with_reflection(routes.add_service(health_server), services)?;

    let stop = CancellationToken::new();
    let mut server = Server::builder()
        .layer(AccessLayer)
        .http2_keepalive_interval(Some(PROBE_INTERVAL))
        .http2_keepalive_timeout(Some(PROBE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        // Without a grace on purpose: with one, tonic sends no notice at this age and cuts calls off at the end of it.
        .max_connection_age(CONNECTION_AGE_MAX);
    let serving =
        server.add_routes(routes.prepare()).serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::pin!(serving);

    tokio::select! {
        ended = &mut serving => return ended.map_err(io::Error::other),
        () = shutdown => {}
    }
    for service in services.iter().chain([&""]) {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    stop.cancel();
    timeout(SHUTDOWN_GRACE, serving).await.unwrap_or(Ok(())).map_err(io::Error::other)
}

/// Reflection in both versions, since tools still ask for the older one. It lists what this server has, not what the
/// protocol knows.
fn with_reflection(routes: Routes, services: &[&str]) -> io::Result<Routes> {
    let builder = || {
        services.iter().copied().chain([HEALTH]).chain(REFLECTION).fold(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET),
            |builder, service| builder.with_service_name(service),
        )
    };
    Ok(routes
        .add_service(builder().build_v1().map_err(io::Error::other)?)
        .add_service(builder().build_v1alpha().map_err(io::Error::other)?))
}
