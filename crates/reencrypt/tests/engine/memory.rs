//! How much memory the work takes, measured in a process that does nothing else: its high-water mark, as the kernel has it.

use std::process::Command;
use std::sync::Arc;

use keys::SecretKey;
use rotation::{Direction, Strategy};

use crate::farm::{Place, Vault};
use crate::mariadb::Server;

const TARGETS: &str = "version = 1\n[[table]]\nname = 'files'\nkey = ['id']\n[[table.column]]\nname = 'content'\n";

/// Tells this program that it is the one to be measured, and on which database.
const CHILD: &str = "KEYTURN_TEST_MEMORY_OF";

const MIB: usize = 1 << 20;

async fn seed(vault: &mut Vault, rows: usize, bytes: usize) {
    (vault.old, vault.new) = (key(1), key(2));
    let blob = match &vault.place {
        Place::Sqlite { .. } => "BLOB",
        Place::Postgres { .. } => "bytea",
        Place::Mariadb { .. } => "LONGBLOB",
    };
    vault.run(&format!("CREATE TABLE files (id bigint PRIMARY KEY, name text, content {blob})")).await;
    if vault.is_mariadb() {
        vault.grant("files", "", "content").await;
        vault.grant_shadows().await;
    }
    if let Place::Postgres { .. } = &vault.place {
        let own = "GRANT vault_app TO keyturn_agent; GRANT ALL ON SCHEMA public TO vault_app;
            ALTER TABLE files ALTER content SET STORAGE EXTERNAL; ALTER TABLE files OWNER TO vault_app";
        vault.run(&vault.named(own)).await;
    }
    let plaintext = vec![b'x'; bytes];
    for id in 0..rows {
        let value = vault.encrypt(&vault.old, &plaintext, keys::value::Encoding::Raw, "");
        let value = vault.literal(&crate::farm::Cell::Bytes(value));
        vault.run(&format!("INSERT INTO files VALUES ({id}, 'n', {value})")).await;
    }
}

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(vec![byte; 32]).unwrap()
}

/// Does a whole rotation of this database in a process of its own, both shards at once, and says how many bytes it needed
/// at most.
fn measure(test: &str, vault: &Vault, strategy: Strategy) -> usize {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, format!("{strategy} {}", vault.config.url))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let peak = text.lines().find_map(|line| line.trim().strip_prefix("VmHWM:")).expect("the child says it");
    peak.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// Whether this process is the one that is measured; then it has done its work.
async fn is_child() -> bool {
    let Ok(what) = std::env::var(CHILD) else { return false };
    let (strategy, url) = what.split_once(' ').unwrap();
    let mut vault = Vault::sqlite_bare(TARGETS);
    (vault.old, vault.new) = (key(1), key(2));
    vault.config = reencrypt::DatabaseConfig::new(url);
    vault.strategy = if strategy == "shadow" { Strategy::Shadow } else { Strategy::InPlace };
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let engine = vault.engine().await;
    let survey = engine.survey(&crate::farm::request(&ring, &[], 2), &|_| {}).await.unwrap();
    let mark = |epoch| vault.mark(epoch, Direction::Forward);
    engine.fence(&mark(1)).await.unwrap();
    let job_of = |shard, epoch| vault.job(shard, epoch, mark(epoch));
    let jobs = |epoch| survey.shards.iter().map(|shard| job_of(shard, epoch)).collect::<Vec<_>>();
    let (copy, verify) = (jobs(2), jobs(4));
    futures::future::try_join_all(copy.iter().map(|job| engine.reencrypt(job, &|_| {}))).await.unwrap();
    engine.finish_shadows(&mark(3), &|_| {}).await.unwrap();
    futures::future::try_join_all(verify.iter().map(|job| engine.verify(job, &|_| {}))).await.unwrap();
    if vault.strategy == Strategy::Shadow {
        engine.swap(&vault.swap_job(&survey, mark(5)), &|_| {}).await.unwrap();
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    // The parent reads it.
    std::io::Write::write_all(&mut std::io::stdout(), format!("\n{peak}\n").as_bytes()).unwrap();
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_of_16_mib_take_less_than_256_mib_with_two_shards_at_once_on_sqlite() {
    if is_child().await {
        return;
    }
    for strategy in [Strategy::InPlace, Strategy::Shadow] {
        let mut vault = Vault::sqlite_bare(TARGETS);
        seed(&mut vault, 8, 16 * MIB).await;
        let test = "memory::attachments_of_16_mib_take_less_than_256_mib_with_two_shards_at_once_on_sqlite";
        let peak = measure(test, &vault, strategy);
        assert!(peak < 256 * MIB, "{strategy}: {} MiB", peak / MIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_of_16_mib_take_less_than_256_mib_with_two_shards_at_once_on_postgres() {
    if is_child().await {
        return;
    }
    for strategy in [Strategy::InPlace, Strategy::Shadow] {
        let mut vault = Vault::postgres_bare(TARGETS).await;
        seed(&mut vault, 8, 16 * MIB).await;
        let test = "memory::attachments_of_16_mib_take_less_than_256_mib_with_two_shards_at_once_on_postgres";
        let peak = measure(test, &vault, strategy);
        assert!(peak < 256 * MIB, "{strategy}: {} MiB", peak / MIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn larger_values_go_singly_and_take_six_times_their_size_at_most() {
    if is_child().await {
        return;
    }
    let size = 64 * MIB;
    // A value is written by one statement, and may have a tenth of the log at most.
    let server = Arc::new(Server::start("--max-allowed-packet=256M --innodb-log-file-size=1G"));
    for strategy in [Strategy::InPlace, Strategy::Shadow] {
        for mut vault in [
            Vault::mariadb_bare_on(Arc::clone(&server), TARGETS).await,
            Vault::sqlite_bare(TARGETS),
            Vault::postgres_bare(TARGETS).await,
        ] {
            seed(&mut vault, 2, size).await;
            let test = "memory::larger_values_go_singly_and_take_six_times_their_size_at_most";
            let peak = measure(test, &vault, strategy);
            assert!(peak < 6 * size + 32 * MIB, "{strategy} of {}: {} MiB", vault.config.url, peak / MIB);
        }
    }
}
