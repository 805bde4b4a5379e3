//! `keyturn node enroll`: the agent is told which coordinators to obey, then the coordinators are told of the node.

use std::time::Duration;

use clap::Args;
use rotation::NodeId;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use wire::pki::Role;
use wire::tls::ExpectedPeer;
use wire::v1;

use super::list::NodeView;
use crate::exit::Exit;
use crate::operator::{Client, Coordinators, OperatorArgs, status_problem};
use crate::output::OutputArgs;
use crate::problem::Problem;

/// An agent answers at once or not at all.
const ADOPT_MAX: Duration = Duration::from_secs(10);

/// How long to wait before asking again whether there is a cluster.
const FORMED_PAUSE: Duration = Duration::from_millis(200);

/// Which node.
#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// The node's id, as in its agent's certificate and configuration
    node: NodeId,
    /// Where its agent listens: https://host:port
    #[arg(long, value_name = "ADDRESS")]
    address: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// The farm, once its coordinators have formed their cluster: the first leader does so right after it was elected.
async fn formed(coordinators: &Coordinators) -> Result<v1::Farm, Problem> {
    let get_farm = |mut client: Client| async move { client.get_farm(v1::GetFarmRequest {}).await };
    let started = Instant::now();
    loop {
        let farm = coordinators.call("asking for the farm", get_farm).await?.value;
        if !farm.cluster.is_empty() {
            return Ok(farm);
        }
        // Asked each time: how far they are from each other is known from the first answer on.
        if started.elapsed() >= coordinators.leader_wait() {
            return Err(Problem::unreachable(
                "no-leader",
                "the coordinators have not formed a cluster yet",
                "start all of them; the first time, all must be there",
            ));
        }
        sleep(FORMED_PAUSE).await;
    }
}

impl Enroll {
    /// Enrolls it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let coordinators = self.operator.coordinators()?;
        let farm = formed(&coordinators).await?;
        self.adopt(&coordinators, farm).await?;
        let request = v1::EnrollNodeRequest { id: self.node.to_string(), address: self.address.clone() };
        let enroll = |mut client: Client| {
            let request = request.clone();
            async move { client.enroll_node(request).await }
        };
        let node = coordinators.call(&format!("enrolling {}", self.node), enroll).await?.value;
        let view = NodeView::from(&node);
        self.output.print(&view, || NodeView::table(std::slice::from_ref(&view)))?;
        Ok(Exit::Done)
    }

    /// First the agent: a node that does not obey yet is better than one that is counted on and does not.
    async fn adopt(&self, coordinators: &Coordinators, farm: v1::Farm) -> Result<(), Problem> {
        let expect = ExpectedPeer { role: Role::Agent, name: Some(self.node.to_string()) };
        let channel = coordinators.tls().channel(&self.address, expect).map_err(|error| {
            Problem::usage("the agent's address cannot be used", "write it as https://host:port").because(&error)
        })?;
        let request = v1::AdoptRequest { cluster: farm.cluster, farm: farm.name };
        let unreachable = |why: String| {
            let mut problem = Problem::unreachable(
                "no-connection",
                format!("the agent of {} could not be reached at {}", self.node, self.address),
                "look whether it runs, whether the address is right, and whether its certificate names this node and host",
            );
            problem.causes.push(why);
            problem
        };
        let mut client = wire::rpc::agent_client(channel);
        let answer = match timeout(ADOPT_MAX, client.adopt(request)).await {
            Err(_) => return Err(unreachable(format!("no answer within {} s", ADOPT_MAX.as_secs()))),
            Ok(Err(status)) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => {
                return Err(unreachable(wire::status::describe(&status)));
            }
            Ok(Err(status)) => return Err(status_problem(&format!("enrolling {} at its agent", self.node), &status)),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        if answer.node != self.node.as_str() {
            return Err(Problem::refused(
                "other-node",
                format!("the agent at {} is that of {}, not of {}", self.address, answer.node, self.node),
                "name the node by its own id, or correct the address",
            ));
        }
        Ok(())
    }
}
