//! Measuring on scratch tables: figures for every method that the database has, and nothing left behind.

use reencrypt::bench::{BenchError, BenchOptions, bench};
use reencrypt::{DatabaseConfig, EngineError};

use crate::farm::{Place, Vault, on_both};

/// Lets the account make tables; the documented grants name the ledger's alone.
async fn let_measure(vault: &Vault) {
    if let Place::Mariadb { .. } = &vault.place {
        vault.run(&vault.named("GRANT ALL ON vault.* TO keyturn_agent@'%';")).await;
    }
}

const OPTIONS: BenchOptions = BenchOptions { rows: 300, row_bytes: 512, agents: 2, repeat: 1 };

/// The tables of the whole database, Keyturn's own among them.
async fn tables(vault: &Vault) -> Vec<String> {
    let report = vault.engine().await.scan(&|_| {}).await.unwrap();
    report.own_tables
}

on_both! {
    async fn every_method_is_measured_and_nothing_is_left(vault) {
        let_measure(&vault).await;
        let config = DatabaseConfig { application_role: None, ..vault.config.clone() };
        let before = tables(&vault).await;
        let report = bench(&config, &OPTIONS, &|_| {}, std::future::pending()).await.unwrap();
        assert!(report.update_floor_ms > 0.0 && report.copy_floor_ms > 0.0 && report.in_place_ms > 0.0);
        assert_eq!(report.shadow_ms.is_none(), report.shadow_problem.is_some());
        assert_eq!((report.rows, report.naive_sample_rows, report.rounds.len()), (300, 300, 1));
        assert_eq!(tables(&vault).await, before);
    }

    async fn what_is_given_up_is_removed(vault) {
        let_measure(&vault).await;
        let before = tables(&vault).await;
        let options = BenchOptions { rows: 50_000, ..OPTIONS };
        let stop = tokio::time::sleep(std::time::Duration::from_millis(700));
        let ended = bench(&vault.config, &options, &|_| {}, stop).await;
        assert!(matches!(ended, Err(BenchError::Stopped)), "{ended:?}");
        assert_eq!(tables(&vault).await, before);
        // And a rotation is not in its way, nor it in a rotation's.
        vault.seed(20).await;
        vault.engine().await.fence(&vault.mark(1, rotation::Direction::Forward)).await.unwrap();
        let refused = bench(&vault.config, &OPTIONS, &|_| {}, std::future::pending()).await;
        assert!(matches!(refused, Err(BenchError::Engine(EngineError::LedgerOpen(_)))), "{refused:?}");
    }
}
