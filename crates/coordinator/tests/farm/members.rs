//! Changing the membership of the coordinators: replacing, growing and shrinking, whoever dies meanwhile, and what is refused.

use std::time::Duration;

use rotation::WorkKind;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use wire::pki::Role;
use wire::tls::{ExpectedPeer, Tls};
use wire::v1;

use crate::cluster::{enroll, get_farm, node_names};
use crate::rotations::{enroll_three, on, plan, start, start_request, watch_to_the_end};
use crate::support::agent::{Step, count};
use crate::support::{BOUND, Farm};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// The request that adds these replicas, by place, and removes those of these numbers.
fn request(farm: &Farm, add: &[usize], remove: &[u64]) -> v1::ChangeReplicasRequest {
    let add = add.iter().map(|place| &farm.replicas[*place]);
    let add = add.map(|replica| v1::ReplicaAddress { id: replica.id(), address: replica.address() }).collect();
    v1::ChangeReplicasRequest { add, remove: remove.to_vec() }
}

/// Asks for one step.
async fn ask(
    farm: &Farm,
    tls: &Tls,
    request: &v1::ChangeReplicasRequest,
) -> Result<v1::ChangeReplicasResponse, Status> {
    farm.call(tls, |mut client| {
        let request = request.clone();
        async move { client.change_replicas(request).await }
    })
    .await
}

/// Asks until the stage is reached.
async fn ask_until(farm: &Farm, tls: &Tls, request: &v1::ChangeReplicasRequest, wanted: v1::ReplicasStage) {
    let asking = async {
        while ask(farm, tls, request).await.expect("is not refused").stage() != wanted {
            sleep(LOOK).await;
        }
    };
    timeout(BOUND, asking).await.expect("comes to that in time");
}

pub(crate) async fn change(farm: &Farm, tls: &Tls, add: &[usize], remove: &[u64]) {
    ask_until(farm, tls, &request(farm, add, remove), v1::ReplicasStage::Done).await;
}

async fn members(farm: &Farm, tls: &Tls) -> Vec<v1::ReplicaState> {
    let list = farm.call(tls, |mut client| async move { client.list_replicas(v1::ListReplicasRequest {}).await });
    list.await.expect("lists").replicas
}

async fn voters(farm: &Farm, tls: &Tls) -> Vec<u64> {
    let members = members(farm, tls).await;
    assert!(members.iter().all(|member| member.voter), "no learner is left over: {members:?}");
    members.iter().map(|member| member.id).collect()
}

/// The reason of a refusal, which names a next step.
#[track_caller]
fn reason(status: &Status) -> String {
    let problem = wire::status::problem(status).unwrap_or_else(|| panic!("a problem: {status}"));
    assert!(!problem.next_step.is_empty(), "{problem:?}");
    problem.reason
}

/// Waits until a replica says that it was removed.
async fn says_that_it_was_removed(farm: &Farm, tls: &Tls, place: usize) {
    let asking = async {
        loop {
            match timeout(BOUND, get_farm(farm, tls, place)).await.expect("does not hang") {
                Err(status) if status.code() == Code::Unavailable && reason(&status) == "REPLICA_REMOVED" => return,
                _ => sleep(LOOK).await,
            }
        }
    };
    timeout(BOUND, asking).await.expect("it finds out");
}

#[tokio::test]
async fn a_replica_that_lost_its_disk_is_replaced_under_a_new_number_with_two_of_three_alive() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let leader = farm.leader(&operator).await;
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let lost_id = farm.replicas[lost].id();
    farm.replicas[lost].kill().await;
    farm.replicas[lost].lose_data();

    let new = farm.join(4);
    change(&farm, &operator, &[new], &[lost_id]).await;
    let mut expected: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != lost_id).collect();
    assert_eq!(voters(&farm, &operator).await, expected);
    // Asking again changes nothing.
    change(&farm, &operator, &[new], &[lost_id]).await;
    assert_eq!(voters(&farm, &operator).await, expected);

    // The new one counts: with it and one more there is a majority, whoever led before.
    farm.replicas[leader].kill().await;
    enroll(&farm, &operator, "node-2").await.expect("the others go on");
    let seen = get_farm(&farm, &operator, new).await.expect("answers");
    assert_eq!(node_names(&seen)[0], "node-1");
    let addresses: Vec<_> = seen.replicas.iter().map(|replica| replica.id).collect();
    assert_eq!(addresses, expected, "what clients are told is the membership, not the configuration");

    // The next one is lost as well, and replaced the same way.
    farm.replicas[leader].lose_data();
    let next = farm.join(5);
    change(&farm, &operator, &[next], &[farm.replicas[leader].id()]).await;
    expected.retain(|id| *id != farm.replicas[leader].id());
    expected.push(5);
    assert_eq!(voters(&farm, &operator).await, expected);
    farm.replicas[other].kill().await;
    enroll(&farm, &operator, "node-3").await.expect("only those that came later are left, and go on");
}

#[tokio::test]
async fn a_leader_that_dies_in_the_middle_of_a_replacement_leaves_nothing_half_done() {
    for stage in [v1::ReplicasStage::Adding, v1::ReplicasStage::CatchingUp, v1::ReplicasStage::ChangingVoters] {
        let mut farm = Farm::start(3);
        let operator = farm.tls(Role::Operator, "alice");
        enroll(&farm, &operator, "node-1").await.expect("enrolls");
        let leader = farm.leader(&operator).await;
        let leaving = farm.replicas[(leader + 1) % 3].id();
        let new = farm.join(4);
        let request = request(&farm, &[new], &[leaving]);
        // What is asked for may already be further when it is answered.
        let reached = async {
            while (ask(&farm, &operator, &request).await.expect("is not refused").stage() as i32) < stage as i32 {}
        };
        timeout(BOUND, reached).await.expect("comes that far");
        farm.replicas[leader].kill().await;
        change(&farm, &operator, &[new], &[leaving]).await;
        let expected: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != leaving).collect();
        assert_eq!(voters(&farm, &operator).await, expected, "{stage:?}");
        enroll(&farm, &operator, "node-2").await.expect("goes on");
        farm.replicas[leader].restart();
        enroll(&farm, &operator, "node-3").await.expect("goes on");
    }
}

#[tokio::test]
async fn a_coordinator_is_replaced_while_a_rotation_is_under_way() {
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

    let leader = farm.leader(&operator).await;
    let lost = (leader + 1) % 3;
    farm.replicas[lost].kill().await;
    farm.replicas[lost].lose_data();
    let new = farm.join(4);
    change(&farm, &operator, &[new], &[farm.replicas[lost].id()]).await;
    released.cancel();
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    assert_eq!(ended.leader_changes, 0, "the replacement disturbs nobody");
    for agent in &agents {
        assert_eq!(count(&agent.orders(), WorkKind::StoreKey), 1, "nothing was done twice");
    }
}

#[tokio::test]
async fn clusters_grow_from_one_to_three_to_five_and_shrink_back() {
    let mut farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let pair = [farm.join(2), farm.join(3)];
    change(&farm, &operator, &pair, &[]).await;
    assert_eq!(voters(&farm, &operator).await, [1, 2, 3]);
    let pair = [farm.join(4), farm.join(5)];
    change(&farm, &operator, &pair, &[]).await;
    assert_eq!(voters(&farm, &operator).await, [1, 2, 3, 4, 5]);
    for member in members(&farm, &operator).await {
        assert!(member.reachable, "{member:?}");
    }
    // Whoever began is restarted, with a configuration that knows nobody else.
    farm.replicas[0].kill().await;
    farm.replicas[1].kill().await;
    enroll(&farm, &operator, "node-2").await.expect("three of five go on");
    farm.replicas[0].restart();
    farm.replicas[1].restart();

    change(&farm, &operator, &[], &[1, 2]).await;
    assert_eq!(voters(&farm, &operator).await, [3, 4, 5]);
    says_that_it_was_removed(&farm, &operator, 0).await;
    change(&farm, &operator, &[], &[4, 5]).await;
    assert_eq!(voters(&farm, &operator).await, [3]);
    enroll(&farm, &operator, "node-3").await.expect("one is enough for itself");
    let seen = get_farm(&farm, &operator, 2).await.expect("answers");
    assert_eq!(node_names(&seen), ["node-1", "node-2", "node-3"]);
}

#[tokio::test]
async fn a_leader_can_be_removed_and_the_others_elect_another() {
    let farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let leader = farm.leader(&operator).await;
    change(&farm, &operator, &[], &[farm.replicas[leader].id()]).await;
    enroll(&farm, &operator, "node-2").await.expect("goes on");
    // It leads on for a moment, so that the others hear of it.
    let elected = async {
        while !members(&farm, &operator).await.iter().any(|member| member.leader) {
            sleep(LOOK).await;
        }
    };
    timeout(BOUND, elected).await.expect("another one leads");
    assert_ne!(farm.leader(&operator).await, leader);
    assert_eq!(voters(&farm, &operator).await.len(), 2);
    says_that_it_was_removed(&farm, &operator, leader).await;
}

#[tokio::test]
async fn a_removed_number_is_refused_at_once_and_for_ever_and_is_not_given_out_again() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    // Whoever holds its machine still holds a certificate of the farm.
    let stolen = farm.tls(Role::Coordinator, "3");
    let member = farm.tls(Role::Coordinator, "1");
    // No message of consensus at all: who is removed is not even read.
    let sends = async |farm: &Farm, tls: &Tls, place: usize| {
        let expect = ExpectedPeer { role: Role::Coordinator, name: None };
        let channel = tls.channel(&farm.replicas[place].address(), expect).expect("a valid address");
        let mut client = wire::rpc::raft_client(channel);
        let nothing = v1::RaftRequest { version: 0, payload: Vec::new() };
        [
            client.append_entries(nothing.clone()).await.map(drop).expect_err("nothing is no message"),
            client.vote(nothing.clone()).await.map(drop).expect_err("nothing is no message"),
            client.install_snapshot(nothing).await.map(drop).expect_err("nothing is no message"),
        ]
        .map(|status| reason(&status))
    };
    assert_eq!(sends(&farm, &stolen, 0).await, ["RAFT_VERSION"; 3], "it is a member");

    change(&farm, &operator, &[], &[3]).await;
    for place in [0, 1] {
        let refused = async {
            while sends(&farm, &stolen, place).await != ["REPLICA_REMOVED"; 3] {
                sleep(LOOK).await;
            }
        };
        timeout(BOUND, refused).await.expect("each refuses it as soon as it has heard");
    }
    assert_eq!(sends(&farm, &member, 1).await, ["RAFT_VERSION"; 3], "members are heard");

    // It was the highest number, and after a restart it is still known.
    farm.replicas[2].kill().await;
    farm.replicas[2].lose_data();
    for place in [0, 1] {
        farm.replicas[place].stop().await;
        farm.replicas[place].restart();
    }
    let again = ask(&farm, &operator, &request(&farm, &[2], &[])).await.expect_err("refused");
    assert_eq!(reason(&again), "REPLICA_NUMBER");
    assert!(again.message().contains("the first that was not is 4"), "{again}");
    assert_eq!(sends(&farm, &stolen, 0).await, ["REPLICA_REMOVED"; 3]);
    let new = farm.join(4);
    change(&farm, &operator, &[new], &[]).await;
    assert_eq!(voters(&farm, &operator).await, [1, 2, 4]);
}

/// Long enough for a replica that hears no leader to stand for election several times.
const ELECTIONS: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_removed_replica_that_comes_back_disturbs_nobody_and_says_that_it_was_removed() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    let _agents = enroll_three(&farm, &operator, |_| crate::support::agent::willing()).await;
    let leader = farm.leader(&operator).await;
    let gone = (leader + 1) % 3;
    // It is down when it is removed, so nobody could have told it.
    farm.replicas[gone].kill().await;
    let new = farm.join(4);
    change(&farm, &operator, &[new], &[farm.replicas[gone].id()]).await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;

    farm.replicas[gone].restart();
    let until = Instant::now() + ELECTIONS;
    says_that_it_was_removed(&farm, &operator, gone).await;
    while Instant::now() < until {
        let now = farm.client(&operator, leader).get_rotation(v1::GetRotationRequest { id: planned.id.clone() }).await;
        assert_eq!(now.expect("still leads").get_ref().leader_changes, 0);
        sleep(LOOK).await;
    }
    let command = v1::RemoveNodeRequest { id: "nobody".to_owned() };
    let status = farm.client(&operator, gone).remove_node(command).await.expect_err("it is nobody's leader");
    assert_eq!(reason(&status), "REPLICA_REMOVED");

    // With an empty disk it is the same: nobody sends it anything, and it founds nothing.
    farm.replicas[gone].kill().await;
    farm.replicas[gone].lose_data();
    farm.replicas[gone].restart();
    sleep(LOOK * 10).await;
    let seen = get_farm(&farm, &operator, gone).await.expect("it answers what it knows");
    assert_eq!((seen.cluster.as_str(), seen.nodes.len()), ("", 0));
    enroll(&farm, &operator, "node-4").await.expect_err("the rotation is under way, and somebody leads who knows it");
}

#[tokio::test]
async fn what_would_harm_the_cluster_is_refused_and_changes_nothing() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let leader = farm.leader(&operator).await;
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    let id = |place: usize| place as u64 + 1;
    farm.replicas[dead].kill().await;
    let refused = async |farm: &Farm, request: v1::ChangeReplicasRequest| {
        reason(&ask(farm, &operator, &request).await.expect_err("refused"))
    };

    assert_eq!(refused(&farm, request(&farm, &[], &[id(alive)])).await, "REPLICA_QUORUM");
    assert_eq!(refused(&farm, request(&farm, &[], &[1, 2, 3])).await, "REPLICA_COUNT");
    assert_eq!(refused(&farm, request(&farm, &[], &[])).await, "REPLICAS");
    let at = |id, address: &str| v1::ChangeReplicasRequest {
        add: vec![v1::ReplicaAddress { id, address: address.to_owned() }],
        remove: vec![],
    };
    assert_eq!(refused(&farm, at(4, "somewhere")).await, "ADDRESS");
    assert_eq!(refused(&farm, at(4, "https://127.0.0.1:9")).await, "REPLICA_UNREACHABLE");
    assert_eq!(refused(&farm, at(4, &farm.replicas[alive].address())).await, "REPLICA_ADDRESS");
    assert_eq!(refused(&farm, at(id(alive), "https://127.0.0.1:9")).await, "REPLICA_NUMBER");
    assert_eq!(refused(&farm, at(0, "https://127.0.0.1:9")).await, "REPLICA_NUMBER");

    // Who listens there has the certificate of another number.
    let nine = farm.join(9);
    assert_eq!(refused(&farm, at(4, &farm.replicas[nine].address())).await, "REPLICA_UNREACHABLE");
    assert_eq!(refused(&farm, request(&farm, &[nine], &[7])).await, "UNKNOWN_REPLICA");
    let viewer = farm.tls(Role::Viewer, "victor");
    let status = farm.client(&viewer, leader).change_replicas(at(4, "https://127.0.0.1:9")).await;
    assert_eq!(status.expect_err("a viewer may not").code(), Code::PermissionDenied);
    assert_eq!(voters(&farm, &viewer).await, [1, 2, 3]);

    // One of three alive: nobody may change anything, and it is said why.
    farm.replicas[alive].kill().await;
    let status = farm.client(&operator, leader).change_replicas(request(&farm, &[nine], &[id(dead)])).await;
    let status = status.expect_err("there is no majority");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    farm.replicas[alive].restart();
    farm.replicas[dead].restart();
    assert_eq!(voters(&farm, &operator).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_replica_of_another_cluster_is_not_taken_in() {
    let mut farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    // It founded a cluster of its own, as somebody does who forgets `join = true`.
    let foreign = farm.found_apart(2);
    timeout(BOUND, async {
        while get_farm(&farm, &operator, foreign).await.map_or(true, |seen| seen.cluster.is_empty()) {
            sleep(LOOK).await;
        }
    })
    .await
    .expect("it is founded");
    let client = &mut farm.client(&operator, 0);
    let status = client.change_replicas(request(&farm, &[foreign], &[])).await.expect_err("refused");
    assert_eq!(reason(&status), "REPLICA_FOREIGN");
    let list = client.list_replicas(v1::ListReplicasRequest {}).await.expect("lists").into_inner();
    assert_eq!(list.replicas.len(), 1);
}

#[tokio::test]
async fn a_replica_starts_with_the_certificate_of_its_own_number_only() {
    let farm = Farm::start(1);
    let mut config = farm.replicas[0].config().clone();
    config.tls = farm.files(Role::Coordinator, "2");
    config.data_dir = farm.directory.path().join("elsewhere");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let error = coordinator::run_with(config, listener, std::future::pending()).await.expect_err("refused");
    assert!(error.to_string().contains("this is coordinator 1"), "{error}");
}
