//! `keyturn rotation resume`: a paused rotation goes on.

use clap::Args;

use super::One;
use super::command::Command;
use crate::exit::Exit;
use crate::problem::Problem;

/// Which rotation.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    one: One,
}

impl Resume {
    /// Tells the leader.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        Command::Resume.run(self.one, false).await
    }
}
