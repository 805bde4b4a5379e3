//! Keeps a held instance from running for clients: after the node restarted, or when somebody started it by hand.

use std::sync::Arc;
use std::time::Duration;

use rotation::Fault;
use tokio_util::sync::CancellationToken;

use crate::instance::Condition;
use crate::node::Node;
use crate::registry::Ticket;

/// How often a held instance is looked at. An application that starts by itself is up for no longer than this.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks after the instance until cancelled.
pub(crate) async fn keep_held(node: Arc<Node>, cancel: CancellationToken) {
    loop {
        if let Err(fault) = look(&node, &cancel).await {
            tracing::warn!("holding the instance offline: {}; {}", fault.message, fault.next_step);
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(node: &Node, cancel: &CancellationToken) -> Result<(), Fault> {
    // An assignment at work on the instance knows what it does.
    let Ok(_turn) = node.turn.try_lock() else { return Ok(()) };
    let Some(held) = node.memory().held.get().cloned() else { return Ok(()) };
    let condition = node.instance.observe(cancel).await?;
    if may_stay(condition, node.proved(held.rotation).is_some()) {
        return Ok(());
    }
    tracing::warn!(
        rotation = %held.rotation,
        "the instance is {} although it is held for a rotation: taking it offline",
        condition.as_str()
    );
    node.instance.take_offline(&Ticket::unwatched(cancel.clone())).await
}

/// A held instance must be offline, or, once it proved its key, running without clients.
fn may_stay(condition: Condition, proved: bool) -> bool {
    match condition {
        Condition::Offline => true,
        Condition::Started | Condition::Drained => proved,
        Condition::Online => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_instance_runs_only_when_proved_and_without_clients() {
        assert!(may_stay(Condition::Offline, false));
        assert!(may_stay(Condition::Started, true));
        assert!(!may_stay(Condition::Started, false));
        assert!(!may_stay(Condition::Online, true));
    }
}
