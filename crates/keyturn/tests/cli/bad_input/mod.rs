//! Each bad input is refused in Preflight or before, with a message that names the thing and the next step; nothing is
//! changed by it, and a good rotation goes through afterwards.

mod absent;
mod altered;
mod bundles;
mod by_hand;
mod disagreement;
mod hostile_coordinator;
mod second;
mod snapshot;
mod targets;
mod undecryptable;

use crate::vault::VaultFarm;
use snapshot::Snapshot;

/// Asks for a plan and sees that it is refused for this fault, with all of this said, and that nothing is changed.
#[track_caller]
fn plan_refused(vault: &VaultFarm, fault: &str, said: &[&str]) {
    let before = Snapshot::of(vault);
    let ran = vault.rotation(&["plan"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for words in [fault, "next:", "error[not-planned]", "nothing was changed"].iter().chain(said) {
        assert!(ran.stderr.contains(words), "{words:?} is not in: {}", ran.stderr);
    }
    assert!(ran.stdout.contains("none was made"), "{}", ran.stdout);
    let standing = vault.rotation(&["status", "-o", "json"]).json();
    assert_eq!((&standing["outcome"], &standing["phase"]), (&"refused".into(), &"preflight".into()));
    let faults = standing["faults"].as_array().expect("a list");
    assert!(!faults.is_empty() && faults.iter().all(|one| one["code"] == fault), "{faults:?}");
    assert_eq!(ran.stderr.matches("fault[").count(), faults.len(), "each is said once: {}", ran.stderr);
    before.assert_unchanged(vault);
}
