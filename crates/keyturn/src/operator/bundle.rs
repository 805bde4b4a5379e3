//! Opening a bundle, with messages that name the file.

use std::path::{Path, PathBuf};

use keys::bundle::{self, BundleError};
use keys::{KeySet, Password};

use crate::files::read;
use crate::password::Source;
use crate::problem::Problem;

/// A file that looks like a bundle and may be opened without exhausting the machine.
pub(crate) struct ClosedBundle {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl ClosedBundle {
    /// Reads the file. Looked at before a password is asked for: nobody should type one for some other file.
    pub(crate) fn read(path: &Path) -> Result<Self, Problem> {
        let bytes = read(path, "bundle")?;
        bundle::inspect_header(&bytes).map_err(|error| bundle_problem(path, &BundleError::from(error)))?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// What a prompt calls it.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Opens it. What it holds stays in types that wipe themselves.
    pub(crate) fn open(&self, password: &Password) -> Result<KeySet, Problem> {
        bundle::open(&self.bytes, password).map_err(|error| bundle_problem(&self.path, &error))
    }
}

/// Reads and opens a bundle with a password from `source`.
pub(crate) fn open_bundle(path: &Path, source: &Source) -> Result<KeySet, Problem> {
    let closed = ClosedBundle::read(path)?;
    let password = source.read(&closed.name())?;
    closed.open(&password)
}

/// A bundle that does not open.
pub(crate) fn bundle_problem(path: &Path, error: &BundleError) -> Problem {
    Problem::refused("bundle", format!("the bundle {} does not open", path.display()), error.next_step()).because(error)
}
