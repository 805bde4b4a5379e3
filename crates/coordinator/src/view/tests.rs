//! What operators see of states that are hard to come by through a running farm.

use std::time::Instant;

use rotation::{Course, Ending, Millis, NodeId, NodeProgress, Phase, Rotation, State, UndoStep};
use wire::v1;

use super::View;
use crate::driver::Hints;
use crate::sample;

const NOW: u64 = 1_700_000_060_000;

/// Shows the sample's rotation after a change to it or to the state around it.
fn show(change: impl FnOnce(&mut Rotation, &mut State)) -> v1::Rotation {
    let mut state = sample::state();
    let mut rotation = state.rotations.remove(&sample::id()).expect("the sample has it");
    change(&mut rotation, &mut state);
    state.rotations.insert(rotation.id, rotation.clone());
    let hints = Hints::default();
    View { state: &state, hints: &hints, now: Millis::new(NOW), instant: Instant::now() }.rotation(&rotation)
}

fn two_nodes(rotation: &mut Rotation) -> (NodeId, NodeId) {
    let (first, second): (NodeId, NodeId) = (sample::node(), "node-2".parse().expect("valid"));
    let progress = rotation.nodes[&first].clone();
    rotation.nodes.insert(second.clone(), progress);
    (first, second)
}

fn release_all(state: &mut State) {
    for node in state.nodes.values_mut() {
        node.quarantine = None;
    }
}

#[test]
fn a_stuck_rotation_says_on_what_and_what_to_do() {
    let shown = show(|_, _| {});
    assert_eq!((shown.outcome, shown.phase), (v1::Outcome::Stuck.into(), v1::Phase::Verify.into()));
    assert_eq!(
        (shown.undo_step.as_str(), &shown.next_steps[..]),
        ("restore-rows", &["restore the row".to_owned()][..])
    );
    assert_eq!(shown.faults.len(), 1, "what it is stuck on is not said twice");
    let waiting: Vec<_> = shown.waiting.iter().map(|waiting| (waiting.node.as_str(), waiting.until_ms)).collect();
    assert_eq!(waiting, [("", 0)]);
    assert!(shown.waiting[0].what.contains("keyturn rotation retry"), "{:?}", shown.waiting);
}

#[test]
fn in_every_phase_and_step_it_is_said_who_is_waited_for_since_when_and_until_when() {
    let forward = Phase::ALL.map(|phase| Course::Forward { phase });
    let back = UndoStep::ALL.map(|step| Course::Undo { from: Phase::Start, step });
    for course in forward.into_iter().chain(back) {
        let shown = show(|rotation, state| {
            (rotation.course, rotation.paused, rotation.ended_at) = (course.clone(), false, None);
            rotation.lead_done = false;
            let progress = rotation.nodes.get_mut(&sample::node()).expect("the sample has it");
            *progress = NodeProgress { may_run: true, ..NodeProgress::default() };
            release_all(state);
            let shard = rotation.shards.values_mut().next().expect("the sample has one");
            (shard.reencrypted, shard.verified, shard.restored) = Default::default();
        });
        assert!(!shown.waiting.is_empty(), "{course:?}");
        for waiting in shown.waiting {
            assert!(waiting.since_ms > 0, "{course:?}: {waiting:?}");
            // The end of work on rows moves with each word of it, and stands in the leader's hints alone.
            let moves = ["survey-", "back-up", "reencrypt-", "verify-", "finish-", "swap-"];
            let ends = waiting.until_ms > waiting.since_ms || moves.iter().any(|kind| waiting.what.starts_with(kind));
            let node = waiting.node == sample::node().as_str() && ends;
            assert!(node || waiting.what.contains("keyturn rotation start"), "{course:?}: {waiting:?}");
        }
    }
}

#[test]
fn downtime_runs_from_the_first_offline_to_the_last_admitted() {
    let at = |second: u64| Some(Millis::new(NOW - 60_000 + second * 1_000));
    let downtime = |admitted: [Option<Millis>; 2], ended: Option<Millis>, held: bool| {
        let shown = show(|rotation, state| {
            let (first, second) = two_nodes(rotation);
            if !held {
                release_all(state);
            }
            for (node, (offline, admitted)) in [first, second].iter().zip([at(10), at(12)].into_iter().zip(admitted)) {
                let progress = rotation.nodes.get_mut(node).expect("just put");
                (progress.offline_at, progress.admitted_at) = (offline, admitted);
            }
            rotation.ended_at = ended;
        });
        shown.downtime_ms
    };
    assert_eq!(downtime([at(30), at(25)], at(40), false), 20_000);
    assert_eq!(downtime([None, at(25)], None, false), 50_000, "it lasts");
    assert_eq!(downtime([None, at(25)], at(40), true), 15_000, "node-1 is held, and down by itself");
    assert_eq!(downtime([at(50), at(25)], at(40), false), 15_000, "node-1 came back after the end");
    let never = show(|rotation, _| rotation.nodes.values_mut().for_each(|node| node.offline_at = None));
    assert_eq!(never.downtime_ms, 0);
}

#[test]
fn the_key_after_is_what_the_node_holds() {
    let (old, new) = (sample::inspection().current_key.to_string(), sample::statement().new_key.to_string());
    let key_after = |course: Course, activated: bool, restored: bool| {
        let shown = show(|rotation, _| {
            rotation.course = course;
            let progress = rotation.nodes.get_mut(&sample::node()).expect("the sample has it");
            (progress.activated, progress.undo.restored) = (activated, restored);
        });
        shown.nodes[0].key_after.clone()
    };
    let verify = || Course::Forward { phase: Phase::Verify };
    assert_eq!(key_after(verify(), false, false), "");
    assert_eq!(key_after(Course::Forward { phase: Phase::Start }, true, false), new);
    let undo = || Course::Undo { from: Phase::Start, step: UndoStep::RestoreRows };
    assert_eq!(key_after(undo(), true, true), old);
    assert_eq!(key_after(Course::Ended(Ending::RolledBack), false, false), old);
    assert_eq!(key_after(Course::Ended(Ending::RolledBack), true, false), new, "it is held and was not restored");
}

#[test]
fn progress_counts_the_pass_that_runs() {
    let progress = |course: Course| {
        let shown = show(|rotation, _| rotation.course = course);
        shown.progress.expect("set")
    };
    let verifying = progress(Course::Forward { phase: Phase::Verify });
    assert_eq!((verifying.shards_done, verifying.shards_total, verifying.rows_done), (1, 1, 10));
    assert_eq!((verifying.rows_total, verifying.rows_verified), (100, 10));
    assert_eq!(verifying.content_digest_before, verifying.content_digest_after);
    let undone = progress(Course::Undo { from: Phase::Verify, step: UndoStep::VerifyRows });
    assert_eq!((undone.shards_done, undone.rows_done), (0, 0));
    assert_eq!(undone.tables.len(), 1);
}
