//! Bundles that do not open, are of another farm, or hold the wrong keys: refused by `start`, before anything is signed.

use keys::{KeySet, Password, SecretKey, bundle};

use super::Snapshot;
use crate::vault::VaultFarm;

/// Where the Argon2 parameters stand in a bundle; docs/formats.md has the whole layout.
const LANES: usize = 32;
const MEMORY_KIB: usize = 36;
const ITERATIONS: usize = 40;

#[test]
fn bundles_that_do_not_open_or_do_not_fit_start_nothing() {
    let vault = VaultFarm::new(2);
    write_bad_bundles(&vault);
    vault.rotation(&["plan"]).done();
    let before = Snapshot::of(&vault);
    let cases: [(&str, &str, &[&str]); 17] = [
        ("locked", "old", &["error[bundle]", "locked does not open", "password does not open"]),
        ("new", "locked", &["error[bundle]", "locked does not open", "password does not open"]),
        ("cut", "old", &["error[bundle]", "cut does not open", "cut short"]),
        ("new", "cut", &["error[bundle]", "cut does not open", "cut short"]),
        ("cut-at-its-end", "old", &["error[bundle]", "cut-at-its-end does not open"]),
        ("empty", "old", &["error[bundle]", "empty does not open"]),
        ("ca.pem", "old", &["error[bundle]", "ca.pem does not open", "another kind of file"]),
        ("new", "vault.db", &["error[bundle]", "vault.db does not open", "another kind of file"]),
        ("/dev/zero", "old", &["error[read-file]", "larger than"]),
        ("elsewhere", "old", &["error[other-farm]", "the new bundle", "elsewhere", "demo"]),
        ("new", "elsewhere", &["error[other-farm]", "the current bundle", "elsewhere", "demo"]),
        ("old", "old", &["error[same-key]", "is not new", "key generate"]),
        ("again", "old", &["error[same-key]", "is not new", "key generate"]),
        ("short", "old", &["error[weak-key]", "has 31 bytes", "key generate"]),
        ("long", "old", &["error[weak-key]", "has 44 bytes", "key generate"]),
        ("new", "third", &["error[wrong-current-bundle]", "node-1 holds the key", "--current-bundle"]),
        ("new", "absent", &["error[read-file]", "absent"]),
    ];
    for (new, current, said) in cases {
        vault.start_at_once(new, current).failed(1, &[said, &["next:"]].concat());
    }
    hostile_parameters_are_refused_before_a_password_is_read(&vault);
    before.assert_unchanged(&vault);
    assert_eq!(vault.rotation(&["status", "-o", "json"]).json()["phase"], "approval", "nothing was started");
    vault.turn();
}

fn hostile_parameters_are_refused_before_a_password_is_read(vault: &VaultFarm) {
    // What would be read next, if the bundle passed.
    std::fs::remove_file(vault.farm.path("password")).expect("it was there");
    for (at, value, said) in [
        (MEMORY_KIB, u32::MAX, "memory (KiB) of 4294967295"),
        (MEMORY_KIB, 1024 * 1024 + 1, "at most 1048576"),
        (ITERATIONS, u32::MAX, "passes of 4294967295"),
        (LANES, 17, "lanes of 17"),
        (ITERATIONS, 0, "contradict each other"),
    ] {
        let mut hostile = std::fs::read(vault.farm.path("new")).expect("a bundle");
        hostile[at..at + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(vault.farm.path("hostile"), hostile).expect("written");
        for (new, current) in [("hostile", "old"), ("new", "hostile")] {
            let refused = &["error[bundle]", "hostile does not open", said, "next:"];
            vault.start_at_once(new, current).failed(1, refused);
        }
    }
    vault.farm.write("password", "correct horse\n");
}

fn write_bad_bundles(vault: &VaultFarm) {
    let farm = &vault.farm;
    farm.write("password", "battery staple\n");
    vault.key(&["generate", "--farm", "demo", "--out", &farm.path("locked")]).done();
    farm.write("password", "correct horse\n");
    vault.key(&["generate", "--farm", "elsewhere", "--out", &farm.path("elsewhere")]).done();
    // The farm's key in another bundle.
    vault.key(&["export", "--config", &farm.path("node-1.toml"), "--out", &farm.path("again")]).done();
    let whole = std::fs::read(farm.path("new")).expect("a bundle");
    std::fs::write(farm.path("cut"), &whole[..whole.len() / 3]).expect("written");
    std::fs::write(farm.path("cut-at-its-end"), &whole[..whole.len() - 1]).expect("written");
    farm.write("empty", "");
    for (name, bytes) in [("short", 31), ("long", 44)] {
        let set = KeySet::new("demo", SecretKey::from_bytes(vec![7; bytes]).expect("not empty"), 1);
        let password = Password::from_file_bytes(b"correct horse".to_vec()).expect("not empty");
        std::fs::write(farm.path(name), bundle::seal(&set, &password).expect("sealed")).expect("written");
    }
}
