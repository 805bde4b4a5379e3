//! The points as tests have them. A test names a folder in the environment of the process under test; the file `arm` in it
//! says what is to happen where, and every point that is passed is written to `trace`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::signal::{Signal, raise};

/// Names the folder.
pub const FOLDER_VARIABLE: &str = "KEYTURN_FAIL_POINTS";
/// What every name begins with, so that one search of a binary shows whether there is any.
pub const PREFIX: &str = "keyturn-fail-point:";
/// In the folder: `NAME/SIDE ACTION PASSED`, such as `HELD_MARKER/before kill 0`. SIDE is `before` or `after`; ACTION is
/// `error`, `kill` (SIGKILL) or `stop` (SIGSTOP); PASSED is how many times the point is passed before that.
pub const ARM: &str = "arm";
/// In the folder: one `NAME/SIDE` on each line, in the order in which they were passed.
pub const TRACE: &str = "trace";

/// A place beside a durable write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(&'static str);

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        impl Point {
            $($(#[$doc])* pub const $name: Self = Self(concat!("keyturn-fail-point:", stringify!($name)));)*
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

points! {
    /// The agent's `fence.json`: another cluster, or a higher term or epoch.
    AGENT_FENCE,
    /// The agent's `plan.json`: statement and plan of the rotation that is about to be followed.
    PLAN_KEPT,
    /// The agent's `backup.json`: what it backed up in Preflight.
    BACKUP_NOTED,
    /// The agent's `rotation.json`: a signed statement is followed.
    STATEMENT_PINNED,
    /// The agent's `rotation.json`: the instance is about to be held.
    HOLD_PINNED,
    /// The agent's `rotation.json`: which key the instance proved, or none.
    PROOF_PINNED,
    /// The agent's `rotation.json`: the point of no return.
    NO_RETURN_PINNED,
    /// The agent's `held.json` is written.
    HELD_MARKER,
    /// The agent's `held.json` is deleted.
    HELD_RELEASED,
    /// The agent's `recovered.json`.
    RECOVERED_MARK,
    /// The recipient key is written.
    RECIPIENT_KEY,
    /// The recipient key is deleted.
    RECIPIENT_DELETED,
    /// The pending key is written.
    PENDING_KEY,
    /// `encryption.config` gets its dated name as well.
    DATED_NAME,
    /// The pending file is renamed over `encryption.config`.
    KEY_ACTIVATED,
    /// In an undo, the new key goes back to pending.
    KEY_SET_ASIDE,
    /// In an undo, the earlier file is put in the place of `encryption.config`.
    KEY_RESTORED,
    /// The pending key is deleted.
    PENDING_DISCARDED,
    /// In a recovery by hand, an earlier file is renamed over `encryption.config`.
    FILE_PUT_BACK,
    /// The `drain` command runs.
    INSTANCE_DRAIN,
    /// The `offline` command runs.
    INSTANCE_OFFLINE,
    /// The `start` command runs.
    INSTANCE_START,
    /// The `admit` command runs.
    INSTANCE_ADMIT,
    /// The ledger is opened: its header is written, and the application's role fenced.
    LEDGER_OPENED,
    /// Servers: the header's epoch is raised by itself, before a shard is taken over.
    HEADER_RAISED,
    /// A shard is taken over under a lease; on SQLite the header's epoch rises with it.
    SHARD_ENTERED,
    /// A chunk of rows is about to be written: before its transaction begins, and when it has ended either way.
    CHUNK,
    /// A chunk of rows is committed with its ledger row. Before: all of it is written, and the transaction is open.
    CHUNK_COMMITTED,
    /// A note about a node.
    LEDGER_NOTE,
    /// The header is turned back, and the role fenced again.
    LEDGER_TURNED_BACK,
    /// The role is let in again.
    FENCE_LIFTED,
    /// The ledger is closed.
    LEDGER_CLOSED,
    /// The copy of a table is made.
    SHADOW_MADE,
    /// A key, index or constraint is built on a copy.
    SHADOW_STEP_BUILT,
    /// A copy is noted as built.
    SHADOW_BUILT,
    /// Copies are swapped in.
    TABLES_SWAPPED,
    /// Originals are swapped back, or copies kept in their place.
    TABLES_SWAPPED_BACK,
    /// What an undone rotation leaves is dropped.
    SHADOWS_DROPPED,
    /// The originals that a completed rotation kept are dropped.
    TABLES_RETIRED,
    /// Not on SQLite: before the application is let in after an undo, copies let go of other tables, or the header is raised
    /// while accounts are still locked.
    LET_IN_PREPARED,
    /// MariaDB and MySQL: the application's accounts are locked, behind the header.
    ACCOUNTS_LOCKED,
}

impl Point {
    /// Immediately before the write. An error, the end of the process or a stop, as the test armed it.
    pub fn before(self) -> io::Result<()> {
        reach(self.name(), "before")
    }

    /// Immediately after it.
    pub fn after(self) -> io::Result<()> {
        reach(self.name(), "after")
    }

    /// The name, as in `arm` and `trace`.
    pub fn name(self) -> &'static str {
        self.0.strip_prefix(PREFIX).expect("the macro puts it before every name")
    }
}

/// What is armed, and how often it was passed since.
#[derive(Default)]
struct Armed {
    text: String,
    passed: u32,
}

fn reach(name: &str, side: &str) -> io::Result<()> {
    let Some(folder) = folder() else { return Ok(()) };
    let place = format!("{name}/{side}");
    // One write, so that lines of several threads do not mix.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join(TRACE))?
        .write_all(format!("{place}\n").as_bytes())?;
    match due(folder, &place).as_deref() {
        None => Ok(()),
        Some("error") => Err(io::Error::other(format!("the test lets {place} fail"))),
        Some("kill") => Ok(raise(Signal::SIGKILL)?),
        Some("stop") => Ok(raise(Signal::SIGSTOP)?),
        Some(other) => Err(io::Error::other(format!("no such action: {other}"))),
    }
}

/// The action, if this is the place and its turn.
fn due(folder: &Path, place: &str) -> Option<String> {
    static ARMED: Mutex<Armed> = Mutex::new(Armed { text: String::new(), passed: 0 });
    // Held across a small read: two threads at one point must not both be the last.
    let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    let text = fs::read_to_string(folder.join(ARM)).unwrap_or_default();
    if text != armed.text {
        *armed = Armed { text: text.clone(), passed: 0 };
    }
    let mut words = text.split_whitespace();
    let (at, action, passes) = (words.next()?, words.next()?, words.next()?.parse::<u32>().ok()?);
    if at != place {
        return None;
    }
    armed.passed += 1;
    (armed.passed == passes + 1).then(|| action.to_owned())
}

fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(|| std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from)).as_deref()
}
