//! `keyturn key generate`: a bundle with a new key.

use std::path::PathBuf;

use clap::Args;
use keys::{KeySet, SecretKey, bundle};

use super::SetView;
use crate::exit::Exit;
use crate::files::{refuse_existing, write_new};
use crate::output::{OutputArgs, now_ms};
use crate::password::PasswordArgs;
use crate::problem::Problem;
use crate::process::forbid_core_dumps;

/// For which farm, and where.
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// The farm's name
    #[arg(long, value_name = "NAME", value_parser = farm)]
    farm: String,
    /// The bundle to write; never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Generate {
    /// Makes it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        refuse_existing(&self.out)?;
        let password = self.password.source().read_new(&self.out.display().to_string())?;
        let set = KeySet::new(&self.farm, SecretKey::generate(), now_ms());
        let sealed = bundle::seal(&set, &password).map_err(|error| {
            Problem::refused("bundle", "the bundle could not be made", error.next_step()).because(&error)
        })?;
        write_new(&self.out, &sealed)?;
        let view = SetView::new(&self.out, &set);
        self.output.print(&view, || view.table())?;
        Ok(Exit::Done)
    }
}

/// A name that no certificate can have would make a bundle that no farm can use.
fn farm(text: &str) -> Result<String, wire::identity::InvalidName> {
    wire::identity::check_farm(text).map(|()| text.to_owned())
}
