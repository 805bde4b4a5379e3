//! A second rotation while one runs.

use super::Snapshot;
use crate::support::Ran;
use crate::vault::VaultFarm;

#[test]
fn a_second_rotation_while_one_runs_is_refused_and_the_first_goes_on() {
    let vault = VaultFarm::new(2);
    let planned = vault.rotation(&["plan", "--hold-at", "distribute", "-o", "json"]).json();
    let before = Snapshot::of(&vault);
    let id = planned["id"].as_str().expect("an id");
    vault.rotation(&["plan"]).failed(1, &["error[rotation-under-way]", id, "next:"]);

    // Two operators start the same plan with different keys: one of them does.
    let racers: Vec<_> =
        ["new", "third"].map(|bundle| vault.start(bundle, "old", &["--yes", "--detach"]).spawn()).into_iter().collect();
    let ends: Vec<Ran> =
        racers.into_iter().map(|racer| racer.expect("it runs").wait_with_output().expect("it ends").into()).collect();
    let (won, lost): (Vec<Ran>, Vec<Ran>) = ends.into_iter().partition(|ran| ran.code == 0);
    assert_eq!((won.len(), lost.len()), (1, 1));
    let new_key = won.into_iter().next().expect("one won").json()["new_key"].clone();
    lost.into_iter().next().expect("one lost").failed(1, &["error[already-started]", id, "next:"]);

    vault.rotation(&["plan"]).failed(1, &["error[rotation-under-way]", id, "next:"]);
    vault.start_at_once("third", "old").failed(1, &["error[already-started]", id, "next:"]);
    before.assert_unchanged(&vault);

    vault.rotation(&["resume"]).done();
    let end = vault.rotation(&["watch", "-o", "json"]).json();
    assert_eq!((&end["outcome"], &end["id"], &end["new_key"]), (&"completed".into(), &planned["id"], &new_key));
}
