//! A database that lost the tail of an undo, as a standby does that takes over without the newest: by the ledger that is
//! there rows may still be under the new key, and no instance is started or admitted with the old one on it.

use rotation::{Answer, Direction, FaultCode, KeyBound, LeaseNumber, ShardId, Work};

use crate::servers::{Mariadb, Postgres};
use crate::support::database::Database;
use crate::support::{Agent, Farm, Leader};

/// The last of the undo that the database still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Nothing: the rotation goes forward.
    Nothing,
    TurnedBack,
    RowsRestored,
    OneShardVerified,
    /// All but that the application was let in.
    RowsVerified,
}

const ROWS_LOST: [(Kept, &str); 4] = [
    (Kept::Nothing, "it goes forward"),
    (Kept::TurnedBack, "0 of 2 shards verified back"),
    (Kept::RowsRestored, "0 of 2 shards verified back"),
    (Kept::OneShardVerified, "1 of 2 shards verified back"),
];

#[tokio::test]
async fn no_instance_is_started_or_admitted_where_sqlite_lost_the_undo() {
    check(Farm::new().await, &ROWS_LOST).await;
}

#[tokio::test]
async fn no_instance_is_started_or_admitted_where_postgresql_lost_the_undo() {
    check_on_server(Box::new(Postgres::new().await)).await;
}

#[tokio::test]
async fn no_instance_is_started_or_admitted_where_mariadb_lost_the_undo() {
    check_on_server(Box::new(Mariadb::new().await)).await;
}

async fn check_on_server(database: Box<dyn Database>) {
    let let_in_lost = [(Kept::RowsVerified, "the application may not log in")];
    check(on_server(database).await, &[ROWS_LOST.as_slice(), &let_in_lost].concat()).await;
}

async fn on_server(database: Box<dyn Database>) -> Farm {
    Farm::on(tempfile::tempdir().unwrap(), database).await
}

#[tokio::test]
async fn instances_run_again_where_the_database_lost_the_whole_rotation() {
    let postgres = on_server(Box::new(Postgres::new().await)).await;
    let mariadb = on_server(Box::new(Mariadb::new().await)).await;
    for farm in [Farm::new().await, postgres, mariadb] {
        let agent = farm.start().await;
        let mut leader = Leader::planned(&farm, &agent).await;
        farm.database.snapshot().await;
        leader.quiesce().await;
        leader.turn_rows().await;
        undo(&farm, &mut leader, None).await;
        // Before it knew the rotation, no row of it was turned.
        farm.database.restore().await;
        run_again(&farm, &mut leader).await;
    }
}

/// Loses the undo at each of these places: before the instance is started, before it is admitted, and before it is started
/// once more to be admitted. Then all of it is done again, and ends.
async fn check(farm: Farm, losses: &[(Kept, &str)]) {
    let agent = farm.start().await;
    let mut leader = planned_in_two_shards(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    let start = Work::StartInstance { key: farm.old.id() };
    let instance = || (farm.instance.state(), farm.instance.calls("start"), farm.instance.calls("admit"));
    for (kept, says) in losses {
        let lost = async |leader: &mut Leader, work: &Work| {
            let before = instance();
            leader.next_phase();
            let fault = leader.ask(work.clone()).await.unwrap_err().fault();
            assert_eq!(fault.code, FaultCode::DatabasePosition, "{kept:?}: {fault}");
            assert!(fault.message.contains(says), "{kept:?}: {fault}");
            assert_eq!(instance(), before, "{kept:?}");
        };
        undo(&farm, &mut leader, Some(*kept)).await;
        farm.database.restore().await;
        lost(&mut leader, &start).await;

        for stopped in [false, true] {
            undo(&farm, &mut leader, Some(*kept)).await;
            leader.answer(start.clone()).await;
            if stopped {
                farm.instance.stop();
            }
            farm.database.restore().await;
            lost(&mut leader, &Work::AdmitInstance).await;
        }
    }
    undo(&farm, &mut leader, None).await;
    run_again(&farm, &mut leader).await;
}

/// Preflight and approval of a plan that halves the table.
async fn planned_in_two_shards(farm: &Farm, agent: &Agent) -> Leader {
    let mut leader = Leader::enrolled(farm, agent).await;
    leader.preflight(farm).await;
    let mut plan = leader.read_plan();
    let half = Some(KeyBound("[\"i:25\"]".to_owned()));
    let mut second = plan.shards[0].clone();
    (second.id, second.range.after) = (ShardId::new(second.id.get() + 1), half.clone());
    plan.shards[0].range.through = half;
    plan.shards.push(second);
    leader.plan = Some(plan.to_bytes());
    leader.approve(farm);
    leader
}

/// Undoes a rotation whose rows were verified, up to the start of instances; at one place it is remembered how the database
/// was.
async fn undo(farm: &Farm, leader: &mut Leader, remembered: Option<Kept>) {
    let remember = async |now| {
        if remembered == Some(now) {
            farm.database.snapshot().await;
        }
    };
    remember(Kept::Nothing).await;
    leader.next_phase();
    leader.answer(Work::TurnBack).await;
    remember(Kept::TurnedBack).await;
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    leader.next_phase();
    leader.rows(Direction::Back, false).await;
    remember(Kept::RowsRestored).await;
    leader.next_phase();
    let (shard, lease) = (leader.read_plan().shards[0].clone(), LeaseNumber::new(leader.fence.epoch.get()));
    leader.answer(Work::VerifyShard { shard, lease, direction: Direction::Back, rows_per_second: None }).await;
    remember(Kept::OneShardVerified).await;
    leader.rows(Direction::Back, true).await;
    remember(Kept::RowsVerified).await;
    leader.next_phase();
    leader.answer(Work::LiftFence { direction: Direction::Back, position: None }).await;
    leader.next_phase();
}

/// The rest of the undo.
async fn run_again(farm: &Farm, leader: &mut Leader) {
    let started = leader.answer(Work::StartInstance { key: farm.old.id() }).await;
    assert_eq!(started, Answer::InstanceStarted { key: farm.old.id() });
    for work in [Work::AdmitInstance, Work::DiscardKey, Work::CloseLedger { direction: Direction::Back }] {
        leader.next_phase();
        leader.answer(work).await;
    }
    farm.assert_rows_under(&farm.old).await;
    assert_eq!(farm.instance.state(), "online");
    assert_eq!(leader.describe().await.pending_key, "");
}
