//! Looks at the farm through the same calls that any operator's program may make.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tonic::transport::Channel;
use tonic::{Response, Status};
use wire::pki::Role;
use wire::rpc::{agent_client, operator_client};
use wire::tls::{ExpectedPeer, Tls, TlsFiles};
use wire::v1;
use wire::v1::operator_client::OperatorClient;

use super::layout::{CoordinatorPlace, Layout, NodePlace, https};

/// One that does not answer within this time is passed over.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// For how long an answer is looked for; elections and restarts are over by then.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The pause after everybody was asked in vain.
const PAUSE: Duration = Duration::from_millis(100);

/// An operator's connections.
#[derive(Debug)]
pub(crate) struct Operator {
    tls: Tls,
    coordinators: Vec<(u64, OperatorClient<Channel>)>,
}

impl Operator {
    pub(super) fn new(layout: &Layout, coordinators: &[CoordinatorPlace]) -> anyhow::Result<Self> {
        let pki = layout.pki();
        let files = TlsFiles {
            ca: pki.join("ca.pem"),
            certificate: pki.join("operator-demo.pem"),
            key: pki.join("operator-demo.key"),
        };
        let tls = Tls::load(&files).context("loading the operator's certificate")?;
        let clients = coordinators.iter().map(|coordinator| {
            let expect = ExpectedPeer { role: Role::Coordinator, name: None };
            Ok((coordinator.id, operator_client(tls.channel(&https(coordinator.reach), expect)?)))
        });
        let coordinators = clients.collect::<anyhow::Result<_>>()?;
        Ok(Self { tls, coordinators })
    }

    /// The farm as the leader knows it.
    pub(crate) async fn farm(&self) -> anyhow::Result<v1::Farm> {
        let leads = |farm: &v1::Farm| farm.replicas.iter().any(|replica| replica.leader && replica.answering);
        self.ask("the farm", leads, |mut client| async move { client.get_farm(v1::GetFarmRequest {}).await }).await
    }

    /// The number of the coordinator that leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<u64> {
        let farm = self.farm().await?;
        let leader = farm.replicas.iter().find(|replica| replica.leader).context("nobody leads")?;
        Ok(leader.id)
    }

    /// A rotation as somebody who answers knows it.
    pub(crate) async fn rotation(&self, id: &str) -> anyhow::Result<v1::Rotation> {
        let request = |mut client: OperatorClient<Channel>| {
            let id = id.to_owned();
            async move { client.get_rotation(v1::GetRotationRequest { id }).await }
        };
        self.ask("the rotation", |_| true, request).await
    }

    /// Asks the coordinators in turn until one gives an answer that will do.
    async fn ask<T, R>(
        &self,
        what: &str,
        will_do: impl Fn(&T) -> bool,
        request: impl Fn(OperatorClient<Channel>) -> R,
    ) -> anyhow::Result<T>
    where
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
        let mut last = String::new();
        while tokio::time::Instant::now() < deadline {
            for (id, client) in &self.coordinators {
                match tokio::time::timeout(CALL_LIMIT, request(client.clone())).await {
                    Ok(Ok(response)) if will_do(response.get_ref()) => return Ok(response.into_inner()),
                    Ok(Ok(_)) => last = format!("coordinator {id} does not lead"),
                    Ok(Err(status)) => last = format!("coordinator {id}: {}", status.message()),
                    Err(_) => last = format!("coordinator {id} does not answer"),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("no coordinator could tell {what} within {} s; {last}", ANSWER_LIMIT.as_secs())
    }

    /// What a node's agent says of itself.
    pub(crate) async fn describe(&self, node: &NodePlace) -> anyhow::Result<v1::DescribeResponse> {
        let expect = ExpectedPeer { role: Role::Agent, name: Some(node.id.to_string()) };
        let mut client = agent_client(self.tls.channel(&https(node.reach), expect)?);
        let answer = tokio::time::timeout(CALL_LIMIT, client.describe(v1::DescribeRequest {})).await;
        let answer = answer.with_context(|| format!("the agent of {} does not answer", node.id))?;
        Ok(answer.with_context(|| format!("asking the agent of {}", node.id))?.into_inner())
    }
}
