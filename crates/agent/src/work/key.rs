//! Work on the key store: the new key is stored pending, made current, put away again. What is there is judged by
//! key id, never by a file's name or time.

use keys::sealed::SealContext;
use keys::{KeySet, SecretKey, possession};
use rotation::{Answer, Fault, FaultCode, KeyId, Millis};

use super::{Signed, refused};
use crate::clock;
use crate::fault::{chain, fault};
use crate::node::{Node, store_fault};

/// The earliest time that a file may be dated with: 2020-01-01. Nothing of this kind is older.
const ACTIVATED_EARLIEST: Millis = Millis::new(1_577_836_800_000);
/// How far the leader's clock may be ahead of this node's. A date further off would hide the file among others.
const ACTIVATED_AHEAD_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

pub(super) async fn store(signed: Signed<'_>) -> Result<Answer, Fault> {
    let Signed { node, assignment, grant, .. } = &signed;
    let (old, new) = (grant.statement.old_key, grant.statement.new_key);
    super::backup::check_named(node, &grant.plan)?;
    let current = node.current_keys()?;
    let stored = match node.pending_keys()? {
        Some(pending) if pending.active().secret.id() == new => Some(pending),
        _ if current.active().secret.id() == new => Some(current.clone()),
        Some(_) | None => None,
    };
    let keys = match stored {
        Some(keys) => keys,
        None => {
            expect_key(&current, &[old], "store a new key")?;
            let opened = open_bundle(&signed, &current.active().secret)?;
            let pending = current.promote(opened.active().clone(), clock::now().get());
            signed.ticket.still_wanted()?;
            node.store
                .put_pending(&assignment.rotation, &pending)
                .map_err(|error| store_fault("storing the new key pending", &error))?;
            pending
        }
    };
    // Only now: a crash before this leaves the bundle openable, one after it finds the key stored.
    node.store
        .delete_recipient(&node.state_dir, &assignment.rotation)
        .map_err(|error| store_fault("deleting the recipient key", &error))?;
    let possession = possession::proof(&keys.active().secret, &assignment.rotation, &node.id);
    Ok(Answer::KeyStored { possession })
}

/// `current` is the farm's current key; only who holds it can have sealed the bundle.
fn open_bundle(signed: &Signed<'_>, current: &SecretKey) -> Result<KeySet, Fault> {
    let Signed { node, assignment, grant, .. } = signed;
    let bundle_fault = |message: String, next_step: &str| fault(FaultCode::Bundle, message, next_step);
    let recipient = node
        .store
        .recipient(&node.state_dir, &assignment.rotation)
        .map_err(|error| store_fault("reading the recipient key of this rotation", &error))?;
    let planned = grant.plan.nodes.get(&node.id).map(|planned| planned.recipient_key.as_str());
    let recipient = recipient.filter(|key| Some(key.public_hex().as_str()) == planned).ok_or_else(|| {
        bundle_fault(
            "this node does not have the recipient key that the bundle was sealed to".to_owned(),
            "abort the rotation and plan it again: the node makes a new recipient key",
        )
    })?;
    let context = SealContext {
        farm: node.farm.clone(),
        rotation: assignment.rotation,
        node: node.id.clone(),
        plan_digest: grant.plan_digest,
        old_key: grant.statement.old_key,
        new_key: grant.statement.new_key,
    };
    recipient
        .open(grant.sealed.as_deref().unwrap_or_default(), current, &context)
        .map_err(|error| bundle_fault(chain("opening the sealed bundle", &error), error.next_step()))
}

pub(super) async fn activate(signed: Signed<'_>, at: Millis) -> Result<Answer, Fault> {
    let Signed { node, assignment, grant, ticket } = &signed;
    let (old, new) = (grant.statement.old_key, grant.statement.new_key);
    let current = node.current_keys()?;
    if current.active().secret.id() == new {
        return Ok(Answer::KeyActivated { key: new });
    }
    if at < ACTIVATED_EARLIEST || at.since(clock::now()) > ACTIVATED_AHEAD_MS_MAX {
        return Err(fault(
            FaultCode::AssignmentRefused,
            format!("asked to date the old encryption.config with {at} ms since 1970, which is no time near now"),
            "set the clocks of the coordinators and of this node",
        ));
    }
    expect_key(&current, &[old], "activate the new key")?;
    signed.needs_held("activate the new key")?;
    let pending = node.pending_keys()?.map(|pending| pending.active().secret.id());
    if pending != Some(new) {
        let holds = pending.map_or("none".to_owned(), |key| format!("key {key}"));
        return Err(refused(&format!("asked to activate key {new}, but the pending key is {holds}")));
    }
    ticket.still_wanted()?;
    let key = node
        .store
        .activate(&assignment.rotation, new, at.get())
        .map_err(|error| store_fault("making the new key current", &error))?;
    Ok(Answer::KeyActivated { key })
}

pub(super) async fn restore(signed: Signed<'_>) -> Result<Answer, Fault> {
    let Signed { node, assignment, grant, ticket } = &signed;
    let (old, new) = (grant.statement.old_key, grant.statement.new_key);
    let current = node.current_keys()?;
    if current.active().secret.id() == old {
        return Ok(Answer::KeyRestored { key: old });
    }
    expect_key(&current, &[new], "put the previous key back")?;
    signed.needs_held("put the previous key back")?;
    ticket.still_wanted()?;
    // Rows are still under the new key, and this node may have to turn them back: it goes back to pending first.
    node.store
        .set_aside(&assignment.rotation)
        .map_err(|error| store_fault("keeping the new key until the rows are back", &error))?;
    ticket.still_wanted()?;
    let key =
        node.store.restore(old).map_err(|error| store_fault("putting the previous encryption.config back", &error))?;
    Ok(Answer::KeyRestored { key })
}

pub(super) async fn discard(signed: Signed<'_>) -> Result<Answer, Fault> {
    let Signed { node, assignment, grant, ticket } = &signed;
    expect_key(&node.current_keys()?, &[grant.statement.old_key], "discard the new key")?;
    // A pending key of another rotation is none of this one's business.
    if node.pending_keys()?.is_some_and(|pending| pending.active().secret.id() == grant.statement.new_key) {
        if node.was_held_for(assignment.rotation) {
            signed.needs_database().await?;
            signed.needs_undo_kept("discard the new key").await?;
            signed.needs_rows_back("discard the new key").await?;
        }
        ticket.still_wanted()?;
        node.store.discard_pending().map_err(|error| store_fault("discarding the pending key", &error))?;
    }
    node.store
        .delete_recipient(&node.state_dir, &assignment.rotation)
        .map_err(|error| store_fault("deleting the recipient key", &error))?;
    Ok(Answer::KeyDiscarded)
}

/// The active key must be one of these.
pub(super) fn expect_key(keys: &KeySet, expected: &[KeyId], to: &str) -> Result<(), Fault> {
    let found = keys.active().secret.id();
    if expected.contains(&found) {
        return Ok(());
    }
    let expected = expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    Err(fault(
        FaultCode::KeyStore,
        format!("asked to {to}, but this node's key there is {found}, and the signed plan says {expected}"),
        "find out who changed this node's encryption.config, put the right one back, and retry",
    ))
}

/// The key with this id, wherever the store has it.
pub(super) fn find_key(node: &Node, id: KeyId) -> Result<SecretKey, Fault> {
    let in_set = |keys: KeySet| keys.find(id).map(|entry| entry.secret.clone());
    if let Some(found) = in_set(node.current_keys()?) {
        return Ok(found);
    }
    node.pending_keys()?.and_then(in_set).ok_or_else(|| {
        fault(
            FaultCode::KeyStore,
            format!("this node's store holds key {id} neither as current nor as pending"),
            "take the node out of the rotation, or import the bundle that holds the key",
        )
    })
}
