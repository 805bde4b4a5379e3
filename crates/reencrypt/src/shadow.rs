//! What is known of shadows: the re-encrypted copies that are filled beside their tables, swapped in, and retired.

use crate::table::Table;

/// How far a shadow has come, as the ledger records it. Later states come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShadowState {
    /// It is being filled, or its keys and indexes are being built.
    Building,
    /// It has all keys, indexes and constraints of its table.
    Built,
    /// It stands under the table's name; the original is kept under another.
    Swapped,
    /// The original stands under its name again, or never ceased to; the shadow is to be dropped.
    Dropping,
    /// It was swapped in, the application has written to it since, and it stays; its rows go back in place.
    Kept,
    /// The rotation completed and the original has been dropped.
    Retired,
}

impl ShadowState {
    /// As the ledger writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Built => "built",
            Self::Swapped => "swapped",
            Self::Dropping => "dropping",
            Self::Kept => "kept",
            Self::Retired => "retired",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Building, Self::Built, Self::Swapped, Self::Dropping, Self::Kept, Self::Retired];
        all.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether the original stands under the table's name, untouched.
    pub(crate) const fn is_original_live(self) -> bool {
        match self {
            Self::Building | Self::Built | Self::Dropping => true,
            Self::Swapped | Self::Kept | Self::Retired => false,
        }
    }
}

/// A shadow and the table it stands for.
#[derive(Debug, Clone)]
pub(crate) struct Shadow {
    /// The table as targets.toml names it.
    pub(crate) label: String,
    /// The copy's own name, unquoted, in the schema of its table.
    pub(crate) name: String,
    /// The copy under its own name as SQL names it, quoted, with its schema (and `ONLY` where that matters).
    pub(crate) from: String,
    /// The name under which the original is kept after the swap, unquoted.
    pub(crate) retained_name: String,
    pub(crate) state: ShadowState,
}

/// One thing that is still to be built on a filled shadow. Those of one stage may be built at once.
#[derive(Debug, Clone)]
pub(crate) struct BuildStep {
    pub(crate) stage: u32,
    /// In words, for messages: `index secrets_created_at`.
    pub(crate) what: String,
    /// The statement; the dialect's own.
    pub(crate) sql: String,
}

/// Who may read the tables that are held for a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldReaders {
    /// Every session: several may look at once whether anything has changed.
    Everybody,
    /// The session that holds them alone.
    HolderOnly,
}

/// The room that shadows need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Space {
    /// Bytes of the tables with their indexes.
    pub(crate) needed_bytes: u64,
    /// Bytes that are free where they would be; `None` where the database does not tell.
    pub(crate) free_bytes: Option<u64>,
}

/// A table with its shadow, as the swap needs it.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) original: Table,
    pub(crate) shadow: Shadow,
}

impl Pair {
    /// The copy as a table that can be read and written while it stands under its own name.
    pub(crate) fn copy(&self) -> Table {
        Table { from: self.shadow.from.clone(), triggers: Vec::new(), ..self.original.clone() }
    }
}
