//! An instance's answers, and the marks in its folder.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use keys::{SecretKey, canary};

use super::testing::TestFarm;
use super::*;
use crate::http::{request, send};
use crate::seed::content::Counts;

const LIMIT: Duration = Duration::from_secs(20);

async fn ask(farm: &TestFarm, method: Method, path: &str, body: &str) -> http::Response<Bytes> {
    let address = farm.addresses[0];
    send(address, request(method, address, path, body.to_owned().into()), LIMIT).await.unwrap()
}

#[tokio::test]
async fn entries_are_written_and_read_while_admitted_only() {
    let farm = TestFarm::start(1, Counts::of(100)).await;
    let path = "/entries/attachments/0:0.txt";
    assert_eq!(ask(&farm, Method::PUT, path, "hello").await.status(), StatusCode::OK);
    assert_eq!(ask(&farm, Method::GET, path, "").await.body(), "hello");
    assert_eq!(ask(&farm, Method::GET, "/healthz", "").await.body(), "online");

    farm.post(0, "/admin/drain").await;
    let refused = ask(&farm, Method::GET, path, "").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(NOT_ADMITTED_HEADER));
    assert_eq!(ask(&farm, Method::GET, "/healthz", "").await.body(), "drained");

    farm.post(0, "/admin/admit").await;
    assert_eq!(ask(&farm, Method::GET, path, "").await.body(), "hello");
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_nothing_else_is_allowed() {
    let farm = TestFarm::start(1, Counts::of(100)).await;
    for path in ["/entries/connections/999999", "/entries/connections/x", "/entries/keyturn_rotation/1", "/elsewhere"] {
        assert_eq!(ask(&farm, Method::GET, path, "").await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let deleted = ask(&farm, Method::DELETE, "/entries/connections/-100", "").await;
    assert_eq!(deleted.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_canary_under_another_key_does_not_open() {
    let farm = TestFarm::start(1, Counts::of(100)).await;
    let other = canary::challenge(&SecretKey::generate());
    let answer = ask(&farm, Method::POST, "/canary", &other.ciphertext_base64).await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!other.is_answered_by(answer.body()));
}

#[test]
fn an_instance_taken_offline_stays_so_until_it_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let instance = Folder::new(folder.path().to_owned());
    assert!(!instance.is_offline_for_good());
    instance.mark_offline().unwrap();
    instance.mark_offline().unwrap();
    assert!(instance.is_offline_for_good());
    instance.unmark_offline().unwrap();
    instance.unmark_offline().unwrap();
    assert!(!instance.is_offline_for_good());
}

#[test]
fn two_processes_cannot_be_the_same_instance() {
    let folder = tempfile::tempdir().unwrap();
    let instance = Folder::new(folder.path().to_owned());
    assert_eq!(instance.process().unwrap(), None);
    let lock = instance.become_the_instance().unwrap();
    assert!(instance.process().unwrap().is_some_and(|process| process.is_alive()));
    assert!(instance.become_the_instance().is_err());
    drop(lock);
    assert!(instance.become_the_instance().is_ok());
}

#[test]
fn settings_of_a_public_address_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |listen: &str| Settings {
        listen: listen.parse().unwrap(),
        database_url: "sqlite:///nowhere".to_owned(),
        store: folder.path().to_owned(),
        hostkey: folder.path().join("hostkey"),
    };
    let path = folder.path().join("instance.toml");
    settings("0.0.0.0:8000").write(&path).unwrap();
    assert!(Settings::load(&path).unwrap_err().to_string().contains("loopback"));
    settings("127.0.0.1:8000").write(&path).unwrap();
    assert_eq!(Settings::load(&path).unwrap().listen, "127.0.0.1:8000".parse().unwrap());
}
