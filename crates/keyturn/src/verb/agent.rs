//! `keyturn agent`: what drives one node of the farm, in the foreground until it is told to stop.

use std::path::PathBuf;

use clap::Args;

use crate::exit::Exit;
use crate::problem::Problem;
use crate::process::{LogArgs, told_to_stop};

/// The options of the service.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// The agent's configuration, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

impl Agent {
    /// Runs until SIGTERM or SIGINT.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let config = agent::Config::load(&self.config).map_err(|error| {
            Problem::refused(
                "configuration",
                format!("the agent's configuration {} cannot be used", self.config.display()),
                "compare it with deploy/examples/agent.toml",
            )
            .because(&error)
        })?;
        agent::run(config, crate::verb::db::backup_tools(), told_to_stop()).await.map_err(|error| {
            Problem::refused("agent", "the agent stopped", "what it says above is in its way; start it again after")
                .because(&error)
        })?;
        Ok(Exit::Done)
    }
}
