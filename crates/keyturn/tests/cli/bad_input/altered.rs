//! A Start whose statement is for another plan, or is not what was signed. What agents refuse of a coordinator that
//! alters the plan on its way to them stands in the agent's own tests, `authority.rs`.

use rotation::{Authorization, Plan, Statement};

use super::Snapshot;
use super::by_hand::{identity, plan, sign, start};
use crate::vault::VaultFarm;

#[test]
fn a_start_that_is_not_for_this_very_plan_is_refused() {
    let vault = VaultFarm::new(2);
    vault.rotation(&["plan"]).done();
    let before = Snapshot::of(&vault);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let alice = identity(&vault, "operator-alice");
    let plan = runtime.block_on(plan(&vault, &alice));
    let whole = sign(&vault, &alice, &plan, |_| {});

    let altered = |change: fn(&mut Plan)| {
        let mut other = plan.clone();
        change(&mut other);
        sign(&vault, &alice, &other, |_| {})
    };
    let other_words = |change: fn(&mut Statement)| sign(&vault, &alice, &plan, change);
    let bent = |change: fn(&mut Authorization)| {
        let mut bent = whole.clone();
        change(&mut bent);
        bent
    };
    let first = plan.nodes.keys().next().expect("a node").clone();
    let swapped = Authorization { sealed: sign(&vault, &alice, &plan, |_| {}).sealed, ..whole.clone() };
    let cases = [
        ("PLAN_DIFFERS", "digest", altered(|plan| drop(plan.shards.pop()))),
        ("PLAN_DIFFERS", "digest", altered(|plan| plan.downtime_forecast_ms += 1)),
        ("PLAN_DIFFERS", "digest", other_words(|statement| statement.plan_digest = rotation::Digest::new([7; 32]))),
        ("PLAN_DIFFERS", "other nodes", other_words(|statement| drop(statement.nodes.pop_last()))),
        ("PLAN_DIFFERS", "farm", other_words(|statement| statement.farm = "elsewhere".to_owned())),
        ("SAME_KEY", "same key in and out", other_words(|statement| statement.new_key = statement.old_key)),
        ("SIGNATURE", "not signed by an operator", bent(|whole| whole.signature[10] ^= 1)),
        ("SIGNATURE", "not signed by an operator", bent(|whole| whole.statement.push(b' '))),
        ("SEALED_BUNDLE", first.as_str(), swapped),
        ("SIGNATURE", "viewer", sign(&vault, &identity(&vault, "viewer-victor"), &plan, |_| {})),
    ];
    for (reason, said, authorization) in &cases {
        let status = runtime.block_on(start(&vault, &alice, &plan, authorization)).expect_err(said);
        let problem = wire::status::problem(&status).expect("it says why");
        assert_eq!(problem.reason, *reason, "{status}");
        assert!(problem.message.contains(said) && !problem.next_step.is_empty(), "{said}: {problem:?}");
    }
    before.assert_unchanged(&vault);
    assert_eq!(vault.rotation(&["status", "-o", "json"]).json()["phase"], "approval", "nothing was started");

    // Had one of them been whole, it would have been obeyed.
    runtime.block_on(start(&vault, &alice, &plan, &whole)).expect("started");
    assert_eq!(vault.rotation(&["watch", "-o", "json"]).json()["outcome"], "completed");
}
