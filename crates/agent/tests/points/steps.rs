//! Every step on each database: it fails, repeats, crashes and is undone, beside each of its durable writes. On SQLite all
//! of them; on the servers those that change the database.

use fail_points::Point;
use rotation::{StrategyChoice, WorkKind};
use wire::pki::Role;

use crate::bench::{Bench, Step, kinds};
use crate::courses::{self, Beyond, Drops};
use crate::servers::{Mariadb, Postgres};

/// Points that no assignment passes on SQLite: the first three on servers, the next two in a recovery by hand, the last
/// with a backup, which these agents do not make.
const ELSEWHERE: [Point; 6] = [
    Point::HEADER_RAISED,
    Point::LET_IN_PREPARED,
    Point::ACCOUNTS_LOCKED,
    Point::RECOVERED_MARK,
    Point::FILE_PUT_BACK,
    Point::BACKUP_NOTED,
];

const POSTGRES: Beyond = &[(WorkKind::ReencryptShard, Some(Point::SHARD_ENTERED), Point::HEADER_RAISED)];
/// Going back, copies that are still there let go of other tables before the application is let in.
const POSTGRES_BACK: Beyond = &[
    (WorkKind::ReencryptShard, Some(Point::SHARD_ENTERED), Point::HEADER_RAISED),
    (WorkKind::LiftFence, Some(Point::FENCE_LIFTED), Point::LET_IN_PREPARED),
];
const MARIADB: Beyond = &[
    (WorkKind::FenceDatabase, None, Point::ACCOUNTS_LOCKED),
    (WorkKind::TurnBack, None, Point::ACCOUNTS_LOCKED),
    (WorkKind::ReencryptShard, Some(Point::SHARD_ENTERED), Point::HEADER_RAISED),
    (WorkKind::LiftFence, Some(Point::FENCE_LIFTED), Point::LET_IN_PREPARED),
    (WorkKind::CloseLedger, Some(Point::LEDGER_CLOSED), Point::LET_IN_PREPARED),
    (WorkKind::SwapTables, Some(Point::TABLES_SWAPPED), Point::HEADER_RAISED),
    (WorkKind::SwapTablesBack, Some(Point::TABLES_SWAPPED_BACK), Point::HEADER_RAISED),
];

#[test]
fn every_kind_of_work_is_tried_and_every_point_is_passed() {
    let (tried, passed) = courses::covered();
    // A backup changes nothing of the farm's, and is made by tools that these agents do not have.
    assert_eq!(tried, kinds().into_iter().filter(|kind| *kind != WorkKind::BackUp).collect());
    let expected = Point::ALL.iter().filter(|point| !ELSEWHERE.contains(point)).copied().collect();
    assert_eq!(passed, expected);
}

fn steps(course: Vec<(WorkKind, Step)>, beyond: Option<Beyond>) -> Vec<Step> {
    let course = match beyond {
        None => course,
        Some(beyond) => courses::on_server(course, beyond),
    };
    course.into_iter().map(|(_, step)| step).collect()
}

async fn forward(mut bench: Bench, beyond: Option<Beyond>) {
    if beyond.is_none() {
        bench.go(steps(courses::preflight(), beyond)).await;
    }
    bench.approve().await;
    let shards = bench.leader.read_plan().shards.len();
    bench.go(steps(courses::forward(shards), beyond)).await;
    bench.farm.assert_rows_under(&bench.farm.new).await;
    assert_eq!(bench.farm.instance.state(), "online");
}

async fn undone(mut bench: Bench, beyond: Option<Beyond>, drops: Drops) {
    bench.approve().await;
    let shards = bench.leader.read_plan().shards.len();
    bench.go(steps(courses::undo(shards, drops), beyond)).await;
    bench.farm.assert_rows_under(&bench.farm.old).await;
    assert_eq!(bench.farm.instance.state(), "online");
}

async fn copied_and_retired(mut bench: Bench, beyond: Option<Beyond>) {
    bench.leader.strategy = StrategyChoice::Shadow;
    bench.approve().await;
    let shards = bench.leader.read_plan().shards.len();
    bench.go(steps(courses::copied(shards), beyond)).await;
    bench.go(steps(courses::completed(), beyond)).await;
    assert_eq!(bench.farm.tables().await.len(), 2, "the original is kept");
    let word = bench.leader.sign_retirement(&bench.farm.tls(Role::Operator, "alice"), |_| {});
    bench.leader.authorization = None;
    bench.leader.retirement = Some(word);
    bench.go(steps(courses::retired(), beyond)).await;
    assert_eq!(bench.farm.tables().await, ["entries"]);
    bench.farm.assert_rows_under(&bench.farm.new).await;
}

async fn swapped_back(mut bench: Bench, beyond: Option<Beyond>) {
    bench.leader.strategy = StrategyChoice::Shadow;
    bench.approve().await;
    let shards = bench.leader.read_plan().shards.len();
    bench.go(steps(courses::swapped_back(shards), beyond)).await;
    assert_eq!(bench.farm.tables().await, ["entries"]);
    bench.farm.assert_rows_under(&bench.farm.old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_forward_fails_repeats_and_crashes_on_sqlite() {
    forward(Bench::new().await, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_an_undo_fails_repeats_and_crashes_on_sqlite() {
    undone(Bench::new().await, None, Drops::Always).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_with_copied_tables_fails_repeats_and_crashes_until_they_are_retired_on_sqlite() {
    copied_and_retired(Bench::new().await, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_back_from_swapped_tables_fails_repeats_and_crashes_on_sqlite() {
    swapped_back(Bench::new().await, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_forward_fails_repeats_and_crashes_on_postgres() {
    forward(Bench::on(Box::new(Postgres::new().await)).await, Some(POSTGRES)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_an_undo_fails_repeats_and_crashes_on_postgres() {
    undone(Bench::on(Box::new(Postgres::new().await)).await, Some(POSTGRES_BACK), Drops::Always).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_with_copied_tables_fails_repeats_and_crashes_until_they_are_retired_on_postgres() {
    copied_and_retired(Bench::on(Box::new(Postgres::new().await)).await, Some(POSTGRES)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_back_from_swapped_tables_fails_repeats_and_crashes_on_postgres() {
    swapped_back(Bench::on(Box::new(Postgres::new().await)).await, Some(POSTGRES)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_forward_fails_repeats_and_crashes_on_mariadb() {
    forward(Bench::on(Box::new(Mariadb::new().await)).await, Some(MARIADB)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_an_undo_fails_repeats_and_crashes_on_mariadb() {
    undone(Bench::on(Box::new(Mariadb::new().await)).await, Some(MARIADB), Drops::WhatIsThere).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_with_copied_tables_fails_repeats_and_crashes_until_they_are_retired_on_mariadb() {
    copied_and_retired(Bench::on(Box::new(Mariadb::new().await)).await, Some(MARIADB)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_back_from_swapped_tables_fails_repeats_and_crashes_on_mariadb() {
    swapped_back(Bench::on(Box::new(Mariadb::new().await)).await, Some(MARIADB)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_by_hand_fails_and_crashes_at_each_of_its_writes_and_is_done_again() {
    let mut bench = Bench::new().await;
    bench.approve().await;
    let shards = bench.leader.read_plan().shards.len();
    bench.go(steps(courses::activated(shards), None)).await;
    let passed = bench.recover().await;
    for point in [Point::RECOVERED_MARK, Point::FILE_PUT_BACK] {
        assert!(passed.contains(point.name()), "{passed:?}");
    }
    bench.farm.assert_rows_under(&bench.farm.old).await;
    assert_eq!(bench.farm.instance.state(), "online");
}
