//! The rotation that this agent follows: one signed statement per rotation, which key its instance proved, and
//! whether the point of no return is behind it. Rotations followed earlier are never followed again.

use std::path::{Path, PathBuf};

use fail_points::{Point, point};
use rotation::{Digest, KeyId, RotationId};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

const FORMAT: &str = "keyturn-agent-rotation 1";
const FILE: &str = "rotation.json";
/// How many earlier rotations are remembered: some hundreds of years of yearly rotations, 40 KB of file.
const SPENT_MAX: usize = 1_000;

/// Why an authorised assignment is still not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PinRefusal {
    /// A later rotation has been followed since.
    #[error("rotation {0} is over on this node: a later one has been followed since")]
    Spent(RotationId),
    /// Two signed statements for one rotation.
    #[error("rotation {0} is followed on another signed statement already, and only one is followed per rotation")]
    OtherStatement(RotationId),
    /// What an undo may still need is not to be dropped.
    #[error("rotation {0} has not passed the point of no return on this node: its undo may need the tables it keeps")]
    MayTurnBack(RotationId),
    /// It would turn back what must not be turned back.
    #[error("rotation {0} has passed the point of no return on this node: its instance was admitted with the new key")]
    NoReturn(RotationId),
}

/// What is known of the rotation being followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Followed {
    /// The rotation.
    pub(crate) rotation: RotationId,
    /// BLAKE3 of its statement's bytes.
    pub(crate) statement: Digest,
    /// The key that the running instance last proved. Forgotten whenever the instance is stopped or started.
    pub(crate) proved: Option<KeyId>,
    /// The instance was held offline: rows may have been turned since.
    pub(crate) was_held: bool,
    /// The instance was let to its clients with the new key: new data may exist under it.
    pub(crate) no_return: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Record {
    followed: Option<Followed>,
    /// Oldest first.
    spent: Vec<RotationId>,
}

/// The record, in memory and on disk. Disk first.
#[derive(Debug)]
pub(crate) struct Pin {
    path: PathBuf,
    record: Record,
}

impl Pin {
    /// Reads it; absent means that no rotation was ever followed.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let path = state_dir.join(FILE);
        let record = durable::read(&path, FORMAT)?.unwrap_or_default();
        Ok(Self { path, record })
    }

    /// The rotation being followed.
    pub(crate) fn current(&self) -> Option<&Followed> {
        self.record.followed.as_ref()
    }

    /// The rotation being followed, if it is this one.
    pub(crate) fn followed(&self, rotation: RotationId) -> Option<&Followed> {
        self.record.followed.as_ref().filter(|followed| followed.rotation == rotation)
    }

    /// Whether this very statement was verified and pinned before. Its signer's certificate may have expired since;
    /// that must not leave a rotation that it started half done.
    pub(crate) fn is_pinned(&self, rotation: RotationId, statement: Digest) -> bool {
        self.followed(rotation).is_some_and(|followed| followed.statement == statement)
    }

    /// Whether the statement may be followed, and whether work that turns back may still be done. Changes nothing.
    pub(crate) fn check(&self, rotation: RotationId, statement: Digest, turns_back: bool) -> Result<(), PinRefusal> {
        match self.followed(rotation) {
            Some(followed) if followed.statement != statement => Err(PinRefusal::OtherStatement(rotation)),
            Some(followed) if followed.no_return && turns_back => Err(PinRefusal::NoReturn(rotation)),
            Some(_) => Ok(()),
            None if self.record.spent.contains(&rotation) => Err(PinRefusal::Spent(rotation)),
            None => Ok(()),
        }
    }

    /// Whether the tables that the rotation kept may be dropped, as far as this node knows: not while it may still be
    /// undone here. Of a rotation that it does not follow, or no longer, the ledger has the word. Changes nothing.
    pub(crate) fn check_retirement(&self, rotation: RotationId) -> Result<(), PinRefusal> {
        match self.followed(rotation) {
            Some(followed) if !followed.no_return => Err(PinRefusal::MayTurnBack(rotation)),
            Some(_) | None => Ok(()),
        }
    }

    /// Follows a checked statement from now on; the rotation followed before is spent.
    pub(crate) fn follow(&mut self, rotation: RotationId, statement: Digest) -> Result<(), DurableError> {
        if self.is_pinned(rotation, statement) {
            return Ok(());
        }
        let mut spent = self.record.spent.clone();
        spent.extend(self.record.followed.as_ref().map(|followed| followed.rotation));
        if spent.len() > SPENT_MAX {
            spent.remove(0);
        }
        let followed = Followed { rotation, statement, proved: None, was_held: false, no_return: false };
        self.store(Record { followed: Some(followed), spent }, point!(STATEMENT_PINNED))
    }

    /// Remembers which key the running instance proved, or that it has to prove one again.
    pub(crate) fn set_proved(&mut self, rotation: RotationId, proved: Option<KeyId>) -> Result<(), DurableError> {
        self.update(rotation, point!(PROOF_PINNED), |followed| followed.proved = proved)
    }

    /// Remembers that the instance is held: whatever it proved counts no more.
    pub(crate) fn set_held(&mut self, rotation: RotationId) -> Result<(), DurableError> {
        self.update(rotation, point!(HOLD_PINNED), |followed| {
            followed.was_held = true;
            followed.proved = None;
        })
    }

    /// Remembers that the point of no return is passed.
    pub(crate) fn set_no_return(&mut self, rotation: RotationId) -> Result<(), DurableError> {
        self.update(rotation, point!(NO_RETURN_PINNED), |followed| followed.no_return = true)
    }

    fn update(
        &mut self,
        rotation: RotationId,
        point: Point,
        change: impl FnOnce(&mut Followed),
    ) -> Result<(), DurableError> {
        let mut record = self.record.clone();
        match record.followed.as_mut().filter(|followed| followed.rotation == rotation) {
            Some(followed) => change(followed),
            // Another rotation is followed by now: this is late work of a former one, and its word counts no more.
            None => return Ok(()),
        }
        if record == self.record { Ok(()) } else { self.store(record, point) }
    }

    fn store(&mut self, record: Record, point: Point) -> Result<(), DurableError> {
        durable::write(&self.path, FORMAT, &record, point)?;
        self.record = record;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(n: u128) -> RotationId {
        RotationId::new(uuid::Uuid::from_u128(n))
    }

    const ONE: Digest = Digest::new([1; 32]);
    const TWO: Digest = Digest::new([2; 32]);

    #[test]
    fn one_statement_per_rotation_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let mut pin = Pin::open(folder.path()).unwrap();
        assert_eq!(pin.check(rotation(1), ONE, false), Ok(()));
        pin.follow(rotation(1), ONE).unwrap();
        let pin = Pin::open(folder.path()).unwrap();
        assert_eq!(pin.check(rotation(1), ONE, true), Ok(()));
        assert_eq!(pin.check(rotation(1), TWO, false), Err(PinRefusal::OtherStatement(rotation(1))));
    }

    #[test]
    fn an_earlier_rotation_is_never_followed_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut pin = Pin::open(folder.path()).unwrap();
        pin.follow(rotation(1), ONE).unwrap();
        pin.follow(rotation(2), TWO).unwrap();
        assert_eq!(pin.check(rotation(1), ONE, false), Err(PinRefusal::Spent(rotation(1))));
        pin.set_proved(rotation(1), Some(KeyId::new([7; 16]))).unwrap();
        assert_eq!(pin.followed(rotation(2)).unwrap().proved, None, "late work of rotation 1 proves nothing for 2");
    }

    #[test]
    fn nothing_turns_back_after_the_point_of_no_return() {
        let folder = tempfile::tempdir().unwrap();
        let mut pin = Pin::open(folder.path()).unwrap();
        pin.follow(rotation(1), ONE).unwrap();
        pin.set_no_return(rotation(1)).unwrap();
        let pin = Pin::open(folder.path()).unwrap();
        assert_eq!(pin.check(rotation(1), ONE, true), Err(PinRefusal::NoReturn(rotation(1))));
        assert_eq!(pin.check(rotation(1), ONE, false), Ok(()));
    }

    #[test]
    fn nothing_is_dropped_that_an_undo_may_need() {
        let folder = tempfile::tempdir().unwrap();
        let mut pin = Pin::open(folder.path()).unwrap();
        pin.follow(rotation(1), ONE).unwrap();
        assert_eq!(pin.check_retirement(rotation(1)), Err(PinRefusal::MayTurnBack(rotation(1))));
        pin.set_no_return(rotation(1)).unwrap();
        assert_eq!(pin.check_retirement(rotation(1)), Ok(()));
        pin.follow(rotation(2), TWO).unwrap();
        assert_eq!(pin.check_retirement(rotation(1)), Ok(()), "a later one has been followed since");
        assert_eq!(pin.check_retirement(rotation(3)), Ok(()), "the ledger has the word");
    }
}
