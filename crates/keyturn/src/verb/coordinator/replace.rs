//! `keyturn coordinator replace`: a new replica comes, an old one goes, in one change of the membership.

use clap::Args;
use wire::v1;

use super::change::{NewReplica, change};
use crate::exit::Exit;
use crate::operator::OperatorArgs;
use crate::output::OutputArgs;
use crate::problem::Problem;

/// Which by which.
#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// The number of the one that goes
    #[arg(value_name = "NUMBER")]
    old: u64,
    /// Number and address of the one that comes: 4=https://host:port. It runs already, with `join = true` in its
    /// configuration; the number was never used before, the address may be that of the one that goes
    #[arg(value_name = "NUMBER=ADDRESS")]
    new: NewReplica,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl Replace {
    /// Replaces it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let what = format!("replacing coordinator {}", self.old);
        let request = v1::ChangeReplicasRequest { add: vec![self.new.into()], remove: vec![self.old] };
        change(&self.operator, self.output, &what, request).await
    }
}
