//! Rotations driven through real coordinators: what agents are given, what operators see, and what a fault, a restart
//! and a killed leader change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rotation::{Digest, Fault, FaultCode, NodeGrant, Plan, Retirement, Statement, WorkKind};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use wire::convert::Order;
use wire::pki::Role;
use wire::tls::Tls;
use wire::v1;

use crate::support::agent::{
    ROWS_PER_SHARD, SHARDS, Script, Step, TestAgent, count, new_key, old_key, possession, willing,
};
use crate::support::{BOUND, FARM, Farm};

const DOMAIN: &str = "keyturn statement v1";

/// Asks for a rotation and waits for its plan.
pub(crate) async fn plan(farm: &Farm, tls: &Tls, options: v1::PlanRotationRequest) -> v1::Rotation {
    let begun = farm
        .call(tls, |mut client| {
            let options = options.clone();
            async move { client.plan_rotation(options).await }
        })
        .await
        .expect("begins");
    let planned = watch_until(farm, tls, &begun.id, |rotation| rotation.phase == v1::Phase::Approval as i32).await;
    assert_eq!(planned.phase, v1::Phase::Approval as i32, "{planned:#?}");
    planned
}

/// Follows a rotation until it is as wanted, or has ended. Takes the stream up again when the leader changes.
pub(crate) async fn watch_until(
    farm: &Farm,
    tls: &Tls,
    id: &str,
    wanted: impl Fn(&v1::Rotation) -> bool,
) -> v1::Rotation {
    let watching = async {
        loop {
            let request = v1::WatchRotationRequest { id: id.to_owned() };
            let mut stream = farm
                .call(tls, |mut client| {
                    let request = request.clone();
                    async move { client.watch_rotation(request).await }
                })
                .await
                .expect("watches");
            while let Ok(Some(rotation)) = stream.message().await {
                if wanted(&rotation) || rotation.ended_at_ms != 0 {
                    return rotation;
                }
            }
        }
    };
    tokio::time::timeout(BOUND, watching).await.expect("comes to that in time")
}

pub(crate) async fn watch_to_the_end(farm: &Farm, tls: &Tls, id: &str) -> v1::Rotation {
    watch_until(farm, tls, id, |_| false).await
}

/// What an operator signs for a plan.
fn statement(rotation: &v1::Rotation) -> (Statement, BTreeMap<String, Vec<u8>>) {
    let plan = Plan::from_bytes(&rotation.plan).expect("a plan");
    assert_eq!(Plan::digest_of(&rotation.plan).to_string(), rotation.plan_digest);
    let sealed: BTreeMap<_, _> =
        plan.nodes.keys().map(|node| (node.to_string(), format!("sealed for {node}").into_bytes())).collect();
    let hash = |bytes: &[u8]| Digest::new(*blake3::hash(bytes).as_bytes());
    let nodes = plan
        .nodes
        .iter()
        .map(|(node, planned)| {
            let grant = NodeGrant {
                recipient_key: planned.recipient_key.clone(),
                sealed_digest: hash(&sealed[node.as_str()]),
                possession_digest: hash(possession(node).as_bytes()),
            };
            (node.clone(), grant)
        })
        .collect();
    let statement = Statement {
        format: Statement::FORMAT,
        farm: FARM.to_owned(),
        rotation: plan.rotation,
        plan_digest: plan.digest(),
        old_key: old_key(),
        new_key: new_key(),
        nodes,
    };
    (statement, sealed)
}

/// The request that starts a planned rotation, signed by `signer`.
pub(crate) fn start_request(rotation: &v1::Rotation, signer: &Tls) -> v1::StartRotationRequest {
    let (statement, sealed) = statement(rotation);
    let statement = statement.to_bytes();
    let authorization = v1::Authorization {
        signature: wire::sign::sign(signer, DOMAIN, &statement),
        certificates: signer.certificates(),
        statement,
        sealed: sealed.into_iter().collect(),
    };
    v1::StartRotationRequest { id: rotation.id.clone(), authorization: Some(authorization) }
}

pub(crate) async fn start(farm: &Farm, tls: &Tls, request: v1::StartRotationRequest) -> Result<v1::Rotation, Status> {
    farm.call(tls, |mut client| {
        let request = request.clone();
        async move { client.start_rotation(request).await }
    })
    .await
}

/// A script that does as told for one kind of work, and everything else willingly.
pub(crate) fn on(kind: WorkKind, step: impl Fn(&Order) -> Step + Send + Sync + 'static) -> Script {
    Arc::new(move |order| if order.assignment.work.kind() == kind { step(order) } else { Step::Do })
}

pub(crate) async fn enroll_three(farm: &Farm, tls: &Tls, script: impl Fn(&str) -> Script) -> Vec<TestAgent> {
    let mut agents = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        agents.push(farm.enroll(tls, name, script(name)).await);
    }
    agents
}

fn fault(retryable: bool) -> Fault {
    Fault {
        code: FaultCode::KeyStore,
        node: None,
        message: "the key store's disk is full".to_owned(),
        next_step: "make room on it".to_owned(),
        retryable,
    }
}

#[tokio::test]
async fn a_rotation_goes_all_the_way_and_every_agent_gets_its_own_and_no_more() {
    let farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    let agents = enroll_three(&farm, &operator, |_| willing()).await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    assert_eq!(planned.old_key, old_key().to_string());
    let waiting: Vec<_> = planned.waiting.iter().map(|waiting| (waiting.node.as_str(), &waiting.what)).collect();
    assert!(matches!(waiting[..], [("", what)] if what.contains("keyturn rotation start")), "{waiting:?}");

    let begun = start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    assert_eq!(begun.new_key, new_key().to_string());
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    let progress = ended.progress.as_ref().expect("progress");
    let rows = SHARDS * ROWS_PER_SHARD;
    assert_eq!((progress.rows_total, progress.rows_reencrypted, progress.rows_verified), (rows, rows, rows));
    assert_eq!(progress.content_digest_before, progress.content_digest_after);
    assert_eq!(progress.content_digest_after.len(), 32);
    assert_eq!((ended.requested_by.as_str(), ended.waiting.len()), ("alice", 0));
    for node in &ended.nodes {
        assert!(node.canary_ok && node.key_stored && !node.held, "{node:?}");
        assert_eq!((&node.key_before, &node.key_after), (&old_key().to_string(), &new_key().to_string()));
        assert!(node.admitted_at_ms >= node.offline_at_ms && node.offline_at_ms > 0, "{node:?}");
    }

    for (agent, name) in agents.iter().zip(["node-1", "node-2", "node-3"]) {
        for order in agent.orders() {
            let kind = order.assignment.work.kind();
            if matches!(kind, WorkKind::Inspect | WorkKind::SurveyDatabase) {
                assert!(order.plan.is_none() && order.authorization.is_none(), "nothing is signed yet");
                continue;
            }
            let authorization = order.authorization.as_ref().expect("signed work");
            let sealed: Vec<_> =
                authorization.sealed.iter().map(|(node, sealed)| (node.as_str(), &sealed[..])).collect();
            assert_eq!(sealed, [(name, format!("sealed for {name}").as_bytes())], "{kind}");
            assert_eq!(order.plan.as_ref().expect("the plan"), &planned.plan);
        }
        let orders = agent.orders();
        for kind in [WorkKind::StoreKey, WorkKind::TakeOffline, WorkKind::ActivateKey, WorkKind::AdmitInstance] {
            // A leader that takes over orders what it does not know to be done.
            let (times, changes) = (count(&orders, kind), ended.leader_changes);
            let fits = times == 1 || times > 1 && changes > 0;
            assert!(
                fits,
                "{kind} on {name}: once is enough where nothing fails, not {times} with {changes} new leaders"
            );
        }
        let fences: Vec<_> = orders.iter().map(|order| (order.fence.term, order.fence.epoch)).collect();
        assert!(fences.is_sorted(), "authority only rises: {fences:?}");
    }

    // The farm's nodes hold the new key, and the list remembers the rotation without its long parts.
    let list =
        farm.call(&operator, |mut client| async move { client.list_rotations(v1::ListRotationsRequest {}).await });
    let list = list.await.expect("lists").rotations;
    assert_eq!((list.len(), list[0].id.as_str(), list[0].plan.len()), (1, planned.id.as_str(), 0));
    let leader = farm.leader(&operator).await;
    let seen = farm.client(&operator, leader).get_farm(v1::GetFarmRequest {}).await.expect("answers").into_inner();
    assert!(seen.nodes.iter().all(|node| node.key == new_key().to_string()), "{seen:?}");
    assert_eq!(seen.active_rotation, "");
}

#[tokio::test]
async fn a_start_that_the_plan_or_the_signature_does_not_cover_is_refused() {
    let farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    let _agents = enroll_three(&farm, &operator, |_| willing()).await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    let refused = async |request: v1::StartRotationRequest| {
        let status = start(&farm, &operator, request).await.expect_err("refused");
        let problem = wire::status::problem(&status).expect("a problem");
        assert!(!problem.next_step.is_empty(), "{problem:?}");
        (status.code(), problem.reason)
    };

    // Signed by a viewer, by another operator, by nobody, over something else.
    let viewer = farm.tls(Role::Viewer, "victor");
    let denied = (Code::PermissionDenied, "SIGNATURE".to_owned());
    assert_eq!(refused(start_request(&planned, &viewer)).await, denied);
    let other = farm.tls(Role::Operator, "bob");
    assert_eq!(refused(start_request(&planned, &other)).await, denied);
    let mut altered = start_request(&planned, &operator);
    altered.authorization.as_mut().expect("set").statement.push(b' ');
    assert_eq!(refused(altered).await, denied);
    let mut unsigned = start_request(&planned, &operator);
    unsigned.authorization.as_mut().expect("set").signature.clear();
    assert_eq!(refused(unsigned).await, denied);

    // Signed, but with another bundle than the statement speaks of; or of another plan.
    let mut swapped = start_request(&planned, &operator);
    swapped.authorization.as_mut().expect("set").sealed.insert("node-1".to_owned(), b"another".to_vec());
    assert_eq!(refused(swapped).await.0, Code::FailedPrecondition);
    let (mut of_another_plan, sealed) = statement(&planned);
    of_another_plan.plan_digest = Digest::new([9; 32]);
    let bytes = of_another_plan.to_bytes();
    let authorization = v1::Authorization {
        signature: wire::sign::sign(&operator, DOMAIN, &bytes),
        certificates: operator.certificates(),
        statement: bytes,
        sealed: sealed.into_iter().collect(),
    };
    let request = v1::StartRotationRequest { id: planned.id.clone(), authorization: Some(authorization) };
    assert_eq!(refused(request).await, (Code::FailedPrecondition, "PLAN_DIFFERS".to_owned()));

    // All of that changed nothing, and no second rotation begins meanwhile.
    let request = v1::GetRotationRequest { id: planned.id.clone() };
    let now = farm.client(&operator, 0).get_rotation(request).await.expect("answers").into_inner();
    assert_eq!((now.phase, now.epoch), (planned.phase, planned.epoch));
    let second = farm.client(&operator, 0).plan_rotation(v1::PlanRotationRequest::default()).await;
    let problem = wire::status::problem(&second.expect_err("one is under way")).expect("a problem");
    assert_eq!(problem.reason, "ROTATION_UNDER_WAY");
}

#[tokio::test]
async fn a_killed_leader_is_replaced_in_the_middle_and_the_rotation_completes() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    let released = CancellationToken::new();
    let agents = enroll_three(&farm, &operator, |_| {
        let released = released.clone();
        on(WorkKind::ReencryptShard, move |_| Step::Hold(released.clone()))
    })
    .await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    agents[0].ordered(WorkKind::ReencryptShard, 1).await;
    let live = watch_until(&farm, &operator, &planned.id, |rotation| {
        rotation.waiting.iter().any(|waiting| waiting.what.contains("the test"))
    })
    .await;
    let waiting = live.waiting.iter().find(|waiting| waiting.what.contains("the test")).expect("just seen");
    assert!(waiting.what.starts_with("reencrypt-shard"), "{waiting:?}");
    assert!(!waiting.node.is_empty() && waiting.since_ms > 0 && waiting.until_ms > waiting.since_ms, "{waiting:?}");

    let leader = farm.leader(&operator).await;
    let before = agents[0].orders();
    farm.replicas[leader].kill().await;
    // The next leader finds the same work pending and asks for it again.
    let again = count(&before, WorkKind::ReencryptShard) + 1;
    agents[0].ordered(WorkKind::ReencryptShard, again).await;
    released.cancel();
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    assert!(ended.leader_changes >= 1, "{}", ended.leader_changes);
    let terms: Vec<_> = agents[0].orders().iter().map(|order| order.fence.term).collect();
    assert!(terms.is_sorted() && terms.first() < terms.last(), "{terms:?}");
}

#[tokio::test]
async fn a_restart_of_all_coordinators_resumes_where_it_was() {
    let mut farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    let released = CancellationToken::new();
    let agents = enroll_three(&farm, &operator, |_| {
        let released = released.clone();
        on(WorkKind::ActivateKey, move |_| Step::Hold(released.clone()))
    })
    .await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    agents[0].ordered(WorkKind::ActivateKey, 1).await;
    farm.replicas[0].kill().await;
    farm.replicas[0].restart();
    agents[0].ordered(WorkKind::ActivateKey, 2).await;
    released.cancel();
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    assert_eq!(count(&agents[0].orders(), WorkKind::StoreKey), 1, "what is done is not done again");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_lost_calls_are_taken_up() {
    let farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let script = on(WorkKind::StoreKey, move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => Step::Fail(fault(true)),
        1 => Step::Drop,
        _ => Step::Do,
    });
    let _agent = farm.enroll(&operator, "node-1", script).await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    assert_eq!(tries.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_fault_that_will_not_pass_undoes_the_rotation_and_is_shown() {
    let farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    let agents = enroll_three(&farm, &operator, |name| {
        if name == "node-2" { on(WorkKind::ActivateKey, |_| Step::Fail(fault(false))) } else { willing() }
    })
    .await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::RolledBack as i32, "{ended:#?}");
    assert_eq!(ended.phase, v1::Phase::Activate as i32);
    let shown = ended.faults.last().expect("a fault");
    assert_eq!((shown.node.as_str(), shown.code.as_str()), ("node-2", "key-store"));
    assert!(ended.nodes.iter().all(|node| node.key_after == old_key().to_string()), "{:?}", ended.nodes);
    for agent in &agents {
        assert_eq!(count(&agent.orders(), WorkKind::DiscardKey), 1);
    }
}

#[tokio::test]
async fn a_rotation_holds_where_it_was_told_to_until_it_is_resumed_and_can_be_aborted() {
    let farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    let agents = enroll_three(&farm, &operator, |_| willing()).await;
    let hold = v1::PlanRotationRequest { hold_at: v1::Phase::Quiesce.into(), ..Default::default() };
    let planned = plan(&farm, &operator, hold).await;
    start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    let held = watch_until(&farm, &operator, &planned.id, |rotation| rotation.paused).await;
    assert_eq!(held.phase, v1::Phase::Quiesce as i32);
    assert!(held.waiting.iter().any(|waiting| waiting.what.contains("keyturn rotation resume")), "{:?}", held.waiting);
    assert_eq!(count(&agents[0].orders(), WorkKind::TakeOffline), 0, "nothing is given out while it holds");

    let mut client = farm.client(&operator, 0);
    let request = v1::ResumeRotationRequest { id: planned.id.clone() };
    assert!(!client.resume_rotation(request).await.expect("goes on").into_inner().paused);
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    let request = v1::AbortRotationRequest { id: planned.id.clone() };
    client.abort_rotation(request).await.expect_err("it is over");

    // The next one is withdrawn before it is started.
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    let request = v1::AbortRotationRequest { id: planned.id.clone() };
    let withdrawn = client.abort_rotation(request).await.expect("withdraws").into_inner();
    assert_eq!(withdrawn.outcome, v1::Outcome::Withdrawn as i32);
}

#[tokio::test]
async fn a_throttle_reaches_shards_under_way_and_a_pause_puts_them_down() {
    let farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    let released = CancellationToken::new();
    let hold = released.clone();
    let agent = farm.enroll(&operator, "node-1", on(WorkKind::ReencryptShard, move |_| Step::Hold(hold.clone()))).await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    agent.ordered(WorkKind::ReencryptShard, 2).await;
    let leases = |orders: &[Order]| {
        let shards = orders.iter().filter_map(|order| match &order.assignment.work {
            rotation::Work::ReencryptShard { lease, rows_per_second, .. } => Some((lease.get(), *rows_per_second)),
            _ => None,
        });
        shards.collect::<Vec<_>>()
    };
    assert_eq!(leases(&agent.orders()), [(1, None); 2]);

    let mut client = farm.client(&operator, 0);
    let request = |rows_per_second| v1::ThrottleRotationRequest { id: planned.id.clone(), rows_per_second };
    let refused = client.throttle_rotation(request(Some(0))).await.expect_err("no rows at all");
    assert_eq!(wire::status::problem(&refused).expect("a problem").reason, "THROTTLE");
    let throttled = client.throttle_rotation(request(Some(100))).await.expect("throttles").into_inner();
    assert_eq!(throttled.throttle, Some(100));
    agent.ordered(WorkKind::ReencryptShard, 4).await;
    assert_eq!(leases(&agent.orders())[2..], [(2, Some(50)); 2], "the same shards, leased anew");
    let viewer = farm.tls(Role::Viewer, "victor");
    let denied = farm.client(&viewer, 0).throttle_rotation(request(None)).await.expect_err("a viewer");
    assert_eq!(denied.code(), Code::PermissionDenied);

    let pause = v1::PauseRotationRequest { id: planned.id.clone() };
    let paused = client.pause_rotation(pause).await.expect("pauses").into_inner();
    assert!(paused.paused && paused.waiting.iter().all(|waiting| waiting.node.is_empty()), "{:?}", paused.waiting);
    agent.unheard().await;
    let resume = v1::ResumeRotationRequest { id: planned.id.clone() };
    client.resume_rotation(resume).await.expect("goes on");
    agent.ordered(WorkKind::ReencryptShard, 6).await;
    assert_eq!(leases(&agent.orders())[4..], [(3, Some(50)); 2]);
    client.throttle_rotation(request(None)).await.expect("lets it go");
    released.cancel();
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!((ended.outcome, ended.throttle), (v1::Outcome::Completed as i32, None), "{ended:#?}");
    let refused = client.throttle_rotation(request(Some(1))).await.expect_err("it is over");
    assert_eq!(wire::status::problem(&refused).expect("a problem").reason, "WRONG_PHASE");
}

/// The request to drop what a rotation kept, signed by `signer`.
fn retire_request(rotation: &v1::Rotation, signer: &Tls) -> v1::RetireRotationRequest {
    let retirement = Retirement {
        format: Retirement::FORMAT,
        farm: FARM.to_owned(),
        rotation: rotation.id.parse().expect("an id"),
        plan_digest: Plan::digest_of(&rotation.plan),
    };
    let retirement = retirement.to_bytes();
    let word = v1::SignedRetirement {
        signature: wire::sign::sign(signer, Retirement::SIGNATURE_DOMAIN, &retirement),
        certificates: signer.certificates(),
        retirement,
    };
    v1::RetireRotationRequest { id: rotation.id.clone(), retirement: Some(word) }
}

#[tokio::test]
async fn copied_tables_are_finished_swapped_kept_and_dropped_on_a_signed_word() {
    let farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    let agents = enroll_three(&farm, &operator, |_| willing()).await;
    let options = v1::PlanRotationRequest { strategy: v1::StrategyChoice::Shadow.into(), ..Default::default() };
    let planned = plan(&farm, &operator, options).await;
    start(&farm, &operator, start_request(&planned, &operator)).await.expect("starts");
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    let progress = ended.progress.as_ref().expect("progress");
    assert_eq!(progress.tables[0].strategy, "shadow");
    assert_eq!(progress.rest_digest_before, progress.rest_digest_after);
    assert_eq!((progress.rest_digest_after.len(), progress.tables[0].rest_digest_after.len()), (32, 32));
    assert_eq!((&ended.kept_tables[..], ended.retired_at_ms), (&["items".to_owned()][..], 0));
    let kinds: Vec<_> = agents[0].orders().iter().map(|order| order.assignment.work.kind()).collect();
    let place =
        |kind| kinds.iter().position(|found| *found == kind).unwrap_or_else(|| panic!("no {kind} in {kinds:?}"));
    assert!(place(WorkKind::FinishShadows) < place(WorkKind::VerifyShard));
    assert!(place(WorkKind::RecordPosition) < place(WorkKind::SwapTables));
    assert!(place(WorkKind::SwapTables) < place(WorkKind::ActivateKey));

    let mut client = farm.client(&operator, 0);
    let viewer = farm.tls(Role::Viewer, "victor");
    for signer in [&viewer, &farm.tls(Role::Operator, "bob")] {
        let denied = client.retire_rotation(retire_request(&ended, signer)).await.expect_err("not the caller's word");
        assert_eq!(denied.code(), Code::PermissionDenied);
        assert_eq!(wire::status::problem(&denied).expect("a problem").reason, "SIGNATURE");
    }
    let taken = client.retire_rotation(retire_request(&ended, &operator)).await.expect("is taken").into_inner();
    assert_eq!(taken.retired_by, "alice");
    agents[0].ordered(WorkKind::RetireTables, 1).await;
    let order = agents[0].orders().pop().expect("just ordered");
    assert!(order.authorization.is_none() && order.retirement.is_some() && order.plan == Some(planned.plan.clone()));
    let gone = async {
        loop {
            let request = v1::GetRotationRequest { id: planned.id.clone() };
            let now = client.get_rotation(request).await.expect("answers").into_inner();
            if now.retired_at_ms > 0 {
                return now;
            }
        }
    };
    let gone = tokio::time::timeout(BOUND, gone).await.expect("in time");
    assert!(gone.kept_tables.is_empty() && gone.retired_at_ms >= gone.ended_at_ms);
    assert_eq!(count(&agents[0].orders(), WorkKind::RetireTables), 1);
}
