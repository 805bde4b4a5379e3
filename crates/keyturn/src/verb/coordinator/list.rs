//! `keyturn coordinator list`: the members of the cluster of coordinators, as the leader sees them.

use clap::Args;
use serde::Serialize;
use wire::v1;

use crate::exit::Exit;
use crate::operator::{Client, OperatorArgs};
use crate::output::{OutputArgs, Table, thousands};
use crate::problem::Problem;

/// No choice but the form.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// One coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ReplicaView {
    id: u64,
    address: String,
    /// `leader`, `voter`, or `learner`: it takes entries and has no say.
    role: &'static str,
    /// Whether it answered the leader within the last two seconds.
    reachable: bool,
    /// Entries of the log that it has not confirmed to the leader.
    entries_behind: u64,
}

impl From<&v1::ReplicaState> for ReplicaView {
    fn from(replica: &v1::ReplicaState) -> Self {
        Self {
            id: replica.id,
            address: replica.address.clone(),
            role: match (replica.leader, replica.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            },
            reachable: replica.reachable,
            entries_behind: replica.entries_behind,
        }
    }
}

impl ReplicaView {
    /// Prints them, for people or for programs.
    pub(super) fn print(output: OutputArgs, replicas: &[v1::ReplicaState]) -> Result<(), Problem> {
        let views: Vec<Self> = replicas.iter().map(Self::from).collect();
        output.print(&views, || Self::table(&views))
    }

    fn table(replicas: &[Self]) -> String {
        let mut table = Table::new(&["ID", "ADDRESS", "ROLE", "STATE", "BEHIND"]);
        for replica in replicas {
            table.row([
                replica.id.to_string(),
                replica.address.clone(),
                replica.role.to_owned(),
                if replica.reachable { "answers" } else { "silent" }.to_owned(),
                thousands(replica.entries_behind),
            ]);
        }
        table.render()
    }
}

impl List {
    /// Lists them.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let list = |mut client: Client| async move { client.list_replicas(v1::ListReplicasRequest {}).await };
        let answer = self.operator.coordinators()?.call("listing the coordinators", list).await?.value;
        ReplicaView::print(self.output, &answer.replicas)?;
        Ok(Exit::Done)
    }
}
