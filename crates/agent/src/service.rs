//! The agent's gRPC service: takes assignments, streams their reports, adopts a cluster, describes the node.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use rotation::{ClusterId, Fault, Work};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use wire::convert::{Order, Report};
use wire::status::refused;
use wire::v1;
use wire::v1::agent_server::Agent;

use crate::authorize::{Checker, is_preflight, turns_back};
use crate::fault::chain;
use crate::fence::FenceFile;
use crate::instance::Condition;
use crate::node::{Node, PROTOCOL, RELEASE};
use crate::registry::{Registry, Stage, given_up};
use crate::work::{Job, Warrant};

/// How often progress is told. The protocol asks for once a second at least.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How long an observation answers `Describe`: whoever asks often must not start a command each time.
const OBSERVATION_FRESH: Duration = Duration::from_secs(1);

const REFUSED: &str = "ASSIGNMENT_REFUSED";

/// The service.
pub(crate) struct AgentService {
    node: Arc<Node>,
    // A plain lock, held while an assignment is judged and its fence written: two assignments must not be judged
    // against the same fence, and nothing may begin before its fence is on disk.
    fence: Arc<Mutex<FenceFile>>,
    registry: Arc<Registry>,
    observed: tokio::sync::Mutex<Option<(Instant, Result<Condition, Fault>)>>,
}

impl AgentService {
    /// Serves for this node.
    pub(crate) fn new(node: Arc<Node>, fence: FenceFile, registry: Arc<Registry>) -> Self {
        Self { node, fence: Arc::new(Mutex::new(fence)), registry, observed: tokio::sync::Mutex::default() }
    }

    /// Judges an assignment, writes its fence, and begins it or attaches to it.
    fn accept(&self, order: Order) -> Result<watch::Receiver<Stage>, Status> {
        let node = &self.node;
        let assignment = order.assignment.clone();
        let signed = order.plan.as_deref().zip(order.authorization.as_ref());
        if assignment.node != node.id {
            return Err(refused(
                REFUSED,
                format!("the assignment is for node {}, and this is {}", assignment.node, node.id),
                "enroll each node with the address of its own agent",
            ));
        }
        let mut fence = self.fence();
        fence
            .check(&order.fence)
            .map_err(|refusal| refused(REFUSED, refusal.to_string(), &refusal.next_step(node.id.as_str())))?;
        let warrant = self.warrant(&order)?;
        let mut memory = node.memory();
        match &warrant {
            Warrant::Preflight => Ok(()),
            Warrant::Start(grant) => {
                let turns_back = turns_back(&assignment.work, &grant.statement);
                memory.pin.check(assignment.rotation, grant.statement_digest, turns_back)
            }
            Warrant::Retirement(_) => memory.pin.check_retirement(assignment.rotation),
        }
        .map_err(|refusal| refused(REFUSED, refusal.to_string(), "plan a new rotation for what is wanted"))?;
        fence.raise(&order.fence).map_err(|error| not_kept(&error))?;
        self.registry.give_up_below(assignment.epoch);
        if let Warrant::Start(grant) = &warrant {
            // Kept before it is followed: what is followed can be undone from here, whoever else is lost.
            if let Some((plan, authorization)) = signed {
                let kept = memory.kept.keep(assignment.rotation, &authorization.statement, plan);
                kept.map_err(|error| not_kept(&error))?;
            }
            memory.pin.follow(assignment.rotation, grant.statement_digest).map_err(|error| not_kept(&error))?;
        }
        drop(memory);
        let node = Arc::clone(node);
        self.registry
            .take(&assignment, |ticket| Job { node, assignment: assignment.clone(), warrant, ticket }.perform())
            .map_err(|refusal| refused(REFUSED, refusal.to_string(), "nothing: send it again later"))
    }

    /// What the assignment shows for itself, checked.
    fn warrant(&self, order: &Order) -> Result<Warrant, Status> {
        let node = &self.node;
        let checker =
            Checker { node: &node.id, farm: &node.farm, targets: node.targets, tables: &node.tables, tls: &node.tls };
        let is_pinned = |rotation, statement| node.memory().pin.is_pinned(rotation, statement);
        match &order.assignment.work {
            work if is_preflight(work) => Ok(Warrant::Preflight),
            Work::RetireTables => checker.check_retirement(order).map(|plan| Warrant::Retirement(Box::new(plan))),
            _ => checker.check(order, is_pinned).map(|grant| Warrant::Start(Box::new(grant))),
        }
        .map_err(|error| refused(REFUSED, chain("judging the assignment", &error), error.next_step()))
    }

    fn fence(&self) -> MutexGuard<'_, FenceFile> {
        // The record is replaced in memory only after it was written, so a panic leaves it as it is on disk.
        self.fence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn observe(&self) -> Result<Condition, Fault> {
        let mut observed = self.observed.lock().await;
        if let Some((at, condition)) = &*observed
            && at.elapsed() < OBSERVATION_FRESH
        {
            return condition.clone();
        }
        let condition = self.node.instance.observe(&CancellationToken::new()).await;
        *observed = Some((Instant::now(), condition.clone()));
        condition
    }
}

fn not_kept(error: &crate::durable::DurableError) -> Status {
    let fault = crate::fault::durable(error);
    wire::status::error(Code::Unavailable, "AGENT_STATE", fault.message, &fault.next_step)
}

#[tonic::async_trait]
impl Agent for AgentService {
    type ExecuteStream = Pin<Box<dyn Stream<Item = Result<v1::Report, Status>> + Send>>;

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Result<Response<Self::ExecuteStream>, Status> {
        let order = Order::try_from(request.into_inner())?;
        let id = order.assignment.id();
        let stage = self.accept(order).inspect_err(|status| {
            tracing::warn!(%id, "refused an assignment: {}", status.message());
        })?;
        Ok(Response::new(Box::pin(reports(stage, self.node.id.clone()))))
    }

    async fn adopt(&self, request: Request<v1::AdoptRequest>) -> Result<Response<v1::AdoptResponse>, Status> {
        let by = wire::access::peer(&request).map(ToString::to_string).unwrap_or_default();
        let request = request.into_inner();
        if request.farm != self.node.farm {
            return Err(refused(
                "OTHER_FARM",
                format!("this node belongs to farm {}, and the cluster to farm {}", self.node.farm, request.farm),
                "call the coordinators of the node's own farm, or correct farm in the agent's configuration",
            ));
        }
        let cluster: ClusterId = request.cluster.parse().map_err(|error: rotation::ParseIdError| {
            refused("INVALID_MESSAGE", error.to_string(), "use the same release of Keyturn everywhere")
        })?;
        let mut fence = self.fence();
        if fence.cluster() != Some(cluster) {
            fence.adopt(cluster).map_err(|error| not_kept(&error))?;
            self.registry.give_up_all();
            tracing::info!(%cluster, by, "another cluster of coordinators is obeyed from now on");
        }
        Ok(Response::new(v1::AdoptResponse { node: self.node.id.to_string() }))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        let observed = self.observe().await;
        let active = |keys: keys::KeySet| keys.active().secret.id().to_string();
        let cluster = self.fence().cluster();
        let held_offline = self.node.memory().held.get().is_some();
        Ok(Response::new(v1::DescribeResponse {
            node: self.node.id.to_string(),
            farm: self.node.farm.clone(),
            cluster: cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            release: Some(v1::AgentRelease { version: RELEASE.to_owned(), protocol: PROTOCOL }),
            current_key: self.node.current_keys().map(active).unwrap_or_default(),
            pending_key: self.node.pending_keys().ok().flatten().map(active).unwrap_or_default(),
            instance: match &observed {
                Ok(condition) => condition.as_str().to_owned(),
                Err(fault) => format!("unknown: {}", fault.message),
            },
            instance_online: observed.is_ok_and(|condition| condition == Condition::Online),
            held_offline,
        }))
    }
}

/// The reports of one assignment: at once how it stands, then progress, in the end the answer or a fault.
fn reports(
    stage: watch::Receiver<Stage>,
    node: rotation::NodeId,
) -> impl Stream<Item = Result<v1::Report, Status>> + Send {
    futures::stream::unfold(Some((stage, node, true)), |state| async move {
        let (mut stage, node, first) = state?;
        let mut abandoned = false;
        if !first {
            let ended = stage.wait_for(|stage| matches!(stage, Stage::Ended(_)));
            // An error says that nobody will ever end it, which only an agent that is being torn down does.
            abandoned = matches!(tokio::time::timeout(PROGRESS_EVERY, ended).await, Ok(Err(_)));
        }
        let now = stage.borrow().clone();
        let (report, more) = match now {
            Stage::Ended(result) => match *result {
                Ok(answer) => (Report::Answered(Box::new(answer)), false),
                Err(fault) => (Report::Failed(fault), false),
            },
            Stage::Running(_) if abandoned => (Report::Failed(Fault { node: Some(node.clone()), ..given_up() }), false),
            Stage::Running(progress) => {
                let progress = v1::Progress { rows_done: progress.rows_done, waiting_for: progress.waiting_for };
                (Report::Progress(progress), true)
            }
        };
        Some((Ok((&report).into()), more.then_some((stage, node, false))))
    })
}
