//! A unix socket before the server's own that lets a given number of statements through and then cuts every connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use reencrypt::{DatabaseConfig, Engine, EngineError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::farm::{Place, Vault};

/// What a client asks for before it sends a startup message.
const ENCRYPTION_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// What ends a chunk, in both languages.
const COMMIT: &[u8] = b"COMMIT";

/// More statements than anybody sends.
pub(crate) const ENDLESS: i64 = i64::MAX;

/// What becomes of the last statement, and of all connections with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It does not reach the server.
    Before,
    /// It still reaches the server, which then does what nobody hears of.
    After,
    /// It reaches the server, and connections stay; whoever waits for [`Proxy::last`] does something to them.
    Passed,
    /// It does not reach the server before [`Proxy::release`]; connections stay.
    Held,
}

/// How messages of clients are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Postgres,
    Mariadb,
}

pub(crate) struct Proxy {
    directory: TempDir,
    left: Arc<AtomicI64>,
    cutting: watch::Sender<bool>,
    hushed: Arc<AtomicBool>,
    released: watch::Sender<bool>,
}

impl Proxy {
    /// Lets `statements` of clients through, over all connections, to the PostgreSQL server whose socket is in `server`.
    pub(crate) fn new(server: PathBuf, statements: i64, cut: Cut) -> Self {
        Self::before(Wire::Postgres, server.join(".s.PGSQL.5432"), statements, cut)
    }

    /// The same to the MariaDB server of this socket.
    pub(crate) fn mariadb(socket: PathBuf, statements: i64, cut: Cut) -> Self {
        Self::before(Wire::Mariadb, socket, statements, cut)
    }

    fn before(wire: Wire, socket: PathBuf, statements: i64, cut: Cut) -> Self {
        let directory = tempfile::Builder::new().prefix("kt-px-").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let left = Arc::new(AtomicI64::new(statements));
        let (cutting, cuts) = watch::channel(false);
        let (shared, sender) = (Arc::clone(&left), cutting.clone());
        let hushed = Arc::new(AtomicBool::new(false));
        let hush = Arc::clone(&hushed);
        let (released, release) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, left, mut cuts, sender, hush) =
                    (socket.clone(), Arc::clone(&shared), cuts.clone(), sender.clone(), Arc::clone(&hush));
                let mut release = release.clone();
                tokio::spawn(async move {
                    let Ok(server) = UnixStream::connect(socket).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let up = async {
                        let mut begun = false;
                        while let Some((message, counts)) = read(wire, &mut from_client, &mut begun).await {
                            if hush.load(Ordering::SeqCst) && holds(&message, COMMIT) {
                                let _ = sender.send(true);
                                return std::future::pending().await;
                            }
                            let left = if counts { left.fetch_sub(1, Ordering::SeqCst) } else { ENDLESS };
                            let last = left <= 1;
                            if left == 1 && cut == Cut::Held {
                                let _ = sender.send(true);
                                let _ = release.wait_for(|released| *released).await;
                            }
                            if (!last || cut != Cut::Before) && to_server.write_all(&message).await.is_err() {
                                break;
                            }
                            if last {
                                let _ = sender.send(true);
                                if matches!(cut, Cut::Before | Cut::After) {
                                    break;
                                }
                            }
                        }
                    };
                    let down = tokio::io::copy(&mut from_server, &mut to_client);
                    let ends = async {
                        let _ = cuts.wait_for(|is_cut| *is_cut && matches!(cut, Cut::Before | Cut::After)).await;
                    };
                    tokio::select! {
                        () = up => {}
                        _ = down => {}
                        () = ends => {}
                    }
                });
            }
        });
        Self { directory, left, cutting, hushed, released }
    }

    /// From now on whoever commits is heard no more, and hears nothing: its connection stays, and nothing passes. Told by
    /// [`Proxy::last`].
    pub(crate) fn hush(&self) {
        self.hushed.store(true, Ordering::SeqCst);
    }

    /// Lets the statement through that is held, and all others.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// How many statements were sent of so many as were let through.
    pub(crate) fn sent(&self, statements: i64) -> i64 {
        statements - self.left.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        let host = self.directory.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://{role}@{host}/{database}")
    }

    pub(crate) fn mariadb_url(&self, user: &str, database: &str) -> String {
        let folder = self.directory.path().to_str().unwrap();
        format!("mariadb://{user}@localhost/{database}?socket={folder}/.s.PGSQL.5432&ssl-mode=DISABLED")
    }

    /// Whether connections were cut, or would have been.
    pub(crate) fn has_cut(&self) -> bool {
        *self.cutting.borrow() || self.left.load(Ordering::SeqCst) <= 0
    }

    /// Waits for the last statement.
    pub(crate) async fn last(&self) {
        self.cutting.subscribe().wait_for(|is_cut| *is_cut).await.unwrap();
    }
}

/// An engine whose connections go through a proxy before the vault's server, and the proxy.
pub(crate) async fn engine_behind(vault: &Vault, statements: i64, cut: Cut) -> (Engine, Proxy) {
    let (url, proxy) = match &vault.place {
        Place::Postgres { cluster, database, agent, .. } => {
            let proxy = Proxy::new(cluster.socket_directory().to_owned(), statements, cut);
            (proxy.url(agent, database), proxy)
        }
        Place::Mariadb { server, database, agent, .. } => {
            let proxy = Proxy::mariadb(server.socket(), statements, cut);
            (proxy.mariadb_url(agent, database), proxy)
        }
        Place::Sqlite { .. } => panic!("SQLite has no connections"),
    };
    let config = DatabaseConfig { url, ..vault.config.clone() };
    (Engine::connect(&config, vault.targets.clone()).await.unwrap(), proxy)
}

/// Does the step again and again, letting one statement more through each time, until it is done with `statements_max` at
/// the most, and says with how many. It must be one that may be tried again; after each try `check` looks at what it left.
pub(crate) async fn through_cuts(
    vault: &Vault,
    cut: Cut,
    statements_max: i64,
    step: impl AsyncFn(&Engine) -> Result<(), EngineError>,
    check: impl AsyncFn(),
) -> i64 {
    let end_sessions = async || match &vault.place {
        Place::Postgres { agent, .. } => {
            let all = format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{agent}'");
            vault.run(&all).await;
        }
        Place::Mariadb { agent, .. } => vault.end_all_of("CONNECTION", agent).await,
        Place::Sqlite { .. } => panic!("SQLite has no sessions"),
    };
    for statements in 1..statements_max {
        let (engine, proxy) = engine_behind(vault, statements, cut).await;
        let ending = async {
            proxy.last().await;
            if cut == Cut::Passed {
                end_sessions().await;
            }
            std::future::pending::<()>().await;
        };
        let done = tokio::select! {
            done = step(&engine) => done,
            () = ending => unreachable!("it only waits"),
        };
        match done {
            Ok(()) if proxy.has_cut() => {}
            Ok(()) => return statements,
            Err(error) => {
                let fault = error.fault();
                assert!(fault.retryable, "after {statements} statements: {}", fault.message);
            }
        }
        check().await;
    }
    panic!("it is not done after {statements_max} statements")
}

/// One message of a client, and whether it counts as a statement: what is executed does.
async fn read(wire: Wire, client: &mut OwnedReadHalf, begun: &mut bool) -> Option<(Vec<u8>, bool)> {
    match wire {
        Wire::Postgres => {
            let message = postgres(client, begun).await?;
            // Simple queries, bound ones, and what a copy is sent.
            let counts = matches!(message.first(), Some(b'Q' | b'E' | b'd' | b'c'));
            Some((message, counts))
        }
        Wire::Mariadb => {
            let message = mariadb(client).await?;
            // The first packet of a command is number 0: a query, or a prepared statement that is executed.
            let counts = message[3] == 0 && matches!(message.get(4), Some(0x03 | 0x17));
            Some((message, counts))
        }
    }
}

fn holds(message: &[u8], words: &[u8]) -> bool {
    message.windows(words.len()).any(|window| window == words)
}

async fn mariadb(client: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut message = vec![0; 4];
    client.read_exact(&mut message).await.ok()?;
    let length = usize::from(message[0]) | usize::from(message[1]) << 8 | usize::from(message[2]) << 16;
    message.resize(4 + length, 0);
    client.read_exact(&mut message[4..]).await.ok()?;
    Some(message)
}

/// The first messages have no letter.
async fn postgres(client: &mut OwnedReadHalf, begun: &mut bool) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    if *begun {
        message.push(client.read_u8().await.ok()?);
    }
    let length = client.read_u32().await.ok()?;
    message.extend(length.to_be_bytes());
    let mut body = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
    client.read_exact(&mut body).await.ok()?;
    *begun |= !body.starts_with(&ENCRYPTION_REQUEST);
    message.extend(body);
    Some(message)
}
