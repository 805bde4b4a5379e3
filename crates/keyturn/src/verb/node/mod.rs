//! `keyturn node`: the farm's nodes.

mod enroll;
mod list;
mod remove;

use clap::Subcommand;

use crate::exit::Exit;
use crate::problem::Problem;

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Add a node: its agent obeys this farm's coordinators from then on
    Enroll(enroll::Enroll),
    /// List the farm's nodes
    List(list::List),
    /// Remove a node
    Remove(remove::Remove),
}

impl Node {
    /// Does it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        match self {
            Self::Enroll(verb) => verb.run().await,
            Self::List(verb) => verb.run().await,
            Self::Remove(verb) => verb.run().await,
        }
    }
}
