//! Who gets in. In TLS 1.3 a refused client sees one of several errors at random, so the server's word is what counts.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::support::TestFarm;
use crate::identity::{Peer, Role};
use crate::pki::{Authority, Issued};
use crate::serve::accept::{HandshakeError, handshake};
use crate::status;
use crate::tls::Tls;

/// A client that trusts the farm's CA and shows whatever it is given.
fn client(farm: &TestFarm, shown: Option<&Issued>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(farm.authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

const CALLER: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

/// Connects such a client over a pipe and answers what the server made of it.
async fn shake_hands(server: &Tls, client: Arc<ClientConfig>) -> Result<Peer, HandshakeError> {
    let (near, far) = duplex(64 * 1024);
    let calling = tokio::spawn(async move {
        let name = ServerName::try_from("localhost").unwrap();
        if let Ok(mut stream) = TlsConnector::from(client).connect(name, near).await {
            // Until the server hangs up, or it would see the client do it.
            let _ = stream.read(&mut [0]).await;
        }
    });
    let outcome = handshake(server, far, SocketAddr::from(CALLER), CancellationToken::new()).await;
    let peer = outcome.map(|connection| connection.peer().clone());
    calling.await.unwrap();
    peer
}

fn check_refused(outcome: Result<Peer, HandshakeError>, reason: &str) {
    let error = outcome.expect_err(reason);
    let text = status::chain(&error);
    assert!(text.contains(reason), "{text:?} does not say {reason:?}");
}

#[tokio::test]
async fn a_certificate_of_the_farm_gets_in_as_what_it_says() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    for role in Role::ALL {
        let shown = farm.issue(role, "somebody");
        let peer = shake_hands(&server, client(&farm, Some(&shown))).await.unwrap();
        assert_eq!(peer, Peer::new(role, "demo", "somebody").unwrap());
    }
}

#[tokio::test]
async fn a_foreign_ca_gets_nothing() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    // The same names in every field, from another key.
    let foreign = Authority::create("demo").unwrap();
    let shown = foreign.issue(Role::Operator, "alice", &[], 30).unwrap();
    check_refused(shake_hands(&server, client(&farm, Some(&shown))).await, "issued by another CA");
}

#[tokio::test]
async fn no_client_certificate_gets_nothing() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    check_refused(shake_hands(&server, client(&farm, None)).await, "showed no certificate");
}

#[tokio::test]
async fn an_expired_certificate_gets_nothing() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    let shown = farm.expired(Role::Operator, "alice");
    check_refused(shake_hands(&server, client(&farm, Some(&shown))).await, "expired");
}

#[tokio::test]
async fn a_certificate_of_another_farm_gets_nothing() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    let shown = farm.of_another_farm(Role::Operator, "alice");
    check_refused(
        shake_hands(&server, client(&farm, Some(&shown))).await,
        "the certificate is that of operator alice of farm elsewhere, and this is farm demo",
    );
}

#[tokio::test]
async fn a_caller_that_says_nothing_is_dropped() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    let (_near, far) = duplex(1024);
    let outcome = handshake(&server, far, SocketAddr::from(CALLER), CancellationToken::new()).await;
    assert!(matches!(outcome, Err(HandshakeError::Timeout)));
}

#[tokio::test]
async fn a_caller_that_does_not_speak_tls_is_dropped() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    let (mut near, far) = duplex(1024);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let outcome = handshake(&server, far, SocketAddr::from(CALLER), CancellationToken::new()).await;
    assert!(matches!(outcome, Err(HandshakeError::Tls(_))));
}

/// A resumed session would get round a change of the CA. And what moves keys is to be safe from tomorrow's computers.
#[tokio::test]
async fn sessions_are_never_resumed_and_keys_are_agreed_post_quantum() {
    let farm = TestFarm::new();
    let server = farm.tls(Role::Agent, "node-1");
    let config = client(&farm, Some(&farm.issue(Role::Operator, "alice")));
    for _ in 0..3 {
        let (near, far) = duplex(64 * 1024);
        let config = config.clone();
        let calling = tokio::spawn(async move {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = TlsConnector::from(config).connect(name, near).await.unwrap();
            // Reading lets the client see a session ticket, if there were one.
            let _ = stream.read(&mut [0]).await;
            let connection = stream.get_ref().1;
            assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
            let group = connection.negotiated_key_exchange_group().unwrap();
            assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
        });
        drop(handshake(&server, far, SocketAddr::from(CALLER), CancellationToken::new()).await.unwrap());
        calling.await.unwrap();
    }
}
