//! What is decided from what is found.

use std::collections::BTreeMap;

use keys::FileRole;
use reencrypt::{LedgerRotation, NoteKind, TableCensus};
use rotation::{Direction, Epoch, KeyId, LeaseNumber, RotationId};

use super::decide::{Choice, Verdict, decide};
use super::findings::{FileFound, Findings};

const OLD: KeyId = KeyId::new([1; 16]);
const NEW: KeyId = KeyId::new([2; 16]);

fn rotation() -> RotationId {
    RotationId::new(uuid::Uuid::from_u128(7))
}

fn file(name: &str, role: FileRole, active: KeyId) -> FileFound {
    FileFound { name: name.to_owned(), role, active: Some(active), decrypt_only: Vec::new(), problem: None }
}

fn values(under: &[(KeyId, u64)]) -> Vec<TableCensus> {
    let by_key: BTreeMap<KeyId, u64> = under.iter().copied().collect();
    vec![TableCensus { table: "entries".to_owned(), rows: 10, rows_read: 10, by_key, ..TableCensus::default() }]
}

fn in_ledger(direction: Direction, notes: &[(NoteKind, &str)]) -> LedgerRotation {
    LedgerRotation {
        rotation: rotation(),
        direction,
        epoch: Epoch::new(5),
        closed: false,
        role_fenced: false,
        role_saved: false,
        shards_turned: 0,
        shards_verified: 0,
        shards_restored: 0,
        lease_max: LeaseNumber::new(3),
        notes: notes.iter().map(|(kind, node)| (*kind, (*node).to_owned())).collect(),
    }
}

/// A node whose new key waits to be activated, held offline, with the data under `key`.
fn held(key: KeyId, ledger: Vec<LedgerRotation>) -> Findings {
    Findings {
        node: "node-1".parse().unwrap(),
        files: vec![file("encryption.config", FileRole::Current, OLD), file("pending", FileRole::Pending, NEW)],
        instance: Ok("offline".to_owned()),
        held: Some(rotation()),
        followed: Some(rotation()),
        no_return: false,
        marked: false,
        plan: None,
        ledger,
        census: values(&[(key, 10)]),
    }
}

#[track_caller]
fn check(found: &Findings, choice: Choice, verdict: Verdict, steps: &[&str]) {
    let decision = decide(found, &choice);
    let names: Vec<&str> = decision.steps.iter().map(super::Step::name).collect();
    assert_eq!((decision.verdict, &names[..]), (verdict, steps), "{}", decision.why);
}

#[test]
fn once_any_node_was_admitted_every_other_one_goes_forward() {
    let found = held(NEW, vec![in_ledger(Direction::Forward, &[(NoteKind::Admitted, "node-2")])]);
    let steps = ["prove-key", "activate-pending", "start-instance", "admit-instance"];
    check(&found, Choice::default(), Verdict::Forward, &steps);
    // Its own memory says so too, should the note be lost with a restored ledger.
    let own = Findings { no_return: true, ..held(NEW, vec![in_ledger(Direction::Forward, &[])]) };
    check(&own, Choice::default(), Verdict::Forward, &steps);
}

#[test]
fn without_that_it_goes_back() {
    let found = held(OLD, vec![in_ledger(Direction::Forward, &[])]);
    let steps = [
        "take-offline",
        "note-offline",
        "turn-back",
        "prove-key",
        "end-ledger",
        "start-instance",
        "admit-instance",
        "leave-mark",
        "discard-pending",
    ];
    check(&found, Choice::default(), Verdict::Back, &steps);
}

#[test]
fn nodes_that_may_run_with_the_new_key_come_first() {
    let notes = [(NoteKind::Started, "node-1"), (NoteKind::Started, "node-2")];
    let found = held(OLD, vec![in_ledger(Direction::Forward, &notes)]);
    check(&found, Choice::default(), Verdict::Wait, &["take-offline", "note-offline"]);
    let seen = Choice { others_offline: true, ..Choice::default() };
    assert_eq!(decide(&found, &seen).verdict, Verdict::Back);
    let stopped = [notes[0], notes[1], (NoteKind::Offline, "node-2")];
    let found = held(OLD, vec![in_ledger(Direction::Forward, &stopped)]);
    assert_eq!(decide(&found, &Choice::default()).verdict, Verdict::Back);
}

#[test]
fn turned_rows_without_a_plan_and_data_under_two_keys_are_nothing_to_guess_about() {
    let turned = LedgerRotation { shards_turned: 1, ..in_ledger(Direction::Forward, &[]) };
    check(&held(OLD, vec![turned]), Choice::default(), Verdict::Impossible, &[]);
    let mixed = Findings { census: values(&[(OLD, 5), (NEW, 5)]), ..held(OLD, Vec::new()) };
    check(&mixed, Choice::default(), Verdict::Impossible, &[]);
}

#[test]
fn a_key_that_does_not_open_the_data_is_not_taken_on_anybody_s_word() {
    let found = held(OLD, Vec::new());
    let choice = Choice { key: Some(NEW), ..Choice::default() };
    check(&found, choice, Verdict::Impossible, &[]);
    let unknown = Choice { key: Some(KeyId::new([9; 16])), ..Choice::default() };
    check(&found, unknown, Verdict::Impossible, &[]);
}
