//! The instance itself: from its key store and database to a server, until it is told to end.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::service::Service;
use crate::database::Database;
use crate::serve::serve;
use crate::signals::termination;

/// Connections to the database; the demo's load is small.
const CONNECTIONS_MAX: u32 = 4;

/// Serves until told to end.
pub(super) async fn run(folder: &Folder, detached: bool) -> anyhow::Result<()> {
    if detached {
        nix::unistd::setsid().context("beginning a session of its own")?;
    }
    // First the name of this process, then the look at the mark. `offline` does it the other way round, so one of the
    // two always sees the other, and no instance comes up unseen while its rows are turned.
    let _lock = folder.become_the_instance()?;
    if folder.is_offline_for_good() {
        bail!("this instance was taken offline and stays so until `sample-vault start`");
    }
    let settings = folder.settings()?;
    let keys = settings.key_store().current().context("opening encryption.config")?;
    let database = Database::open(&settings.database_url, "sample-vault", CONNECTIONS_MAX)?;
    let listener =
        TcpListener::bind(settings.listen).await.with_context(|| format!("listening on {}", settings.listen))?;
    tracing::info!(listen = %settings.listen, key = %keys.active().secret.id(), "started, not admitted yet");

    let shutdown = CancellationToken::new();
    let stopper = shutdown.clone();
    tokio::spawn(async move {
        termination().await;
        stopper.cancel();
    });
    let service = Arc::new(Service::new(&keys, database.clone()));
    let handler = move |request| {
        let service = Arc::clone(&service);
        async move { service.answer(request).await }
    };
    serve(listener, handler, shutdown).await;
    database.close().await;
    tracing::info!("ended");
    Ok(())
}
