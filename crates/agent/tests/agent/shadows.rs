//! Tables that are copied and swapped: what the agent refuses, whatever a coordinator says.

use rotation::{Answer, Digest, Direction, FaultCode, RotationId, StrategyChoice, Work};
use uuid::Uuid;
use wire::pki::Role;

use crate::support::{ACTIVATED_AT, Farm, Leader};

const WORKS: [Work; 3] = [Work::FinishShadows, Work::SwapTables, Work::SwapTablesBack];

#[tokio::test]
async fn nothing_is_swapped_that_the_signed_plan_does_not_have_copied() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    for work in WORKS {
        leader.next_phase();
        let refusal = leader.ask(work).await.unwrap_err().refusal();
        assert!(refusal.contains("copies no table"), "{refusal}");
    }
    // Nor by altering the plan.
    let mut plan = leader.read_plan();
    plan.tables.values_mut().for_each(|table| table.strategy = rotation::Strategy::Shadow);
    leader.plan = Some(plan.to_bytes());
    let refusal = leader.ask(Work::SwapTables).await.unwrap_err().refusal();
    assert!(refusal.contains("not the one that was signed"), "{refusal}");
}

#[tokio::test]
async fn tables_are_swapped_on_a_node_that_is_held_and_when_every_row_is_verified() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned_with_shadows(&farm, &agent).await;
    for work in WORKS {
        leader.next_phase();
        let fault = leader.ask(work).await.unwrap_err().fault();
        assert_eq!(fault.code, FaultCode::AssignmentRefused);
        assert!(fault.message.contains("does not hold its instance offline"), "{fault}");
    }
    leader.quiesce().await;
    leader.next_phase();
    let fault = leader.ask(Work::SwapTables).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::AssignmentRefused);
    assert!(fault.message.contains("not verified under the new key"), "{fault}");
    farm.assert_rows_under(&farm.old).await;
}

#[tokio::test]
async fn the_application_is_not_let_in_beside_a_table_that_is_not_swapped() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned_with_shadows(&farm, &agent).await;
    copied(&farm, &mut leader).await;
    let Answer::PositionRecorded(position) = leader.answer(Work::RecordPosition).await else { unreachable!() };
    // A coordinator that leaves the swap out.
    leader.next_phase();
    leader.answer(Work::ActivateKey { at: ACTIVATED_AT }).await;
    leader.next_phase();
    let lift = Work::LiftFence { direction: Direction::Forward, position: Some(position) };
    let fault = leader.ask(lift).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::AssignmentRefused);
    assert!(fault.message.contains("table entries is not swapped"), "{fault}");
}

/// A rotation that is over on this node.
async fn completed(farm: &Farm, leader: &mut Leader) {
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(farm).await;
    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    leader.next_phase();
    leader.answer(Work::CloseLedger { direction: Direction::Forward }).await;
    leader.next_phase();
    leader.authorization = None;
}

#[tokio::test]
async fn kept_tables_are_dropped_on_an_operators_word_for_this_very_rotation_alone() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    let statement = leader.authorization.clone().unwrap();
    completed(&farm, &mut leader).await;
    let refused = async |leader: &Leader, expected: &str| {
        let refusal = leader.ask(Work::RetireTables).await.unwrap_err().refusal();
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    };

    refused(&leader, "without a plan").await;
    // What started the rotation is no word for that.
    leader.authorization = Some(statement.clone());
    refused(&leader, "without a plan").await;
    leader.retirement = Some(rotation::SignedRetirement {
        retirement: statement.statement,
        certificates: statement.certificates,
        signature: statement.signature,
    });
    refused(&leader, "signature does not hold").await;

    let operator = farm.tls(Role::Operator, "alice");
    let mut bent = leader.sign_retirement(&operator, |_| {});
    bent.signature[10] ^= 1;
    let signers = [
        farm.tls(Role::Viewer, "alice"),
        farm.tls(Role::Coordinator, "coordinator-1"),
        farm.foreign_tls(Role::Operator, "alice"),
    ];
    let mut forged: Vec<_> = signers.iter().map(|signer| leader.sign_retirement(signer, |_| {})).collect();
    forged.push(bent);
    for word in forged {
        leader.retirement = Some(word);
        refused(&leader, "signature does not hold").await;
    }

    let other = RotationId::new(Uuid::now_v7());
    let words = [
        ("farm", leader.sign_retirement(&operator, |word| word.farm = "other".to_owned())),
        ("rotation", leader.sign_retirement(&operator, |word| word.rotation = other)),
        ("format", leader.sign_retirement(&operator, |word| word.format = 2)),
        (
            "not the one that was signed",
            leader.sign_retirement(&operator, |word| word.plan_digest = Digest::new([7; 32])),
        ),
    ];
    for (expected, word) in words {
        leader.retirement = Some(word);
        refused(&leader, expected).await;
    }

    leader.retirement = Some(leader.sign_retirement(&operator, |_| {}));
    leader.authorization = None;
    assert_eq!(leader.answer(Work::RetireTables).await, Answer::TablesRetired);
    assert_eq!(leader.answer(Work::RetireTables).await, Answer::TablesRetired, "again is as good");
}

#[tokio::test]
async fn nothing_is_dropped_while_an_undo_may_need_it() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    // A coordinator that says "completed" while it is not gets an operator to sign.
    leader.retirement = Some(leader.sign_retirement(&farm.tls(Role::Operator, "alice"), |_| {}));
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;
    leader.next_phase();
    let refusal = leader.ask(Work::RetireTables).await.unwrap_err().refusal();
    assert!(refusal.contains("has not passed the point of no return"), "{refusal}");
}

#[tokio::test]
async fn an_earlier_rotation_is_retired_after_a_later_one_was_followed() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    completed(&farm, &mut leader).await;
    let mut later = leader.clone();
    later.rotation = RotationId::new(Uuid::now_v7());
    later.next_phase();
    later.answer(Work::Inspect).await;
    leader.fence = later.fence;
    leader.next_phase();
    leader.retirement = Some(leader.sign_retirement(&farm.tls(Role::Operator, "alice"), |_| {}));
    leader.answer(Work::RetireTables).await;
}

/// Quiesced, every row copied, the copies finished, every row read back.
async fn copied(farm: &Farm, leader: &mut Leader) {
    leader.quiesce().await;
    leader.next_phase();
    leader.rows(Direction::Forward, false).await;
    assert_eq!(leader.answer(Work::FinishShadows).await, Answer::ShadowsFinished);
    farm.assert_rows_under(&farm.old).await;
    leader.next_phase();
    leader.rows(Direction::Forward, true).await;
}

#[tokio::test]
async fn a_rotation_by_copies_goes_all_the_way_and_its_originals_are_dropped_on_a_word() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::enrolled(&farm, &agent).await;
    leader.strategy = StrategyChoice::Shadow;
    leader.preflight(&farm).await;
    assert!(leader.read_plan().tables.values().all(|table| table.strategy == rotation::Strategy::Shadow));
    leader.approve(&farm);
    copied(&farm, &mut leader).await;
    let Answer::PositionRecorded(position) = leader.answer(Work::RecordPosition).await else { unreachable!() };
    leader.next_phase();
    assert_eq!(leader.answer(Work::SwapTables).await, Answer::TablesSwapped);
    farm.assert_rows_under(&farm.new).await;
    leader.answer(Work::ActivateKey { at: ACTIVATED_AT }).await;
    leader.next_phase();
    leader.answer(Work::LiftFence { direction: Direction::Forward, position: Some(position) }).await;
    leader.answer(Work::StartInstance { key: farm.new.id() }).await;
    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    leader.next_phase();
    leader.answer(Work::CloseLedger { direction: Direction::Forward }).await;
    assert_eq!(farm.tables().await.len(), 2, "the original is kept");

    leader.next_phase();
    leader.authorization = None;
    leader.retirement = Some(leader.sign_retirement(&farm.tls(Role::Operator, "alice"), |_| {}));
    assert_eq!(leader.answer(Work::RetireTables).await, Answer::TablesRetired);
    assert_eq!(farm.tables().await, ["entries"]);
    farm.assert_rows_under(&farm.new).await;
}

#[tokio::test]
async fn swapped_tables_are_swapped_back_and_nothing_of_the_copies_is_left() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned_with_shadows(&farm, &agent).await;
    copied(&farm, &mut leader).await;
    leader.next_phase();
    leader.answer(Work::SwapTables).await;
    farm.assert_rows_under(&farm.new).await;

    leader.next_phase();
    leader.answer(Work::TurnBack).await;
    leader.next_phase();
    leader.answer(Work::RestoreKey).await;
    leader.next_phase();
    assert_eq!(leader.answer(Work::SwapTablesBack).await, Answer::TablesSwappedBack);
    farm.assert_rows_under(&farm.old).await;
    leader.next_phase();
    leader.rows(Direction::Back, false).await;
    leader.next_phase();
    leader.rows(Direction::Back, true).await;
    leader.next_phase();
    leader.answer(Work::LiftFence { direction: Direction::Back, position: None }).await;
    leader.next_phase();
    leader.answer(Work::StartInstance { key: farm.old.id() }).await;
    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    leader.next_phase();
    leader.answer(Work::DiscardKey).await;
    leader.next_phase();
    leader.answer(Work::CloseLedger { direction: Direction::Back }).await;
    assert_eq!(farm.tables().await, ["entries"]);
    farm.assert_rows_under(&farm.old).await;
}
