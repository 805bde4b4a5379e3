//! The example configurations are valid, so that whoever begins with one begins with something that works.

use std::path::PathBuf;

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(name)
}

#[test]
fn the_coordinator_example() {
    let config = coordinator::Config::load(&example("coordinator.toml")).expect("valid");
    assert_eq!((config.id, config.farm.as_str(), config.replicas.len()), (1, "demo", 3));
}

#[test]
fn the_agent_example() {
    let config = agent::Config::load(&example("agent.toml")).expect("valid");
    assert_eq!((config.node.as_str(), config.farm.as_str()), ("node-1", "demo"));
    assert_eq!(config.database.application_role.as_deref(), Some("vault_app"));
    assert_eq!(config.database.targets, example("targets.toml"));
}

#[test]
fn the_targets_example() {
    let targets = reencrypt::Targets::load(&example("targets.toml")).expect("valid");
    assert_eq!(targets.tables().len(), 2);
}
