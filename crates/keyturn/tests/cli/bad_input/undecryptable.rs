//! Rows that open under no known key: refused by name, and left alone when an operator accepts them as they are.

use serde_json::Value;

use super::plan_refused;
use super::snapshot::{Snapshot, alter_database};
use crate::vault::{ROWS, VaultFarm};

const GARBAGE: &str = "X'00112233'";

#[test]
fn an_undecryptable_row_is_named_and_stays_as_it_is_when_accepted() {
    let vault = VaultFarm::new(2);
    alter_database(&vault, &format!("UPDATE connections SET credentials = {GARBAGE} WHERE id = -91"));
    alter_database(&vault, "UPDATE documentation SET body = 'no base64!' WHERE slug = 'How-to-0'");
    plan_refused(
        &vault,
        "undecryptable",
        &["2 values", "connections.credentials at [\"i:-91\"]", "documentation.body at [\"t:How-to-0\"]", "--accept"],
    );

    // One of the two is not enough, and other bytes are other values.
    let mut list = undecryptable(&vault);
    let first = list[0].take();
    accept(&vault, &Value::Array(vec![first]));
    let refused = vault.rotation(&["plan", "--accept", &vault.farm.path("accepted")]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("1 value opens under no known key: documentation.body"), "{}", refused.stderr);
    accept(&vault, &undecryptable(&vault));
    alter_database(&vault, "UPDATE connections SET credentials = X'44' WHERE id = -91");
    let refused = vault.rotation(&["plan", "--accept", &vault.farm.path("accepted")]);
    assert!(refused.stderr.contains("connections.credentials at [\"i:-91\"]"), "{}", refused.stderr);
    alter_database(&vault, &format!("UPDATE connections SET credentials = {GARBAGE} WHERE id = -91"));

    let before = Snapshot::of(&vault);
    let planned = vault.rotation(&["plan", "--accept", &vault.farm.path("accepted")]).done();
    assert!(planned.contains("connections.credentials") && planned.contains("yes"), "{planned}");
    vault.turn();
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["adds_up"], &report["rows_verified"]), (&true.into(), &ROWS.into()), "{report}");
    let after = Snapshot::of(&vault);
    let kept = |table: &str| before.tables[table].iter().filter(|row| after.tables[table].contains(row)).count();
    assert!(after.tables["connections"].iter().any(|row| row.starts_with("-91, ") && row.ends_with(GARBAGE)));
    assert!(after.tables["documentation"].iter().any(|row| row.contains("'no base64!'")));
    assert!(kept("connections") < before.tables["connections"].len() / 2, "the others were turned");
}

/// What the last plan found.
fn undecryptable(vault: &VaultFarm) -> Value {
    let ran = vault.rotation(&["plan", "-o", "json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    serde_json::from_str::<Value>(&ran.stdout).expect("JSON, although it is refused")["undecryptable"].take()
}

fn accept(vault: &VaultFarm, list: &Value) {
    vault.farm.write("accepted", &list.to_string());
}
