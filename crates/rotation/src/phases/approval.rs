//! Approval: the operator's signed statement is held against the plan, word for word. The coordinator has checked the
//! signature; every agent checks it again.

use crate::limits::SEALED_BYTES_MAX;
use crate::{Authorization, Digest, Plan, Rejection, RejectionCode, Rotation, Statement};

const PLAN_AGAIN: &str = "read the plan again with `keyturn rotation status`, and start with what it says";

/// Whether this authorization fits this rotation's plan.
pub(crate) fn check(farm: &str, rotation: &Rotation, authorization: &Authorization) -> Result<(), Rejection> {
    let statement = authorization.read_statement().map_err(|error| {
        Rejection::new(
            RejectionCode::Statement,
            format!("the signed statement cannot be read: {error}"),
            "start with `keyturn rotation start` of the coordinators' release",
        )
    })?;
    if statement.format != Statement::FORMAT {
        return Err(Rejection::new(
            RejectionCode::Statement,
            format!("the statement has format {}, and this release reads {}", statement.format, Statement::FORMAT),
            "start with `keyturn rotation start` of the coordinators' release",
        ));
    }
    let (Some(plan), Some(plan_digest)) = (&rotation.plan, rotation.plan_digest) else {
        return Err(Rejection::new(
            RejectionCode::WrongPhase,
            format!("rotation {} has no plan", rotation.id),
            "wait until preflight is over",
        ));
    };
    check_plan(farm, rotation, plan, plan_digest, &statement)?;
    check_bundles(&statement, authorization)
}

fn check_plan(
    farm: &str,
    rotation: &Rotation,
    plan: &Plan,
    plan_digest: Digest,
    statement: &Statement,
) -> Result<(), Rejection> {
    let differs = |message: String| Err(Rejection::new(RejectionCode::PlanDiffers, message, PLAN_AGAIN));
    if statement.farm != farm {
        return differs(format!("the statement is for farm {:?}, and this is {farm:?}", statement.farm));
    }
    if statement.rotation != rotation.id {
        return differs(format!("the statement is for rotation {}, and this is {}", statement.rotation, rotation.id));
    }
    if statement.plan_digest != plan_digest {
        return differs(format!(
            "the statement is for a plan of digest {}, and the plan has {plan_digest}",
            statement.plan_digest
        ));
    }
    if !plan.nodes.keys().eq(statement.nodes.keys()) {
        return differs("the statement names other nodes than the plan".to_owned());
    }
    for (node, planned) in &plan.nodes {
        if statement.old_key != planned.current_key {
            return differs(format!(
                "the statement turns away from key {}, and {node} holds {}",
                statement.old_key, planned.current_key
            ));
        }
        if statement.nodes.get(node).is_none_or(|grant| grant.recipient_key != planned.recipient_key) {
            return differs(format!("the bundle of {node} is sealed to another recipient key than the plan's"));
        }
    }
    if statement.new_key == statement.old_key {
        return Err(Rejection::new(
            RejectionCode::SameKey,
            format!("same key in and out: the new bundle holds {}, the key that the farm has", statement.new_key),
            "generate a new key with `keyturn key generate` and start with its bundle",
        ));
    }
    Ok(())
}

fn check_bundles(statement: &Statement, authorization: &Authorization) -> Result<(), Rejection> {
    let wrong = |message: String| {
        Err(Rejection::new(
            RejectionCode::SealedBundle,
            message,
            "run `keyturn rotation start` again, which seals the bundle anew",
        ))
    };
    if !authorization.sealed.keys().eq(statement.nodes.keys()) {
        return wrong("there is not exactly one sealed bundle for each node of the statement".to_owned());
    }
    for (node, sealed) in &authorization.sealed {
        if sealed.len() > SEALED_BYTES_MAX {
            return wrong(format!(
                "the sealed bundle of {node} has {} bytes, and may have {SEALED_BYTES_MAX}",
                sealed.len()
            ));
        }
        let digest = Digest::new(*blake3::hash(sealed).as_bytes());
        if statement.nodes.get(node).is_none_or(|grant| grant.sealed_digest != digest) {
            return wrong(format!("the sealed bundle of {node} is not the one that was signed"));
        }
    }
    Ok(())
}
