//! `keyturn key export`: the keys of this node's store, in a bundle.

use std::path::PathBuf;

use clap::Args;
use keys::bundle;

use super::{SetView, agent_config, store_problem};
use crate::exit::Exit;
use crate::files::{refuse_existing, write_new};
use crate::output::OutputArgs;
use crate::password::PasswordArgs;
use crate::problem::Problem;
use crate::process::forbid_core_dumps;

/// From where, and to where.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The agent's configuration, which names the key store
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The bundle to write; never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Export {
    /// Writes it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        refuse_existing(&self.out)?;
        let store = agent::open_store(&agent_config(&self.config)?);
        let set = store.current().map_err(|error| store_problem("this node's keys could not be read", &error))?;
        let password = self.password.source().read_new(&self.out.display().to_string())?;
        let sealed = bundle::seal(&set, &password).map_err(|error| {
            Problem::refused("bundle", "the bundle could not be made", error.next_step()).because(&error)
        })?;
        write_new(&self.out, &sealed)?;
        let view = SetView::new(&self.out, &set);
        self.output.print(&view, || view.table())?;
        Ok(Exit::Done)
    }
}
