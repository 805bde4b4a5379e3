//! Files of format 1 as the first release wrote them, and known answers of every derivation: what this release reads
//! and computes must not drift. The values were confirmed with the Python packages `devolutions-crypto` and `blake3`.

#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keys::content::{ContentDigester, ContentValue};
use keys::sealed::SealContext;
use keys::{KeyEntry, KeySet, KeyState, KeyStore, Password, SecretKey, StoreConfig, attestation, bundle, possession};
use rotation::{Digest, NodeId, RotationId};

const RECIPIENT_KEY: &str = "0d0c010002000100890dcac85e248ea1e953bb75b684c03a5a337df13cd434dc9fc8c83ae908b233";

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compatibility/format-1")
}

fn key(mask: u8) -> SecretKey {
    SecretKey::from_bytes((0..32).map(|byte| byte ^ mask).collect()).unwrap()
}

fn old() -> SecretKey {
    key(0x11)
}

fn new() -> SecretKey {
    key(0x22)
}

fn old_set() -> KeySet {
    KeySet::new("demo", old(), 1_700_000_000_000)
}

fn new_set() -> KeySet {
    let entry = KeyEntry { state: KeyState::Active, created_at_ms: 1_700_000_001_000, secret: new() };
    old_set().promote(entry, 1_700_000_002_000)
}

fn rotation() -> RotationId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

fn node() -> NodeId {
    "node-1".parse().unwrap()
}

/// The kept store, in a place where its host's secret has the permissions that it must have.
fn store(directory: &Path) -> KeyStore {
    for file in fs::read_dir(files()).unwrap() {
        let file = file.unwrap();
        let copy = directory.join(file.file_name());
        fs::copy(file.path(), &copy).unwrap();
        fs::set_permissions(&copy, PermissionsExt::from_mode(0o600)).unwrap();
    }
    KeyStore::new(StoreConfig {
        directory: directory.to_owned(),
        hostkey: directory.join("hostkey"),
        machine_id: directory.join("machine-id"),
    })
}

#[test]
fn the_bundle_opens() {
    let password = Password::from_file_bytes(fs::read(files().join("password")).unwrap()).unwrap();
    let file = fs::read(files().join("bundle")).unwrap();
    assert_eq!(bundle::open(&file, &password).unwrap(), new_set());
}

#[test]
fn the_key_store_opens_and_turns() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    assert_eq!(store.current().unwrap(), old_set());
    assert_eq!(store.pending().unwrap().unwrap(), new_set());
    assert_eq!(store.activate(&rotation(), new().id(), 1_700_000_003_000).unwrap(), new().id());
    assert_eq!(store.restore(old().id()).unwrap(), old().id());
}

#[test]
fn the_sealed_bundle_opens_with_the_kept_recipient_key() {
    let directory = tempfile::tempdir().unwrap();
    let recipient = store(directory.path()).recipient(directory.path(), &rotation()).unwrap().unwrap();
    assert_eq!(recipient.public_hex(), RECIPIENT_KEY);
    let context = SealContext {
        farm: "demo".to_owned(),
        rotation: rotation(),
        node: node(),
        plan_digest: Digest::new([3; 32]),
        old_key: old().id(),
        new_key: new().id(),
    };
    let opened = recipient.open(&fs::read(files().join("sealed")).unwrap(), &old(), &context).unwrap();
    assert_eq!(opened.active(), new_set().active());
}

#[test]
fn key_ids() {
    assert_eq!(old().id().to_string(), "6db680dbf2a5bed2fbc4b25219862a2a");
    assert_eq!(new().id().to_string(), "31422e166960b4f614507559cc4f8e38");
}

#[test]
fn the_attestation_mac() {
    let context = attestation::Context {
        farm: "demo".to_owned(),
        rotation: rotation(),
        node: node(),
        recipient_key: RECIPIENT_KEY.to_owned(),
        current_key: old().id(),
        targets_digest: Digest::new([4; 32]),
        database_identity: "postgres 1/2".to_owned(),
    };
    let mac = hex::encode(attestation::mac(&old(), &context));
    assert_eq!(mac, "8a3ccd69e8e563ceb25c97b9f9ea51aefad984a83f05ca33dcb794761c826db6");
}

#[test]
fn the_proof_of_possession() {
    let proof = possession::proof(&new(), &rotation(), &node());
    assert_eq!(proof.to_string(), "329c2df5495b0a20f2dfeb86f1d4ac2d25bd41a598df43a6709bfb40dc086f09");
    let digest = possession::digest(&proof);
    assert_eq!(digest.to_string(), "4c93f810549ecb9e3285f8413c1abee075011ed5b49413e25e59803808de02e1");
}

#[test]
fn the_content_digest() {
    let digester = ContentDigester::new(&old(), &new(), &rotation());
    let digest = |value| digester.value("connections", "password", "[1]", value).to_string();
    assert_eq!(digest(ContentValue::Plain(b"hunter2")), "1a9f488a429d3a549a7a5cadeb423ca6");
    assert_eq!(digest(ContentValue::Null), "6a18335109f7538d858d14b8275dc369");
}
