//! Tables that do not exist, lack a column, or have no primary key.

use super::plan_refused;
use super::snapshot::alter_database;
use crate::sample_vault::TARGETS;
use crate::vault::VaultFarm;

#[test]
fn tables_and_columns_that_cannot_be_turned_are_refused_by_name() {
    let mut vault = VaultFarm::new(2);
    alter_database(&vault, "CREATE TABLE keyless (id INTEGER, secret TEXT); INSERT INTO keyless VALUES (1, NULL)");
    for (table, key, column, said) in [
        ("nowhere", "id", "secret", "table nowhere does not exist"),
        ("connections", "id", "secret", "table connections has no column \"secret\""),
        ("connections", "number", "credentials", "table connections has no column \"number\""),
        ("keyless", "id", "secret", "table keyless has no primary key"),
    ] {
        let targets = format!(
            "version = 1\n[[table]]\nname = \"{table}\"\nkey = [\"{key}\"]\ncolumn = [{{ name = \"{column}\" }}]"
        );
        set_targets(&mut vault, &targets);
        plan_refused(&vault, "targets", &[said, "on node-1", "on node-2", "correct targets.toml on every node"]);
    }
    set_targets(&mut vault, TARGETS);
    vault.turn();
}

fn set_targets(vault: &mut VaultFarm, targets: &str) {
    for number in 0..vault.names().count() {
        vault.set_targets(number, targets);
    }
}
