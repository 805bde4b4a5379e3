//! What is broken in a round, and when: drawn from a seed, so that a round can be had again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::demo::rotate::Strike;
use crate::faults::{Fault, Kind, PHASES};

/// Out of a hundred rounds so many go undisturbed: what was broken before must not show later.
const QUIET_PERCENT: u32 = 10;

/// Out of a hundred faults so many strike at a moment of their own, rather than while the rotation is held at a phase.
const ANY_MOMENT_PERCENT: u32 = 50;

/// A fault at a moment of its own strikes within this time after the start, in which small farms are through.
const MOMENT_MAX_MS: u64 = 6_000;

/// Draws rounds.
#[derive(Debug)]
pub(super) struct Chance {
    random: StdRng,
    /// What this farm can suffer.
    kinds: Vec<Kind>,
}

impl Chance {
    pub(super) fn new(seed: u64, coordinators: u32, database_can_restart: bool) -> Self {
        let can_suffer =
            |kind: &Kind| Fault { kind: *kind, phase: PHASES[0] }.check(coordinators, database_can_restart).is_ok();
        Self { random: StdRng::seed_from_u64(seed), kinds: Kind::ALL.into_iter().filter(can_suffer).collect() }
    }

    /// The next round's fault; every round draws the same number of times, whatever comes of it.
    pub(super) fn round(&mut self) -> Option<Strike> {
        let quiet = self.random.random_range(0..100) < QUIET_PERCENT;
        let kind = self.kinds[self.random.random_range(0..self.kinds.len())];
        let phase = PHASES[self.random.random_range(0..PHASES.len())];
        let any_moment = self.random.random_range(0..100) < ANY_MOMENT_PERCENT;
        let moment = Duration::from_millis(self.random.random_range(0..MOMENT_MAX_MS));
        let fault = Fault { kind, phase };
        match (quiet, any_moment) {
            (true, _) => None,
            (false, true) => Some(Strike::After(fault, moment)),
            (false, false) => Some(Strike::Held(fault)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_draws_the_same_rounds_again_and_another_one_others() {
        let rounds = |seed| {
            let mut chance = Chance::new(seed, 3, true);
            (0..50).map(|_| chance.round()).collect::<Vec<_>>()
        };
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
    }

    #[test]
    fn every_kind_strikes_at_every_phase_and_at_moments_and_only_what_can_be_suffered() {
        let mut chance = Chance::new(1, 3, true);
        let (mut held, mut after, mut quiet) = (BTreeSet::new(), BTreeSet::new(), 0);
        for _ in 0..5_000 {
            match chance.round() {
                None => quiet += 1,
                Some(Strike::Held(fault)) => {
                    held.insert(fault.to_string());
                }
                Some(Strike::After(fault, _)) => {
                    after.insert(fault.kind.to_string());
                }
            }
        }
        assert_eq!((held.len(), after.len()), (Kind::ALL.len() * PHASES.len(), Kind::ALL.len()));
        assert!((300..700).contains(&quiet), "{quiet}");

        let mut chance = Chance::new(1, 1, false);
        for strike in (0..1_000).filter_map(|_| chance.round()) {
            let (Strike::Held(fault) | Strike::After(fault, _)) = strike;
            assert!(!matches!(fault.kind, Kind::Database | Kind::CoordinatorDisk), "{fault}");
        }
    }
}
