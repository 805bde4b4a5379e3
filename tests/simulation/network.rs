//! The network between coordinators and agents: messages take their time, are lost, arrive late or twice; links are cut in
//! one direction or both; an answer that streams breaks off in the middle.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use coordinator::simulation::Agents;
use futures::{Stream, StreamExt as _};
use rotation::NodeId;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::Status;
use wire::convert::Order;
use wire::v1;

use crate::faults;
use crate::node::Process;
use crate::world::{World, lock};

/// How late a late message is, milliseconds: later than anybody waits for an answer.
const LATE_MS_MAX: u64 = 15_000;
/// Reports that are under way at once; an agent tells twice a second.
const REPORTS_MAX: usize = 64;

/// Links that are cut, each in one direction.
#[derive(Default)]
pub(crate) struct Links {
    to_agent: Mutex<BTreeSet<(u64, NodeId)>>,
    to_coordinator: Mutex<BTreeSet<(u64, NodeId)>>,
}

impl Links {
    pub(crate) fn cut_to_agent(&self, replica: u64, node: &NodeId) {
        lock(&self.to_agent).insert((replica, node.clone()));
    }

    pub(crate) fn cut_to_coordinator(&self, replica: u64, node: &NodeId) {
        lock(&self.to_coordinator).insert((replica, node.clone()));
    }

    pub(crate) fn heal(&self) {
        lock(&self.to_agent).clear();
        lock(&self.to_coordinator).clear();
    }

    fn reaches_agent(&self, replica: u64, node: &NodeId) -> bool {
        !lock(&self.to_agent).contains(&(replica, node.clone()))
    }

    fn reaches_coordinator(&self, replica: u64, node: &NodeId) -> bool {
        !lock(&self.to_coordinator).contains(&(replica, node.clone()))
    }
}

/// The network as one replica sees it.
pub(crate) struct Network {
    world: Weak<World>,
    replica: u64,
}

impl Network {
    pub(crate) fn new(world: &Arc<World>, replica: u64) -> Self {
        Self { world: Arc::downgrade(world), replica }
    }
}

/// What arrives of an agent's reports.
pub(crate) struct Reports(mpsc::Receiver<Result<v1::Report, Status>>);

impl Stream for Reports {
    type Item = Result<v1::Report, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

impl Agents for Network {
    type Reports = Reports;

    async fn execute(&self, node: &NodeId, _: &str, request: v1::ExecuteRequest) -> Result<Reports, Status> {
        let world = self.world.upgrade().expect("the world outlives everybody in it");
        let (sender, mut receiver) = mpsc::channel(REPORTS_MAX);
        let twice = world.misfortune(world.rates.message_twice);
        let call = Call { world: Arc::clone(&world), replica: self.replica, node: node.clone(), request };
        if twice {
            // Nobody hears what the second one is answered.
            let (nobody, _) = mpsc::channel(REPORTS_MAX);
            let again = Call { world, replica: self.replica, node: node.clone(), request: call.request.clone() };
            tokio::spawn(again.deliver(nobody));
        }
        tokio::spawn(call.deliver(sender));
        // The call stands when the first report is there, or the reason why there is none.
        match receiver.recv().await {
            Some(Ok(first)) => {
                let (onward, reports) = mpsc::channel(REPORTS_MAX);
                let _ = onward.try_send(Ok(first));
                tokio::spawn(async move {
                    while let Some(report) = receiver.recv().await {
                        if onward.send(report).await.is_err() {
                            return;
                        }
                    }
                });
                Ok(Reports(reports))
            }
            Some(Err(status)) => Err(status),
            None => Err(Status::unavailable("the connection broke")),
        }
    }

    fn renew(&self, _: &NodeId) {}
}

/// A call on its way.
struct Call {
    world: Arc<World>,
    replica: u64,
    node: NodeId,
    request: v1::ExecuteRequest,
}

impl Call {
    async fn deliver(self, answers: mpsc::Sender<Result<v1::Report, Status>>) {
        let Self { world, replica, node, request } = self;
        let late = world.misfortune(world.rates.message_late);
        sleep(if late { world.time(100, LATE_MS_MAX) } else { world.time(1, 20) }).await;
        if !world.links.reaches_agent(replica, &node) {
            // It is repeated by those beneath until somebody gives up.
            return answers.closed().await;
        }
        if world.misfortune(world.rates.message_lost) {
            let _ = answers.send(Err(Status::unavailable("the connection was reset"))).await;
            return;
        }
        let machine = &world.nodes[&node];
        let Some((process, agent)) = machine.running() else {
            let _ = answers.send(Err(Status::unavailable("connection refused"))).await;
            return;
        };
        process.gate().await;
        let order = Order::try_from(request.clone()).ok();
        if let Some(order) = &order {
            faults::about_to(&world, &order.assignment.work);
        }
        let executed = agent.execute(request).await;
        drop(agent);
        let mut reports = match executed {
            Ok(reports) => {
                if let Some(order) = order {
                    world.accepted(&node, order.fence);
                }
                reports
            }
            Err(status) => {
                // The kind alone: messages name digests, which differ from run to run.
                world.say(format_args!("{node}: refused a call of replica {replica}: {:?}", status.code()));
                world.explain(format_args!("{}", status.message()));
                if passes(&world, &process, replica, &node).await {
                    let _ = answers.send(Err(status)).await;
                }
                return;
            }
        };
        loop {
            let report = tokio::select! {
                biased;
                // Whoever was called notices that nobody listens any more, if that reaches it.
                () = answers.closed(), if world.links.reaches_agent(replica, &node) => return,
                report = reports.next() => report,
            };
            let Some(report) = report else { return };
            if !passes(&world, &process, replica, &node).await {
                continue;
            }
            if world.misfortune(world.rates.message_lost) {
                let _ = answers.send(Err(Status::unavailable("the connection was reset"))).await;
                return;
            }
            if answers.send(report).await.is_err() {
                return;
            }
        }
    }
}

/// The way back. False if it is cut.
async fn passes(world: &World, process: &Process, replica: u64, node: &NodeId) -> bool {
    process.gate().await;
    sleep(world.time(1, 20)).await;
    world.links.reaches_coordinator(replica, node)
}
