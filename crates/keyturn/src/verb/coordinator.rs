//! `keyturn coordinator`: one replica of the rotation's state, in the foreground until it is told to stop.

use std::path::PathBuf;

use clap::Args;

use crate::exit::Exit;
use crate::problem::Problem;
use crate::process::{LogArgs, told_to_stop};

/// The options of the service.
#[derive(Debug, Args)]
pub(crate) struct Coordinator {
    /// The replica's configuration, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

impl Coordinator {
    /// Runs until SIGTERM or SIGINT.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let config = coordinator::Config::load(&self.config).map_err(|error| {
            Problem::refused(
                "configuration",
                format!("the coordinator's configuration {} cannot be used", self.config.display()),
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
}
