//! `keyturn rotation abort`: ends a rotation, and undoes it if it was started.

use clap::Args;

use super::One;
use super::command::Command;
use crate::exit::Exit;
use crate::problem::Problem;

/// Which rotation.
#[derive(Debug, Args)]
pub(crate) struct Abort {
    /// Wait for the rotation's end; its outcome is then the exit code
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    one: One,
}

impl Abort {
    /// Tells the leader.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        Command::Abort.run(self.one, self.wait).await
    }
}
