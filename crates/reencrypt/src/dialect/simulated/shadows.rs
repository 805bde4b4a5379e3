//! What the simulated database makes of the statements about shadows. A swap renames, as PostgreSQL does it.

use rotation::{Direction, RotationId};

use super::data::Data;
use crate::EngineError;
use crate::ledger::{LedgerMark, direction_text, epoch_number};
use crate::shadow::{Pair, Shadow, ShadowState};
use crate::table::Table;

impl Data {
    pub(super) fn shadow(&mut self, mark: &LedgerMark, table: &Table) -> Result<Shadow, EngineError> {
        self.known_header(&mark.rotation)?.admit(mark)?;
        let key = (mark.rotation, table.label.clone());
        if let Some(shadow) = self.shadows.get(&key) {
            return Ok(shadow.clone());
        }
        let name = format!("keyturn_{}_{}_copy", mark.epoch, table.label);
        if self.tables.contains_key(&name) {
            return Err(EngineError::Internal(format!("{name} is in the way")));
        }
        self.tables.insert(name.clone(), std::collections::BTreeMap::new());
        let retained_name = format!("keyturn_{}_{}_original", mark.epoch, table.label);
        let shadow = Shadow {
            label: table.label.clone(),
            from: name.clone(),
            name,
            retained_name,
            state: ShadowState::Building,
        };
        self.shadows.insert(key, shadow.clone());
        Ok(shadow)
    }

    pub(super) fn shadows_of(&self, rotation: &RotationId) -> Vec<Shadow> {
        self.shadows.iter().filter(|((of, _), _)| of == rotation).map(|(_, shadow)| shadow.clone()).collect()
    }

    pub(super) fn built(&mut self, mark: &LedgerMark, pair: &Pair) -> Result<(), EngineError> {
        self.known_header(&mark.rotation)?.admit(mark)?;
        if let Some(shadow) = self.shadows.get_mut(&(mark.rotation, pair.shadow.label.clone()))
            && shadow.state == ShadowState::Building
        {
            shadow.state = ShadowState::Built;
        }
        Ok(())
    }

    /// What a hold checks and writes when it begins.
    pub(super) fn hold(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let header = self.known_header(&mark.rotation)?;
        header.admit(mark)?;
        header.epoch = epoch_number(mark);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), EngineError> {
        let missing = || EngineError::Internal(format!("there is no table {from}"));
        let rows = self.tables.remove(from).ok_or_else(missing)?;
        match self.tables.insert(to.to_owned(), rows) {
            None => Ok(()),
            Some(_) => Err(EngineError::Internal(format!("{to} is in the way"))),
        }
    }

    fn set(&mut self, mark: &LedgerMark, pair: &Pair, state: ShadowState) {
        if let Some(shadow) = self.shadows.get_mut(&(mark.rotation, pair.shadow.label.clone())) {
            shadow.state = state;
        }
    }

    pub(super) fn swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<(), EngineError> {
        for pair in pairs {
            self.rename(&pair.shadow.label, &pair.shadow.retained_name)?;
            self.rename(&pair.shadow.name, &pair.shadow.label)?;
            self.set(mark, pair, ShadowState::Swapped);
        }
        Ok(())
    }

    pub(super) fn swap_back(&mut self, mark: &LedgerMark, back: &[Pair], kept: &[Pair]) -> Result<(), EngineError> {
        for pair in back {
            self.rename(&pair.shadow.label, &pair.shadow.name)?;
            self.rename(&pair.shadow.retained_name, &pair.shadow.label)?;
            self.set(mark, pair, ShadowState::Dropping);
        }
        for pair in kept {
            self.set(mark, pair, ShadowState::Kept);
        }
        Ok(())
    }

    pub(super) fn drop_shadows(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let Some(header) = self.headers.get(&mark.rotation) else { return Ok(()) };
        if header.closed && header.direction == direction_text(mark.direction) {
            return Ok(());
        }
        header.admit(mark)?;
        for shadow in self.shadows_of(&mark.rotation) {
            let key = (mark.rotation, shadow.label.clone());
            match shadow.state {
                ShadowState::Building | ShadowState::Built | ShadowState::Dropping => {
                    self.tables.remove(&shadow.name);
                    self.shadows.remove(&key);
                }
                ShadowState::Kept => {
                    self.tables.remove(&shadow.retained_name);
                    self.shadows.insert(key, Shadow { state: ShadowState::Retired, ..shadow });
                }
                ShadowState::Retired => {}
                ShadowState::Swapped => {
                    let problem = "was not swapped back".to_owned();
                    return Err(EngineError::ShadowState { table: shadow.label, problem });
                }
            }
        }
        Ok(())
    }

    pub(super) fn retire(&mut self, rotation: &RotationId) -> Result<(), EngineError> {
        let header = self.known_header(rotation)?;
        if !header.closed {
            return Err(EngineError::LedgerOpen(rotation.to_string()));
        }
        if header.direction != direction_text(Direction::Forward) {
            return Ok(());
        }
        for shadow in self.shadows_of(rotation) {
            if shadow.state == ShadowState::Swapped {
                self.tables.remove(&shadow.retained_name);
                let key = (*rotation, shadow.label.clone());
                self.shadows.insert(key, Shadow { state: ShadowState::Retired, ..shadow });
            }
        }
        Ok(())
    }
}
