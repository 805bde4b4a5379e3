//! Sessions between two shards. What a new one has to learn of the catalog costs as much as a good part of a shard, so one
//! that has finished its shard waits a moment for the next; an agent without work soon has none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

/// How long a session waits: longer than it takes to be given the next shard, too short to be in anybody's way.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// How long one that is taken may take to answer before another is opened instead.
const ANSWER_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Vec<Waiting>>);

#[derive(Debug)]
struct Waiting {
    connection: PgConnection,
    triggers_off: bool,
    since: Instant,
}

impl Idle {
    /// The session that was left last and is still there, with whether triggers are off in it.
    pub(super) async fn take(&self) -> Option<(PgConnection, bool)> {
        loop {
            let Waiting { mut connection, triggers_off, .. } = self.waiting().pop()?;
            if matches!(tokio::time::timeout(ANSWER_MAX, connection.ping()).await, Ok(Ok(()))) {
                return Some((connection, triggers_off));
            }
        }
    }

    /// Leaves a session for the next: in no transaction, with all settings as they were when it was opened.
    pub(super) fn leave(self: &Arc<Self>, connection: PgConnection, triggers_off: bool) {
        self.waiting().push(Waiting { connection, triggers_off, since: Instant::now() });
        let idle = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE_MAX).await;
            idle.end_expired().await;
        });
    }

    async fn end_expired(&self) {
        let expired: Vec<Waiting> =
            self.waiting().extract_if(.., |waiting| waiting.since.elapsed() >= IDLE_MAX).collect();
        for waiting in expired {
            let _ = waiting.connection.close().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        // A list of connections is whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
