//! What an instance answers: entries for clients while it is admitted, and what an agent needs to control it.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use keys::KeySet;
use keys::value::{Cipher, CipherVersion, Encoding};

use crate::database::Database;
use crate::paths::parse_entry_path;
use crate::serve::plain;
use crate::tables::{RowKey, Table};

/// Tells the balancer that nothing was done with the request, so that another instance may have it.
pub(crate) const NOT_ADMITTED_HEADER: HeaderName = HeaderName::from_static("x-vault-not-admitted");

/// What `/healthz` says before the first admission.
pub(super) const STARTED: &str = "started";

/// What `/healthz` says after a drain.
pub(super) const DRAINED: &str = "drained";

/// How often a drain looks whether requests are still under way.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Whether clients may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Started,
    Admitted,
    Drained,
}

impl Admission {
    const fn number(self) -> u8 {
        match self {
            Self::Started => 0,
            Self::Admitted => 1,
            Self::Drained => 2,
        }
    }

    const fn numbered(number: u8) -> Self {
        match number {
            0 => Self::Started,
            1 => Self::Admitted,
            _ => Self::Drained,
        }
    }
}

/// One running instance.
pub(super) struct Service {
    cipher: Cipher,
    database: Database,
    admission: AtomicU8,
    /// Requests of clients under way.
    open: AtomicUsize,
}

impl Service {
    pub(super) fn new(keys: &KeySet, database: Database) -> Self {
        Self {
            cipher: Cipher::new(&keys.active().secret),
            database,
            admission: AtomicU8::new(Admission::Started.number()),
            open: AtomicUsize::new(0),
        }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => self.health(),
            (&Method::POST, "/canary") => self.canary(request.body()),
            (&Method::POST, "/admin/drain") => self.drain().await,
            (&Method::POST, "/admin/admit") => {
                self.set_admission(Admission::Admitted);
                plain(StatusCode::OK, "admitted")
            }
            (method, path) => match parse_entry_path(path) {
                None => plain(StatusCode::NOT_FOUND, "there is no such path"),
                Some((table, key)) => {
                    let method = method.clone();
                    self.entry(&method, table, &key, request.into_body()).await
                }
            },
        }
    }

    fn admission(&self) -> Admission {
        Admission::numbered(self.admission.load(Ordering::SeqCst))
    }

    fn set_admission(&self, admission: Admission) {
        self.admission.store(admission.number(), Ordering::SeqCst);
    }

    fn health(&self) -> Response<Bytes> {
        match self.admission() {
            Admission::Admitted => plain(StatusCode::OK, "online"),
            Admission::Started => plain(StatusCode::SERVICE_UNAVAILABLE, STARTED),
            Admission::Drained => plain(StatusCode::SERVICE_UNAVAILABLE, DRAINED),
        }
    }

    async fn drain(&self) -> Response<Bytes> {
        if self.admission() == Admission::Admitted {
            self.set_admission(Admission::Drained);
        }
        while self.open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        plain(StatusCode::OK, "drained")
    }

    /// Opens a ciphertext with the key that this process really holds in memory.
    fn canary(&self, body: &Bytes) -> Response<Bytes> {
        match self.cipher.open(body, Encoding::Base64, b"") {
            Ok(opened) => Response::new(Bytes::copy_from_slice(&opened.plaintext)),
            Err(error) => plain(StatusCode::UNPROCESSABLE_ENTITY, &format!("the canary does not open: {error}")),
        }
    }

    async fn entry(&self, method: &Method, table: &Table, key: &RowKey, body: Bytes) -> Response<Bytes> {
        // First counted, then the look whether it is admitted: a drain does it the other way round, so it either
        // waits for this request or this request sees it.
        let _open = Open::count(&self.open);
        if self.admission() != Admission::Admitted {
            let mut refusal = plain(StatusCode::SERVICE_UNAVAILABLE, "this instance takes no requests now");
            refusal.headers_mut().insert(NOT_ADMITTED_HEADER, HeaderValue::from_static("1"));
            return refusal;
        }
        match *method {
            Method::GET => self.read(table, key).await,
            Method::PUT => self.write(table, key, &body).await,
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "an entry can be read (GET) and written (PUT)"),
        }
    }

    async fn read(&self, table: &Table, key: &RowKey) -> Response<Bytes> {
        let column = table.served();
        let stored = match self.database.value(table, column, key).await {
            Ok(stored) => stored,
            Err(error) => return database_down(&error),
        };
        let Some(stored) = stored else {
            return plain(StatusCode::NOT_FOUND, "there is no such entry");
        };
        let Some(stored) = stored else {
            return plain(StatusCode::NO_CONTENT, "");
        };
        if stored.is_empty() {
            return Response::new(Bytes::new());
        }
        match self.cipher.open(&stored, column.encoding, column.aad.as_bytes()) {
            Ok(opened) => Response::new(Bytes::copy_from_slice(&opened.plaintext)),
            Err(error) => {
                tracing::error!(table = table.name, %key, %error, "an entry does not open");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the entry does not open with this instance's key")
            }
        }
    }

    async fn write(&self, table: &Table, key: &RowKey, plaintext: &Bytes) -> Response<Bytes> {
        let column = table.served();
        let stored = match self.cipher.encrypt(plaintext, column.encoding, column.aad.as_bytes(), CipherVersion::V2) {
            Ok(stored) => stored,
            Err(error) => return plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("encrypting: {error}")),
        };
        match self.database.set_value(table, column, key, &stored).await {
            Ok(true) => plain(StatusCode::OK, "written"),
            Ok(false) => plain(StatusCode::NOT_FOUND, "there is no such entry"),
            Err(error) => database_down(&error),
        }
    }
}

/// Counts a request for as long as it lasts, also when its client goes away.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn count(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn database_down(error: &sqlx::Error) -> Response<Bytes> {
    tracing::warn!(%error, "the database did not answer");
    plain(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; try again in a moment")
}
