//! `keyturn rotation throttle`: bounds the speed of the work on rows, at once, so that others on the same server have their
//! share of it.

use clap::Args;

use super::One;
use super::command::Command;
use crate::exit::Exit;
use crate::problem::Problem;

/// How fast, and which rotation.
#[derive(Debug, Args)]
pub(crate) struct Throttle {
    /// Rows per second that all agents together may work on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(required_unless_present = "off", conflicts_with = "off")]
    rows_per_second: Option<u32>,
    /// Take the bound away
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    one: One,
}

impl Throttle {
    /// Tells the leader.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        Command::Throttle(self.rows_per_second.filter(|_| !self.off)).run(self.one, false).await
    }
}
