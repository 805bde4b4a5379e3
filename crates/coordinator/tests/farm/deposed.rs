//! A leader that stood still while another was elected, or is cut off: what it answers and what it still does.

use std::time::Duration;

use rotation::WorkKind;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::pki::Role;
use wire::v1;

use crate::rotations::{enroll_three, on, plan, start, start_request, watch_to_the_end};
use crate::support::agent::{Step, count, willing};
use crate::support::{BOUND, Farm};

/// Long enough for a request to lie in the socket of who stands still.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_leader_that_was_replaced_while_it_stood_still_answers_nothing_old() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    let _agents = enroll_three(&farm, &operator, |_| willing()).await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    let leader = farm.leader(&operator).await;
    // A connection that is made already, so that the question is there before anything else is heard.
    let client = farm.client(&operator, leader);
    let question = v1::GetRotationRequest { id: planned.id.clone() };
    let seen = client.clone().get_rotation(question.clone()).await.expect("leads").into_inner();
    assert_eq!(seen.plan, planned.plan);

    farm.replicas[leader].freeze();
    let ask = |mut client: wire::v1::operator_client::OperatorClient<_>| {
        let question = question.clone();
        tokio::spawn(async move { client.get_rotation(question).await })
    };
    let early = ask(client.clone());
    tokio::time::sleep(ON_ITS_WAY).await;
    // Elsewhere the plan is withdrawn: nobody may sign it any more.
    let withdrawn = farm.call(&operator, |mut client| {
        let request = v1::AbortRotationRequest { id: planned.id.clone() };
        async move { client.abort_rotation(request).await }
    });
    assert_eq!(withdrawn.await.expect("withdraws").outcome, v1::Outcome::Withdrawn as i32);
    let late = ask(client);
    tokio::time::sleep(ON_ITS_WAY).await;
    farm.replicas[leader].thaw();

    for answer in [early, late] {
        let answer = timeout(BOUND, answer).await.expect("does not hang").expect("does not panic");
        match answer {
            Ok(rotation) => assert_eq!(rotation.get_ref().outcome, v1::Outcome::Withdrawn as i32, "an old plan"),
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
    }
    // It follows again, and sends whoever wants to decide on something to the leader.
    let answer = farm.client(&operator, leader).get_rotation(question).await;
    match answer {
        Ok(rotation) => assert_eq!(rotation.get_ref().outcome, v1::Outcome::Withdrawn as i32),
        Err(status) => assert!(wire::status::leader_hint(&status).is_some(), "{status}"),
    }
}

#[tokio::test]
async fn what_a_leader_that_stood_still_does_late_changes_nothing() {
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
    let before = count(&agents[0].orders(), WorkKind::ReencryptShard);
    farm.replicas[leader].freeze();
    agents[0].ordered(WorkKind::ReencryptShard, before + 1).await;
    // The answers of the same work reach both leaders at once; that of the old one logs nothing.
    farm.replicas[leader].thaw();
    released.cancel();
    let ended = watch_to_the_end(&farm, &operator, &planned.id).await;
    assert_eq!(ended.outcome, v1::Outcome::Completed as i32, "{ended:#?}");
    let progress = ended.progress.as_ref().expect("progress");
    assert_eq!((progress.rows_reencrypted, progress.rows_verified), (progress.rows_total, progress.rows_total));
    for agent in &agents {
        // One more leader than the one that was meant to take over may order it once more.
        let (times, changes) = (count(&agent.orders(), WorkKind::ActivateKey), ended.leader_changes);
        let fits = times == 1 || times > 1 && changes > 1;
        assert!(fits, "the old leader goes on with nothing: {times} orders, {changes} new leaders");
    }
}

#[tokio::test]
async fn a_leader_that_is_cut_off_steps_down_and_says_so() {
    let mut farm = Farm::start(3);
    let operator = farm.tls(Role::Operator, "alice");
    let _agents = enroll_three(&farm, &operator, |_| willing()).await;
    let planned = plan(&farm, &operator, v1::PlanRotationRequest::default()).await;
    let leader = farm.leader(&operator).await;
    let request = v1::WatchRotationRequest { id: planned.id };
    let mut stream = farm.client(&operator, leader).watch_rotation(request).await.expect("leads").into_inner();
    stream.message().await.expect("a message").expect("a rotation");
    for follower in (0..3).filter(|replica| *replica != leader) {
        farm.replicas[follower].kill().await;
    }
    let ending = async {
        loop {
            match stream.message().await {
                Ok(rotation) => assert!(rotation.is_some(), "it says why it ends"),
                Err(status) => return status,
            }
        }
    };
    let status = timeout(BOUND, ending).await.expect("does not go on as if nothing had happened");
    let hint = wire::status::leader_hint(&status).expect("it does not lead any more");
    assert_eq!(hint.leader_address, None);
}
