//! What the ledger remembers of whole rotations, for whoever recovers a farm without its coordinators: how far each had
//! come, and the notes that agents and recoveries left for each other.

use rotation::{Direction, Epoch, LeaseNumber, RotationId};

use crate::EngineError;

/// A note in the ledger about one node in one rotation. Written once, never taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// The node's instance may run with the new key, without clients: it was about to be started.
    Started,
    /// A recovery by hand has begun, and this node's instance is offline and stays so until the rows are back.
    Offline,
    /// The node's instance was let to clients with the new key: nothing is undone from here on.
    Admitted,
    /// The rotation was undone by hand, begun on this node.
    Recovered,
}

impl NoteKind {
    const ALL: [Self; 4] = [Self::Started, Self::Offline, Self::Admitted, Self::Recovered];

    /// As the ledger writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Offline => "offline",
            Self::Admitted => "admitted",
            Self::Recovered => "recovered",
        }
    }

    /// Whether it is refused once the ledger has been turned back or a recovery by hand has begun: from the first
    /// [`Offline`](Self::Offline) on, unless a node had been admitted before, and so nothing can go back.
    pub(crate) const fn goes_forward(self) -> bool {
        match self {
            Self::Started | Self::Admitted => true,
            Self::Offline | Self::Recovered => false,
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, EngineError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| EngineError::LedgerUnreadable(format!("it holds the note {text:?}, which is not known")))
    }
}

/// One rotation as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRotation {
    /// The rotation.
    pub rotation: RotationId,
    /// Which way its rows go.
    pub direction: Direction,
    /// The epoch of the last work that entered.
    pub epoch: Epoch,
    /// Nothing enters any more.
    pub closed: bool,
    /// The application's role is shut out now. Always false on SQLite, which has no roles.
    pub role_fenced: bool,
    /// The application's role was shut out at some time of this rotation.
    pub role_saved: bool,
    /// Shards of which at least one row was turned to the new key.
    pub shards_turned: u64,
    /// Shards that were read back whole under the new key.
    pub shards_verified: u64,
    /// Shards that were read back whole under the old key.
    pub shards_restored: u64,
    /// The highest lease that any shard was worked on under.
    pub lease_max: LeaseNumber,
    /// What was noted, by the node's name.
    pub notes: Vec<(NoteKind, String)>,
}

impl LedgerRotation {
    /// Whether this was noted, of any node.
    pub fn has(&self, kind: NoteKind) -> bool {
        self.notes.iter().any(|(noted, _)| *noted == kind)
    }

    /// The nodes of which this was noted.
    pub fn nodes(&self, kind: NoteKind) -> impl Iterator<Item = &str> {
        self.notes.iter().filter(move |(noted, _)| *noted == kind).map(|(_, node)| node.as_str())
    }
}

/// What refuses a note that only the way forward allows.
pub(crate) fn recovery_begun(rotation: &RotationId) -> EngineError {
    EngineError::Superseded(format!("a recovery of rotation {rotation} by hand has begun"))
}

/// A header row and what its shards add up to, as a dialect reads it.
#[derive(Debug)]
pub(crate) struct StoredRotation {
    pub(crate) rotation: String,
    pub(crate) direction: String,
    pub(crate) epoch: i64,
    pub(crate) closed: bool,
    pub(crate) role_fenced: bool,
    pub(crate) role_saved: bool,
    pub(crate) shards_turned: i64,
    pub(crate) shards_verified: i64,
    pub(crate) shards_restored: i64,
    pub(crate) lease_max: i64,
}

impl StoredRotation {
    /// The rotation, if this release can read it.
    pub(crate) fn read(self, notes: &[(String, String, String)]) -> Result<LedgerRotation, EngineError> {
        let unreadable = |what: &str| EngineError::LedgerUnreadable(format!("in its header row {what}"));
        let count = |number: i64| u64::try_from(number).map_err(|_| unreadable("a count is negative"));
        let direction = match self.direction.as_str() {
            "forward" => Direction::Forward,
            "back" => Direction::Back,
            _ => return Err(unreadable("the direction is neither forward nor back")),
        };
        let own = notes.iter().filter(|(rotation, ..)| *rotation == self.rotation);
        let notes = own.map(|(_, kind, node)| Ok((NoteKind::parse(kind)?, node.clone())));
        Ok(LedgerRotation {
            rotation: self.rotation.parse().map_err(|_| unreadable("the rotation is no UUID"))?,
            direction,
            epoch: Epoch::new(count(self.epoch)?),
            closed: self.closed,
            role_fenced: self.role_fenced,
            role_saved: self.role_saved,
            shards_turned: count(self.shards_turned)?,
            shards_verified: count(self.shards_verified)?,
            shards_restored: count(self.shards_restored)?,
            lease_max: LeaseNumber::new(count(self.lease_max)?),
            notes: notes.collect::<Result<_, EngineError>>()?,
        })
    }
}
