//! A rotation from its first assignment to its last.

use rotation::{Answer, Direction, Work};

use crate::support::{Farm, Leader};

#[tokio::test]
async fn a_rotation_goes_all_the_way() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;

    leader.next_phase();
    let stored = leader.answer(Work::StoreKey).await;
    let possession = keys::possession::proof(&farm.new, &leader.rotation, &"node-1".parse().unwrap());
    assert_eq!(stored, Answer::KeyStored { possession });
    let described = leader.describe().await;
    assert_eq!(described.current_key, farm.old.id().to_string(), "nothing is live yet");
    assert_eq!(described.pending_key, farm.new.id().to_string());
    assert!(described.instance_online);
    let recipient_left = std::fs::read_dir(farm.path().join("state"))
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().contains("recipient"));
    assert!(!recipient_left, "the recipient key is deleted with the bundle stored");

    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    assert_eq!(farm.instance.state(), "offline");
    assert_eq!(farm.instance.calls("drain"), 1);
    assert!(leader.describe().await.held_offline);
    let Answer::DatabaseFenced { rows } = leader.answer(Work::FenceDatabase).await else { unreachable!() };
    assert_eq!(rows, [("entries".to_owned(), 50)]);

    leader.turn_rows().await;
    farm.assert_rows_under(&farm.new).await;
    leader.activate_and_start(&farm).await;
    assert_eq!(farm.instance.state(), "started", "not admitted yet");

    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    leader.next_phase();
    leader.answer(Work::CloseLedger { direction: Direction::Forward }).await;

    let described = leader.describe().await;
    assert_eq!(described.current_key, farm.new.id().to_string());
    assert_eq!(described.pending_key, "");
    assert!(described.instance_online && !described.held_offline);
    assert_eq!(farm.instance.application_files(), ["encryption.20231114-221320.config", "encryption.config"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_repeated_assignment_is_answered_and_not_done_again() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    let first = leader.answer(Work::StoreKey).await;
    assert_eq!(leader.answer(Work::StoreKey).await, first);
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    leader.answer(Work::TakeOffline).await;
    // A new leader with a higher term asks for the same work.
    leader.fence.term = leader.fence.term.next();
    leader.answer(Work::TakeOffline).await;
    assert_eq!(farm.instance.calls("offline"), 1);
}

#[tokio::test]
async fn preflight_changes_nothing_but_the_recipient_key() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let before = (farm.instance.application_files(), farm.instance.state());
    let mut leader = Leader::enrolled(&farm, &agent).await;
    leader.preflight(&farm).await;
    let recipient = |leader: &Leader| leader.read_plan().nodes.into_values().next().unwrap().recipient_key;
    let first = recipient(&leader);
    leader.preflight(&farm).await;
    assert_eq!(recipient(&leader), first, "an answer that was lost is given again");
    assert_eq!((farm.instance.application_files(), farm.instance.state()), before);
    farm.assert_rows_under(&farm.old).await;
    assert_eq!(farm.instance.calls("observe"), 2, "and no other command ran");
    assert!(!farm.path().join("state/rotation.json").exists());
}

#[tokio::test]
async fn a_node_that_was_left_behind_catches_up_within_one_epoch() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    // Left behind here; the rotation has ended without it, and its last epoch is that of all its remaining work.
    leader.next_phase();
    for work in [Work::StoreKey, Work::TakeOffline, Work::ActivateKey { at: crate::support::ACTIVATED_AT }] {
        leader.answer(work).await;
    }
    // As the others had done before the end.
    leader.let_in().await;
    for work in [Work::StartInstance { key: farm.new.id() }, Work::AdmitInstance] {
        leader.answer(work).await;
    }
    let described = leader.describe().await;
    assert_eq!(described.current_key, farm.new.id().to_string());
    assert!(described.instance_online && !described.held_offline);
}

#[tokio::test]
async fn the_old_key_stays_in_the_store_to_decrypt_only() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;
    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    leader.next_phase();
    leader.answer(Work::CloseLedger { direction: Direction::Forward }).await;
    let kept = farm.instance.store().current().unwrap();
    assert_eq!(kept.active().secret.id(), farm.new.id());
    let older: Vec<_> = kept.entries().filter(|entry| entry.state == keys::KeyState::DecryptOnly).collect();
    assert_eq!(older.len(), 1);
    assert_eq!(older[0].secret.id(), farm.old.id());
}
