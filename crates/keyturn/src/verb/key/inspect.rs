//! `keyturn key inspect`: which keys a bundle holds, without showing the keys.

use std::path::PathBuf;

use clap::Args;
use keys::bundle;
use serde::Serialize;

use super::SetView;
use crate::exit::Exit;
use crate::files::read;
use crate::operator::{bundle_problem, open_bundle};
use crate::output::{OutputArgs, fields};
use crate::password::PasswordArgs;
use crate::problem::Problem;
use crate::process::forbid_core_dumps;

/// Which bundle.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The bundle
    file: PathBuf,
    /// Show only what can be seen without the password: what it costs to try one
    #[arg(long, conflicts_with_all = ["password_file", "password_fd"])]
    header: bool,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What anybody can see of a bundle.
#[derive(Debug, Serialize)]
struct HeaderView {
    file: PathBuf,
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
}

impl Inspect {
    /// Shows it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        if self.header {
            return self.header();
        }
        forbid_core_dumps()?;
        let set = open_bundle(&self.file, &self.password.source())?;
        let view = SetView::new(&self.file, &set);
        self.output.print(&view, || view.table())?;
        Ok(Exit::Done)
    }

    fn header(self) -> Result<Exit, Problem> {
        let header = bundle::inspect_header(&read(&self.file, "bundle")?)
            .map_err(|error| bundle_problem(&self.file, &error.into()))?;
        let view = HeaderView {
            file: self.file,
            memory_kib: header.argon2.memory_kib,
            iterations: header.argon2.iterations,
            lanes: header.argon2.lanes,
        };
        self.output.print(&view, || {
            fields(&[
                ("File", view.file.display().to_string()),
                ("Derivation", "Argon2id".to_owned()),
                ("Memory", format!("{} KiB", view.memory_kib)),
                ("Iterations", view.iterations.to_string()),
                ("Lanes", view.lanes.to_string()),
            ])
        })?;
        Ok(Exit::Done)
    }
}
