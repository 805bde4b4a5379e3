//! A node whose agent does not answer.

use super::plan_refused;
use crate::vault::VaultFarm;

#[test]
fn a_node_that_cannot_be_reached_is_refused_by_name() {
    let mut vault = VaultFarm::new(2);
    vault.stop_agent(1);
    let next = "see that the agent on node-2 runs and that every coordinator reaches it";
    plan_refused(&vault, "node-unreachable", &["node-2 did not answer", next]);
    vault.start_agent(1);
    vault.turn();
}
