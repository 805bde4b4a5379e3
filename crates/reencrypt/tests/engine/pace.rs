//! Writers keep to the pace that was asked for and to what the standbys bear, say that they are alive, and give up at once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keys::KeySet;
use reencrypt::{DatabaseConfig, Engine, ShardJob};
use rotation::{Direction, Shard};
use sqlx::AssertSqlSafe;

use crate::cluster::Cluster;
use crate::farm::{Vault, on_both, request, under};
use crate::makes::on_mariadb_and_mysql;
use crate::mariadb::{Make, Server};

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
        // No chunk has more than a second's worth: three, and while each is paid for the writer says that it is alive.
        assert!(told.len() >= 4, "{told:?}");
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
        // At that pace the rest takes minutes.
        assert!(began.elapsed() < Duration::from_secs(10));
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
    let told = Mutex::new(Vec::new());
    let progress = |rows| told.lock().unwrap().push(rows);
    engine.reencrypt(&vault.job(&shard, 2, vault.mark(4, Direction::Back)), &progress).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "nobody slept between two chunks: {told:?}");
}

/// Two servers on loopback, of which the second replicates everything of the first.
async fn replicated(make: Make) -> (Arc<Server>, Server) {
    let ports = [free_port(), free_port()];
    let server = |number: usize| {
        let options = format!(
            "--skip-networking=0 --bind-address=127.0.0.1 --port={} --server-id={} --log-bin=binlog",
            ports[number],
            number + 1
        );
        match make {
            Make::MariaDb => Server::start_of(make, &format!("{options} --binlog-format=ROW")),
            Make::MySql => Server::start_of(
                make,
                &format!("{options} --gtid-mode=ON --enforce-gtid-consistency --relay-log=relay"),
            ),
        }
    };
    let (primary, replica) = (server(0), server(1));
    let grant = "CREATE USER replicates@'%' IDENTIFIED BY 'r'; GRANT REPLICATION SLAVE ON *.* TO replicates@'%'";
    let mut root = primary.superuser("mysql").await;
    sqlx::raw_sql(grant).execute(&mut root).await.unwrap();
    let follow = format!(
        "/*M! CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'replicates', MASTER_PASSWORD = 'r',
             MASTER_USE_GTID = slave_pos */
         /*!80400 CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'replicates',
             SOURCE_PASSWORD = 'r', SOURCE_AUTO_POSITION = 1, SOURCE_SSL = 1 */;
         START REPLICA",
        ports[0], ports[0]
    );
    let mut root = replica.superuser("mysql").await;
    sqlx::raw_sql(AssertSqlSafe(follow)).execute(&mut root).await.unwrap();
    (Arc::new(primary), replica)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// More than 9,000 rows take at the pace that is asked for, on a busy machine too, and less than at the least one.
const BETWEEN: Duration = Duration::from_secs(8);

on_mariadb_and_mysql! {
    a_replica_that_falls_behind_slows_writers_down_and_one_that_is_gone_does_not,
}

/// The same on MariaDB and MySQL, whose replicas are asked by their own URLs.
async fn a_replica_that_falls_behind_slows_writers_down_and_one_that_is_gone_does_not(make: Make) {
    let (primary, replica) = replicated(make).await;
    let mut vault = Vault::mariadb_on(Arc::clone(&primary)).await;
    let shard = one_shard(&vault, 9_000).await;
    let mut root = replica.superuser("mysql").await;
    let began = Instant::now();
    while sqlx::raw_sql("SELECT 1 FROM mysql.user WHERE User = 'keyturn_monitor'")
        .fetch_optional(&mut root)
        .await
        .unwrap()
        .is_none()
    {
        assert!(began.elapsed() < Duration::from_secs(60), "the replica follows nobody: {:?}", replica.log());
        // Through the primary, as everything that is to be on a replica.
        vault.run(&vault.documented("replicas").replace("CREATE USER", "CREATE USER IF NOT EXISTS")).await;
    }
    vault.config.replica_urls = vec![replica.url("keyturn_monitor", "")];
    vault.config.replication_lag_seconds_max = 2;
    vault.config.lagging_rows_per_second_min = NonZeroU32::new(400).unwrap();
    // What it applies waits, and grows older.
    sqlx::raw_sql("FLUSH TABLES WITH READ LOCK").execute(&mut root).await.unwrap();
    let began = Instant::now();
    let job = at(&vault, &shard, 2_000);
    vault.engine().await.reencrypt(&job, &|_| {}).await.unwrap();
    let slowed = began.elapsed();
    assert!(slowed > BETWEEN, "as if no replica were behind: {slowed:?}");
    assert!(slowed < Duration::from_secs(60), "{slowed:?}");

    // One that applies nothing any more is behind from the first look on; what was asked for is not reached.
    sqlx::raw_sql("UNLOCK TABLES; STOP REPLICA SQL_THREAD").execute(&mut root).await.unwrap();
    let engine = vault.engine().await;
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    let back = |lease, epoch| vault.job(&shard, lease, vault.mark(epoch, Direction::Back));
    let began = Instant::now();
    engine.reencrypt(&ShardJob { rows_per_second: NonZeroU32::new(2_000), ..back(2, 4) }, &|_| {}).await.unwrap();
    let stopped = began.elapsed();
    assert!(stopped > BETWEEN, "as if no replica stood still: {stopped:?}");

    drop((root, replica));
    let mut again = Vault::mariadb_on(primary).await;
    again.config = DatabaseConfig { url: again.config.url.clone(), application_role: None, ..vault.config.clone() };
    let shard = one_shard(&again, 9_000).await;
    let told = Mutex::new(Vec::new());
    let progress = |rows| told.lock().unwrap().push(rows);
    again.engine().await.reencrypt(&at(&again, &shard, 2_000), &progress).await.unwrap();
    let told = told.into_inner().unwrap();
    // A chunk is told when it is written, and every second that it is paid for: at that pace it is one.
    assert!(told.windows(3).all(|three| three[0] < three[2]), "as if a replica were behind: {told:?}");
}

#[tokio::test]
async fn urls_of_replicas_are_refused_where_they_would_not_be_asked() {
    let mut vault = Vault::sqlite_bare(crate::farm::TARGETS);
    vault.config.replica_urls = vec!["mariadb://monitor@replica".to_owned()];
    let refused = Engine::connect(&vault.config, vault.targets.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("only those of MariaDB and MySQL"), "{refused}");
}
