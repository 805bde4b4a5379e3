//! The leader as the agent sees it: somebody with a coordinator's certificate, a fence, and what an operator signed.

use std::collections::BTreeMap;

use keys::sealed::{self, SealContext};
use keys::{KeySet, SecretKey, attestation, possession};
use rotation::{
    Answer, Assignment, Authorization, ClusterId, Digest, Direction, Epoch, Fault, Fence, Inspection, LeaseNumber,
    Millis, NodeGrant, NodeId, Plan, PlanNode, Retirement, RotationId, SignedRetirement, Statement, Strategy,
    StrategyChoice, Survey, Term, Work,
};
use tonic::{Status, Streaming};
use uuid::Uuid;
use wire::convert::{Order, Report};
use wire::pki::Role;
use wire::tls::{ExpectedPeer, Tls};
use wire::v1;

use super::farm::{FARM, NODE};
use super::{Farm, Listening};

/// The time in the dated name: 2023-11-14 22:13:20.
pub(crate) const ACTIVATED_AT: Millis = Millis::new(1_700_000_000_000);

/// Why an assignment was not answered.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Refused before anything was begun.
    Refused(Status),
    /// Begun, and ended by a fault.
    Fault(Fault),
}

impl Failure {
    /// The refusal's message.
    #[track_caller]
    pub(crate) fn refusal(self) -> String {
        match self {
            Self::Refused(status) => {
                let problem = wire::status::problem(&status).expect("a refusal says why");
                assert_eq!(problem.reason, "ASSIGNMENT_REFUSED", "{status}");
                assert!(!problem.next_step.is_empty(), "{status}");
                problem.message
            }
            Self::Fault(fault) => panic!("not refused, but {fault}"),
        }
    }

    /// The fault.
    #[track_caller]
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Fault(fault) => {
                assert!(!fault.next_step.is_empty(), "{fault}");
                assert_eq!(fault.node.as_ref().map(NodeId::as_str), Some(NODE));
                fault
            }
            Self::Refused(status) => panic!("refused: {status}"),
        }
    }
}

/// Drives one agent.
#[derive(Clone)]
pub(crate) struct Leader {
    client: v1::agent_client::AgentClient<tonic::transport::Channel>,
    /// The node that it gives work to.
    pub(crate) node: NodeId,
    pub(crate) fence: Fence,
    pub(crate) rotation: RotationId,
    pub(crate) plan: Option<Vec<u8>>,
    pub(crate) authorization: Option<Authorization>,
    pub(crate) retirement: Option<SignedRetirement>,
    /// What the survey is asked to choose.
    pub(crate) strategy: StrategyChoice,
}

impl Leader {
    /// A leader of a cluster that the agent does not obey yet.
    pub(crate) fn new(farm: &Farm, agent: &dyn Listening) -> Self {
        Self {
            client: client(&farm.tls(Role::Coordinator, "coordinator-1"), agent),
            node: NODE.parse().unwrap(),
            fence: Fence { cluster: ClusterId::new(Uuid::from_u128(1)), term: Term::new(1), epoch: Epoch::new(1) },
            rotation: RotationId::new(Uuid::now_v7()),
            plan: None,
            authorization: None,
            retirement: None,
            strategy: StrategyChoice::InPlace,
        }
    }

    /// A leader of a cluster that an operator enrolled the agent with.
    pub(crate) async fn enrolled(farm: &Farm, agent: &dyn Listening) -> Self {
        let leader = Self::new(farm, agent);
        leader.adopt(farm, agent).await.unwrap();
        leader
    }

    /// An operator enrolls the agent with this leader's cluster.
    pub(crate) async fn adopt(&self, farm: &Farm, agent: &dyn Listening) -> Result<(), Status> {
        let request = v1::AdoptRequest { cluster: self.fence.cluster.to_string(), farm: FARM.to_owned() };
        client(&farm.tls(Role::Operator, "alice"), agent).adopt(request).await.map(drop)
    }

    /// The same leader towards the same agent after a restart.
    pub(crate) fn reconnect(&mut self, farm: &Farm, agent: &dyn Listening) {
        self.client = client(&farm.tls(Role::Coordinator, "coordinator-1"), agent);
    }

    /// The same caller with another certificate.
    pub(crate) fn with_identity(&self, tls: &Tls, agent: &dyn Listening) -> Self {
        Self { client: client(tls, agent), ..self.clone() }
    }

    /// What the agent says of its node.
    pub(crate) async fn describe(&self) -> v1::DescribeResponse {
        self.client.clone().describe(v1::DescribeRequest {}).await.unwrap().into_inner()
    }

    /// Raises the epoch, as every new phase does.
    pub(crate) fn next_phase(&mut self) {
        self.fence.epoch = self.fence.epoch.next();
    }

    /// Sends an assignment.
    pub(crate) async fn send(&self, work: Work) -> Result<Streaming<v1::Report>, Status> {
        let order = Order {
            fence: self.fence,
            assignment: Assignment { rotation: self.rotation, epoch: self.fence.epoch, node: self.node.clone(), work },
            plan: self.plan.clone(),
            authorization: self.authorization.clone(),
            retirement: self.retirement.clone(),
        };
        self.client.clone().execute(order.to_request()).await.map(tonic::Response::into_inner)
    }

    /// Sends an assignment and waits for its end.
    pub(crate) async fn ask(&self, work: Work) -> Result<Answer, Failure> {
        finish(self.send(work).await.map_err(Failure::Refused)?).await
    }

    /// Does it or panics.
    pub(crate) async fn answer(&self, work: Work) -> Answer {
        let kind = work.kind();
        let answer = self.ask(work).await.unwrap_or_else(|failure| panic!("{kind}: {failure:?}"));
        assert_eq!(answer.kind(), kind);
        answer
    }

    /// Preflight; its answers become the plan.
    pub(crate) async fn preflight(&mut self, farm: &Farm) {
        self.next_phase();
        let Answer::Inspected(inspection) = self.answer(Work::Inspect).await else { unreachable!() };
        let survey =
            Work::SurveyDatabase { accepted: Vec::new(), shards_wanted: 3, agents: 1, strategy: self.strategy };
        let Answer::DatabaseSurveyed(survey) = self.answer(survey).await else { unreachable!() };
        check_attestation(farm, self.rotation, &inspection);
        self.plan = Some(plan(self.rotation, vec![(self.node.clone(), *inspection)], *survey).to_bytes());
    }

    /// The plan as made.
    pub(crate) fn read_plan(&self) -> Plan {
        Plan::from_bytes(self.plan.as_ref().unwrap()).unwrap()
    }

    /// An operator signs the plan.
    pub(crate) fn approve(&mut self, farm: &Farm) {
        self.authorization = Some(self.sign(farm, &farm.tls(Role::Operator, "alice"), |_| {}));
    }

    /// Somebody signs the plan, or says so, after `change`.
    pub(crate) fn sign(&self, farm: &Farm, signer: &Tls, change: impl FnOnce(&mut Statement)) -> Authorization {
        self.sign_with(farm, signer, &farm.old, change)
    }

    /// The same, by somebody who takes `current` for the farm's current key.
    pub(crate) fn sign_with(
        &self,
        farm: &Farm,
        signer: &Tls,
        current: &SecretKey,
        change: impl FnOnce(&mut Statement),
    ) -> Authorization {
        let plan = self.read_plan();
        let plan_digest = Plan::digest_of(self.plan.as_ref().unwrap());
        let (old_key, new_key) = (farm.old.id(), farm.new.id());
        let (mut nodes, mut bundles) = (BTreeMap::new(), BTreeMap::new());
        for (node, planned) in &plan.nodes {
            let context = SealContext {
                farm: FARM.to_owned(),
                rotation: self.rotation,
                node: node.clone(),
                plan_digest,
                old_key,
                new_key,
            };
            let recipient_key = planned.recipient_key.clone();
            let sealed =
                sealed::seal(&recipient_key, &KeySet::new(FARM, farm.new.clone(), 2), current, &context).unwrap();
            let grant = NodeGrant {
                recipient_key,
                sealed_digest: Digest::new(*blake3::hash(&sealed).as_bytes()),
                possession_digest: possession::digest(&possession::proof(&farm.new, &self.rotation, node)),
            };
            nodes.insert(node.clone(), grant);
            bundles.insert(node.clone(), sealed);
        }
        let mut statement = Statement {
            format: Statement::FORMAT,
            farm: FARM.to_owned(),
            rotation: self.rotation,
            plan_digest,
            old_key,
            new_key,
            nodes,
        };
        change(&mut statement);
        let bytes = statement.to_bytes();
        Authorization {
            certificates: signer.certificates(),
            signature: wire::sign::sign(signer, "keyturn statement v1", &bytes),
            statement: bytes,
            sealed: bundles,
        }
    }

    /// Somebody signs, or says so, after `change`, that the tables which the rotation kept be dropped.
    pub(crate) fn sign_retirement(&self, signer: &Tls, change: impl FnOnce(&mut Retirement)) -> SignedRetirement {
        let mut retirement = Retirement {
            format: Retirement::FORMAT,
            farm: FARM.to_owned(),
            rotation: self.rotation,
            plan_digest: Plan::digest_of(self.plan.as_ref().unwrap()),
        };
        change(&mut retirement);
        let bytes = retirement.to_bytes();
        SignedRetirement {
            certificates: signer.certificates(),
            signature: wire::sign::sign(signer, "keyturn retirement v1", &bytes),
            retirement: bytes,
        }
    }

    /// Preflight and approval of a plan in which every table is copied.
    pub(crate) async fn planned_with_shadows(farm: &Farm, agent: &dyn Listening) -> Self {
        let mut leader = Self::enrolled(farm, agent).await;
        leader.preflight(farm).await;
        let mut plan = leader.read_plan();
        plan.tables.values_mut().for_each(|table| table.strategy = Strategy::Shadow);
        leader.plan = Some(plan.to_bytes());
        leader.approve(farm);
        leader
    }

    /// Preflight and approval.
    pub(crate) async fn planned(farm: &Farm, agent: &dyn Listening) -> Self {
        let mut leader = Self::enrolled(farm, agent).await;
        leader.preflight(farm).await;
        leader.approve(farm);
        leader
    }

    /// Distribute and Quiesce.
    pub(crate) async fn quiesce(&mut self) {
        self.next_phase();
        self.answer(Work::StoreKey).await;
        self.next_phase();
        self.answer(Work::TakeOffline).await;
        self.answer(Work::FenceDatabase).await;
    }

    /// Reencrypt and Verify.
    pub(crate) async fn turn_rows(&mut self) {
        self.next_phase();
        self.rows(Direction::Forward, false).await;
        self.next_phase();
        self.rows(Direction::Forward, true).await;
    }

    /// One pass over all shards.
    pub(crate) async fn rows(&self, direction: Direction, verify: bool) -> u64 {
        let mut rows = 0;
        for shard in self.read_plan().shards {
            // The epoch will do as a number that rises from pass to pass.
            let lease = LeaseNumber::new(self.fence.epoch.get());
            let work = if verify {
                Work::VerifyShard { shard, lease, direction, rows_per_second: None }
            } else {
                Work::ReencryptShard { shard, lease, direction, rows_per_second: None }
            };
            rows += match self.answer(work).await {
                Answer::ShardReencrypted { tally, .. } | Answer::ShardVerified { tally, .. } => tally.rows,
                other => panic!("{other:?}"),
            };
        }
        rows
    }

    /// Lets the application into the database, with which every start under the new key begins.
    pub(crate) async fn let_in(&mut self) {
        let Answer::PositionRecorded(position) = self.answer(Work::RecordPosition).await else { unreachable!() };
        self.answer(Work::LiftFence { direction: Direction::Forward, position: Some(position) }).await;
    }

    /// Activate, and Start up to the proof.
    pub(crate) async fn activate_and_start(&mut self, farm: &Farm) {
        self.next_phase();
        self.answer(Work::ActivateKey { at: ACTIVATED_AT }).await;
        self.next_phase();
        self.let_in().await;
        let started = self.answer(Work::StartInstance { key: farm.new.id() }).await;
        assert_eq!(started, Answer::InstanceStarted { key: farm.new.id() });
    }
}

fn client(tls: &Tls, agent: &dyn Listening) -> v1::agent_client::AgentClient<tonic::transport::Channel> {
    let expected = ExpectedPeer { role: Role::Agent, name: None };
    wire::rpc::agent_client(tls.channel(&agent.address(), expected).unwrap())
}

/// Reads a stream of reports to its end.
pub(crate) async fn finish(mut reports: Streaming<v1::Report>) -> Result<Answer, Failure> {
    while let Some(report) = reports.message().await.map_err(Failure::Refused)? {
        match Report::try_from(report).unwrap() {
            Report::Progress(_) => {}
            Report::Answered(answer) => return Ok(*answer),
            Report::Failed(fault) => return Err(Failure::Fault(fault)),
        }
    }
    panic!("the reports ended without an answer or a fault")
}

/// What the operator's command line checks before it seals anything.
fn check_attestation(farm: &Farm, rotation: RotationId, inspection: &Inspection) {
    let context = attestation::Context {
        farm: FARM.to_owned(),
        rotation,
        node: NODE.parse().unwrap(),
        recipient_key: inspection.recipient_key.clone(),
        current_key: inspection.current_key,
        targets_digest: inspection.targets_digest,
        database_identity: inspection.database.identity.clone(),
    };
    attestation::check(&farm.old, &context, &hex::decode(&inspection.attestation.mac).unwrap()).unwrap();
    let chain: Vec<Vec<u8>> =
        inspection.attestation.certificates.iter().map(|text| hex::decode(text).unwrap()).collect();
    let signature = hex::decode(&inspection.attestation.signature).unwrap();
    let operator = farm.tls(Role::Operator, "alice");
    let peer =
        wire::sign::verify(&operator, &chain, Role::Agent, "keyturn attestation v1", &context.to_bytes(), &signature)
            .unwrap();
    assert_eq!(peer.name, NODE);
}

/// The plan of these answers.
pub(crate) fn plan(rotation: RotationId, inspections: Vec<(NodeId, Inspection)>, survey: Survey) -> Plan {
    let planned = |inspection: Inspection| PlanNode {
        release: inspection.release,
        current_key: inspection.current_key,
        recipient_key: inspection.recipient_key,
        targets_digest: inspection.targets_digest,
        database: inspection.database,
        protector: inspection.protector,
        attestation: inspection.attestation,
    };
    Plan {
        format: Plan::FORMAT,
        farm: FARM.to_owned(),
        rotation,
        nodes: inspections.into_iter().map(|(node, inspection)| (node, planned(inspection))).collect(),
        tables: survey.tables.into_iter().collect(),
        shards: survey.shards,
        writers_max: survey.writers_max,
        accepted: Vec::new(),
        downtime_forecast_ms: survey.downtime_forecast_ms,
        budget: None,
        backup: None,
        folders: BTreeMap::new(),
        unseen: survey.unseen,
    }
}
