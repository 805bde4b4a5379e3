//! The simulated server: sessions and what they hold, commits and their history, and what happens to it from outside. Also
//! the windows through which a simulation looks at the data, writes as the application does, and does harm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rotation::{Epoch, LeaseNumber};
use tokio::sync::Notify;

use super::data::{Data, StoredRow};
use crate::EngineError;
use crate::history::LedgerRotation;
use crate::key::{Key, KeyValue};
use crate::ledger::LedgerMark;
use crate::table::Stored;

/// States that the server can be set back to: more commits than are ever lost.
const HISTORY_MAX: usize = 64;

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// A transaction of an agent that was committed.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Whose.
    pub worker: String,
    /// In the words of errors.
    pub doing: String,
    /// With what right, if it was work of a rotation.
    pub mark: Option<LedgerMark>,
    /// Under which lease, if it was of a shard.
    pub lease: Option<LeaseNumber>,
    /// How many rows of users' tables were written.
    pub rows: usize,
    /// The ledger's epoch just before, if the rotation had a header.
    pub epoch_before: Option<Epoch>,
}

type Observer = Box<dyn Fn(&Commit) + Send + Sync>;

/// The database.
#[derive(Default)]
pub struct Database {
    // A plain lock: held for one statement, never across a wait.
    server: Mutex<Server>,
    /// A lock was let go, or a session ended.
    pub(super) changed: Notify,
    observer: OnceLock<Observer>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database(simulated)")
    }
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) data: Data,
    /// Earlier states, each with its place in the history, oldest first. The present one is not among them.
    earlier: VecDeque<(u64, Data)>,
    position: u64,
    /// What a crash of the server cannot take back.
    flushed: u64,
    /// What the standby has, however far behind it is otherwise.
    replicated: u64,
    timeline: u32,
    /// Whether the configuration names the application's role, so that it can be fenced.
    pub(super) has_role: bool,
    sessions: BTreeMap<u64, String>,
    last_session: u64,
    /// Rises with every change of the data.
    version: u64,
    /// Instances that are connected, by name.
    applications: BTreeSet<String>,
    shared: BTreeSet<u64>,
    alone: Option<u64>,
}

/// How a transaction holds the ledger's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Shared,
    Alone,
}

impl Server {
    pub(super) fn is_open(&self, session: u64) -> bool {
        self.sessions.contains_key(&session)
    }

    pub(super) fn try_hold(&mut self, session: u64, hold: Hold) -> bool {
        let nobody_alone = self.alone.is_none_or(|holder| holder == session);
        match hold {
            Hold::Shared if nobody_alone => {
                self.shared.insert(session);
                true
            }
            Hold::Alone if nobody_alone && self.shared.iter().all(|holder| *holder == session) => {
                self.alone = Some(session);
                true
            }
            Hold::Shared | Hold::Alone => false,
        }
    }

    pub(super) fn let_go(&mut self, session: u64) {
        self.shared.remove(&session);
        if self.alone == Some(session) {
            self.alone = None;
        }
    }

    fn end_session(&mut self, session: u64) {
        self.sessions.remove(&session);
        self.let_go(session);
    }

    /// Ends the sessions of all other workers.
    pub(super) fn end_others(&mut self, but: u64) {
        let others: Vec<u64> = self.sessions.keys().copied().filter(|session| *session != but).collect();
        others.into_iter().for_each(|session| self.end_session(session));
    }

    /// Ends those that these shards' rows name as their holders.
    pub(super) fn end_holders(&mut self, holders: impl IntoIterator<Item = u64>, but: u64) {
        holders.into_iter().filter(|holder| *holder != but).for_each(|holder| self.end_session(holder));
    }

    pub(super) fn has_applications(&mut self) -> bool {
        if self.has_role && self.data.role_fenced {
            // Its role cannot log in again, and its sessions are ended.
            self.applications.clear();
        }
        !self.applications.is_empty()
    }

    /// Puts new data in place of the old.
    pub(super) fn store(&mut self, data: Data, durable: bool) {
        let before = std::mem::replace(&mut self.data, data);
        self.earlier.push_back((self.position, before));
        if self.earlier.len() > HISTORY_MAX {
            self.earlier.pop_front();
        }
        self.position += 1;
        self.version += 1;
        if durable {
            self.flushed = self.position;
        }
    }

    pub(super) fn flush(&mut self) {
        self.flushed = self.position;
    }

    pub(super) const fn place(&self) -> (u32, u64) {
        (self.timeline, self.position)
    }

    /// Sets the data back by up to so many commits, but to no earlier than `least`.
    fn lose(&mut self, commits: usize, least: u64) -> usize {
        let mut lost = 0;
        self.version += 1;
        while lost < commits {
            match self.earlier.pop_back() {
                Some((position, data)) if position >= least => {
                    (self.position, self.data) = (position, data);
                    lost += 1;
                }
                Some(kept) => {
                    self.earlier.push_back(kept);
                    break;
                }
                None => break,
            }
        }
        self.flushed = self.flushed.min(self.position);
        lost
    }

    fn end_everything(&mut self) {
        self.sessions.clear();
        self.applications.clear();
        self.shared.clear();
        self.alone = None;
    }
}

impl Database {
    /// An empty database; `has_role` says whether agents know the application's role and may fence it.
    pub fn new(has_role: bool) -> Self {
        Self { server: Mutex::new(Server { has_role, timeline: 1, ..Server::default() }), ..Self::default() }
    }

    pub(super) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, commit: &Commit) {
        if let Some(observer) = self.observer.get() {
            observer(commit);
        }
    }

    /// Calls `observer` after every commit of an agent. Once.
    pub fn observe(&self, observer: impl Fn(&Commit) + Send + Sync + 'static) {
        assert!(self.observer.set(Box::new(observer)).is_ok(), "there is one observer");
    }

    pub(super) fn connect(&self, worker: String) -> u64 {
        let mut server = self.server();
        server.last_session += 1;
        let session = server.last_session;
        server.sessions.insert(session, worker);
        session
    }

    pub(super) fn disconnect(&self, session: u64) {
        self.server().end_session(session);
        self.changed.notify_waiters();
    }

    /// Makes a table whose keys are whole numbers; each row has its values and the rest.
    pub fn create_table(&self, name: &str, rows: impl IntoIterator<Item = (i64, Vec<Vec<u8>>, Vec<u8>)>) {
        let row = |(id, values, rest): (i64, Vec<Vec<u8>>, Vec<u8>)| {
            (key(id), StoredRow { values: values.into_iter().map(Stored::Bytes).collect(), rest })
        };
        self.server().data.tables.insert(name.to_owned(), rows.into_iter().map(row).collect());
    }

    /// What a table holds: key, values, rest.
    pub fn rows(&self, name: &str) -> Vec<(i64, Vec<Vec<u8>>, Vec<u8>)> {
        let server = self.server();
        let rows = server.data.tables.get(name).into_iter().flatten();
        let bytes = |stored: &Stored| stored.bytes().unwrap_or_default().to_vec();
        rows.map(|(key, row)| (number(key), row.values.iter().map(bytes).collect(), row.rest.clone())).collect()
    }

    /// A number that is another one after every change.
    pub fn version(&self) -> u64 {
        self.server().version
    }

    /// The names of all tables but the ledger's.
    pub fn tables(&self) -> Vec<String> {
        self.server().data.tables.keys().cloned().collect()
    }

    /// What the ledger remembers.
    pub fn ledger(&self) -> Vec<LedgerRotation> {
        self.server().data.history().unwrap_or_default()
    }

    /// Whether the application is shut out.
    pub fn is_fenced(&self) -> bool {
        self.server().data.role_fenced
    }

    /// An instance connects. False if its role may not log in.
    pub fn connect_application(&self, name: &str) -> bool {
        let mut server = self.server();
        if server.data.role_fenced {
            return false;
        }
        server.applications.insert(name.to_owned())
    }

    /// An instance's sessions end.
    pub fn disconnect_application(&self, name: &str) {
        self.server().applications.remove(name);
    }

    /// Whether an instance is connected.
    pub fn is_connected(&self, name: &str) -> bool {
        self.server().applications.contains(name)
    }

    /// An instance that is connected writes a value. False if it is not, or a swap holds the table.
    pub fn application_writes(&self, name: &str, table: &str, id: i64, column: usize, value: Vec<u8>) -> bool {
        let mut server = self.server();
        if !server.applications.contains(name) || server.alone.is_some() {
            return false;
        }
        let mut data = server.data.clone();
        let found = data.tables.get_mut(table).and_then(|rows| rows.get_mut(&key(id)));
        let Some(stored) = found.and_then(|row| row.values.get_mut(column)) else { return false };
        *stored = Stored::Bytes(value);
        server.store(data, true);
        true
    }

    /// Changes a value beneath everybody, as a broken disk does, also in every earlier state.
    pub fn damage(&self, table: &str, id: i64, column: usize, change: impl Fn(&mut Vec<u8>)) {
        let mut server = self.server();
        server.version += 1;
        let Server { data, earlier, .. } = &mut *server;
        for data in std::iter::once(data).chain(earlier.iter_mut().map(|(_, data)| data)) {
            let row = data.tables.get_mut(table).and_then(|rows| rows.get_mut(&key(id)));
            if let Some(Stored::Bytes(bytes)) = row.and_then(|row| row.values.get_mut(column)) {
                change(bytes);
            }
        }
    }

    /// The process at the other end has died: its sessions end, and what they had not committed is taken back.
    pub fn end_worker(&self, worker: &str) {
        let mut server = self.server();
        let own: Vec<u64> =
            server.sessions.iter().filter(|(_, name)| *name == worker).map(|(session, _)| *session).collect();
        own.into_iter().for_each(|session| server.end_session(session));
        drop(server);
        self.changed.notify_waiters();
    }

    /// The server crashes and starts again: every session ends, and of the commits that did not wait for the disk up to so
    /// many are lost. Answers how many were.
    pub fn crash(&self, commits: usize) -> usize {
        let mut server = self.server();
        server.end_everything();
        let least = server.flushed;
        let lost = server.lose(commits, least);
        drop(server);
        self.changed.notify_waiters();
        lost
    }

    /// Whether agents may fence the application's role.
    pub fn has_role(&self) -> bool {
        self.server().has_role
    }

    /// The standby has all that is committed until now.
    pub fn replicate(&self) {
        let mut server = self.server();
        server.replicated = server.position;
    }

    /// A standby takes over that had not received the newest commits, durable or not. Answers how many were lost.
    pub fn fail_over(&self, commits: usize) -> usize {
        let mut server = self.server();
        server.end_everything();
        let least = server.replicated;
        let lost = server.lose(commits, least);
        server.timeline += 1;
        drop(server);
        self.changed.notify_waiters();
        lost
    }
}

pub(super) fn key(id: i64) -> Key {
    Key(vec![KeyValue::Integer(id)])
}

fn number(key: &Key) -> i64 {
    match key.0.as_slice() {
        [KeyValue::Integer(id)] => *id,
        _ => 0,
    }
}

/// What a client hears when its session is gone.
pub(super) fn lost(doing: &str) -> EngineError {
    let source = sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection was lost"));
    EngineError::Database { doing: doing.to_owned(), source }
}
