//! An agent for these tests: a real server of the service, whose work is to answer as a script says.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use rotation::{
    AgentRelease, Answer, Attestation, BackupOffer, ContentDigest, DatabaseIdentity, DatabaseKind, DatabasePosition,
    Digest, Fault, Inspection, KeyId, NodeId, PlanTable, Shard, ShardId, ShardRange, ShardTally, Strategy,
    StrategyChoice, Survey, Work, WorkKind,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::{Request, Response, Status, async_trait};
use wire::convert::{Order, Report};
use wire::tls::Tls;
use wire::v1;

use super::BOUND;

pub(crate) const SHARDS: u64 = 6;
pub(crate) const ROWS_PER_SHARD: u64 = 10;
pub(crate) const TABLE: &str = "items";

pub(crate) fn old_key() -> KeyId {
    KeyId::new([1; 16])
}

pub(crate) fn new_key() -> KeyId {
    KeyId::new([2; 16])
}

/// The proof that this node answers.
pub(crate) fn possession(node: &NodeId) -> Digest {
    Digest::new(*blake3::hash(node.as_str().as_bytes()).as_bytes())
}

/// What an agent does with an order.
pub(crate) enum Step {
    /// Does it.
    Do,
    /// Cannot.
    Fail(Fault),
    /// Ends the call without an answer.
    Drop,
    /// Reports that it works, until the token is cancelled, and then does it.
    Hold(CancellationToken),
}

/// Decides what to do with an order.
pub(crate) type Script = Arc<dyn Fn(&Order) -> Step + Send + Sync>;

/// Does everything.
pub(crate) fn willing() -> Script {
    Arc::new(|_| Step::Do)
}

/// An agent that runs; it ends when dropped.
pub(crate) struct TestAgent {
    pub(crate) address: String,
    orders: watch::Receiver<Vec<Order>>,
    /// Calls that it answers now.
    calls: watch::Receiver<usize>,
    _running: DropGuard,
}

impl TestAgent {
    pub(crate) async fn start(tls: Tls, name: &str, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("https://{}", listener.local_addr().expect("bound"));
        let (sender, orders) = watch::channel(Vec::new());
        let (under_way, calls) = watch::channel(0);
        let node = name.parse().expect("valid");
        let service = Service { node, script, orders: Arc::new(sender), calls: Arc::new(under_way) };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let routes = Routes::new(wire::rpc::agent_server(service));
            let served =
                wire::serve::serve(listener, &tls, routes, &["keyturn.v1.Agent"], stopped.cancelled_owned()).await;
            served.expect("serves");
        });
        Self { address, orders, calls, _running: stop.drop_guard() }
    }

    /// Every order that arrived so far.
    pub(crate) fn orders(&self) -> Vec<Order> {
        self.orders.borrow().clone()
    }

    /// Waits until nobody listens to any of its answers.
    pub(crate) async fn unheard(&self) {
        let mut calls = self.calls.clone();
        let none = calls.wait_for(|calls| *calls == 0);
        tokio::time::timeout(BOUND, none).await.expect("put down in time").expect("the agent runs");
    }

    /// Waits until so many orders of a kind have arrived.
    pub(crate) async fn ordered(&self, kind: WorkKind, times: usize) {
        let mut orders = self.orders.clone();
        let arrived = orders.wait_for(|orders| count(orders, kind) >= times);
        tokio::time::timeout(BOUND, arrived).await.expect("ordered in time").expect("the agent runs");
    }
}

pub(crate) fn count(orders: &[Order], kind: WorkKind) -> usize {
    orders.iter().filter(|order| order.assignment.work.kind() == kind).count()
}

struct Service {
    node: NodeId,
    script: Script,
    orders: Arc<watch::Sender<Vec<Order>>>,
    calls: Arc<watch::Sender<usize>>,
}

/// Counted while it lasts.
struct UnderWay(Arc<watch::Sender<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

type Reports = Pin<Box<dyn Stream<Item = Result<v1::Report, Status>> + Send>>;

#[async_trait]
impl v1::agent_server::Agent for Service {
    type ExecuteStream = Reports;

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Result<Response<Reports>, Status> {
        let order = Order::try_from(request.into_inner())?;
        assert_eq!(order.assignment.node, self.node, "an order goes to its addressee");
        let step = (self.script)(&order);
        let answer = Report::Answered(Box::new(answer(&self.node, &order)));
        self.orders.send_modify(|orders| orders.push(order));
        let (sender, receiver) = mpsc::channel(4);
        let calls = Arc::clone(&self.calls);
        calls.send_modify(|calls| *calls += 1);
        tokio::spawn(async move {
            let _under_way = UnderWay(calls);
            let last = match step {
                Step::Do => Some(answer),
                Step::Fail(fault) => Some(Report::Failed(fault)),
                Step::Drop => None,
                Step::Hold(released) => {
                    let mut beat = tokio::time::interval(std::time::Duration::from_millis(200));
                    loop {
                        tokio::select! {
                            () = released.cancelled() => break Some(answer),
                            () = sender.closed() => return,
                            _ = beat.tick() => {}
                        }
                        let progress = v1::Progress { rows_done: 3, waiting_for: "the test".to_owned() };
                        let _ = sender.try_send(Ok((&Report::Progress(progress)).into()));
                    }
                }
            };
            if let Some(report) = last {
                let _ = sender.send(Ok((&report).into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn adopt(&self, _: Request<v1::AdoptRequest>) -> Result<Response<v1::AdoptResponse>, Status> {
        Ok(Response::new(v1::AdoptResponse { node: self.node.to_string() }))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        Err(Status::unimplemented("nobody asks that in these tests"))
    }
}

fn database() -> DatabaseIdentity {
    DatabaseIdentity { kind: DatabaseKind::Postgres, identity: "the same everywhere".to_owned() }
}

fn shards() -> Vec<Shard> {
    (0..SHARDS)
        .map(|id| {
            let bound = |number: u64| rotation::KeyBound(format!("[\"{number}\"]"));
            let range = ShardRange {
                after: (id > 0).then(|| bound(id * ROWS_PER_SHARD)),
                through: (id + 1 < SHARDS).then(|| bound((id + 1) * ROWS_PER_SHARD)),
            };
            Shard { id: ShardId::new(id), table: TABLE.to_owned(), range, rows_estimated: ROWS_PER_SHARD }
        })
        .collect()
}

fn tally(shard: ShardId) -> ShardTally {
    let digest = ContentDigest::new(u128::from(shard.get()) + 1);
    ShardTally { rows: ROWS_PER_SHARD, values: ROWS_PER_SHARD, undecryptable: 0, digest, rest: digest }
}

/// What a node whose every work succeeds answers.
fn answer(node: &NodeId, order: &Order) -> Answer {
    match &order.assignment.work {
        Work::Inspect => Answer::Inspected(Box::new(Inspection {
            release: AgentRelease { version: "0.1.0".to_owned(), protocol: AgentRelease::PROTOCOL },
            current_key: old_key(),
            instance: "online".to_owned(),
            instance_online: true,
            protector: "none: a test".to_owned(),
            database: database(),
            targets_digest: Digest::new([7; 32]),
            recipient_key: format!("recipient-of-{node}"),
            attestation: Attestation {
                certificates: vec!["00".to_owned()],
                signature: "00".to_owned(),
                mac: "00".to_owned(),
            },
            backup: BackupOffer::Nothing,
        })),
        Work::SurveyDatabase { strategy: choice, .. } => {
            let rows = SHARDS * ROWS_PER_SHARD;
            let table = PlanTable {
                columns: vec!["secret".to_owned()],
                strategy: if *choice == StrategyChoice::Shadow { Strategy::Shadow } else { Strategy::InPlace },
                reason: "chosen".to_owned(),
                forecast_ms: 10,
                rows,
                values: rows,
                bytes: rows * 100,
            };
            Answer::DatabaseSurveyed(Box::new(Survey {
                kind: DatabaseKind::Postgres,
                tables: vec![(TABLE.to_owned(), table)],
                shards: shards(),
                writers_max: 3,
                undecryptable: Vec::new(),
                undecryptable_total: 0,
                downtime_forecast_ms: 1_000,
                unseen: rotation::Unseen::default(),
            }))
        }
        Work::StoreKey => Answer::KeyStored { possession: possession(node) },
        Work::TakeOffline => Answer::WentOffline,
        Work::FenceDatabase => Answer::DatabaseFenced { rows: vec![(TABLE.to_owned(), SHARDS * ROWS_PER_SHARD)] },
        Work::ReencryptShard { shard, lease, .. } => {
            Answer::ShardReencrypted { shard: shard.id, lease: *lease, tally: tally(shard.id) }
        }
        Work::VerifyShard { shard, lease, .. } => {
            Answer::ShardVerified { shard: shard.id, lease: *lease, tally: tally(shard.id) }
        }
        Work::RecordPosition => {
            Answer::PositionRecorded(DatabasePosition { identity: database(), timeline: 1, position: 100 })
        }
        Work::ActivateKey { .. } => Answer::KeyActivated { key: new_key() },
        Work::LiftFence { .. } => Answer::FenceLifted,
        Work::StartInstance { key } => Answer::InstanceStarted { key: *key },
        Work::AdmitInstance => Answer::InstanceAdmitted,
        Work::CloseLedger { .. } => Answer::LedgerClosed,
        Work::TurnBack => Answer::TurnedBack,
        Work::RestoreKey => Answer::KeyRestored { key: old_key() },
        Work::DiscardKey => Answer::KeyDiscarded,
        Work::FinishShadows => Answer::ShadowsFinished,
        Work::SwapTables => Answer::TablesSwapped,
        Work::SwapTablesBack => Answer::TablesSwappedBack,
        Work::RetireTables => Answer::TablesRetired,
        Work::BackUp { .. } => unreachable!("no inspection of this agent offers a backup"),
    }
}
