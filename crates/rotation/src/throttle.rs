//! The throttle: how many rows per second the farm may work on, and each shard's share of it.

use crate::commands::{find, wrong_phase};
use crate::run::Run;
use crate::{Millis, Outcome, Rejection, RejectionCode, RotationId, State, estimate, lease};

/// Bounds the work on rows, or takes the bound away. Shards under way are leased anew with their new share; the engine
/// goes on from the ledger's cursor, so nothing is done twice.
pub(crate) fn request(
    state: &mut State,
    now: Millis,
    id: RotationId,
    rows_per_second: Option<u32>,
) -> Result<Outcome, Rejection> {
    let rotation = find(state, id)?;
    if rotation.has_ended() {
        return Err(wrong_phase(rotation, "throttled"));
    }
    if rows_per_second == Some(0) {
        return Err(Rejection::new(
            RejectionCode::Throttle,
            "a rotation cannot be throttled to no rows at all",
            "give at least 1 row per second, or pause it with `keyturn rotation pause`",
        ));
    }
    if rotation.throttle == rows_per_second {
        return Ok(Outcome::Unchanged);
    }
    if let Some(mut run) = Run::of(state, id, now) {
        estimate::measure_anew(run.rotation, now);
        run.rotation.throttle = rows_per_second;
        lease::renew(&mut run);
    }
    Ok(Outcome::Changed)
}

/// One shard's share when so many are worked on at once. Never nothing: a shard that stands still would lose its lease.
pub(crate) fn share(throttle: Option<u32>, shards_at_once: usize) -> Option<u32> {
    let parts = u32::try_from(shards_at_once).unwrap_or(u32::MAX).max(1);
    throttle.map(|limit| (limit / parts).max(1))
}
