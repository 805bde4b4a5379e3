//! Nodes that must be equal and are not: current keys, `targets.toml`, databases.

use super::plan_refused;
use super::snapshot::alter_database;
use crate::sample_vault::TARGETS;
use crate::vault::VaultFarm;

const NEXT: &str = "make these nodes equal, then run `keyturn rotation plan` again";

#[test]
fn nodes_that_differ_are_refused_and_named() {
    let mut vault = VaultFarm::new(3);

    let store = vault.farm.path("node-2/store/encryption.config");
    let aside = vault.farm.path("aside");
    std::fs::rename(&store, &aside).expect("moved");
    vault.key(&["import", "--config", &vault.farm.path("node-2.toml"), "--bundle", &vault.farm.path("third")]).done();
    plan_refused(&vault, "nodes-disagree", &["the current key", "on node-1, node-3", "on node-2", NEXT]);
    std::fs::rename(&aside, &store).expect("moved back");

    vault.set_targets(2, &TARGETS.replace(", aad = \"user_vault_entries.password\"", ""));
    plan_refused(&vault, "nodes-disagree", &["targets.toml", "on node-1, node-2", "on node-3", NEXT]);
    vault.set_targets(2, TARGETS);

    // The same rows in another file: what one node turns the others would never see.
    alter_database(&vault, &format!("VACUUM INTO '{}'", vault.farm.path("copy.db")));
    let copy = std::fs::read(vault.farm.path("copy.db")).expect("a copy");
    vault.set_database(1, "copy.db");
    plan_refused(&vault, "nodes-disagree", &["the database", "inode", "on node-1, node-3", "on node-2", NEXT]);
    assert!(copy == std::fs::read(vault.farm.path("copy.db")).expect("a copy"), "the copy is as it was");
    vault.set_database(1, "vault.db");

    vault.turn();
}
