//! The stored formats, byte for byte: what a release wrote, the next one reads, or refuses by name.
//!
//! `tests/fixtures/frames-v3.txt` holds one frame a line. A test that fails here means that a stored type has changed:
//! before that version's release the file is written anew with `KEYTURN_WRITE_FIXTURES=1 cargo test -p coordinator frames`;
//! afterwards the change needs a new version of the frame, and the old fixtures stay.

use std::collections::BTreeMap;
use std::path::PathBuf;

use openraft::{BasicNode, CommittedLeaderId, EntryPayload, Membership};
use rotation::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::frame::{Kind, decode, encode};
use super::types::{LogEntry, LogId, SnapshotMeta, StoredMembership, Vote};
use crate::sample::*;

fn fixtures(version: u8) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/frames-v{version}.txt"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

struct Check {
    written: BTreeMap<String, String>,
    found: BTreeMap<String, String>,
}

impl Check {
    fn frame<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
        &mut self,
        name: &str,
        kind: Kind,
        value: &T,
    ) {
        let frame = encode(kind, value).expect("writes");
        assert_eq!(&decode::<T>(kind, &frame).expect("reads"), value, "{name} is read back as it was");
        if let Some(found) = self.found.get(name) {
            let read: T = decode(kind, &unhex(found)).unwrap_or_else(|error| panic!("{name} of the fixtures: {error}"));
            assert_eq!(&read, value, "{name} of the fixtures reads as something else");
        }
        self.written.insert(name.to_owned(), hex(&frame));
    }
}

#[test]
fn frames_are_those_of_the_fixtures() {
    let rewrite = std::env::var_os("KEYTURN_WRITE_FIXTURES").is_some();
    let text = if rewrite { String::new() } else { std::fs::read_to_string(fixtures(3)).expect("the fixtures") };
    let found =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(name, hex)| (name.into(), hex.into())).collect();
    let mut check = Check { written: BTreeMap::new(), found };

    check_all(&mut check, events(), &state());

    if rewrite {
        let text: String = check.written.iter().map(|(name, hex)| format!("{name} {hex}\n")).collect();
        std::fs::write(fixtures(3), text).expect("writes the fixtures");
    } else {
        assert_eq!(check.written, check.found, "a stored format changed; see the head of this file");
    }
}

/// One frame of every kind.
fn check_all(check: &mut Check, events: Vec<(&'static str, Event)>, state: &State) {
    check.frame("vote", Kind::Vote, &Vote::new_committed(3, 2));
    check.frame("log-id", Kind::LogId, &Some(log_id(9)));
    check.frame("entry-blank", Kind::Entry, &LogEntry { log_id: log_id(1), payload: EntryPayload::Blank });
    let payload = EntryPayload::Membership(membership());
    check.frame("entry-membership", Kind::Entry, &LogEntry { log_id: log_id(0), payload });
    for (name, event) in events {
        let payload = EntryPayload::Normal(Entry { at: Millis::new(1_700_000_000_000), event });
        check.frame(&format!("entry-{name}"), Kind::Entry, &LogEntry { log_id: log_id(7), payload });
    }
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9)),
        last_membership: StoredMembership::new(Some(log_id(0)), membership()),
        snapshot_id: log_id(9).to_string(),
    };
    check.frame("snapshot-meta", Kind::SnapshotMeta, &meta);
    check.frame("state", Kind::State, state);
}

fn earlier_options(options: RotationOptions) -> RotationOptions {
    RotationOptions { budget: None, backup: BackupChoice::AsConfigured, ..options }
}

/// Version 2 knew neither downtime budgets, nor backups, nor the numbers of coordinators that were removed, nor what nobody
/// looked into. A plan without a budget has the digest that it had then.
#[test]
fn every_frame_of_version_2_is_read_as_what_it_was() {
    let mut earlier = State { removed_replicas: Default::default(), ..state() };
    let rotation = earlier.rotations.get_mut(&id()).expect("the sample has it");
    (rotation.options.budget, rotation.options.backup) = (None, BackupChoice::AsConfigured);
    for progress in rotation.nodes.values_mut() {
        progress.backup = None;
        if let Some(found) = &mut progress.inspection {
            found.backup = BackupOffer::Nothing;
        }
    }
    (rotation.pace, rotation.budget_spent_at) = (Pace::default(), None);
    let plan = rotation.plan.as_mut().expect("the sample has one");
    (plan.format, plan.budget, plan.backup, plan.folders) = (Plan::format_with(None), None, None, BTreeMap::new());
    plan.unseen = Unseen::default();
    rotation.plan_digest = Some(plan.digest());
    if let Some(survey) = &mut rotation.survey {
        survey.unseen = Unseen::default();
    }
    let events = events()
        .into_iter()
        .filter(|(name, _)| !matches!(*name, "budget-spent" | "work-done-backed-up"))
        .map(|(name, event)| match event {
            Event::RotationRequested { rotation, by, options } => {
                (name, Event::RotationRequested { rotation, by, options: earlier_options(options) })
            }
            Event::WorkDone { assignment, answer: Answer::Inspected(found) } => {
                let found = Inspection { backup: BackupOffer::Nothing, ..*found };
                (name, Event::WorkDone { assignment, answer: Answer::Inspected(Box::new(found)) })
            }
            Event::WorkDone { assignment, answer: Answer::DatabaseSurveyed(found) } => {
                let found = Survey { unseen: Unseen::default(), ..*found };
                (name, Event::WorkDone { assignment, answer: Answer::DatabaseSurveyed(Box::new(found)) })
            }
            other => (name, other),
        })
        .collect();
    let text = std::fs::read_to_string(fixtures(2)).expect("the fixtures");
    let found: BTreeMap<String, String> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(name, hex)| (name.into(), hex.into())).collect();
    let mut check = Check { written: BTreeMap::new(), found };
    check_all(&mut check, events, &earlier);
    assert!(check.written.keys().eq(check.found.keys()), "every frame of the fixtures was read");
}

/// The digest of its very bytes is what operators sign; in a frame it has another form.
#[test]
fn a_plan_with_everything_in_it_has_the_bytes_that_are_kept() {
    let kept = fixtures(3).with_file_name("plan-3.json");
    let now = plan().to_bytes();
    if std::env::var_os("KEYTURN_WRITE_FIXTURES").is_some() {
        std::fs::write(&kept, &now).expect("writes the fixture");
    }
    let kept = std::fs::read(kept).expect("the fixture");
    assert_eq!(String::from_utf8_lossy(&now), String::from_utf8_lossy(&kept), "see the head of this file");
    assert_eq!(Plan::from_bytes(&kept).expect("reads"), plan());
}

#[test]
fn every_frame_from_before_the_first_release_is_refused_by_name() {
    let text = std::fs::read_to_string(fixtures(1)).expect("the fixtures");
    let mut kinds = 0;
    for (name, frame) in text.lines().filter_map(|line| line.split_once(' ')) {
        let refused = match name {
            "vote" => decode::<Vote>(Kind::Vote, &unhex(frame)).err(),
            "log-id" => decode::<Option<LogId>>(Kind::LogId, &unhex(frame)).err(),
            "snapshot-meta" => decode::<SnapshotMeta>(Kind::SnapshotMeta, &unhex(frame)).err(),
            "state" => decode::<State>(Kind::State, &unhex(frame)).err(),
            _ => decode::<LogEntry>(Kind::Entry, &unhex(frame)).err(),
        };
        let message = refused.expect("refused").to_string();
        assert!(
            message.contains("before the first release") && message.contains("empty data directories"),
            "{name}: {message}"
        );
        kinds += 1;
    }
    assert!(kinds > 20, "{kinds}");
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, 2), index)
}

fn membership() -> Membership<u64, BasicNode> {
    let nodes = [1, 2, 3].map(|id| (id, BasicNode::new(format!("https://10.0.0.{id}:7001"))));
    Membership::from(BTreeMap::from(nodes))
}

fn events() -> Vec<(&'static str, Event)> {
    let (rotation, by) = (id(), "alice".to_owned());
    vec![
        ("farm-founded", Event::FarmFounded { cluster: ClusterId::new(Uuid::from_u128(1)), farm: "demo".to_owned() }),
        ("leader-elected", Event::LeaderElected { term: Term::new(3), replica: 2 }),
        ("node-enrolled", Event::NodeEnrolled { node: node(), address: "https://node-1:7101".to_owned() }),
        ("node-removed", Event::NodeRemoved { node: node() }),
        ("rotation-requested", Event::RotationRequested { rotation, by: by.clone(), options: options() }),
        (
            "start-requested",
            Event::StartRequested { rotation, by: by.clone(), authorization: Box::new(authorization()) },
        ),
        ("abort-requested", Event::AbortRequested { rotation, by: by.clone() }),
        ("pause-requested", Event::PauseRequested { rotation, by: by.clone() }),
        ("resume-requested", Event::ResumeRequested { rotation, by: by.clone() }),
        ("retry-requested", Event::RetryRequested { rotation, by: by.clone() }),
        ("throttle-requested", Event::ThrottleRequested { rotation, by: by.clone(), rows_per_second: Some(1_000) }),
        ("retire-requested", Event::RetireRequested { rotation, by, word: retirement() }),
        (
            "work-done-inspected",
            Event::WorkDone { assignment: work(), answer: Answer::Inspected(Box::new(inspection())) },
        ),
        (
            "work-done-surveyed",
            Event::WorkDone { assignment: work(), answer: Answer::DatabaseSurveyed(Box::new(survey())) },
        ),
        (
            "work-done-shard",
            Event::WorkDone {
                assignment: work(),
                answer: Answer::ShardReencrypted { shard: ShardId::new(3), lease: LeaseNumber::new(2), tally: tally() },
            },
        ),
        ("work-done-last", Event::WorkDone { assignment: work(), answer: Answer::TablesRetired }),
        (
            "work-done-backed-up",
            Event::WorkDone { assignment: work(), answer: Answer::BackedUp(Box::new(node_backup())) },
        ),
        ("work-failed", Event::WorkFailed { assignment: work(), fault: fault() }),
        ("deadline-missed", Event::DeadlineMissed { assignment: work(), fault: fault() }),
        ("lease-expired", Event::LeaseExpired { assignment: work() }),
        ("admit-decided", Event::AdmitDecided { rotation, epoch: Epoch::new(8) }),
        ("budget-spent", Event::BudgetSpent { rotation, epoch: Epoch::new(8), used_ms: 900_000 }),
    ]
}
