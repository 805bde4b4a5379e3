//! Who may call what: the table against the protocol, and every method called by every role over the wire.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::support::{TestFarm, TestServer, any};
use crate::access::{METHODS, QUESTION_BYTES_MAX, check};
use crate::identity::{Peer, Role};
use crate::{FILE_DESCRIPTOR_SET, status};

/// The path of every method of these descriptors.
fn methods(descriptors: &[u8]) -> Vec<String> {
    let files = FileDescriptorSet::decode(descriptors).unwrap().file;
    let mut paths = Vec::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert!(!paths.is_empty());
    paths
}

fn roles_of(path: &str) -> &'static [Role] {
    METHODS.iter().find(|(method, _)| *method == path).unwrap_or_else(|| panic!("{path} is not in the table")).1
}

#[test]
fn the_table_has_every_method_once_and_no_other() {
    let mut served = BTreeSet::new();
    for descriptors in [
        FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        served.extend(methods(descriptors));
    }
    let listed: Vec<String> = METHODS.iter().map(|(method, _)| (*method).to_owned()).collect();
    assert_eq!(served, listed.iter().cloned().collect());
    assert_eq!(served.len(), listed.len(), "a method stands in the table twice");
}

/// Calls with an empty request and does not look into the answer: an empty message fits any type.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::try_from(path).unwrap();
    let codec = ProstCodec::<(), ()>::default();
    let mut answers = client.server_streaming(Request::new(()), path, codec).await?.into_inner();
    answers.message().await.map(drop)
}

#[tokio::test]
async fn every_role_can_call_what_the_table_says_and_nothing_else() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Agent, "server")).await;
    for role in Role::ALL {
        let channel = farm.tls(role, "caller").channel(&server.address, any(Role::Agent)).unwrap();
        for path in methods(FILE_DESCRIPTOR_SET) {
            let answer = call(&channel, &path).await;
            if roles_of(&path).contains(&role) {
                answer.unwrap_or_else(|status| panic!("{role} may call {path}: {status}"));
            } else {
                let refusal = answer.expect_err(&path);
                assert_eq!(refusal.code(), Code::PermissionDenied, "{role} calls {path}");
                assert!(refusal.message().contains(role.as_str()), "{refusal}");
                assert!(refusal.message().contains(&path), "{refusal}");
                assert_eq!(status::problem(&refusal).unwrap().reason, "ROLE_DENIED");
            }
        }
    }
}

#[test]
fn what_each_role_must_never_call() {
    let may = |role, path: &str| check(path, Some(&Peer::new(role, "demo", "somebody").unwrap())).is_ok();
    for path in methods(FILE_DESCRIPTOR_SET) {
        if path.starts_with("/keyturn.v1.Operator/") {
            assert!(!may(Role::Agent, &path), "an agent must not call {path}");
            assert!(!may(Role::Coordinator, &path), "a coordinator must not call {path}");
            assert!(may(Role::Operator, &path), "an operator may call {path}");
            let reads = ["GetFarm", "GetRotation", "ListRotations", "WatchRotation", "ListReplicas"];
            assert_eq!(may(Role::Viewer, &path), reads.iter().any(|read| path.ends_with(read)), "{path}");
        }
        if path.starts_with("/keyturn.v1.Raft/") {
            for role in [Role::Agent, Role::Operator, Role::Viewer] {
                assert!(!may(role, &path), "{role} must not call {path}");
            }
        }
    }
    assert!(!may(Role::Operator, "/keyturn.v1.Agent/Execute"), "only coordinators give out work");
    assert!(!may(Role::Coordinator, "/keyturn.v1.Agent/Adopt"), "a cluster cannot adopt an agent by itself");
}

#[test]
fn a_method_that_is_not_in_the_table_is_denied_to_everybody() {
    for role in Role::ALL {
        let peer = Peer::new(role, "demo", "somebody").unwrap();
        for path in ["/keyturn.v1.Operator/DropEverything", "/keyturn.v1.operator/getfarm", "/", ""] {
            let refusal = check(path, Some(&peer)).unwrap_err();
            assert_eq!(refusal.code(), Code::PermissionDenied);
        }
    }
}

#[test]
fn a_request_without_an_identity_is_denied() {
    let refusal = check("/grpc.health.v1.Health/Check", None).unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_question_is_not_read_beyond_what_a_question_needs() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Agent, "server")).await;
    let channel = farm.tls(Role::Viewer, "caller").channel(&server.address, any(Role::Agent)).unwrap();
    let mut client = crate::rpc::operator_client(channel);
    let ask = |bytes: usize| crate::v1::GetRotationRequest { id: "x".repeat(bytes) };
    client.get_rotation(ask(QUESTION_BYTES_MAX / 2)).await.unwrap();
    client.get_rotation(ask(QUESTION_BYTES_MAX)).await.unwrap_err();
}
