//! Looks at every instance and at rows all the time, from outside: whatever is broken, never are two instances admitted
//! with different keys, and never is one admitted while rows are under another key.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use keys::{SecretKey, canary};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::network::Door;
use super::{INSTANCE_PORT, NODES, rows};

/// An instance that does not answer within this time is not serving either.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// How often everything is looked at; an admission lasts longer.
const EVERY: Duration = Duration::from_millis(50);

/// What is known to the test and to the thread that watches.
#[derive(Default)]
struct Shared {
    /// The keys that the farm has had, the newest last.
    keys: Mutex<Vec<SecretKey>>,
    /// Where the database is now.
    database: Mutex<String>,
    /// The database lost what instances rely on that serve: rows are not held against them until they have stopped.
    lost: AtomicBool,
    /// What did not hold.
    broken: Mutex<Vec<String>>,
    /// How often a node was seen serving, and with which of the keys last.
    seen: Mutex<[(u64, usize); NODES.len()]>,
    /// How often an instance was held against rows.
    compared: Mutex<u64>,
    ends: AtomicBool,
}

/// The thread that watches.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins. The doors lead to the nodes.
    pub(crate) fn new(doors: Vec<Door>, database: String) -> Self {
        let shared = Arc::new(Shared { database: Mutex::new(database), ..Shared::default() });
        let watched = Arc::clone(&shared);
        let thread = std::thread::spawn(move || watch(&watched, &doors));
        Self { shared, thread: Some(thread) }
    }

    /// The farm may have this key from now on.
    pub(crate) fn may_hold(&self, key: SecretKey) {
        self.shared.keys.lock().expect("no panic").push(key);
    }

    /// Rows are looked at there from now on.
    pub(crate) fn look_at(&self, database: String) {
        *self.shared.database.lock().expect("no panic") = database;
    }

    /// Whether the database has lost what instances rely on that serve.
    pub(crate) fn database_lost(&self, lost: bool) {
        self.shared.lost.store(lost, Ordering::SeqCst);
    }

    /// Nothing was ever seen that must not be, and something was seen at all.
    #[track_caller]
    pub(crate) fn assert_nothing_broken(&self) {
        let broken = self.shared.broken.lock().expect("no panic");
        assert!(broken.is_empty(), "{}", broken.join("\n"));
        drop(broken);
        assert!(*self.shared.compared.lock().expect("no panic") > 0, "no instance was ever held against rows");
    }

    /// How often a node was seen serving.
    pub(crate) fn times_seen(&self, node: usize) -> u64 {
        self.shared.seen.lock().expect("no panic")[node].0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(shared: &Shared, doors: &[Door]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut connection: Option<(String, PgConnection)> = None;
    while !shared.ends.load(Ordering::SeqCst) {
        let keys = shared.keys.lock().expect("no panic").clone();
        let before = admitted(doors, &keys);
        let url = shared.database.lock().expect("no panic").clone();
        if connection.as_ref().is_none_or(|(to, _)| *to != url) {
            connection = runtime.block_on(PgConnection::connect(&url)).ok().map(|open| (url.clone(), open));
        }
        // Whoever was admitted before and after had been so while the rows were read.
        let serving = before.iter().flatten().next().copied();
        let found = match (&mut connection, serving) {
            (Some((_, open)), Some(key)) => runtime.block_on(rows::count(open, &keys[key], true)).ok(),
            _ => None,
        };
        let after = admitted(doors, &keys);
        let throughout: Vec<(usize, usize)> = (0..doors.len())
            .filter_map(|node| before[node].filter(|key| after[node] == Some(*key)).map(|key| (node, key)))
            .collect();
        judge(shared, &throughout, found.zip(serving));
        if found.is_none() && serving.is_some() {
            connection = None;
        }
        std::thread::sleep(EVERY);
    }
}

fn judge(shared: &Shared, throughout: &[(usize, usize)], rows: Option<(rows::Count, usize)>) {
    let mut broken = shared.broken.lock().expect("no panic");
    if let Some((node, key)) = throughout.iter().find(|(_, key)| *key != throughout[0].1) {
        broken.push(format!(
            "node {node} serves with key {key} while node {} does with {}",
            throughout[0].0, throughout[0].1
        ));
    }
    if let Some((rows, key)) = rows
        && throughout.iter().any(|(_, holds)| *holds == key)
    {
        *shared.compared.lock().expect("no panic") += 1;
        if rows.not_under > 0 && !shared.lost.load(Ordering::SeqCst) {
            broken.push(format!(
                "nodes serve with key {key}, and {} of {rows:?} values are not under it",
                rows.not_under
            ));
        }
    }
    let mut seen = shared.seen.lock().expect("no panic");
    for (node, key) in throughout {
        seen[*node] = (seen[*node].0 + 1, *key);
    }
}

/// With which of the keys each node's instance serves; `None` for one that does not.
fn admitted(doors: &[Door], keys: &[SecretKey]) -> Vec<Option<usize>> {
    doors
        .iter()
        .map(|door| {
            door.enter();
            let online = ask("GET", "/healthz", "")?;
            if online != "online" {
                return None;
            }
            // The newest first: that is the one that it has or will have.
            (0..keys.len()).rev().find(|number| {
                let challenge = canary::challenge(&keys[*number]);
                ask("POST", "/canary", &challenge.ciphertext_base64)
                    .is_some_and(|answer| challenge.is_answered_by(answer.as_bytes()))
            })
        })
        .collect()
}

/// One request to the instance of the machine that the thread is on; the body of a good answer.
fn ask(method: &str, path: &str, body: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, INSTANCE_PORT));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: instance\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}
