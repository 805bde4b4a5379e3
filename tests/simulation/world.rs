//! The simulated world: what exists, what chance decides, what was seen, and what must hold.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keys::SecretKey;
use keys::value::{Cipher, Encoding};
use reencrypt::simulation::{Commit, Database};
use rotation::{Fence, NodeId};
use wire::tls::Tls;

use crate::cluster::Cluster;
use crate::faults;
use crate::invariants;
use crate::machine;
use crate::network::Links;
use crate::node::Node;
use crate::rates::Rates;

/// The farm's name.
pub(crate) const FARM: &str = "demo";
/// The one registered table.
pub(crate) const TABLE: &str = "entries";
/// Its encrypted columns.
pub(crate) const COLUMNS: usize = 2;
const TARGETS: &str = "version = 1\n[[table]]\nname = \"entries\"\nkey = [\"id\"]\n\
                       [[table.column]]\nname = \"secret\"\nencoding = \"base64\"\n\
                       [[table.column]]\nname = \"note\"\nencoding = \"raw\"\n";

/// How each column is encoded.
pub(crate) const ENCODINGS: [Encoding; COLUMNS] = [Encoding::Base64, Encoding::Raw];

/// What is registered on every node.
pub(crate) fn targets() -> reencrypt::Targets {
    reencrypt::Targets::parse(TARGETS).expect("this is a file of targets")
}

/// The farm's keys, by what they are to a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyName {
    Old,
    New,
}

/// What is known of the table beside the database: what every value says.
pub(crate) struct Truth {
    /// Plaintexts by row and column.
    pub(crate) plaintexts: BTreeMap<(i64, usize), Vec<u8>>,
    /// The other columns of each row.
    pub(crate) rest: BTreeMap<i64, Vec<u8>>,
    /// Which keys rows are under, the old and the new, in which version of the database.
    under: (u64, [bool; 2]),
    /// The version in which rows were looked at.
    looked_at: Option<u64>,
    /// Values that were damaged and not repaired, and at which byte.
    pub(crate) damaged: BTreeMap<(i64, usize), usize>,
    /// Which key opens a ciphertext, and what it says; ciphertexts are looked at again and again.
    opened: BTreeMap<Vec<u8>, (KeyName, Vec<u8>)>,
}

/// The world.
pub(crate) struct World {
    pub(crate) database: Arc<Database>,
    pub(crate) cluster: Cluster,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) links: Links,
    pub(crate) operator: Tls,
    pub(crate) old: SecretKey,
    pub(crate) new: SecretKey,
    pub(crate) rates: Rates,
    pub(crate) seen: invariants::Seen,
    pub(crate) folders: invariants::Folders,
    pub(crate) betrayed: invariants::Betrayed,
    ciphers: [Cipher; 2],
    truth: Mutex<Truth>,
    random: Mutex<u64>,
    /// No fault happens any more.
    calm: AtomicBool,
    trace: Mutex<Trace>,
    violation: Mutex<Option<String>>,
}

struct Trace {
    hasher: blake3::Hasher,
    events: u64,
    is_printed: bool,
}

/// What a world is made of, by those who build it.
pub(crate) struct Parts {
    pub(crate) database: Arc<Database>,
    pub(crate) cluster: Cluster,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) operator: Tls,
    pub(crate) old: SecretKey,
    pub(crate) new: SecretKey,
    pub(crate) rates: Rates,
    pub(crate) plaintexts: BTreeMap<(i64, usize), Vec<u8>>,
    pub(crate) rest: BTreeMap<i64, Vec<u8>>,
    pub(crate) is_printed: bool,
    pub(crate) random: u64,
}

impl World {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { database, cluster, nodes, operator, old, new, rates, plaintexts, rest, is_printed, random } = parts;
        let ciphers = [Cipher::new(&old), Cipher::new(&new)];
        let truth = Truth {
            plaintexts,
            rest,
            under: (0, [false; 2]),
            looked_at: None,
            damaged: BTreeMap::new(),
            opened: BTreeMap::new(),
        };
        let world = Arc::new(Self {
            database,
            cluster,
            nodes,
            links: Links::default(),
            operator,
            old,
            new,
            rates,
            seen: invariants::Seen::default(),
            folders: invariants::Folders::default(),
            betrayed: invariants::Betrayed::default(),
            ciphers,
            truth: Mutex::new(truth),
            random: Mutex::new(random),
            calm: AtomicBool::new(false),
            trace: Mutex::new(Trace { hasher: blake3::Hasher::new(), events: 0, is_printed }),
            violation: Mutex::new(None),
        });
        let observer = Arc::downgrade(&world);
        world.database.observe(move |commit| {
            if let Some(world) = observer.upgrade() {
                world.committed(commit);
            }
        });
        world
    }

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        machine::next_random(&mut lock(&self.random)) % bound.max(1)
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len() as u64);
        &of[usize::try_from(at).expect("it is below a length")]
    }

    /// Whether something happens that happens so often among ten thousand times. Never once faults have ended.
    pub(crate) fn misfortune(&self, of_ten_thousand: u64) -> bool {
        of_ten_thousand > 0 && !self.is_calm() && self.below(10_000) < of_ten_thousand
    }

    /// A time from `least` on and below `most`, milliseconds.
    pub(crate) fn time(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least))
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// From here on nothing goes wrong.
    pub(crate) fn calm_down(&self) {
        self.say(format_args!("-- everything heals"));
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Something has happened: it is written down, and everything that must always hold is looked at.
    pub(crate) fn happened(&self, what: fmt::Arguments<'_>) {
        self.say(what);
        invariants::check(self);
    }

    /// Writes down what happens.
    pub(crate) fn say(&self, what: fmt::Arguments<'_>) {
        let mut trace = lock(&self.trace);
        let at = machine::elapsed();
        let line = format!("{:>9.3} {what}", at.as_secs_f64());
        trace.hasher.update(line.as_bytes());
        trace.events += 1;
        if trace.is_printed {
            println!("{line}");
        }
    }

    /// Words for whoever replays a seed, which need not be the same in every run of it.
    pub(crate) fn explain(&self, what: fmt::Arguments<'_>) {
        if lock(&self.trace).is_printed {
            println!("          {what}");
        }
    }

    /// The digest of everything that was written down, and how much it was.
    pub(crate) fn trace(&self) -> (String, u64) {
        let trace = lock(&self.trace);
        (trace.hasher.finalize().to_hex()[..16].to_owned(), trace.events)
    }

    /// Something does not hold. The first one counts.
    pub(crate) fn violated(&self, invariant: &str, how: fmt::Arguments<'_>) {
        let mut violation = lock(&self.violation);
        if violation.is_none() {
            let text = format!("{invariant}: {how}");
            self.say(format_args!("!! {text}"));
            *violation = Some(text);
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        lock(&self.violation).clone()
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        lock(&self.truth)
    }

    pub(crate) fn cipher(&self, name: KeyName) -> &Cipher {
        &self.ciphers[name as usize]
    }

    /// Which of the farm's keys open a value, with what it says.
    pub(crate) fn open(&self, truth: &mut Truth, stored: &[u8], column: usize) -> Vec<(KeyName, Vec<u8>)> {
        if let Some(found) = truth.opened.get(stored) {
            return vec![found.clone()];
        }
        let open = |name: KeyName| {
            let opened = self.cipher(name).open(stored, ENCODINGS[column], b"").ok()?;
            Some((name, opened.plaintext.to_vec()))
        };
        let found: Vec<_> = [KeyName::Old, KeyName::New].into_iter().filter_map(open).collect();
        if let [only] = found.as_slice() {
            truth.opened.insert(stored.to_vec(), only.clone());
        }
        found
    }

    /// Whether rows may have changed since this was last asked.
    pub(crate) fn rows_are_new(&self) -> bool {
        let version = Some(self.database.version());
        std::mem::replace(&mut self.truth().looked_at, version) != version
    }

    /// Whether any row is under the old key, and whether any is under the new.
    pub(crate) fn keys_of_rows(&self) -> [bool; 2] {
        let mut truth = self.truth();
        let version = self.database.version();
        if truth.under.0 == version && version > 0 {
            return truth.under.1;
        }
        let mut under = [false; 2];
        for (id, values, _) in self.database.rows(TABLE) {
            for (column, stored) in values.iter().enumerate() {
                if !truth.damaged.contains_key(&(id, column)) {
                    for (key, _) in self.open(&mut truth, stored, column) {
                        under[key as usize] = true;
                    }
                }
            }
        }
        truth.under = (version, under);
        under
    }

    /// What clients wrote was lost with the history that it was part of: what the database says now is the truth.
    pub(crate) fn believe_the_database(&self) {
        let mut truth = self.truth();
        for (id, values, _) in self.database.rows(TABLE) {
            for (column, stored) in values.iter().enumerate() {
                if let [(_, plaintext)] = self.open(&mut truth, stored, column).as_slice() {
                    truth.plaintexts.insert((id, column), plaintext.clone());
                }
            }
        }
    }

    fn committed(&self, commit: &Commit) {
        let Commit { worker, doing, mark, lease, rows, epoch_before } = commit;
        let epoch = mark.map(|mark| mark.epoch.get());
        let lease = lease.map(|lease| lease.get());
        self.say(format_args!("database: {worker} {doing}, epoch {epoch:?}, lease {lease:?}, {rows} rows"));
        faults::has_committed(self, commit);
        invariants::committed(self, commit, epoch_before.map(|epoch| epoch.get()));
        invariants::check(self);
    }

    /// An agent took an assignment.
    pub(crate) fn accepted(&self, node: &NodeId, fence: Fence) {
        invariants::accepted(self, node, fence);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
