//! `keyturn coordinator add`: new replicas that run already become learners, and voters once they have caught up.

use clap::Args;
use wire::v1;

use super::change::{NewReplica, change};
use crate::exit::Exit;
use crate::operator::OperatorArgs;
use crate::output::OutputArgs;
use crate::problem::Problem;

/// Which.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Number and address of each: 4=https://host:port. It runs already, with `join = true` in its configuration
    #[arg(required = true, value_name = "NUMBER=ADDRESS")]
    new: Vec<NewReplica>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl Add {
    /// Adds them.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let add = self.new.into_iter().map(Into::into).collect();
        let request = v1::ChangeReplicasRequest { add, remove: Vec::new() };
        change(&self.operator, self.output, "adding coordinators", request).await
    }
}
