//! A farm of one node: certificates, database, key store, instance, and its agent in a runtime of its own, so that it
//! can be torn down in the middle of anything.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use keys::value::{Cipher, CipherVersion, Encoding};
use keys::{KeySet, SecretKey};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wire::pki::{Authority, Role};
use wire::tls::{Tls, TlsFiles};

use super::database::{Database, Sqlite};
use super::{Instance, Listening};

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
    pub(crate) database: Box<dyn Database>,
    pub(crate) instance: Instance,
    pub(crate) old: SecretKey,
    pub(crate) new: SecretKey,
}

impl Farm {
    /// A farm on SQLite whose one instance is online with the old key, and whose rows are under it.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Box::new(Sqlite::new(folder.path().join("vault.db")));
        Self::on(folder, database).await
    }

    /// The same on another database, which is empty.
    pub(crate) async fn on(folder: tempfile::TempDir, database: Box<dyn Database>) -> Self {
        let farm = Self {
            authority: Authority::create(FARM).unwrap(),
            database,
            instance: Instance::install(folder.path().join("instance")),
            old: SecretKey::generate(),
            new: SecretKey::generate(),
            folder,
        };
        farm.seed().await;
        farm.configure(NODE, &farm.instance, farm.path());
        farm
    }

    /// Makes a node: its certificate, its key store with the old key, its instance online, its configuration.
    pub(crate) fn configure(&self, node: &str, instance: &Instance, folder: &Path) {
        instance.store().create(&KeySet::new(FARM, self.old.clone(), 1)).unwrap();
        instance.boot();
        issue_into(folder, &self.authority, Role::Agent, node);
        fs::write(folder.join("targets.toml"), TARGETS).unwrap();
        let text = format!(
            "node = \"{node}\"\nfarm = \"{FARM}\"\nlisten = \"127.0.0.1:0\"\nstate_dir = \"state\"\n\
             [tls]\nca = \"ca.pem\"\ncertificate = \"agent-{node}.pem\"\nkey = \"agent-{node}.key\"\n\
             [database]\n{}targets = \"targets.toml\"\n{}",
            self.database.configuration(),
            instance.configuration(),
        );
        fs::write(folder.join("agent.toml"), text).unwrap();
    }

    /// Where everything lies.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn seed(&self) {
        let cipher = Cipher::new(&self.old);
        let stored = |id| cipher.encrypt(plaintext(id).as_bytes(), Encoding::Base64, b"", CipherVersion::V2).unwrap();
        let rows = (1..=ROWS).map(|id| (id, String::from_utf8(stored(id)).unwrap())).collect();
        self.database.seed(rows).await;
    }

    /// Every row opens under this key to what it was seeded with.
    pub(crate) async fn assert_rows_under(&self, key: &SecretKey) {
        let rows = self.database.rows().await;
        assert_eq!(rows.len(), usize::try_from(ROWS).unwrap());
        for (id, stored) in rows {
            assert!(opens(key, id, &stored), "row {id}");
        }
    }

    /// The tables that are not the ledger's: the application's, their copies, and originals that are kept.
    pub(crate) async fn tables(&self) -> Vec<String> {
        self.database.tables().await
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
pub(crate) struct NoBackups;

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

    async fn load(&self, _: &rotation::DatabaseBackup, _: &reencrypt::RestoreLogins) -> Result<(), rotation::Fault> {
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

/// Whether what row `id` holds opens under this key; what opens must be what it was seeded with.
pub(crate) fn opens(key: &SecretKey, id: i64, stored: &str) -> bool {
    match Cipher::new(key).open(stored.as_bytes(), Encoding::Base64, b"") {
        Ok(opened) => {
            assert_eq!(&opened.plaintext[..], plaintext(id).as_bytes(), "row {id}");
            true
        }
        Err(_) => false,
    }
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

impl Listening for Agent {
    fn address(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Agent {
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
