//! `keyturn rotation retry`: a stuck rotation tries again what it is stuck on.

use clap::Args;

use super::One;
use super::command::Command;
use crate::exit::Exit;
use crate::problem::Problem;

/// Which rotation.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Wait for the rotation's end; its outcome is then the exit code
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    one: One,
}

impl Retry {
    /// Tells the leader.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        Command::Retry.run(self.one, self.wait).await
    }
}
