//! Instances in this process, for tests of what stands before them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use keys::{KeySet, SecretKey};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::service::Service;
use crate::database::{Database, StoredRow};
use crate::http::{request, send};
use crate::seed::content::Counts;
use crate::seed::seed;
use crate::serve::serve;
use crate::server::VaultDatabase;
use crate::tables::TABLES;

/// Admitted instances over one seeded SQLite database.
pub(crate) struct TestFarm {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) database: Database,
    _stop: DropGuard,
    _folder: TempDir,
}

impl TestFarm {
    pub(crate) async fn start(instances: usize, counts: Counts) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = VaultDatabase::prepare("sqlite", folder.path()).await.expect("a database");
        let database = place.connect().expect("a connection");
        let keys = KeySet::new("test", SecretKey::generate(), 0);
        seed(&database, &keys.active().secret, counts).await.expect("seeding");
        let stop = CancellationToken::new();
        let mut addresses = Vec::new();
        for _ in 0..instances {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            addresses.push(listener.local_addr().expect("an address"));
            let own = Database::open(&place.application_url, "test", 2).expect("a connection");
            let service = Arc::new(Service::new(&keys, own));
            let handler = move |request| {
                let service = Arc::clone(&service);
                async move { service.answer(request).await }
            };
            tokio::spawn(serve(listener, handler, stop.clone()));
        }
        let farm = Self { addresses, database, _stop: stop.drop_guard(), _folder: folder };
        for number in 0..instances {
            farm.post(number, "/admin/admit").await;
        }
        farm
    }

    /// Posts to an instance.
    pub(crate) async fn post(&self, number: usize, path: &str) {
        let address = self.addresses[number];
        let answer = send(address, request(Method::POST, address, path, Bytes::new()), Duration::from_secs(20)).await;
        assert!(answer.expect("an answer").status().is_success());
    }

    /// Everything as it is stored now.
    pub(crate) async fn stored(&self) -> Vec<Vec<StoredRow>> {
        let mut tables = Vec::new();
        for table in &TABLES {
            let mut rows = Vec::new();
            self.database
                .for_each_row(table, |row| {
                    rows.push(row);
                    Ok(())
                })
                .await
                .expect("reading");
            tables.push(rows);
        }
        tables
    }

    /// Stores the served values as they were.
    pub(crate) async fn put_back(&self, tables: &[Vec<StoredRow>]) {
        for (table, rows) in TABLES.iter().zip(tables) {
            for row in rows {
                if let Some(value) = &row.values[0] {
                    let set = self.database.set_value(table, table.served(), &row.key, value).await;
                    assert!(set.expect("writing"), "{} {}", table.name, row.key);
                }
            }
        }
    }
}
