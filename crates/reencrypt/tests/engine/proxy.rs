//! A unix socket before PostgreSQL's own that lets a given number of statements through and then cuts every connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What a client asks for before it sends a startup message.
const ENCRYPTION_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// Whether the last statement still reaches the server, which then does what nobody hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Before,
    After,
}

pub(crate) struct Proxy {
    directory: TempDir,
    left: Arc<AtomicI64>,
    cutting: watch::Sender<bool>,
}

impl Proxy {
    /// Lets `statements` of clients through, over all connections, to the server whose socket is in `server`.
    pub(crate) fn new(server: PathBuf, statements: i64, cut: Cut) -> Self {
        let directory = tempfile::Builder::new().prefix("kt-px-").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let left = Arc::new(AtomicI64::new(statements));
        let (cutting, cuts) = watch::channel(false);
        let (shared, sender) = (Arc::clone(&left), cutting.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, left, mut cuts, sender) =
                    (server.clone(), Arc::clone(&shared), cuts.clone(), sender.clone());
                tokio::spawn(async move {
                    let Ok(server) = UnixStream::connect(server.join(".s.PGSQL.5432")).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let up = async {
                        let mut begun = false;
                        while let Some(message) = read(&mut from_client, &mut begun).await {
                            // What is executed counts: simple queries, bound ones, and what a copy is sent.
                            let counts = matches!(message.first(), Some(b'Q' | b'E' | b'd' | b'c'));
                            let last = counts && left.fetch_sub(1, Ordering::SeqCst) <= 1;
                            if (!last || cut == Cut::After) && to_server.write_all(&message).await.is_err() {
                                break;
                            }
                            if last {
                                let _ = sender.send(true);
                                break;
                            }
                        }
                    };
                    let down = tokio::io::copy(&mut from_server, &mut to_client);
                    tokio::select! {
                        () = up => {}
                        _ = down => {}
                        _ = cuts.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { directory, left, cutting }
    }

    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        let host = self.directory.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://{role}@{host}/{database}")
    }

    /// Whether connections were cut.
    pub(crate) fn has_cut(&self) -> bool {
        *self.cutting.borrow() || self.left.load(Ordering::SeqCst) <= 0
    }
}

/// One message of a client; the first ones have no letter.
async fn read(client: &mut tokio::net::unix::OwnedReadHalf, begun: &mut bool) -> Option<Vec<u8>> {
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
