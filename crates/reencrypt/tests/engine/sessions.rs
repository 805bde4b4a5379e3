//! Sessions on PostgreSQL between two shards: taken over, ended in time, replaced when they are gone, and nobody's holder.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rotation::{Direction, Shard};

use crate::cluster;
use crate::farm::{Vault, stand_still};

const SESSIONS: &str = "SELECT pid::text FROM pg_stat_activity
    WHERE starts_with(application_name, 'keyturn-agent/') AND datname = current_database()";

async fn sessions(vault: &Vault) -> BTreeSet<Option<Vec<u8>>> {
    vault.rows(SESSIONS).await.into_iter().flatten().collect()
}

/// A vault that is fenced, with several shards.
async fn fenced() -> (Vault, Vec<Shard>) {
    let vault = Vault::postgres_on(cluster::shared()).await;
    vault.seed(3000).await;
    let survey = vault.survey().await;
    vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    (vault, survey.shards)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sessions_of_a_finished_shard_go_on_with_the_next_and_are_soon_ended_without_one() {
    let (vault, shards) = fenced().await;
    let engine = vault.engine().await;
    let mut after = Vec::new();
    for shard in &shards {
        engine.reencrypt(&vault.job(shard, 1, vault.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
        after.push(sessions(&vault).await);
    }
    // One that reads and one that writes. A machine that is busy may take longer for one of the shards than they wait.
    assert!(after.windows(2).any(|two| two[0].len() == 2 && two[0] == two[1]), "{after:?}");
    for _ in 0..100 {
        if sessions(&vault).await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("an agent without work still holds sessions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_ended_while_it_waited_is_replaced() {
    let (vault, shards) = fenced().await;
    let engine = vault.engine().await;
    let mut ended = BTreeSet::new();
    for shard in &shards {
        engine.reencrypt(&vault.job(shard, 1, vault.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
        let waiting = sessions(&vault).await;
        assert!(waiting.is_disjoint(&ended));
        ended.extend(waiting);
        vault.run(&format!("SELECT pg_terminate_backend(s.pid::int, 5000) FROM ({SESSIONS}) AS s(pid)")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_again_for_a_finished_shard_ends_no_session_that_works_on_the_next() {
    let (vault, shards) = fenced().await;
    let (engine, other) = (vault.engine().await, vault.engine().await);
    let mark = vault.mark(2, Direction::Forward);
    let done = engine.reencrypt(&vault.job(&shards[0], 1, mark), &|_| {}).await.unwrap();
    let asked = AtomicBool::new(false);
    let ask_again = |_rows| {
        if !asked.swap(true, Ordering::SeqCst) {
            let again = stand_still(other.reencrypt(&vault.job(&shards[0], 2, mark), &|_| {})).unwrap();
            assert_eq!(again, done);
        }
    };
    engine.reencrypt(&vault.job(&shards[1], 1, mark), &ask_again).await.unwrap();
    assert!(asked.load(Ordering::SeqCst));
}
