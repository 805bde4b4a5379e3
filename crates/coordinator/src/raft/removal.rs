//! How a replica that runs on after it was removed finds out, and then keeps still.
//!
//! The leader stops sending to it before it could hear of that, so to itself it is a member whose leader has died. It would
//! stand for election again and again. The others refuse it, and tell it when it asks.

use std::collections::BTreeMap;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Consensus;
use super::formation::Standing;
use super::timing::REMOVAL_INTERVAL;

/// Keeps `removed` true until stopped.
pub(super) async fn watch(consensus: Consensus, removed: watch::Sender<bool>, stop: CancellationToken) {
    let watching = async {
        let mut said = false;
        loop {
            sleep(REMOVAL_INTERVAL).await;
            let silent = silent(&consensus);
            if silent && !said && is_stranger(&consensus).await {
                said = true;
                tracing::warn!(
                    "the cluster exists, and this coordinator, {}, is no member of it; it waits to be added, under a \
                     number that was never used",
                    consensus.id
                );
            }
            let is = silent && was_removed(&consensus).await;
            let changed = removed.send_if_modified(|was| std::mem::replace(was, is) != is);
            if changed && is {
                consensus.raft.runtime_config().elect(false);
                tracing::error!(
                    "this coordinator, {}, was removed from the cluster and does nothing any more; \
                     stop it and delete its data_dir",
                    consensus.id
                );
            } else if changed {
                tracing::info!("this coordinator is a member again");
                consensus.raft.runtime_config().elect(*consensus.membership.standing().borrow() == Standing::Voter);
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = watching => {}
    }
}

/// Whether this replica neither leads nor hears a leader.
fn silent(consensus: &Consensus) -> bool {
    !consensus.heard.within(consensus.timing.leader_silence_max())
        && !consensus.raft.metrics().borrow().state.is_leader()
}

/// Whether this replica has no log, and those that its configuration names have one, without it.
async fn is_stranger(consensus: &Consensus) -> bool {
    let founded = consensus.raft.is_initialized().await.unwrap_or(true);
    !founded && any_says_so(consensus, consensus.peers.configured().clone(), 0).await
}

/// Asks the others; one that knows of a later membership is enough, since what is committed stays so.
async fn was_removed(consensus: &Consensus) -> bool {
    let known = consensus.raft.with_raft_state(|state| state.membership_state.committed().clone()).await;
    // Without a membership it is new, and waits to be added.
    let Some((known, log_id)) = known.ok().and_then(|known| (*known.log_id()).map(|log_id| (known, log_id))) else {
        return false;
    };
    let is_member = known.get_node(&consensus.id).is_some();
    let since = if is_member { log_id.index + 1 } else { log_id.index };
    let mut others = consensus.peers.configured().clone();
    others.extend(known.nodes().map(|(id, node)| (*id, node.addr.clone())));
    any_says_so(consensus, others, since).await
}

/// Whether any of the others knows a committed membership of that index or a later one without this replica.
async fn any_says_so(consensus: &Consensus, mut others: BTreeMap<u64, String>, since: u64) -> bool {
    others.remove(&consensus.id);
    let asked = others.iter().map(|(id, address)| consensus.peers.probe(*id, address, since));
    join_all(asked).await.into_iter().flatten().any(|answer| answer.removed)
}
