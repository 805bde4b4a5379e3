//! `keyturn node remove`: the farm no longer counts on a node.

use clap::Args;
use rotation::NodeId;
use wire::v1;

use crate::exit::Exit;
use crate::operator::{Client, OperatorArgs};
use crate::output::note;
use crate::problem::Problem;

/// Which node.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The node's id
    node: NodeId,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl Remove {
    /// Removes it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let request = v1::RemoveNodeRequest { id: self.node.to_string() };
        let remove = |mut client: Client| {
            let request = request.clone();
            async move { client.remove_node(request).await }
        };
        self.operator.coordinators()?.call(&format!("removing {}", self.node), remove).await?;
        note(&format!(
            "{} is removed; its agent still obeys these coordinators, and its instance is as it was",
            self.node
        ));
        Ok(Exit::Done)
    }
}
