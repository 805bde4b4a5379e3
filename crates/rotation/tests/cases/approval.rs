//! Approval: only the word of an operator that fits the plan starts a rotation, and only once.

use rotation::{Authorization, KeyId, Phase, Rejection, RejectionCode, Statement};

use crate::support::{Farm, NEW, OLD, authorization, check, hash, node, rotation_id, statement};

/// Starts with a statement as `change` has it, which must be refused.
fn refuse(change: impl FnOnce(&mut Statement)) -> Rejection {
    refuse_authorization(|signed, statement| {
        change(statement);
        signed.statement = statement.to_bytes();
    })
}

fn refuse_authorization(change: impl FnOnce(&mut Authorization, &mut Statement)) -> Rejection {
    let mut farm = Farm::at(2, Phase::Approval);
    let mut statement = statement(farm.plan(), NEW);
    let mut signed = authorization(&statement);
    change(&mut signed, &mut statement);
    let rejection = farm.refused(farm.start_event(signed));
    check(&farm, "forward:approval", &[]);
    rejection
}

#[test]
fn a_fitting_statement_starts_it() {
    let mut farm = Farm::at(2, Phase::Approval);
    farm.start();
    check(&farm, "forward:distribute", &["node-1 store-key", "node-2 store-key"]);
    assert_eq!(farm.rotation().old_key(), Some(OLD));
    assert_eq!(farm.rotation().new_key(), Some(NEW));
}

#[test]
fn a_plan_that_was_altered_is_refused() {
    let rejection = refuse(|statement| statement.plan_digest = hash("another plan"));
    assert_eq!(rejection.code, RejectionCode::PlanDiffers);
    assert!(rejection.message.contains("digest"));
}

#[test]
fn the_same_key_in_and_out_is_refused() {
    let rejection = refuse(|statement| statement.new_key = OLD);
    assert_eq!(rejection.code, RejectionCode::SameKey);
    assert!(rejection.message.contains("same key"));
}

#[test]
fn another_current_key_is_refused() {
    assert_eq!(refuse(|statement| statement.old_key = KeyId::new([9; 16])).code, RejectionCode::PlanDiffers);
}

#[test]
fn another_farm_is_refused() {
    let rejection = refuse(|statement| statement.farm = "production".to_owned());
    assert_eq!(rejection.code, RejectionCode::PlanDiffers);
    assert!(rejection.message.contains("production"));
}

#[test]
fn another_rotation_is_refused() {
    assert_eq!(refuse(|statement| statement.rotation = rotation_id(9)).code, RejectionCode::PlanDiffers);
}

#[test]
fn a_node_too_few_or_too_many_is_refused() {
    let rejection = refuse(|statement| {
        statement.nodes.remove(&node(2));
    });
    assert_eq!(rejection.code, RejectionCode::PlanDiffers);
    let rejection = refuse(|statement| {
        let grant = statement.nodes[&node(1)].clone();
        statement.nodes.insert(node(3), grant);
    });
    assert_eq!(rejection.code, RejectionCode::PlanDiffers);
}

#[test]
fn another_recipient_key_is_refused_and_its_node_named() {
    let rejection = refuse(|statement| {
        statement.nodes.get_mut(&node(2)).expect("in the plan").recipient_key = "an intruder's".to_owned();
    });
    assert_eq!(rejection.code, RejectionCode::PlanDiffers);
    assert!(rejection.message.contains("node-2"));
}

#[test]
fn a_bundle_that_was_not_signed_is_refused_and_its_node_named() {
    let rejection = refuse_authorization(|signed, _| {
        signed.sealed.insert(node(1), b"something else".to_vec());
    });
    assert_eq!(rejection.code, RejectionCode::SealedBundle);
    assert!(rejection.message.contains("node-1"));
}

#[test]
fn a_missing_or_superfluous_bundle_is_refused() {
    let missing = refuse_authorization(|signed, _| {
        signed.sealed.remove(&node(1));
    });
    assert_eq!(missing.code, RejectionCode::SealedBundle);
    let superfluous = refuse_authorization(|signed, _| {
        signed.sealed.insert(node(3), Vec::new());
    });
    assert_eq!(superfluous.code, RejectionCode::SealedBundle);
}

#[test]
fn a_huge_bundle_is_refused() {
    let rejection = refuse_authorization(|signed, statement| {
        let huge = vec![0; 64 * 1024 + 1];
        let grant = statement.nodes.get_mut(&node(1)).expect("in the plan");
        grant.sealed_digest = rotation::Digest::new(*blake3::hash(&huge).as_bytes());
        signed.sealed.insert(node(1), huge);
        signed.statement = statement.to_bytes();
    });
    assert_eq!(rejection.code, RejectionCode::SealedBundle);
}

#[test]
fn an_unreadable_statement_is_refused() {
    let rejection = refuse_authorization(|signed, _| signed.statement.truncate(10));
    assert_eq!(rejection.code, RejectionCode::Statement);
}

#[test]
fn a_statement_of_another_format_is_refused() {
    assert_eq!(refuse(|statement| statement.format = 2).code, RejectionCode::Statement);
}

#[test]
fn the_same_start_again_changes_nothing_and_another_is_refused() {
    let mut farm = Farm::at(2, Phase::Distribute);
    assert_eq!(farm.start(), rotation::Outcome::Unchanged);
    let other = authorization(&statement(farm.plan(), KeyId::new([3; 16])));
    assert_eq!(farm.refused(farm.start_event(other.clone())).code, RejectionCode::AlreadyStarted);
    farm.go_on();
    check(&farm, "ended:completed", &[]);
    assert_eq!(farm.start(), rotation::Outcome::Unchanged);
    assert_eq!(farm.refused(farm.start_event(other)).code, RejectionCode::AlreadyStarted);
}

#[test]
fn a_start_before_there_is_a_plan_or_after_a_withdrawal_is_refused() {
    let signed = authorization(&statement(Farm::at(2, Phase::Approval).plan(), NEW));
    let mut farm = Farm::requested(2);
    assert_eq!(farm.refused(farm.start_event(signed.clone())).code, RejectionCode::WrongPhase);
    farm.abort();
    assert_eq!(farm.refused(farm.start_event(signed)).code, RejectionCode::WrongPhase);
}
