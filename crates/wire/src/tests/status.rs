//! What travels with a refusal, and that it arrives.

use rotation::{Rejection, RejectionCode};
use tonic::{Code, Status};

use super::support::{TestFarm, TestServer, any};
use crate::identity::Role;
use crate::rpc::agent_client;
use crate::{status, v1};

#[tokio::test]
async fn refusals_carry_reason_next_step_and_leader() {
    let status = status::not_leader(Some("https://10.0.0.1:7001"));
    assert_eq!(status.code(), Code::Unavailable);
    let hint = status::leader_hint(&status).unwrap();
    assert_eq!(hint.leader_address.as_deref(), Some("https://10.0.0.1:7001"));
    assert_eq!(status::leader_hint(&status::not_leader(None)).unwrap().leader_address, None);
    assert_eq!(status::leader_hint(&Status::unavailable("x")), None);

    let refused = status::refused("wrong-phase", "the rotation is in Admit", "wait for its end");
    assert_eq!(status::leader_hint(&refused), None);
    let problem = status::problem(&refused).unwrap();
    assert_eq!(
        (problem.reason.as_str(), problem.message.as_str(), problem.next_step.as_str()),
        ("WRONG_PHASE", "the rotation is in Admit", "wait for its end")
    );
    assert_eq!(status::problem(&Status::internal("x")), None);

    let rejected = status::rejection(&Rejection {
        code: RejectionCode::SameKey,
        message: "the new key is the one in use".to_owned(),
        next_step: "generate another".to_owned(),
    });
    assert_eq!(rejected.code(), Code::FailedPrecondition);
    assert_eq!(status::problem(&rejected).unwrap().reason, "SAME_KEY");

    // The details survive the wire.
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Agent, "node-1")).await;
    let channel = farm.tls(Role::Viewer, "bob").channel(&server.address, any(Role::Agent)).unwrap();
    let denied = agent_client(channel).adopt(v1::AdoptRequest::default()).await.unwrap_err();
    let problem = status::problem(&denied).unwrap();
    assert_eq!(problem.reason, "ROLE_DENIED");
    assert!(problem.next_step.contains("role operator"), "{}", problem.next_step);
}

#[test]
fn an_answer_is_told_from_a_failure_on_the_way() {
    assert!(!status::is_connection_failure(&status::not_leader(None)));
    assert_eq!(status::describe(&status::refused("x", "it is refused", "y")), "it is refused");
    let lost = Status::from_error(Box::new(std::io::Error::other("reset by peer")));
    assert!(status::is_connection_failure(&lost));
    assert_eq!(status::describe(&lost), "the connection was lost or refused: reset by peer");
}
