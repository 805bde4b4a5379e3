//! `keyturn node list`: the farm's nodes, the key that each was last known to hold, and which are held.

use clap::Args;
use serde::Serialize;
use wire::v1;

use crate::exit::Exit;
use crate::operator::{Client, OperatorArgs};
use crate::output::{OutputArgs, Table, date_time};
use crate::problem::Problem;

/// No choice but the form.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NodeView {
    id: String,
    address: String,
    enrolled_at_ms: u64,
    key: Option<String>,
    /// The rotation that it must still follow before it is admitted.
    held_by_rotation: Option<String>,
    held_because: Option<String>,
}

impl From<&v1::Node> for NodeView {
    fn from(node: &v1::Node) -> Self {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            id: node.id.clone(),
            address: node.address.clone(),
            enrolled_at_ms: node.enrolled_at_ms,
            key: text(&node.key),
            held_by_rotation: text(&node.held_by_rotation),
            held_because: node.held_because.as_ref().map(|fault| format!("{}: {}", fault.code, fault.message)),
        }
    }
}

impl NodeView {
    /// The nodes for people.
    pub(super) fn table(nodes: &[Self]) -> String {
        let mut table = Table::new(&["ID", "ADDRESS", "KEY", "STATE", "ENROLLED", "REASON"]);
        for node in nodes {
            table.row([
                node.id.clone(),
                node.address.clone(),
                node.key.clone().unwrap_or_default(),
                if node.held_by_rotation.is_some() { "held" } else { "free" }.to_owned(),
                date_time(node.enrolled_at_ms),
                node.held_because.clone().unwrap_or_default(),
            ]);
        }
        table.render()
    }
}

impl List {
    /// Lists them.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let get_farm = |mut client: Client| async move { client.get_farm(v1::GetFarmRequest {}).await };
        let farm = self.operator.coordinators()?.call("listing the nodes", get_farm).await?.value;
        let nodes: Vec<NodeView> = farm.nodes.iter().map(NodeView::from).collect();
        self.output.print(&nodes, || NodeView::table(&nodes))?;
        Ok(Exit::Done)
    }
}
