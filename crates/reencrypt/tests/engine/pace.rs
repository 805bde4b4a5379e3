//! Writers keep to the pace that was asked for and to what the standbys bear, say that they are alive, and give up at once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keys::KeySet;
use reencrypt::ShardJob;
use rotation::{Direction, Shard};

use crate::cluster::Cluster;
use crate::farm::{Vault, on_both, request, under};

async fn one_shard(vault: &Vault, rows: i64) -> Shard {
    vault.seed(rows).await;
    let engine = vault.engine().await;
    let ring = KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    survey.shards.into_iter().find(|shard| shard.table == "connections").unwrap()
}

fn at(vault: &Vault, shard: &Shard, rows_per_second: u32) -> ShardJob {
    let rows_per_second = NonZeroU32::new(rows_per_second);
    ShardJob { rows_per_second, ..vault.job(shard, 1, vault.mark(2, Direction::Forward)) }
}

on_both! {
    async fn the_pace_that_is_asked_for_is_kept_smoothly_and_told(vault) {
        let shard = one_shard(&vault, 500).await;
        let told = Mutex::new(Vec::new());
        let began = Instant::now();
        let progress = |rows| told.lock().unwrap().push((began.elapsed(), rows));
        vault.engine().await.reencrypt(&at(&vault, &shard, 200), &progress).await.unwrap();
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(2_400), "{took:?}");
        let told = told.into_inner().unwrap();
        for (when, rows) in &told {
            // A chunk is written before it is paid for, and none is larger than a second's worth.
            let permitted = when.as_secs_f64() * 200.0 + 200.0;
            assert!(*rows as f64 <= permitted, "{rows} rows after {when:?}");
        }
        assert!(told.windows(2).all(|pair| pair[1].0 - pair[0].0 < Duration::from_secs(3)), "{told:?}");
        assert!(under(&vault.census().await).0 > 0, "the other tables are not turned");
    }

    async fn a_writer_that_sleeps_is_alive_and_gives_up_at_once(vault) {
        let shard = one_shard(&vault, 300).await;
        let calls = Arc::new(AtomicU64::new(0));
        let (engine, job, told) = (vault.engine().await, at(&vault, &shard, 1), Arc::clone(&calls));
        let work = tokio::spawn(async move { engine.reencrypt(&job, &move |_| { told.fetch_add(1, Ordering::Relaxed); }).await });
        // A row a second: it cannot have come far, and has said more than once that it is alive.
        while calls.load(Ordering::Relaxed) < 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let began = Instant::now();
        work.abort();
        assert!(work.await.unwrap_err().is_cancelled());
        assert!(began.elapsed() < Duration::from_millis(500));
        let tally = vault.engine().await.reencrypt(&at(&vault, &shard, 0), &|_| {}).await.unwrap();
        assert_eq!(tally.rows, 300);
    }
}

/// A standby that stands still makes writers slow, though never slower than the least, and one that is gone does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_falls_behind_slows_writers_down_and_one_that_is_gone_does_not() {
    let cluster = Arc::new(Cluster::start());
    let mut vault = Vault::postgres_on(Arc::clone(&cluster)).await;
    vault.config.replication_lag_bytes_max = 4096;
    vault.config.lagging_rows_per_second_min = NonZeroU32::new(1000).unwrap();
    let shard = one_shard(&vault, 9_000).await;
    let standby = cluster.standby();
    let mut session = standby.superuser("postgres").await;
    let streams = "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'";
    while vault.text(streams).await != "1" {
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("SELECT pg_wal_replay_pause()").execute(&mut session).await.unwrap();
    let began = Instant::now();
    // The first second is at full speed, so the pace is bounded from the start; this is half of what is written then.
    let job = at(&vault, &shard, 2_000);
    vault.engine().await.reencrypt(&job, &|_| {}).await.unwrap();
    let slowed = began.elapsed();
    assert!(slowed > Duration::from_millis(5_500), "as if no standby were behind: {slowed:?}");
    assert!(slowed < Duration::from_secs(60), "{slowed:?}");
    drop((session, standby));
    while vault.text(streams).await != "0" {
        tokio::task::yield_now().await;
    }
    let engine = vault.engine().await;
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    let began = Instant::now();
    engine.reencrypt(&vault.job(&shard, 2, vault.mark(4, Direction::Back)), &|_| {}).await.unwrap();
    assert!(began.elapsed() < slowed, "{:?}", began.elapsed());
}
