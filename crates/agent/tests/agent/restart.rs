//! The agent, or its whole node, goes down in the middle and comes back.

use rotation::{FaultCode, Work};

use crate::support::{ACTIVATED_AT, Farm, Leader};

#[tokio::test]
async fn an_instance_that_is_held_stays_offline_when_the_node_restarts() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    agent.kill().await;
    farm.instance.boot();
    let offline = farm.instance.listen("tell-offline");
    let agent = farm.start().await;
    leader.reconnect(&farm, &agent);
    offline.await;
    assert_eq!(farm.instance.state(), "offline");
    assert!(leader.describe().await.held_offline);
}

#[tokio::test]
async fn an_instance_that_is_admitted_is_left_alone_when_the_node_restarts() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.turn_rows().await;
    leader.activate_and_start(&farm).await;
    let hangs = farm.instance.listen("hang-admit");
    leader.next_phase();
    let _reports = leader.send(Work::AdmitInstance).await.unwrap();
    hangs.await;
    // The node restarts between the decision and the deed: the operating system brings the instance up.
    agent.kill().await;
    farm.instance.remove("hang-admit");
    farm.instance.boot();
    let agent = farm.start().await;
    leader.reconnect(&farm, &agent);
    assert!(!leader.describe().await.held_offline);
    leader.answer(Work::AdmitInstance).await;
    assert_eq!(farm.instance.state(), "online");
    assert_eq!(farm.instance.calls("offline"), 1);
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_assignment_goes_on_where_it_was() {
    let farm = Farm::new().await;
    let mut agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    let lease = rotation::LeaseNumber::new(1);
    let direction = rotation::Direction::Forward;
    let shards = leader.read_plan().shards;
    let mut works = vec![Work::StoreKey, Work::TakeOffline, Work::FenceDatabase];
    works.extend(shards.iter().map(|shard| Work::ReencryptShard {
        shard: shard.clone(),
        lease,
        direction,
        rows_per_second: None,
    }));
    works.extend(shards.iter().map(|shard| Work::VerifyShard {
        shard: shard.clone(),
        lease,
        direction,
        rows_per_second: None,
    }));
    works.extend([
        Work::ActivateKey { at: ACTIVATED_AT },
        Work::StartInstance { key: farm.new.id() },
        Work::AdmitInstance,
    ]);
    let mut phase = None;
    for work in works {
        if phase.replace(work.kind()) != Some(work.kind()) {
            leader.next_phase();
        }
        if matches!(work, Work::StartInstance { .. }) {
            leader.let_in().await;
        }
        // Sent and never heard of: how far it came before the kill is chance, and must not matter.
        let reports = leader.send(work.clone()).await.unwrap();
        agent.kill().await;
        drop(reports);
        agent = farm.start().await;
        leader.reconnect(&farm, &agent);
        let first = leader.answer(work.clone()).await;
        // And answered, with the answer lost in another restart.
        agent.kill().await;
        agent = farm.start().await;
        leader.reconnect(&farm, &agent);
        assert_eq!(leader.answer(work).await, first);
    }
    farm.assert_rows_under(&farm.new).await;
    assert_eq!(farm.instance.state(), "online");
    assert_eq!(farm.instance.application_files(), ["encryption.20231114-221320.config", "encryption.config"]);
}

#[tokio::test]
async fn a_store_that_was_copied_from_another_machine_says_so_and_opens_nothing() {
    let farm = Farm::new().await;
    farm.instance.write("machine-id", "ffffffffffffffffffffffffffffffff\n");
    let agent = farm.start().await;
    let mut leader = Leader::enrolled(&farm, &agent).await;
    leader.next_phase();
    let fault = leader.ask(Work::Inspect).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::KeyStore, "{fault}");
    assert!(fault.message.contains("another"), "{fault}");
    assert_eq!(leader.describe().await.current_key, "");
}

/// So it takes as long with ten thousand rows as with none, and a database that is down keeps no instance from being held.
#[tokio::test]
async fn an_agent_starts_without_reading_the_database() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    agent.kill().await;
    let (database, aside) = (farm.path().join("vault.db"), farm.path().join("aside"));
    std::fs::rename(&database, &aside).unwrap();
    farm.instance.boot();
    let offline = farm.instance.listen("tell-offline");
    let agent = farm.start().await;
    leader.reconnect(&farm, &agent);
    offline.await;
    let described = leader.describe().await;
    assert_eq!(described.current_key, farm.old.id().to_string());
    assert!(described.held_offline);
    assert!(!database.exists(), "nor is another one made");
    std::fs::rename(&aside, &database).unwrap();
    leader.next_phase();
    leader.answer(Work::FenceDatabase).await;
}

#[tokio::test]
async fn two_agents_do_not_share_a_state_folder() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    // It answers, so it has the folder.
    Leader::new(&farm, &agent).describe().await;
    let error = farm.start().await.refusal().await;
    assert!(matches!(error, agent::RunError::StateDirInUse { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused_at_the_start() {
    let farm = Farm::new().await;
    farm.tls(wire::pki::Role::Agent, "node-2");
    let config = farm.path().join("agent.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("agent-node-1.", "agent-node-2.");
    std::fs::write(&config, text).unwrap();
    let error = farm.start().await.refusal().await.to_string();
    assert!(error.contains("keyturn pki issue agent node-1"), "{error}");
}

#[tokio::test]
async fn a_broken_fence_file_stops_the_agent() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    Leader::enrolled(&farm, &agent).await;
    agent.stop().await;
    std::fs::write(farm.path().join("state/fence.json"), "").unwrap();
    let error = farm.start().await.refusal().await;
    assert!(matches!(error, agent::RunError::State(_)), "{error}");
}
