//! `keyturn recover` after everything was killed while rows were being turned: some are under each key.

use std::time::{Duration, Instant};

use keys::SecretKey;
use reencrypt::{CensusRequest, DatabaseConfig, Engine, Targets};
use serde_json::Value;

use crate::recover::{assert_rows_under, assert_serving, bundle_of, hold, recover, states};
use crate::sample_vault::TARGETS;
use crate::vault::VaultFarm;

/// How long it may take until rows are turned.
const LIMIT: Duration = Duration::from_secs(60);

/// So slow that all cannot be turned before everything is killed.
const ROWS_PER_SECOND: &str = "4";

/// Values under the old key, and under the new one.
fn values(vault: &VaultFarm) -> (u64, u64) {
    let keys: Vec<SecretKey> =
        ["old", "new"].map(|name| bundle_of(vault, name).active().secret.clone()).into_iter().collect();
    let config = DatabaseConfig::new(&vault.urls.agent);
    let census = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let engine = Engine::connect(&config, Targets::parse(TARGETS).expect("targets")).await.expect("an engine");
        let request = CensusRequest { keys: &keys, accepted: &[], sample_rows: None, shards: &[] };
        engine.census(&request, &|_| {}).await.expect("read")
    });
    assert_eq!(census.iter().map(|table| table.unopened).sum::<u64>(), 0, "each opens under one of the two");
    let count = |key: &SecretKey| census.iter().filter_map(|table| table.by_key.get(&key.id())).sum();
    (count(&keys[0]), count(&keys[1]))
}

fn killed_among_rows(mut vault: VaultFarm) {
    hold(&vault, "reencrypt", &[]);
    vault.rotation(&["throttle", "--rows-per-second", ROWS_PER_SECOND]).done();
    vault.rotation(&["resume"]).done();
    let deadline = Instant::now() + LIMIT;
    while values(&vault).1 == 0 {
        assert!(Instant::now() < deadline, "no row is turned");
    }
    vault.kill_keyturn();
    let (old, new) = values(&vault);
    assert!(old > 0 && new > 0, "{old} and {new}");

    let first = recover(&vault, 0, &[]).json();
    assert_eq!(first["verdict"], "back", "{first}");
    let done = states(&first, "done");
    assert!(done.contains(&"restore-rows".to_owned()) && done.contains(&"verify-rows".to_owned()), "{first}");
    assert_rows_under(&vault, "old");
    recover(&vault, 1, &[]).done();
    assert_serving(&vault, "old");

    // It was not held, so coordinators that come back end it by themselves.
    vault.revive_keyturn();
    let ended = loop {
        let ended = vault.rotation(&["watch", "-o", "json"]);
        if ended.code != 5 {
            break ended;
        }
        assert!(Instant::now() < deadline + LIMIT, "nobody leads: {}", ended.stderr);
    };
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let ended: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(ended["outcome"], "rolled_back", "{ended}");
    assert_rows_under(&vault, "old");
}

#[test]
fn killed_among_rows_all_come_back_on_sqlite() {
    killed_among_rows(VaultFarm::new(2));
}

#[test]
fn killed_among_rows_all_come_back_on_postgresql() {
    killed_among_rows(VaultFarm::on_postgres(2));
}

#[test]
fn killed_among_rows_all_come_back_on_mariadb() {
    killed_among_rows(VaultFarm::on_mariadb(2));
}

#[test]
fn killed_among_rows_all_come_back_on_mysql() {
    killed_among_rows(VaultFarm::on_mysql(2));
}
