//! An instance that does not do what it is told, or says what is not so.

use rotation::{FaultCode, Work};

use crate::support::{Farm, Leader, finish};

#[tokio::test]
async fn an_instance_that_does_not_stop_is_a_fault_and_its_healing_is_noticed() {
    let farm = Farm::new().await;
    // What never comes is not waited for long.
    let config = farm.path().join("agent.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(config, text.replace("\"offline\"], deadline_s = 10", "\"offline\"], deadline_s = 3")).unwrap();
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    farm.instance.write("stubborn", "");
    leader.next_phase();
    let fault = leader.ask(Work::TakeOffline).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Instance);
    assert!(fault.retryable, "it may heal");
    assert_eq!(fault.message, "waited 3 s for the instance to be offline: it is drained");
    farm.instance.remove("stubborn");
    leader.answer(Work::TakeOffline).await;
    assert_eq!(farm.instance.state(), "offline");
}

#[tokio::test]
async fn an_observation_that_says_nothing_is_no_state() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    for lie in ["", "offline online\n"] {
        farm.instance.write("lie", lie);
        leader.next_phase();
        let fault = leader.ask(Work::TakeOffline).await.unwrap_err().fault();
        assert_eq!(fault.code, FaultCode::Instance, "{lie:?}");
        assert!(fault.message.contains("none of online, drained, started, offline"), "{lie:?}: {fault}");
    }
}

#[tokio::test]
async fn an_observation_that_lies_does_not_pass_for_a_running_process() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    farm.instance.write("lie", "started\n");
    leader.next_phase();
    let fault = leader.ask(Work::StartInstance { key: farm.old.id() }).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Canary, "{fault}");
    assert!(fault.message.contains("no process listens"), "{fault}");
    let fault = leader.ask(Work::AdmitInstance).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::AssignmentRefused, "{fault}");
}

#[tokio::test]
async fn an_instance_that_is_let_to_clients_too_early_is_a_fault_and_is_taken_offline() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    farm.instance.boot();
    let offline = farm.instance.listen("tell-offline");
    leader.next_phase();
    let fault = leader.ask(Work::StartInstance { key: farm.old.id() }).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Instance, "{fault}");
    assert!(fault.message.contains("before it is admitted"), "{fault}");
    offline.await;
}

#[tokio::test]
async fn a_process_that_kept_the_old_key_fails_its_canary() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    // Somebody starts a second process before the key is changed: it holds the old one.
    farm.instance.boot();
    farm.instance.write("state", "offline\n");
    leader.next_phase();
    leader.answer(Work::ActivateKey { at: crate::support::ACTIVATED_AT }).await;
    farm.instance.write("lie", "started\n");
    leader.next_phase();
    leader.let_in().await;
    let fault = leader.ask(Work::StartInstance { key: farm.new.id() }).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Canary, "{fault}");
    let shown = format!("{fault:?}");
    assert!(!shown.contains("canary="), "what was printed is withheld: {shown}");
}

#[tokio::test]
async fn an_instance_that_stopped_after_its_proof_proves_again_before_it_is_admitted() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;
    farm.instance.write("state", "offline\n");
    leader.next_phase();
    leader.answer(Work::AdmitInstance).await;
    assert_eq!(farm.instance.calls("canary"), 2);
    assert_eq!(farm.instance.state(), "online");
}

#[tokio::test]
async fn an_instance_that_stopped_after_its_proof_stays_offline_once_rows_go_back() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;
    leader.next_phase();
    leader.answer(Work::TurnBack).await;
    farm.instance.stop();
    let starts = farm.instance.calls("start");
    leader.next_phase();
    let fault = leader.ask(Work::AdmitInstance).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Superseded, "{fault}");
    assert_eq!((farm.instance.state().as_str(), farm.instance.calls("start")), ("offline", starts));
}

#[tokio::test]
async fn a_higher_epoch_ends_a_command_that_hangs() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    let hangs = farm.instance.listen("hang-drain");
    leader.next_phase();
    let hanging = leader.send(Work::TakeOffline).await.unwrap();
    // The same assignment again attaches to the one under way.
    let attached = leader.send(Work::TakeOffline).await.unwrap();
    hangs.await;
    farm.instance.remove("hang-drain");
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    for reports in [hanging, attached] {
        let fault = finish(reports).await.unwrap_err().fault();
        assert_eq!(fault.code, FaultCode::Superseded, "{fault}");
    }
    assert_eq!(farm.instance.calls("drain"), 2);
    assert_eq!(farm.instance.state(), "offline");
}

#[tokio::test]
async fn progress_says_what_is_waited_for() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    let hangs = farm.instance.listen("hang-drain");
    leader.next_phase();
    let mut reports = leader.send(Work::TakeOffline).await.unwrap();
    hangs.await;
    loop {
        let report = reports.message().await.unwrap().unwrap();
        if let Some(wire::v1::report::Kind::Progress(progress)) = report.kind
            && progress.waiting_for == "draining the instance"
        {
            break;
        }
    }
    agent.stop().await;
    let fault = finish(reports).await.unwrap_err().fault();
    assert!(fault.retryable, "an agent that stops says so and may be asked again: {fault}");
}
