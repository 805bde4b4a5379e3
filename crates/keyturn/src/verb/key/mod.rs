//! `keyturn key`: bundles, which are the escrow of a farm's keys, and a node's key store.

mod export;
mod generate;
mod import;
mod inspect;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use keys::{KeySet, KeyState};
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{Table, date_time, fields};
use crate::problem::Problem;

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a bundle with a new key
    Generate(generate::Generate),
    /// Write the keys of this node's store into a bundle
    Export(export::Export),
    /// Give this node its first encryption.config, from a bundle or from an application's own key
    Import(import::Import),
    /// Show which keys a bundle holds, without showing the keys
    Inspect(inspect::Inspect),
}

impl Key {
    /// Does it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        match self {
            Self::Generate(verb) => verb.run(),
            Self::Export(verb) => verb.run(),
            Self::Import(verb) => verb.run(),
            Self::Inspect(verb) => verb.run(),
        }
    }
}

/// What is told of a set of keys: everything but the keys.
#[derive(Debug, Serialize)]
struct SetView {
    /// Where the set stands.
    file: PathBuf,
    farm: String,
    created_at_ms: u64,
    active_key: String,
    keys: Vec<KeyView>,
}

#[derive(Debug, Serialize)]
struct KeyView {
    id: String,
    state: &'static str,
    created_at_ms: u64,
    weak: bool,
}

impl SetView {
    fn new(file: &Path, set: &KeySet) -> Self {
        let keys = set.entries().map(|entry| KeyView {
            id: entry.secret.id().to_string(),
            state: match entry.state {
                KeyState::Active => "active",
                KeyState::DecryptOnly => "decrypt-only",
            },
            created_at_ms: entry.created_at_ms,
            weak: entry.secret.is_weak(),
        });
        Self {
            file: file.to_owned(),
            farm: set.farm().to_owned(),
            created_at_ms: set.created_at_ms(),
            active_key: set.active().secret.id().to_string(),
            keys: keys.collect(),
        }
    }

    fn table(&self) -> String {
        let mut keys = Table::new(&["KEY", "STATE", "CREATED"]);
        for key in &self.keys {
            let state = if key.weak { format!("{},weak", key.state) } else { key.state.to_owned() };
            keys.row([key.id.clone(), state, date_time(key.created_at_ms)]);
        }
        let head = fields(&[
            ("File", self.file.display().to_string()),
            ("Farm", self.farm.clone()),
            ("Created", date_time(self.created_at_ms)),
        ]);
        format!("{head}\n\n{}", keys.render())
    }
}

/// Reads the agent's configuration, which names the key store.
pub(super) fn agent_config(path: &Path) -> Result<agent::Config, Problem> {
    agent::Config::load(path).map_err(|error| {
        Problem::refused(
            "configuration",
            format!("the agent's configuration {} cannot be used", path.display()),
            "compare it with deploy/examples/agent.toml",
        )
        .because(&error)
    })
}

/// A key store that did not do what was asked.
pub(super) fn store_problem(message: &str, error: &keys::StoreError) -> Problem {
    Problem::refused("key-store", message, error.next_step()).because(error)
}
