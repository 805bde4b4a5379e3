//! A farm's keys together: exactly one active, the rest only for decrypting what is older.

use std::collections::BTreeSet;

use rotation::KeyId;

use crate::SecretKey;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Encrypts and decrypts. Exactly one key of a set is active.
    Active,
    /// Only opens what was encrypted before.
    DecryptOnly,
}

/// One key of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// What it is for.
    pub state: KeyState,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// The key.
    pub secret: SecretKey,
}

/// Keys that make no set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Nothing would encrypt.
    #[error("none of its keys is active")]
    NoActive,
    /// Which one would encrypt is not decided.
    #[error("{0} of its keys are active, and only one may be")]
    SeveralActive(usize),
    /// The same key stands in it twice.
    #[error("key {0} stands in it twice")]
    Duplicate(KeyId),
}

/// A farm's keys: exactly one active, no key twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    farm: String,
    created_at_ms: u64,
    active: KeyEntry,
    decrypt_only: Vec<KeyEntry>,
}

impl KeySet {
    /// A set with this one key, active.
    pub fn new(farm: &str, active: SecretKey, now_ms: u64) -> Self {
        Self {
            farm: farm.to_owned(),
            created_at_ms: now_ms,
            active: KeyEntry { state: KeyState::Active, created_at_ms: now_ms, secret: active },
            decrypt_only: Vec::new(),
        }
    }

    /// A set of these keys, if they make one.
    pub fn from_entries(farm: &str, created_at_ms: u64, entries: Vec<KeyEntry>) -> Result<Self, KeySetError> {
        let mut ids = BTreeSet::new();
        for entry in &entries {
            let id = entry.secret.id();
            if !ids.insert(id) {
                return Err(KeySetError::Duplicate(id));
            }
        }
        let (mut active, decrypt_only): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.state == KeyState::Active);
        let count = active.len();
        match active.pop() {
            None => Err(KeySetError::NoActive),
            Some(active) if count == 1 => Ok(Self { farm: farm.to_owned(), created_at_ms, active, decrypt_only }),
            Some(_) => Err(KeySetError::SeveralActive(count)),
        }
    }

    /// The farm's name.
    pub fn farm(&self) -> &str {
        &self.farm
    }

    /// When the set was made, milliseconds since the Unix epoch.
    pub const fn created_at_ms(&self) -> u64 {
        self.created_at_ms
    }

    /// The key that encrypts.
    pub const fn active(&self) -> &KeyEntry {
        &self.active
    }

    /// All keys, the active one first.
    pub fn entries(&self) -> impl Iterator<Item = &KeyEntry> {
        std::iter::once(&self.active).chain(&self.decrypt_only)
    }

    /// The key with this id.
    pub fn find(&self, id: KeyId) -> Option<&KeyEntry> {
        self.entries().find(|entry| entry.secret.id() == id)
    }

    /// The set in which `new` is active and every key of this one is decrypt-only. A key that is in this set
    /// already is not doubled.
    #[must_use]
    pub fn promote(&self, new: KeyEntry, now_ms: u64) -> Self {
        let new_id = new.secret.id();
        let decrypt_only = self
            .entries()
            .filter(|entry| entry.secret.id() != new_id)
            .map(|entry| KeyEntry { state: KeyState::DecryptOnly, ..entry.clone() })
            .collect();
        Self {
            farm: self.farm.clone(),
            created_at_ms: now_ms,
            active: KeyEntry { state: KeyState::Active, ..new },
            decrypt_only,
        }
    }

    /// The set with the active key alone; what is sealed to an agent.
    #[must_use]
    pub(crate) fn only_active(&self) -> Self {
        Self { decrypt_only: Vec::new(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: KeyState, byte: u8) -> KeyEntry {
        KeyEntry { state, created_at_ms: 1, secret: SecretKey::from_bytes(vec![byte; 32]).unwrap() }
    }

    #[test]
    fn exactly_one_key_is_active() {
        use KeyState::{Active, DecryptOnly};
        let made = |entries| KeySet::from_entries("farm", 1, entries);
        assert_eq!(made(vec![]), Err(KeySetError::NoActive));
        assert_eq!(made(vec![entry(DecryptOnly, 1)]), Err(KeySetError::NoActive));
        assert_eq!(made(vec![entry(Active, 1), entry(Active, 2)]), Err(KeySetError::SeveralActive(2)));
        let set = made(vec![entry(DecryptOnly, 1), entry(Active, 2)]).unwrap();
        assert_eq!(set.active(), &entry(Active, 2));
    }

    #[test]
    fn no_key_stands_in_it_twice() {
        let twice = vec![entry(KeyState::Active, 1), entry(KeyState::DecryptOnly, 1)];
        let id = twice[0].secret.id();
        assert_eq!(KeySet::from_entries("farm", 1, twice), Err(KeySetError::Duplicate(id)));
    }

    #[test]
    fn promoting_keeps_the_old_key_for_decrypting() {
        let set = KeySet::new("farm", SecretKey::from_bytes(vec![1; 32]).unwrap(), 5);
        let old = set.active().secret.id();
        let next = set.promote(entry(KeyState::DecryptOnly, 2), 9);
        assert_eq!(next.active(), &entry(KeyState::Active, 2));
        assert_eq!(next.find(old).unwrap().state, KeyState::DecryptOnly);
        assert_eq!((next.farm(), next.created_at_ms(), next.entries().count()), ("farm", 9, 2));
        assert_eq!(next.only_active().entries().count(), 1);
    }

    #[test]
    fn promoting_a_key_of_the_set_doubles_nothing() {
        let set = KeySet::new("farm", SecretKey::from_bytes(vec![1; 32]).unwrap(), 5);
        let next = set.promote(entry(KeyState::Active, 2), 9);
        let back = next.promote(next.find(set.active().secret.id()).unwrap().clone(), 12);
        assert_eq!(back.active().secret, set.active().secret);
        assert_eq!(back.entries().count(), 2);
        assert_eq!(back.promote(back.active().clone(), 13).entries().count(), 2);
    }
}
