//! The ways through a rotation, and the points that each assignment passes on them. Together they must try every kind of
//! work and pass every point.

use std::collections::BTreeSet;

use fail_points::Point;
use rotation::{Direction, LeaseNumber, StrategyChoice, Work, WorkKind};

use crate::bench::{Bench, Step};
use crate::support::ACTIVATED_AT;

type Passes = &'static [Point];

/// Points of a server that SQLite does not have: of this kind of work, before that point or at the end.
pub(crate) type Beyond = &'static [(WorkKind, Option<Point>, Point)];

/// Every assignment raises the agent's fence before anything else: each is in an epoch of its own here.
const FENCE: Point = Point::AGENT_FENCE;

/// An assignment that is tried in every way.
fn tried(kind: WorkKind, passes: Passes, work: impl Fn(&Bench) -> Work + 'static) -> (WorkKind, Step) {
    (kind, Step { work: Box::new(work), passes: Some(passes.to_vec()) })
}

/// Going forward, from the first assignment to the last, rows updated where they are.
pub(crate) fn preflight() -> Vec<(WorkKind, Step)> {
    vec![
        tried(WorkKind::Inspect, &[FENCE, Point::RECIPIENT_KEY], |_| Work::Inspect),
        tried(WorkKind::SurveyDatabase, &[FENCE], |_| Work::SurveyDatabase {
            accepted: Vec::new(),
            shards_wanted: 3,
            agents: 1,
            strategy: StrategyChoice::InPlace,
        }),
    ]
}

const STORE: Passes = &[FENCE, Point::PLAN_KEPT, Point::STATEMENT_PINNED, Point::PENDING_KEY, Point::RECIPIENT_DELETED];
const OFFLINE: Passes =
    &[FENCE, Point::HOLD_PINNED, Point::HELD_MARKER, Point::INSTANCE_DRAIN, Point::INSTANCE_OFFLINE];
const TURNED: Passes = &[FENCE, Point::SHARD_ENTERED, Point::CHUNK, Point::CHUNK_COMMITTED];
const STARTED: Passes = &[FENCE, Point::LEDGER_NOTE, Point::INSTANCE_START, Point::PROOF_PINNED];
const ADMITTED: Passes =
    &[FENCE, Point::LEDGER_NOTE, Point::NO_RETURN_PINNED, Point::HELD_RELEASED, Point::INSTANCE_ADMIT];

pub(crate) fn forward(shards: usize) -> Vec<(WorkKind, Step)> {
    let mut steps = vec![
        tried(WorkKind::StoreKey, STORE, |_| Work::StoreKey),
        tried(WorkKind::TakeOffline, OFFLINE, |_| Work::TakeOffline),
        tried(WorkKind::FenceDatabase, &[FENCE, Point::LEDGER_OPENED], |_| Work::FenceDatabase),
    ];
    steps.extend(rows(shards, Direction::Forward, false, Some(TURNED)));
    steps.extend(rows(shards, Direction::Forward, true, Some(TURNED)));
    steps.extend([
        tried(WorkKind::RecordPosition, &[FENCE], |_| Work::RecordPosition),
        tried(WorkKind::ActivateKey, &[FENCE, Point::DATED_NAME, Point::KEY_ACTIVATED], |_| Work::ActivateKey {
            at: ACTIVATED_AT,
        }),
        tried(WorkKind::LiftFence, &[FENCE, Point::FENCE_LIFTED], lift(Direction::Forward)),
        tried(WorkKind::StartInstance, STARTED, |bench| Work::StartInstance { key: bench.farm.new.id() }),
        tried(WorkKind::AdmitInstance, ADMITTED, |_| Work::AdmitInstance),
        tried(WorkKind::CloseLedger, &[FENCE, Point::LEDGER_CLOSED], close(Direction::Forward)),
    ]);
    steps
}

/// Whether closing an undone ledger commits the dropping of copies also where there are none.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Drops {
    Always,
    WhatIsThere,
}

/// The undo from as far as there is one: instances had been started.
pub(crate) fn undo(shards: usize, drops: Drops) -> Vec<(WorkKind, Step)> {
    let closed: Passes = match drops {
        Drops::Always => &[FENCE, Point::SHADOWS_DROPPED, Point::LEDGER_CLOSED],
        Drops::WhatIsThere => &[FENCE, Point::LEDGER_CLOSED],
    };
    let mut steps = untried(
        forward(shards)
            .into_iter()
            .filter(|(kind, _)| !matches!(kind, WorkKind::AdmitInstance | WorkKind::CloseLedger)),
    );
    steps.extend([
        tried(WorkKind::TurnBack, &[FENCE, Point::LEDGER_TURNED_BACK], |_| Work::TurnBack),
        tried(WorkKind::TakeOffline, &[FENCE, Point::HOLD_PINNED, Point::INSTANCE_OFFLINE], |_| Work::TakeOffline),
        tried(WorkKind::RestoreKey, &[FENCE, Point::KEY_SET_ASIDE, Point::KEY_RESTORED], |_| Work::RestoreKey),
    ]);
    steps.extend(rows(shards, Direction::Back, false, Some(TURNED)));
    steps.extend(rows(shards, Direction::Back, true, Some(TURNED)));
    steps.extend([
        tried(WorkKind::LiftFence, &[FENCE, Point::FENCE_LIFTED], lift(Direction::Back)),
        tried(WorkKind::StartInstance, &[FENCE, Point::INSTANCE_START, Point::PROOF_PINNED], |bench| {
            Work::StartInstance { key: bench.farm.old.id() }
        }),
        tried(WorkKind::AdmitInstance, &[FENCE, Point::HELD_RELEASED, Point::INSTANCE_ADMIT], |_| Work::AdmitInstance),
        tried(WorkKind::DiscardKey, &[FENCE, Point::PENDING_DISCARDED, Point::RECIPIENT_DELETED], |_| Work::DiscardKey),
        tried(WorkKind::CloseLedger, closed, close(Direction::Back)),
    ]);
    steps
}

/// What is otherwise when tables are copied, forward.
pub(crate) fn copied(shards: usize) -> Vec<(WorkKind, Step)> {
    let filled: Passes = &[FENCE, Point::SHARD_ENTERED, Point::SHADOW_MADE, Point::CHUNK, Point::CHUNK_COMMITTED];
    let mut steps = untried([
        tried(WorkKind::StoreKey, STORE, |_| Work::StoreKey),
        tried(WorkKind::TakeOffline, OFFLINE, |_| Work::TakeOffline),
        tried(WorkKind::FenceDatabase, &[FENCE], |_| Work::FenceDatabase),
    ]);
    steps.extend(rows(shards, Direction::Forward, false, Some(filled)));
    steps.push(tried(WorkKind::FinishShadows, &[FENCE, Point::SHADOW_STEP_BUILT, Point::SHADOW_BUILT], |_| {
        Work::FinishShadows
    }));
    steps.extend(rows(shards, Direction::Forward, true, None));
    steps.extend(untried([tried(WorkKind::RecordPosition, &[FENCE], |_| Work::RecordPosition)]));
    steps.push(tried(WorkKind::SwapTables, &[FENCE, Point::TABLES_SWAPPED], |_| Work::SwapTables));
    steps
}

/// To the end with the copies, and the originals dropped on an operator's word.
pub(crate) fn completed() -> Vec<(WorkKind, Step)> {
    untried([
        tried(WorkKind::ActivateKey, &[FENCE], |_| Work::ActivateKey { at: ACTIVATED_AT }),
        tried(WorkKind::LiftFence, &[FENCE], lift(Direction::Forward)),
        tried(WorkKind::StartInstance, STARTED, |bench| Work::StartInstance { key: bench.farm.new.id() }),
        tried(WorkKind::AdmitInstance, ADMITTED, |_| Work::AdmitInstance),
        tried(WorkKind::CloseLedger, &[FENCE], close(Direction::Forward)),
    ])
}

pub(crate) fn retired() -> Vec<(WorkKind, Step)> {
    vec![tried(WorkKind::RetireTables, &[FENCE, Point::TABLES_RETIRED], |_| Work::RetireTables)]
}

/// As far as there is something to recover by hand: everything is turned, and no instance is started.
pub(crate) fn activated(shards: usize) -> Vec<(WorkKind, Step)> {
    untried(forward(shards).into_iter().take_while(|(kind, _)| *kind != WorkKind::LiftFence))
}

/// The undo after the swap.
pub(crate) fn swapped_back(shards: usize) -> Vec<(WorkKind, Step)> {
    let mut steps = untried(copied(shards));
    steps.extend(untried([
        tried(WorkKind::ActivateKey, &[FENCE], |_| Work::ActivateKey { at: ACTIVATED_AT }),
        tried(WorkKind::TurnBack, &[FENCE], |_| Work::TurnBack),
        tried(WorkKind::RestoreKey, &[FENCE], |_| Work::RestoreKey),
    ]));
    steps.push(tried(WorkKind::SwapTablesBack, &[FENCE, Point::TABLES_SWAPPED_BACK], |_| Work::SwapTablesBack));
    steps.extend(rows(shards, Direction::Back, false, None));
    steps.extend(rows(shards, Direction::Back, true, None));
    steps.extend(untried([
        tried(WorkKind::LiftFence, &[FENCE], lift(Direction::Back)),
        tried(WorkKind::StartInstance, &[FENCE], |bench| Work::StartInstance { key: bench.farm.old.id() }),
        tried(WorkKind::AdmitInstance, &[FENCE], |_| Work::AdmitInstance),
        tried(WorkKind::DiscardKey, &[FENCE], |_| Work::DiscardKey),
    ]));
    steps.push(tried(
        WorkKind::CloseLedger,
        &[FENCE, Point::SHADOWS_DROPPED, Point::LEDGER_CLOSED],
        close(Direction::Back),
    ));
    steps
}

/// A course on a server: only work on the database is tried, and it passes points of its own.
pub(crate) fn on_server(course: Vec<(WorkKind, Step)>, beyond: Beyond) -> Vec<(WorkKind, Step)> {
    let adapt = |(kind, mut step): (WorkKind, Step)| {
        if !DATABASE.contains(&kind) {
            step.passes = None;
        }
        for (_, before, point) in beyond.iter().filter(|(of, ..)| *of == kind) {
            if let Some(passes) = &mut step.passes {
                let at = before.map(|before| passes.iter().position(|passed| *passed == before));
                passes.insert(at.flatten().unwrap_or(passes.len()), *point);
            }
        }
        (kind, step)
    };
    course.into_iter().map(adapt).collect()
}

/// Work on the database.
const DATABASE: [WorkKind; 9] = [
    WorkKind::FenceDatabase,
    WorkKind::ReencryptShard,
    WorkKind::LiftFence,
    WorkKind::CloseLedger,
    WorkKind::TurnBack,
    WorkKind::FinishShadows,
    WorkKind::SwapTables,
    WorkKind::SwapTablesBack,
    WorkKind::RetireTables,
];

fn untried(steps: impl IntoIterator<Item = (WorkKind, Step)>) -> Vec<(WorkKind, Step)> {
    steps.into_iter().map(|(kind, step)| (kind, Step { passes: None, ..step })).collect()
}

/// One pass over all shards; the first of them is tried.
fn rows(shards: usize, direction: Direction, verify: bool, passes: Option<Passes>) -> Vec<(WorkKind, Step)> {
    let kind = if verify { WorkKind::VerifyShard } else { WorkKind::ReencryptShard };
    (0..shards)
        .map(|index| {
            let work = move |bench: &Bench| {
                let shard = bench.leader.read_plan().shards[index].clone();
                // The epoch will do as a number that rises whenever work is given out again.
                let lease = LeaseNumber::new(bench.leader.fence.epoch.get());
                if verify {
                    Work::VerifyShard { shard, lease, direction, rows_per_second: None }
                } else {
                    Work::ReencryptShard { shard, lease, direction, rows_per_second: None }
                }
            };
            (kind, Step { work: Box::new(work), passes: passes.filter(|_| index == 0).map(<[Point]>::to_vec) })
        })
        .collect()
}

fn lift(direction: Direction) -> impl Fn(&Bench) -> Work {
    move |bench| Work::LiftFence {
        direction,
        position: (direction == Direction::Forward).then(|| bench.position.clone()).flatten(),
    }
}

fn close(direction: Direction) -> impl Fn(&Bench) -> Work {
    move |_| Work::CloseLedger { direction }
}

/// What the courses try, and what they pass.
pub(crate) fn covered() -> (BTreeSet<WorkKind>, BTreeSet<Point>) {
    let courses = [preflight(), forward(1), undo(1, Drops::Always), copied(1), retired(), swapped_back(1)];
    let tried = courses.into_iter().flatten().filter_map(|(kind, step)| Some((kind, step.passes?)));
    let (kinds, points): (BTreeSet<WorkKind>, Vec<Vec<Point>>) = tried.unzip();
    (kinds, points.into_iter().flatten().collect())
}
