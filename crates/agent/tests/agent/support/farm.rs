//! A farm of one node: certificates, database, key store, instance, and its agent in a runtime of its own, so that it
//! can be torn down in the middle of anything.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use keys::value::{Cipher, CipherVersion, Encoding};
use keys::{KeySet, SecretKey};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wire::pki::{Authority, Role};
use wire::tls::{Tls, TlsFiles};

use super::Instance;

/// The node under test.
pub(crate) const NODE: &str = "node-1";
/// The farm under test.
pub(crate) const FARM: &str = "demo";
/// Rows of the table; enough for several shards.
pub(crate) const ROWS: i64 = 50;
const TARGETS: &str = "version = 1\n[[table]]\nname = \"entries\"\nkey = [\"id\"]\n\
                       [[table.column]]\nname = \"secret\"\nencoding = \"base64\"\n";

/// Everything but the agent's process.
pub(crate) struct Farm {
    folder: tempfile::TempDir,
    authority: Authority,
    pub(crate) instance: Instance,
    pub(crate) old: SecretKey,
    pub(crate) new: SecretKey,
}

impl Farm {
    /// A farm whose one instance is online with the old key, and whose rows are under it.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let farm = Self {
            authority: Authority::create(FARM).unwrap(),
            instance: Instance::install(folder.path().join("instance")),
            old: SecretKey::generate(),
            new: SecretKey::generate(),
            folder,
        };
        farm.instance.store().create(&KeySet::new(FARM, farm.old.clone(), 1)).unwrap();
        farm.instance.boot();
        farm.issue(&farm.authority, Role::Agent, NODE);
        farm.seed().await;
        fs::write(farm.path().join("targets.toml"), TARGETS).unwrap();
        let text = format!(
            "node = \"{NODE}\"\nfarm = \"{FARM}\"\nlisten = \"127.0.0.1:0\"\nstate_dir = \"state\"\n\
             [tls]\nca = \"ca.pem\"\ncertificate = \"agent-{NODE}.pem\"\nkey = \"agent-{NODE}.key\"\n\
             [database]\nurl = \"sqlite://{}/vault.db\"\ntargets = \"targets.toml\"\n{}",
            farm.path().display(),
            farm.instance.configuration(),
        );
        fs::write(farm.path().join("agent.toml"), text).unwrap();
        farm
    }

    /// Where everything lies.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn database(&self) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(self.path().join("vault.db")).create_if_missing(true);
        SqlitePool::connect_with(options).await.unwrap()
    }

    async fn seed(&self) {
        let database = self.database().await;
        sqlx::query("CREATE TABLE entries (id INTEGER PRIMARY KEY, secret TEXT)").execute(&database).await.unwrap();
        let cipher = Cipher::new(&self.old);
        for id in 1..=ROWS {
            let stored = cipher.encrypt(plaintext(id).as_bytes(), Encoding::Base64, b"", CipherVersion::V2).unwrap();
            sqlx::query("INSERT INTO entries VALUES (?, ?)")
                .bind(id)
                .bind(String::from_utf8(stored).unwrap())
                .execute(&database)
                .await
                .unwrap();
        }
        database.close().await;
    }

    /// Every row opens under this key to what it was seeded with.
    pub(crate) async fn assert_rows_under(&self, key: &SecretKey) {
        let database = self.database().await;
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, secret FROM entries ORDER BY id").fetch_all(&database).await.unwrap();
        database.close().await;
        assert_eq!(rows.len(), usize::try_from(ROWS).unwrap());
        for (id, stored) in rows {
            let opened = Cipher::new(key).open(stored.as_bytes(), Encoding::Base64, b"").unwrap();
            assert_eq!(&opened.plaintext[..], plaintext(id).as_bytes(), "row {id}");
        }
    }

    /// The tables that are not the ledger's: the application's, their copies, and originals that are kept.
    pub(crate) async fn tables(&self) -> Vec<String> {
        let database = self.database().await;
        let names: Vec<(String,)> = sqlx::query_as(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND (name = 'entries' OR name GLOB 'keyturn_????????_*') ORDER BY name",
        )
        .fetch_all(&database)
        .await
        .unwrap();
        database.close().await;
        names.into_iter().map(|(name,)| name).collect()
    }

    /// An identity of this farm.
    pub(crate) fn tls(&self, role: Role, name: &str) -> Tls {
        self.issue(&self.authority, role, name)
    }

    /// An identity that another CA vouches for, although it has the same names.
    pub(crate) fn foreign_tls(&self, role: Role, name: &str) -> Tls {
        let foreign = Authority::create(FARM).unwrap();
        let folder = self.path().join("foreign");
        fs::create_dir(&folder).unwrap();
        issue_into(&folder, &foreign, role, name)
    }

    fn issue(&self, authority: &Authority, role: Role, name: &str) -> Tls {
        issue_into(self.path(), authority, role, name)
    }

    /// Starts the agent.
    pub(crate) async fn start(&self) -> Agent {
        let config = agent::Config::load(&self.path().join("agent.toml")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let shutdown = async { drop(stopped.await) };
            agent::run_with(config, std::sync::Arc::new(NoBackups), listener, shutdown).await
        });
        Agent { address, runtime: Some(runtime), stop: Some(stop), running: Some(running) }
    }
}

/// No configuration of these tests names a folder for backups.
#[derive(Debug)]
struct NoBackups;

#[async_trait::async_trait]
impl agent::BackupTools for NoBackups {
    async fn make(&self, _: &agent::BackupJob<'_>) -> Result<rotation::DatabaseBackup, rotation::Fault> {
        unreachable!("nothing is backed up")
    }

    async fn prove(&self, _: &agent::BackupJob<'_>, _: &Path) -> Result<rotation::DatabaseBackup, rotation::Fault> {
        unreachable!("nothing is backed up")
    }

    async fn examine(
        &self,
        _: &agent::BackupJob<'_>,
        _: &[keys::SecretKey],
        _: &Path,
    ) -> Result<rotation::DatabaseBackup, rotation::Fault> {
        unreachable!("nothing is backed up")
    }

    async fn archive(&self, _: &agent::BackupJob<'_>) -> Result<rotation::FolderArchive, rotation::Fault> {
        unreachable!("nothing is backed up")
    }

    async fn load(&self, _: &Path, _: &str) -> Result<(), rotation::Fault> {
        unreachable!("nothing is backed up")
    }
}

fn issue_into(folder: &Path, authority: &Authority, role: Role, name: &str) -> Tls {
    let issued = authority.issue(role, name, &["127.0.0.1".to_owned()], 1).unwrap();
    let files = TlsFiles {
        ca: folder.join("ca.pem"),
        certificate: folder.join(format!("{role}-{name}.pem")),
        key: folder.join(format!("{role}-{name}.key")),
    };
    // Once: an agent may be reading it.
    if !files.ca.exists() {
        fs::write(&files.ca, authority.certificate_pem()).unwrap();
    }
    fs::write(&files.certificate, issued.certificate_pem).unwrap();
    fs::write(&files.key, issued.key_pem.as_bytes()).unwrap();
    Tls::load(&files).unwrap()
}

/// What row `id` holds.
fn plaintext(id: i64) -> String {
    format!("the secret of entry {id}")
}

/// A running agent.
pub(crate) struct Agent {
    address: SocketAddr,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<Result<(), agent::RunError>>>,
}

impl Agent {
    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.running.take().unwrap().await.unwrap().unwrap();
    }

    /// Waits for an agent that refuses to start.
    pub(crate) async fn refusal(mut self) -> agent::RunError {
        self.running.take().unwrap().await.unwrap().unwrap_err()
    }

    /// Tears it down where it is, as a crash does: nothing of it runs any further.
    pub(crate) async fn kill(mut self) {
        self.running.take().unwrap().abort();
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(30))).await.unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
