//! Status always says who is waited for; and the deadlines behind it.

use rotation::{
    Course, FaultCode, LEASE_MS, Phase, UndoStep, WorkKind, deadline_ms, deadline_restarts, retry_until_deadline,
    waiting,
};

use crate::support::{Farm, node};

fn texts(farm: &Farm) -> Vec<String> {
    waiting(&farm.state, farm.rotation())
        .into_iter()
        .map(|one| match one.node {
            Some(node) => format!("{node}: {}", one.what),
            None => one.what,
        })
        .collect()
}

#[test]
fn nodes_are_named_with_their_work_and_its_end() {
    let farm = Farm::at(2, Phase::Quiesce);
    assert_eq!(texts(&farm), ["node-1: take-offline", "node-2: take-offline"]);
    let first = waiting(&farm.state, farm.rotation()).remove(0);
    assert_eq!(first.since, farm.rotation().times.last().unwrap().started);
    let deadline = deadline_ms(WorkKind::TakeOffline, &farm.rotation().course);
    assert_eq!(first.until.unwrap().since(first.since), deadline);
}

#[test]
fn shards_are_named_and_their_end_moves_with_every_word() {
    let farm = Farm::at(1, Phase::Reencrypt);
    assert_eq!(texts(&farm), ["node-1: reencrypt-shard 0 of connections", "node-1: reencrypt-shard 1 of connections"]);
    assert_eq!(waiting(&farm.state, farm.rotation())[0].until, None);
}

#[test]
fn people_and_the_leader_are_named_too() {
    let one = |farm: &Farm| texts(farm).join("");
    assert!(one(&Farm::at(1, Phase::Approval)).contains("rotation start"));
    let mut farm = Farm::at(1, Phase::Distribute);
    farm.say(farm.pause_event());
    assert!(one(&farm).contains("rotation resume"));
    let mut farm = Farm::undoing(1, Phase::Quiesce, "turn-back");
    farm.fail("node-1 turn-back", FaultCode::Database);
    assert!(one(&farm).contains("rotation retry"));
    let mut farm = Farm::at(1, Phase::Start);
    farm.answer("node-1 lift-fence");
    farm.answer("node-1 start-instance");
    farm.answer("node-1 record-position");
    assert!(one(&farm).contains("leader"));
}

#[test]
fn it_is_empty_only_after_the_end_and_without_held_nodes() {
    let mut farm = Farm::requested(2);
    while farm.course() != "ended:completed" {
        assert!(!texts(&farm).is_empty(), "{}", farm.course());
        farm.turn();
    }
    assert!(texts(&farm).is_empty());
    let mut farm = Farm::at(2, Phase::Activate);
    farm.miss("node-2 activate-key");
    farm.go_to("ended:completed");
    let one = waiting(&farm.state, farm.rotation()).remove(0);
    assert_eq!((one.node, one.until), (Some(node(2)), None));
}

#[test]
fn an_undo_is_tried_for_at_least_a_minute() {
    let kinds = [
        WorkKind::TakeOffline,
        WorkKind::ReencryptShard,
        WorkKind::VerifyShard,
        WorkKind::LiftFence,
        WorkKind::StartInstance,
        WorkKind::AdmitInstance,
        WorkKind::CloseLedger,
        WorkKind::TurnBack,
        WorkKind::RestoreKey,
        WorkKind::DiscardKey,
        WorkKind::SwapTablesBack,
    ];
    let undo = Course::Undo { from: Phase::Start, step: UndoStep::TurnBack };
    for kind in kinds {
        assert!(deadline_ms(kind, &undo) >= 60_000, "{kind}");
    }
    assert!(retry_until_deadline(WorkKind::RestoreKey, &undo));
}

#[test]
fn what_heals_after_ten_seconds_heals_within_every_deadline() {
    for phase in Phase::ALL {
        for kind in [WorkKind::StoreKey, WorkKind::TakeOffline, WorkKind::ActivateKey, WorkKind::StartInstance] {
            assert!(deadline_ms(kind, &Course::Forward { phase }) >= 30_000, "{kind}");
        }
        let course = Course::Forward { phase };
        assert_eq!(retry_until_deadline(WorkKind::StoreKey, &course), phase >= Phase::Admit);
    }
    const { assert!(LEASE_MS < 10_000, "a shard does not wait for its holder to heal") };
    assert!(deadline_restarts(WorkKind::SurveyDatabase) && deadline_restarts(WorkKind::SwapTablesBack));
    assert!(!deadline_restarts(WorkKind::TakeOffline));
}
