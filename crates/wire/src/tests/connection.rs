//! Servers and channels together: whom a client trusts, what happens when certificates, servers and networks change,
//! and what an operator reads when a connection fails.

use std::io;
use std::time::Duration;

use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

use super::support::{SERVICES, TestFarm, TestServer, any, named, pipes, routes};
use crate::channel::{PROBE_INTERVAL, PROBE_TIMEOUT};
use crate::identity::Role;
use crate::rpc::{MESSAGE_BYTES_MAX, operator_client};
use crate::serve::{ACCEPT_TIMEOUT, HANDSHAKES_MAX, serve};
use crate::tls::{ExpectedPeer, Tls};
use crate::{status, v1};

async fn call(channel: &Channel) -> Result<v1::Farm, Status> {
    operator_client(channel.clone()).get_farm(v1::GetFarmRequest {}).await.map(tonic::Response::into_inner)
}

async fn call_expecting(farm: &TestFarm, address: &str, expect: ExpectedPeer) -> Result<v1::Farm, Status> {
    call(&farm.tls(Role::Operator, "alice").channel(address, expect).unwrap()).await
}

#[tokio::test]
async fn a_service_sees_who_called() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Coordinator, "c1")).await;
    let answer = call_expecting(&farm, &server.address, named(Role::Coordinator, "c1")).await.unwrap();
    assert_eq!(answer.name, "operator alice");
    server.shut_down().await;
}

#[tokio::test]
async fn a_server_of_another_role_or_name_is_refused_by_the_client() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Agent, "node-1")).await;
    for (expect, said) in [
        (any(Role::Coordinator), "any coordinator of farm demo was expected"),
        (named(Role::Agent, "node-2"), "agent node-2 of farm demo was expected"),
    ] {
        let failure = call_expecting(&farm, &server.address, expect).await.unwrap_err();
        assert_eq!(failure.code(), Code::Unavailable);
        let text = status::describe(&failure);
        assert!(text.contains(&server.address) && text.contains("is agent node-1 of farm demo"), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn a_server_of_another_farm_is_refused_by_the_client() {
    let farm = TestFarm::new();
    let elsewhere = Tls::load(&farm.write("node-1", &farm.of_another_farm(Role::Agent, "node-1"))).unwrap();
    let server = TestServer::start(&elsewhere).await;
    let failure = call_expecting(&farm, &server.address, any(Role::Agent)).await.unwrap_err();
    assert!(status::describe(&failure).contains("is agent node-1 of farm elsewhere"), "{failure}");
}

#[tokio::test]
async fn a_server_under_a_foreign_ca_is_refused_by_the_client() {
    let (farm, foreign) = (TestFarm::new(), TestFarm::new());
    let server = TestServer::start(&foreign.tls(Role::Agent, "node-1")).await;
    let text = status::describe(&call_expecting(&farm, &server.address, any(Role::Agent)).await.unwrap_err());
    assert!(text.starts_with(&format!("no trusted connection to {}", server.address)), "{text}");
    assert!(text.contains("issued by another CA"), "{text}");
}

#[tokio::test]
async fn an_expired_server_is_refused_by_the_client() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.expired_tls(Role::Agent, "node-1")).await;
    let text = status::describe(&call_expecting(&farm, &server.address, any(Role::Agent)).await.unwrap_err());
    assert!(text.contains(&server.address) && text.contains("expired"), "{text}");
}

/// The server says so in its own tests; here only that no answer comes.
#[tokio::test]
async fn a_client_under_a_foreign_ca_gets_no_answer() {
    let (farm, foreign) = (TestFarm::new(), TestFarm::new());
    let server = TestServer::start(&farm.tls(Role::Agent, "node-1")).await;
    // It trusts the server, so that it is the server that refuses.
    let mut files = foreign.write("alice", &foreign.issue(Role::Operator, "alice"));
    let both = [foreign.authority.certificate_pem(), farm.authority.certificate_pem()].concat();
    files.ca = files.ca.with_file_name("both.pem");
    std::fs::write(&files.ca, both).unwrap();
    let channel = Tls::load(&files).unwrap().channel(&server.address, any(Role::Agent)).unwrap();
    call(&channel).await.unwrap_err();
}

#[tokio::test]
async fn a_failed_connection_names_the_address_and_the_reason() {
    let farm = TestFarm::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = call_expecting(&farm, &address, any(Role::Agent)).await.unwrap_err();
    assert_eq!(failure.code(), Code::Unavailable);
    let text = status::describe(&failure);
    assert!(text.starts_with(&format!("{address} cannot be reached: Connection refused")), "{text}");
}

#[test]
fn what_is_no_address_is_refused_at_once() {
    let farm = TestFarm::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let tls = farm.tls(Role::Operator, "alice");
    for address in [
        "",
        "127.0.0.1:7001",
        "http://127.0.0.1:7001",
        "https://127.0.0.1",
        "https://127.0.0.1:7001/path",
        "https://127.0.0.1:7001?x=1",
        "https://user@127.0.0.1:7001",
        "https://:7001",
        "https://a b:7001",
    ] {
        let error = tls.channel(address, any(Role::Agent)).expect_err(address);
        assert_eq!(error.address, address);
    }
    for address in ["https://127.0.0.1:7001", "https://node-1.example.org:7101/", "https://[::1]:7101"] {
        tls.channel(address, any(Role::Agent)).expect(address);
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_by_the_same_channel() {
    let farm = TestFarm::new();
    let tls = farm.tls(Role::Agent, "node-1");
    let server = TestServer::start(&tls).await;
    let address = server.address.clone();
    let channel = farm.tls(Role::Operator, "alice").channel(&address, any(Role::Agent)).unwrap();
    call(&channel).await.unwrap();
    server.shut_down().await;
    call(&channel).await.unwrap_err();
    let _server = TestServer::start_at(&tls, address.strip_prefix("https://").unwrap()).await;
    call(&channel).await.unwrap();
}

#[tokio::test]
async fn a_reload_swaps_the_identity_on_both_sides() {
    let farm = TestFarm::new();
    let server_files = farm.write("server", &farm.issue(Role::Agent, "node-1"));
    let client_files = farm.write("client", &farm.issue(Role::Operator, "alice"));
    let (server_tls, client_tls) = (Tls::load(&server_files).unwrap(), Tls::load(&client_files).unwrap());
    let server = TestServer::start(&server_tls).await;
    let connect = |name| client_tls.channel(&server.address, named(Role::Agent, name)).unwrap();
    let before = connect("node-1");
    assert_eq!(call(&before).await.unwrap().name, "operator alice");

    farm.write("server", &farm.issue(Role::Agent, "node-2"));
    farm.write("client", &farm.issue(Role::Operator, "bob"));
    assert_eq!(call(&connect("node-1")).await.unwrap().name, "operator alice", "nothing changes by itself");

    server_tls.reload().unwrap();
    client_tls.reload().unwrap();
    assert_eq!(server_tls.identity().name, "node-2");
    assert_eq!(call(&connect("node-2")).await.unwrap().name, "operator bob");
    assert_eq!(call(&before).await.unwrap().name, "operator alice", "a connection that stands goes on");

    // What cannot be loaded changes nothing.
    std::fs::write(&server_files.certificate, "nothing").unwrap();
    server_tls.reload().unwrap_err();
    assert_eq!(call(&connect("node-2")).await.unwrap().name, "operator bob");
}

#[tokio::test]
async fn a_reload_with_another_ca_shuts_the_old_one_out() {
    let (farm, next) = (TestFarm::new(), TestFarm::new());
    let files = farm.write("server", &farm.issue(Role::Agent, "node-1"));
    let tls = Tls::load(&files).unwrap();
    let server = TestServer::start(&tls).await;
    call_expecting(&farm, &server.address, any(Role::Agent)).await.unwrap();

    let issued = next.issue(Role::Agent, "node-1");
    std::fs::write(&files.ca, next.authority.certificate_pem()).unwrap();
    std::fs::write(&files.certificate, &issued.certificate_pem).unwrap();
    std::fs::write(&files.key, issued.key_pem.as_bytes()).unwrap();
    tls.reload().unwrap();
    call_expecting(&next, &server.address, any(Role::Agent)).await.unwrap();
    call_expecting(&farm, &server.address, any(Role::Agent)).await.unwrap_err();
}

#[tokio::test]
async fn a_message_of_many_mebibytes_passes_and_a_larger_one_is_refused() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Coordinator, "c1")).await;
    let channel = farm.tls(Role::Operator, "alice").channel(&server.address, any(Role::Coordinator)).unwrap();
    let mut client = operator_client(channel);
    let most = MESSAGE_BYTES_MAX - 1024;
    let answer = client.get_rotation(v1::GetRotationRequest { id: most.to_string() }).await.unwrap();
    assert_eq!(answer.into_inner().plan.len(), most);
    let large = v1::EnrollNodeRequest { id: "x".repeat(most), address: String::new() };
    client.enroll_node(large).await.unwrap();

    let too_much = MESSAGE_BYTES_MAX + 1;
    client.get_rotation(v1::GetRotationRequest { id: too_much.to_string() }).await.unwrap_err();
    let too_large = v1::EnrollNodeRequest { id: "x".repeat(too_much), address: String::new() };
    client.enroll_node(too_large).await.unwrap_err();
}

#[tokio::test]
async fn health_answers_for_every_service() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Agent, "node-1")).await;
    let channel = farm.tls(Role::Viewer, "bob").channel(&server.address, any(Role::Agent)).unwrap();
    let mut health = HealthClient::new(channel);
    for service in SERVICES.into_iter().chain([""]) {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "x".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_answers_in_both_versions() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Agent, "node-1")).await;
    let channel = farm.tls(Role::Viewer, "bob").channel(&server.address, any(Role::Agent)).unwrap();

    macro_rules! check {
        ($version:ident) => {{
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let ask = |request| $version::ServerReflectionRequest {
                message_request: Some(request),
                ..$version::ServerReflectionRequest::default()
            };
            let mut client = $version::server_reflection_client::ServerReflectionClient::new(channel.clone());
            let questions = [
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("keyturn.v1.Agent".to_owned())),
            ];
            let mut answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
            let listed = answers.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
            let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
            for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
                assert!(names.contains(&service), "{service} is not among {names:?}");
            }
            let found = answers.message().await.unwrap().unwrap().message_response.unwrap();
            assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{found:?}");
        }};
    }
    check!(reflection);
    check!(reflection_alpha);
}

/// A stream that never ends must not hold the server up, nor outlive it.
#[tokio::test]
async fn a_server_that_is_told_to_end_ends_and_frees_its_port() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Coordinator, "c1")).await;
    let address = server.address.strip_prefix("https://").unwrap().to_owned();
    let channel = farm.tls(Role::Viewer, "bob").channel(&server.address, any(Role::Coordinator)).unwrap();
    let request = v1::WatchRotationRequest { id: String::new() };
    let mut watched = operator_client(channel).watch_rotation(request).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    server.shut_down().await;
    watched.message().await.unwrap_err();
    TcpListener::bind(address).await.unwrap();
}

/// Dropped, as when its process panics or a test is over.
#[tokio::test]
async fn no_connection_outlives_a_dropped_server() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Coordinator, "c1")).await;
    let channel = farm.tls(Role::Viewer, "bob").channel(&server.address, any(Role::Coordinator)).unwrap();
    let request = v1::WatchRotationRequest { id: String::new() };
    let mut watched = operator_client(channel).watch_rotation(request).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    drop(server);
    watched.message().await.unwrap_err();
}

/// A wire between two pipes that can be cut so that neither end hears of it.
fn wire() -> (DuplexStream, DuplexStream, oneshot::Sender<()>) {
    let (near, mut near_end) = duplex(64 * 1024);
    let (mut far_end, far) = duplex(64 * 1024);
    let (cut, is_cut) = oneshot::channel::<()>();
    tokio::spawn(async move {
        tokio::select! {
            _ = copy_bidirectional(&mut near_end, &mut far_end) => {}
            _ = is_cut => {
                // Both ends stay open and nothing moves, as with a pulled cable or a frozen process.
                let _held = (near_end, far_end);
                std::future::pending::<()>().await;
            }
        }
    });
    (near, far, cut)
}

/// What a busy machine may add to a bound before a test calls it broken.
const SLACK: Duration = Duration::from_secs(10);

/// Nothing but the probes can end the wait.
#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_in_seconds() {
    let farm = TestFarm::new();
    let (listener, network) = pipes();
    let server = farm.tls(Role::Coordinator, "c1");
    let serving =
        tokio::spawn(async move { serve(listener, &server, routes(), &SERVICES, std::future::pending()).await });
    let (cuts, mut cut) = tokio::sync::mpsc::unbounded_channel();
    let dial = move |_: String| {
        let (near, far, cut) = wire();
        let dialled = network.send(far).map_err(|_| io::Error::other("the server is gone"));
        cuts.send(cut).unwrap();
        async move { dialled.map(|()| near) }
    };
    let tls = farm.tls(Role::Viewer, "bob");
    let channel = tls.channel_over("https://localhost:7001", any(Role::Coordinator), dial).unwrap();
    let request = v1::WatchRotationRequest { id: String::new() };
    let mut watched = operator_client(channel.clone()).watch_rotation(request).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();

    let cut_at = Instant::now();
    let held = cut.recv().await.unwrap();
    held.send(()).unwrap();
    let failure = watched.message().await.unwrap_err();
    assert!(status::is_connection_failure(&failure), "{failure:?}");
    assert!(cut_at.elapsed() <= PROBE_INTERVAL + PROBE_TIMEOUT + SLACK, "noticed after {:?}", cut_at.elapsed());
    // The next call goes over a new connection.
    call(&channel).await.unwrap();
    serving.abort();
}

/// What nobody answers is given up with the address and the time in the message.
#[tokio::test]
async fn a_connection_attempt_ends_in_time() {
    let farm = TestFarm::new();
    let tls = farm.tls(Role::Operator, "alice");
    let never = |_: String| std::future::pending::<io::Result<DuplexStream>>();
    let (listening, silent) = tokio::sync::mpsc::unbounded_channel();
    let open_and_silent = move |_: String| {
        let (near, far) = duplex(64 * 1024);
        listening.send(far).unwrap();
        async move { Ok(near) }
    };
    let address = "https://10.0.0.1:7101";
    let undialled = tls.channel_over(address, any(Role::Agent), never).unwrap();
    let unshaken = tls.channel_over(address, any(Role::Agent), open_and_silent).unwrap();
    let (undialled, unshaken) = tokio::join!(call(&undialled), call(&unshaken));
    assert_eq!(status::describe(&undialled.unwrap_err()), format!("{address} did not answer within 3 s"));
    assert_eq!(status::describe(&unshaken.unwrap_err()), format!("{address} did not answer within 6 s"));
    drop(silent);
}

/// Callers who connect and say nothing hold up the others for a while, and not for good.
#[tokio::test]
async fn callers_in_waiting_do_not_shut_others_out() {
    let farm = TestFarm::new();
    let server = TestServer::start(&farm.tls(Role::Agent, "node-1")).await;
    let bare = server.address.strip_prefix("https://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        silent.push(TcpStream::connect(bare).await.unwrap());
    }
    let began = Instant::now();
    call_expecting(&farm, &server.address, any(Role::Agent)).await.unwrap();
    assert!(began.elapsed() >= ACCEPT_TIMEOUT / 2, "nothing was bounded: let in after {:?}", began.elapsed());
    drop(silent);
}
