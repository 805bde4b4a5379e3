//! `keyturn coordinator remove`: replicas are members no more.

use clap::Args;
use wire::v1;

use super::change::change;
use crate::exit::Exit;
use crate::operator::OperatorArgs;
use crate::output::OutputArgs;
use crate::problem::Problem;

/// Which.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Their numbers
    #[arg(required = true, value_name = "NUMBER")]
    old: Vec<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl Remove {
    /// Removes them.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let request = v1::ChangeReplicasRequest { add: Vec::new(), remove: self.old };
        change(&self.operator, self.output, "removing coordinators", request).await
    }
}
