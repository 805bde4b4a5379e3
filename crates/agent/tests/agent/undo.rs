//! The way back, from as far as there is one.

use rotation::{Answer, Direction, FaultCode, Work};

use crate::support::{Farm, Leader};

#[tokio::test]
async fn a_rotation_is_undone_after_the_instances_had_started() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;

    leader.next_phase();
    leader.answer(Work::TurnBack).await;
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    leader.next_phase();
    assert_eq!(leader.answer(Work::RestoreKey).await, Answer::KeyRestored { key: farm.old.id() });
    leader.next_phase();
    assert_eq!(leader.rows(Direction::Back, false).await, 50);
    farm.assert_rows_under(&farm.old).await;
    leader.next_phase();
    assert_eq!(leader.rows(Direction::Back, true).await, 50);
    leader.next_phase();
    leader.answer(Work::LiftFence { direction: Direction::Back, position: None }).await;
    leader.next_phase();
    let started = leader.answer(Work::StartInstance { key: farm.old.id() }).await;
    assert_eq!(started, Answer::InstanceStarted { key: farm.old.id() });
    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    leader.next_phase();
    leader.answer(Work::DiscardKey).await;
    leader.next_phase();
    leader.answer(Work::CloseLedger { direction: Direction::Back }).await;

    let described = leader.describe().await;
    assert_eq!(described.current_key, farm.old.id().to_string());
    assert_eq!(described.pending_key, "");
    assert!(described.instance_online && !described.held_offline);
}

#[tokio::test]
async fn every_step_of_the_undo_may_be_done_twice() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;
    // A higher epoch makes it another assignment, so that nothing is answered from memory.
    for work in [Work::TurnBack, Work::TakeOffline, Work::RestoreKey] {
        for _ in 0..2 {
            leader.next_phase();
            leader.answer(work.clone()).await;
        }
    }
    for verify in [false, true] {
        for _ in 0..2 {
            leader.next_phase();
            assert_eq!(leader.rows(Direction::Back, verify).await, 50);
        }
    }
    let last = [
        Work::LiftFence { direction: Direction::Back, position: None },
        Work::StartInstance { key: farm.old.id() },
        Work::AdmitInstance,
        Work::DiscardKey,
        Work::CloseLedger { direction: Direction::Back },
    ];
    for work in last {
        for _ in 0..2 {
            leader.next_phase();
            leader.answer(work.clone()).await;
        }
    }
    farm.assert_rows_under(&farm.old).await;
    assert_eq!(farm.instance.state(), "online");
}

#[tokio::test]
async fn an_undo_before_quiesce_leaves_the_instance_alone() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    leader.answer(Work::StoreKey).await;
    leader.next_phase();
    leader.answer(Work::DiscardKey).await;
    assert_eq!(leader.describe().await.pending_key, "");
    assert_eq!(farm.instance.calls("offline"), 0);
    assert_eq!(farm.instance.state(), "online");
}

#[tokio::test]
async fn nothing_turns_back_after_the_point_of_no_return() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;
    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    leader.next_phase();
    let back = [
        Work::TurnBack,
        Work::RestoreKey,
        Work::DiscardKey,
        Work::StartInstance { key: farm.old.id() },
        Work::LiftFence { direction: Direction::Back, position: None },
        Work::CloseLedger { direction: Direction::Back },
    ];
    for work in back {
        let refusal = leader.ask(work).await.unwrap_err().refusal();
        assert!(refusal.contains("point of no return"), "{refusal}");
    }
    assert_eq!(farm.instance.state(), "online");
    assert_eq!(leader.describe().await.current_key, farm.new.id().to_string());
}

#[tokio::test]
async fn the_new_key_is_not_discarded_while_rows_need_it() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.next_phase();
    leader.answer(Work::TurnBack).await;
    let discard = async |leader: &mut Leader| {
        leader.next_phase();
        let fault = leader.ask(Work::DiscardKey).await.unwrap_err().fault();
        assert_eq!(fault.code, FaultCode::DatabasePosition, "{fault}");
        assert!(fault.message.contains("verified back"), "{fault}");
    };
    discard(&mut leader).await;
    leader.next_phase();
    leader.rows(Direction::Back, false).await;
    discard(&mut leader).await;
    leader.next_phase();
    leader.rows(Direction::Back, true).await;
    leader.next_phase();
    leader.answer(Work::DiscardKey).await;
    farm.assert_rows_under(&farm.old).await;
}

#[tokio::test]
async fn the_new_key_is_not_discarded_while_it_is_the_current_one() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.next_phase();
    leader.answer(Work::ActivateKey { at: crate::support::ACTIVATED_AT }).await;
    leader.next_phase();
    let fault = leader.ask(Work::DiscardKey).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::KeyStore);
    assert_eq!(leader.describe().await.current_key, farm.new.id().to_string());
}
