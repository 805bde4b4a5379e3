//! A leader that stood still while another was elected: what it answers when it goes on.

use std::time::Duration;

use tokio::time::timeout;
use wire::pki::Role;
use wire::v1;

use crate::rotations::{enroll_three, plan};
use crate::support::agent::willing;
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
