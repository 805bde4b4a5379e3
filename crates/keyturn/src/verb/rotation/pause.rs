//! `keyturn rotation pause`: no new work is given out; shards under way are put down, and what else is being done is finished.

use clap::Args;

use super::One;
use super::command::Command;
use crate::exit::Exit;
use crate::problem::Problem;

/// Which rotation.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    one: One,
}

impl Pause {
    /// Tells the leader.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        Command::Pause.run(self.one, false).await
    }
}
