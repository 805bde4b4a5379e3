//! Work on the instance: offline and held so, started and proved, admitted.

use reencrypt::NoteKind;
use rotation::{Answer, Fault, FaultCode, KeyId};

use super::Signed;
use super::key::expect_key;
use crate::clock;
use crate::fault::{durable, fault, retryable};
use crate::instance::Condition;

pub(super) async fn take_offline(signed: Signed<'_>) -> Result<Answer, Fault> {
    let Signed { node, assignment, ticket, .. } = &signed;
    // The marker first: a node that restarts from here on keeps its instance offline.
    node.hold(assignment.rotation, clock::now())?;
    node.instance.take_offline(ticket).await?;
    Ok(Answer::WentOffline)
}

pub(super) async fn start(signed: Signed<'_>, key: KeyId) -> Result<Answer, Fault> {
    expect_key(&signed.node.current_keys()?, &[key], "start the instance")?;
    needs_rows_to_stay(&signed, key).await?;
    signed.node.set_proved(signed.assignment.rotation, None)?;
    start_and_prove(&signed, key).await?;
    Ok(Answer::InstanceStarted { key })
}

/// By the ledger rows must stay under the key with which the instance is about to be started.
async fn needs_rows_to_stay(signed: &Signed<'_>, key: KeyId) -> Result<(), Fault> {
    if key == signed.grant.statement.new_key {
        // For whoever recovers the farm by hand: this instance must be stopped before rows go back.
        signed.note(NoteKind::Started).await
    } else {
        signed.needs_undo_kept("start the instance").await
    }
}

async fn start_and_prove(signed: &Signed<'_>, key: KeyId) -> Result<(), Fault> {
    let Signed { node, assignment, ticket, .. } = signed;
    node.instance.start(ticket).await?;
    // An instance that was never taken offline in this rotation has its clients, and keeps them.
    let let_in = node.instance.observe(&ticket.cancel).await? == Condition::Online;
    if let_in && node.is_held_for(assignment.rotation) {
        return Err(retryable(
            FaultCode::Instance,
            "the instance lets clients in before it is admitted: what they write now could not be turned back",
            "let the start command of the agent's configuration start the instance and no more; it is taken offline",
        ));
    }
    node.instance.prove(&node.current_keys()?.active().secret, ticket).await?;
    ticket.still_wanted()?;
    node.set_proved(assignment.rotation, Some(key))
}

pub(super) async fn admit(signed: Signed<'_>) -> Result<Answer, Fault> {
    let Signed { node, assignment, grant, ticket } = &signed;
    let rotation = assignment.rotation;
    let keys = node.current_keys()?;
    let key = keys.active().secret.id();
    expect_key(&keys, &[grant.statement.old_key, grant.statement.new_key], "admit the instance")?;
    if node.proved(rotation) != Some(key) {
        return Err(fault(
            FaultCode::AssignmentRefused,
            format!("asked to admit an instance that did not prove key {key} in this rotation"),
            "have it started and proved first: keyturn rotation retry",
        ));
    }
    if node.instance.observe(&ticket.cancel).await? == Condition::Offline {
        // It stopped, or the node restarted, after it was proved. It may come back only with the same proof.
        needs_rows_to_stay(&signed, key).await?;
        start_and_prove(&signed, key).await?;
    }
    ticket.still_wanted()?;
    if key == grant.statement.new_key {
        // For whoever recovers the farm by hand: from here on nothing is undone. Refused once that has begun, and by a
        // database that lost what was done to it.
        signed.note(NoteKind::Admitted).await?;
    } else {
        signed.needs_undo_kept("admit the instance").await?;
    }
    {
        let mut memory = node.memory();
        if key == grant.statement.new_key {
            memory.pin.set_no_return(rotation).map_err(|error| durable(&error))?;
        }
        // Before the instance is admitted: a node that restarts in between must not take it offline again, when
        // nobody would bring it back. What it proved stays, so the work can be done again.
        memory.held.release().map_err(|error| durable(&error))?;
    }
    node.instance.admit(ticket).await?;
    Ok(Answer::InstanceAdmitted)
}
