//! Coordinators among themselves: how a cluster forms, who answers, and what outlives a stop, a kill and a lost disk.

use std::time::Duration;

use futures::StreamExt as _;
use tonic::{Code, Status};
use wire::pki::{Authority, Role};
use wire::tls::Tls;
use wire::v1;

use crate::support::{BOUND, FARM, Farm, client, write_files};

pub(crate) async fn enroll(farm: &Farm, tls: &Tls, name: &str) -> Result<v1::Node, Status> {
    let request = v1::EnrollNodeRequest { id: name.to_owned(), address: "https://127.0.0.1:9".to_owned() };
    farm.call(tls, |mut client| {
        let request = request.clone();
        async move { client.enroll_node(request).await }
    })
    .await
}

pub(crate) async fn get_farm(farm: &Farm, tls: &Tls, replica: usize) -> Result<v1::Farm, Status> {
    farm.client(tls, replica).get_farm(v1::GetFarmRequest {}).await.map(tonic::Response::into_inner)
}

pub(crate) fn node_names(farm: &v1::Farm) -> Vec<&str> {
    farm.nodes.iter().map(|node| node.id.as_str()).collect()
}

#[tokio::test]
async fn three_replicas_elect_one_leader_and_the_others_point_to_it() {
    let farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    let leader = farm.leader(&operator).await;
    enroll(&farm, &operator, "node-1").await.expect("enrolls");

    let seen = get_farm(&farm, &operator, leader).await.expect("answers");
    assert_eq!((seen.name.as_str(), node_names(&seen)), (FARM, vec!["node-1"]));
    assert!(!seen.cluster.is_empty());
    let flags: Vec<_> = seen.replicas.iter().map(|replica| (replica.leader, replica.answering)).collect();
    assert_eq!(flags.iter().filter(|flags| **flags == (true, true)).count(), 1);
    assert_eq!(flags.iter().filter(|flags| **flags == (false, false)).count(), 2);

    for follower in (0..3).filter(|replica| *replica != leader) {
        let request = v1::EnrollNodeRequest { id: "node-2".to_owned(), address: "https://127.0.0.1:9".to_owned() };
        let status = farm.client(&operator, follower).enroll_node(request).await.expect_err("does not lead");
        let hint = wire::status::leader_hint(&status).expect("a hint");
        assert_eq!(hint.leader_address, Some(farm.replicas[leader].address()));
        let watch = v1::WatchRotationRequest::default();
        let status = farm.client(&operator, follower).watch_rotation(watch).await.expect_err("does not lead");
        assert!(wire::status::leader_hint(&status).is_some(), "{status}");
        // Reads are answered by any.
        get_farm(&farm, &operator, follower).await.expect("answers");
    }
}

#[tokio::test]
async fn a_stop_and_a_kill_lose_nothing_that_was_acknowledged() {
    let mut farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let before = get_farm(&farm, &operator, 0).await.expect("answers");

    farm.replicas[0].stop().await;
    farm.replicas[0].restart();
    farm.leader(&operator).await;
    let after = get_farm(&farm, &operator, 0).await.expect("answers");
    assert_eq!(after, before);

    enroll(&farm, &operator, "node-2").await.expect("enrolls");
    farm.replicas[0].kill().await;
    farm.replicas[0].restart();
    farm.leader(&operator).await;
    let after = get_farm(&farm, &operator, 0).await.expect("answers");
    assert_eq!((node_names(&after), &after.cluster), (vec!["node-1", "node-2"], &before.cluster));
}

#[tokio::test]
async fn when_the_leader_is_killed_another_takes_over_and_it_follows_when_it_is_back() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let first = farm.leader(&operator).await;
    farm.replicas[first].kill().await;
    enroll(&farm, &operator, "node-2").await.expect("the others go on");
    let second = farm.leader(&operator).await;
    assert_ne!(second, first);
    let seen = get_farm(&farm, &operator, second).await.expect("answers");
    assert_eq!(node_names(&seen), ["node-1", "node-2"]);

    // It holds a majority up again: the third goes, and the farm still takes commands.
    farm.replicas[first].restart();
    let third = 3 - first - second;
    farm.replicas[third].kill().await;
    enroll(&farm, &operator, "node-3").await.expect("two are a majority");
}

#[tokio::test]
async fn a_replica_that_lost_its_disk_catches_up_and_counts_again() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let leader = farm.leader(&operator).await;
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);

    farm.replicas[lost].kill().await;
    farm.replicas[lost].lose_data();
    enroll(&farm, &operator, "node-2").await.expect("enrolls");
    farm.replicas[lost].restart();
    farm.replicas[other].kill().await;
    // Only with the word of the one that lost everything is there a majority.
    enroll(&farm, &operator, "node-3").await.expect("enrolls");
    farm.replicas[leader].kill().await;
    farm.replicas[other].restart();
    // The other one misses what was written last, so this leads only if the one that lost its disk has it all.
    enroll(&farm, &operator, "node-4").await.expect("enrolls");
    let now = farm.leader(&operator).await;
    let seen = get_farm(&farm, &operator, now).await.expect("answers");
    assert_eq!(node_names(&seen), ["node-1", "node-2", "node-3", "node-4"]);
}

/// More than a snapshot covers and the log keeps behind it.
const MANY_ENTRIES: usize = 1_300;

/// Makes the log so long that it is compacted. A refused command is an entry like any other.
pub(crate) async fn write_many(farm: &Farm, tls: &Tls, leader: usize) {
    let client = farm.client(tls, leader);
    let commands = (0..MANY_ENTRIES).map(|_| {
        let mut client = client.clone();
        async move { client.remove_node(v1::RemoveNodeRequest { id: "nobody".to_owned() }).await }
    });
    let answers = futures::stream::iter(commands).buffer_unordered(64).collect::<Vec<_>>().await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|s| s.code() == Code::FailedPrecondition)));
}

#[tokio::test]
async fn a_replica_that_the_log_does_not_reach_back_to_is_brought_up_by_a_snapshot() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let leader = farm.leader(&operator).await;
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    farm.replicas[lost].kill().await;
    farm.replicas[lost].lose_data();

    write_many(&farm, &operator, leader).await;

    farm.replicas[lost].restart();
    farm.replicas[other].kill().await;
    enroll(&farm, &operator, "node-2").await.expect("enrolls");
    farm.replicas[other].restart();
    farm.replicas[leader].kill().await;
    enroll(&farm, &operator, "node-3").await.expect("enrolls");
    // What it shows of its own is what the snapshot and the log after it brought.
    let seen = get_farm(&farm, &operator, lost).await.expect("answers");
    assert_eq!(node_names(&seen)[..2], ["node-1", "node-2"]);
}

#[tokio::test]
async fn a_leader_without_a_majority_answers_nothing_rather_than_something_old() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    let leader = farm.leader(&operator).await;
    for follower in (0..3).filter(|replica| *replica != leader) {
        farm.replicas[follower].kill().await;
    }
    let answer = tokio::time::timeout(BOUND, get_farm(&farm, &operator, leader)).await.expect("does not hang");
    let status = answer.expect_err("no majority");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(wire::status::problem(&status).expect("a problem").reason, "NO_QUORUM");
}

#[tokio::test]
async fn only_operators_of_the_farm_command() {
    let farm = Farm::start(1);
    let viewer = farm.tls(Role::Viewer, "victor");
    let operator = farm.tls(Role::Operator, "alice");
    farm.leader(&operator).await;
    get_farm(&farm, &viewer, 0).await.expect("a viewer may look");
    let status = farm.client(&viewer, 0).plan_rotation(v1::PlanRotationRequest::default()).await;
    assert_eq!(status.expect_err("a viewer may not plan").code(), Code::PermissionDenied);
    let agent = farm.tls(Role::Agent, "node-1");
    assert_eq!(get_farm(&farm, &agent, 0).await.expect_err("not an agent's").code(), Code::PermissionDenied);

    // Another CA's operator does not get as far as a refusal.
    let foreign = Authority::create(FARM).expect("a certificate authority");
    let files = write_files(&foreign, farm.directory.path().join("foreign"), Role::Operator, "alice");
    let foreign = Tls::load(&files).expect("loads");
    let call = tokio::time::timeout(Duration::from_secs(20), async {
        client(&foreign, &farm.replicas[0].address()).get_farm(v1::GetFarmRequest {}).await
    });
    call.await.expect("does not hang").expect_err("a foreign CA gets nothing");
}

#[tokio::test]
async fn commands_that_make_no_sense_are_refused_with_a_next_step() {
    let farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    farm.leader(&operator).await;
    let mut client = farm.client(&operator, 0);
    let problem = |status: Status| {
        let problem = wire::status::problem(&status).expect("a problem");
        assert!(!problem.next_step.is_empty(), "{problem:?}");
        (status.code(), problem.reason)
    };

    let refused = client.plan_rotation(v1::PlanRotationRequest::default()).await.expect_err("no node is enrolled");
    assert_eq!(problem(refused), (Code::FailedPrecondition, "NO_NODES".to_owned()));
    let request = v1::EnrollNodeRequest { id: "Not A Name".to_owned(), address: "https://a:1".to_owned() };
    assert_eq!(problem(client.enroll_node(request).await.expect_err("no name")).0, Code::InvalidArgument);
    let request = v1::EnrollNodeRequest { id: "node-1".to_owned(), address: "somewhere".to_owned() };
    assert_eq!(problem(client.enroll_node(request).await.expect_err("no address")).0, Code::FailedPrecondition);
    let request = v1::GetRotationRequest { id: uuid::Uuid::nil().to_string() };
    assert_eq!(problem(client.get_rotation(request).await.expect_err("there is none")).0, Code::NotFound);
    let request = v1::GetRotationRequest { id: "7".to_owned() };
    assert_eq!(problem(client.get_rotation(request).await.expect_err("no id")).0, Code::InvalidArgument);
    let request = v1::AbortRotationRequest { id: String::new() };
    assert_eq!(problem(client.abort_rotation(request).await.expect_err("which one?")).0, Code::InvalidArgument);
}
