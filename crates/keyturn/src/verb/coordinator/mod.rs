//! `keyturn coordinator`: one replica of the rotation's state, in the foreground until it is told to stop; and below it, the
//! membership of the cluster that the replicas form.

mod add;
mod change;
mod list;
mod remove;
mod replace;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::problem::Problem;
use crate::process::{LogArgs, LogFormat, told_to_stop};

/// The options of the service, or a verb about all replicas.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub(crate) struct Coordinator {
    /// The replica's configuration, TOML
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// What can be done with the cluster of coordinators.
#[derive(Debug, Subcommand)]
enum Verb {
    /// List the coordinators: who leads, who answers, how far each is
    List(list::List),
    /// Add coordinators: from one to three, from three to five
    Add(add::Add),
    /// Replace a coordinator by a new one, as after the loss of its disk
    Replace(replace::Replace),
    /// Remove coordinators: from five to three, from three to one
    Remove(remove::Remove),
}

impl Coordinator {
    /// How the service logs; `None` for a verb.
    pub(crate) fn service_log(&self) -> Option<LogFormat> {
        self.verb.is_none().then_some(self.log.log_format)
    }

    /// Runs until SIGTERM or SIGINT, or carries out the verb.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        match self.verb {
            None => serve(self.config.unwrap_or_default()).await,
            Some(Verb::List(verb)) => verb.run().await,
            Some(Verb::Add(verb)) => verb.run().await,
            Some(Verb::Replace(verb)) => verb.run().await,
            Some(Verb::Remove(verb)) => verb.run().await,
        }
    }
}

async fn serve(path: PathBuf) -> Result<Exit, Problem> {
    let config = coordinator::Config::load(&path).map_err(|error| {
        Problem::refused(
            "configuration",
            format!("the coordinator's configuration {} cannot be used", path.display()),
            "compare it with deploy/examples/coordinator.toml",
        )
        .because(&error)
    })?;
    coordinator::run(config, told_to_stop()).await.map_err(|error| {
        Problem::refused(
            "coordinator",
            "the coordinator stopped",
            "what it says above is in its way; start it again after",
        )
        .because(&error)
    })?;
    Ok(Exit::Done)
}
