//! A throttle changes how fast rows are worked on, and nothing else: not where the rotation stands, not who works on which
//! shard, not what was found.

use proptest::prelude::*;
use rotation::{Event, State};

use crate::world::{World, config, scripts};

/// The state without what a throttle is about: the bound, the leases' numbers, times and shares, and the measure of
/// the speed.
fn without_speed(state: &State) -> State {
    let mut state = state.clone();
    state.now = rotation::Millis::new(0);
    for rotation in state.rotations.values_mut() {
        rotation.throttle = None;
        rotation.pace = rotation::Pace::default();
        for shard in rotation.shards.values_mut() {
            shard.leases = rotation::LeaseNumber::new(0);
            if let Some(lease) = &mut shard.lease {
                (lease.number, lease.since, lease.rows_per_second) = (shard.leases, rotation::Millis::new(0), None);
            }
        }
    }
    state
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn throttle_changes_no_work(script in scripts()) {
        World::play(&script, |world, applied| {
            for entry in applied.iter().filter(|entry| matches!(entry.entry.event, Event::ThrottleRequested { .. })) {
                assert_eq!(without_speed(&entry.before), without_speed(&world.state), "{:?}", entry.entry.event);
            }
            for rotation in world.state.rotations.values() {
                let shares: Vec<u32> = rotation
                    .shards
                    .values()
                    .filter_map(|shard| shard.lease.as_ref()?.rows_per_second)
                    .collect();
                let limit = rotation.throttle.unwrap_or(0) as usize;
                let sum: usize = shares.iter().map(|share| *share as usize).sum();
                assert!(shares.iter().all(|share| *share >= 1));
                // A share is at least one row, so that nobody stands still for ever.
                assert!(sum <= limit.max(shares.len()), "{shares:?} of {limit}");
            }
        });
    }
}
