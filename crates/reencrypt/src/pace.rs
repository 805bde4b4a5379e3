//! How fast rows are written: how large the next chunk is to be, and how many rows a second the standbys and the operator
//! leave us. Decisions only; who measures and who sleeps stands elsewhere.

use std::num::NonZeroU32;
use std::time::Duration;

/// How long a chunk's transaction is to take. Long enough that its commit is a small part of it, short enough that a
/// lock is never held for long, a crash costs little, and progress is seen.
pub(crate) const CHUNK_TIME: Duration = Duration::from_millis(200);

/// Rows of the smallest chunk. Below this, commits are most of the work.
pub(crate) const CHUNK_ROWS_MIN: usize = 64;

/// Rows of the largest chunk. More gain nothing measurable, and what is under way must fit into memory.
pub(crate) const CHUNK_ROWS_MAX: usize = 16_384;

/// Rows of the first chunk, before anything is known.
pub(crate) const CHUNK_ROWS_FIRST: usize = 1024;

/// The same where rows go into a copy, which has no index yet: cheaper rows, and nobody waits for a lock on them.
pub(crate) const CHUNK_ROWS_FIRST_COPIED: usize = 4096;

/// How often the standbys are asked after, and how long a chunk may last at a rate that was asked for.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Samples that are looked back on: after the standbys have fallen behind, full speed comes back when they have kept up
/// for so many.
pub(crate) const SAMPLES_MAX: usize = 10;

/// Rows of the next chunk after one of `rows` took `took`, when `rows_max` were permitted. Doubles or halves or stays,
/// so that statements of few sizes are prepared. A chunk that the bytes made small is no reason to permit more.
pub(crate) fn next_chunk_rows(rows_max: usize, rows: usize, took: Duration) -> usize {
    let next = if took > CHUNK_TIME * 2 {
        rows_max / 2
    } else if took < CHUNK_TIME / 2 && rows > rows_max / 2 {
        rows_max * 2
    } else {
        rows_max
    };
    next.clamp(CHUNK_ROWS_MIN, CHUNK_ROWS_MAX)
}

/// What holds the writers back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The operator's throttle, for this shard.
    pub(crate) rows_per_second: Option<NonZeroU32>,
    /// How far the slowest standby may fall behind. From half of it on, writers slow down.
    pub(crate) lag_bytes_max: u64,
    /// The same where standbys tell it in seconds.
    pub(crate) lag_seconds_max: u64,
    /// Below this, standbys do not slow a shard down: one that hangs must not keep the farm offline for ever.
    pub(crate) lagging_rows_per_second_min: NonZeroU32,
}

impl Limits {
    /// A lag, and how far it may go.
    const fn measure(&self, lag: Lag) -> (u64, u64) {
        match lag {
            Lag::Bytes(bytes) => (bytes, self.lag_bytes_max),
            Lag::Seconds(seconds) => (seconds, self.lag_seconds_max),
        }
    }
}

/// How far the slowest standby is behind, as its system tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lag {
    /// What it has still to replay.
    Bytes(u64),
    /// How old what it replays is.
    Seconds(u64),
}

/// What was seen at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// None without a standby.
    pub(crate) lag: Option<Lag>,
    /// Rows that this shard wrote in the second before.
    pub(crate) rows_per_second: u32,
}

/// The rows a second that may be written; none for as many as can be.
pub(crate) type Pace = Option<NonZeroU32>;

/// Decides over the samples so far, the newest last.
pub(crate) fn decide(samples: &[Sample], limits: &Limits) -> Pace {
    match (limits.rows_per_second, for_standbys(samples, limits)) {
        (Some(asked), Some(bearable)) => Some(asked.min(bearable)),
        (asked, bearable) => asked.or(bearable),
    }
}

fn for_standbys(samples: &[Sample], limits: &Limits) -> Pace {
    let min = limits.lagging_rows_per_second_min;
    let newest = samples.last()?;
    let (lag, lag_max) = limits.measure(newest.lag?);
    let comfortable = lag_max / 2;
    if lag >= lag_max {
        return Some(min);
    }
    let written = u64::from(newest.rows_per_second);
    let bearable = if lag > comfortable {
        // The nearer to the limit, the smaller the part of the present rate.
        let left = u128::from(lag_max - lag);
        let of = u128::from(lag_max - comfortable);
        u64::try_from(u128::from(written) * left / of).unwrap_or(u64::MAX)
    } else {
        let behind = |sample: &Sample| {
            sample.lag.is_some_and(|lag| {
                let (lag, lag_max) = limits.measure(lag);
                lag > lag_max / 2
            })
        };
        if !samples.iter().rev().take(SAMPLES_MAX).any(behind) {
            return None;
        }
        // Back to speed by and by, or they would fall behind again at once.
        written.max(u64::from(min.get())) * 5 / 4
    };
    let bearable = u32::try_from(bearable).unwrap_or(u32::MAX);
    Some(NonZeroU32::new(bearable).map_or(min, |bearable| bearable.max(min)))
}

/// How long to wait until `rows` more have been paid for at this pace, when `since` has passed.
pub(crate) fn rest_of(rows: u64, pace: NonZeroU32, since: Duration) -> Duration {
    Duration::from_secs_f64(rows as f64 / f64::from(pace.get())).saturating_sub(since)
}

/// The largest chunk that keeps a pace smooth: what may be written in a second.
pub(crate) fn chunk_rows_at(pace: Pace) -> usize {
    pace.map_or(CHUNK_ROWS_MAX, |pace| usize::try_from(pace.get()).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = 1000;

    fn limits(asked: u32) -> Limits {
        Limits {
            rows_per_second: NonZeroU32::new(asked),
            lag_bytes_max: MAX,
            lag_seconds_max: 20,
            lagging_rows_per_second_min: NonZeroU32::new(100).unwrap(),
        }
    }

    fn sample(lag: u64, rows: u32) -> Sample {
        Sample { lag: Some(Lag::Bytes(lag)), rows_per_second: rows }
    }

    fn seconds(lag: u64, rows: u32) -> Sample {
        Sample { lag: Some(Lag::Seconds(lag)), rows_per_second: rows }
    }

    #[test]
    fn decisions() {
        let none = Sample { lag: None, rows_per_second: 9000 };
        let cases: &[(&[Sample], u32, Option<u32>, &str)] = &[
            (&[], 0, None, "nothing is known"),
            (&[], 700, Some(700), "what is asked for holds from the beginning"),
            (&[none], 0, None, "no standby"),
            (&[none], 50, Some(50), "what is asked for may be slower than the least"),
            (&[sample(500, 8000)], 0, None, "comfortable"),
            (&[sample(750, 8000)], 0, Some(4000), "half of what is left is used up"),
            (&[sample(750, 8000)], 3000, Some(3000), "the smaller of both"),
            (&[sample(999, 8000)], 0, Some(100), "nearly at the limit"),
            (&[sample(5000, 8000)], 0, Some(100), "beyond it"),
            (&[sample(750, 0)], 0, Some(100), "never slower than the least"),
            (&[sample(900, 800), sample(10, 800)], 0, Some(1000), "back by and by"),
            (&[sample(900, 0), sample(10, 0)], 0, Some(125), "also from nothing"),
            (&[sample(5000, 100), none], 0, None, "a standby that is gone does not hold us"),
            (&[seconds(10, 8000)], 0, None, "comfortable, in seconds"),
            (&[seconds(15, 8000)], 0, Some(4000), "half of what is left is used up, in seconds"),
            (&[seconds(u64::MAX, 8000)], 0, Some(100), "it stands still"),
            (&[seconds(18, 800), seconds(1, 800)], 0, Some(1000), "back by and by, in seconds"),
        ];
        for (samples, asked, expected, why) in cases {
            assert_eq!(decide(samples, &limits(*asked)), expected.and_then(NonZeroU32::new), "{why}");
        }
    }

    #[test]
    fn full_speed_is_back_after_the_standbys_have_kept_up_for_a_while() {
        let mut samples = vec![sample(900, 800)];
        samples.extend([sample(10, 1000); SAMPLES_MAX]);
        assert_eq!(decide(&samples, &limits(0)), None);
        assert_ne!(decide(&samples[..SAMPLES_MAX], &limits(0)), None);
    }

    #[test]
    fn chunks_grow_and_shrink_towards_the_time_they_are_to_take() {
        let ms = Duration::from_millis;
        assert_eq!(next_chunk_rows(1024, 1024, ms(20)), 2048);
        assert_eq!(next_chunk_rows(1024, 1024, ms(120)), 1024, "nearly right");
        assert_eq!(next_chunk_rows(1024, 1024, ms(500)), 512);
        assert_eq!(next_chunk_rows(1024, 3, ms(5)), 1024, "a chunk that the bytes made small says nothing");
        assert_eq!(next_chunk_rows(1024, 3, ms(500)), 512, "unless it is slow");
        assert_eq!(next_chunk_rows(CHUNK_ROWS_MIN, 64, ms(60_000)), CHUNK_ROWS_MIN);
        assert_eq!(next_chunk_rows(CHUNK_ROWS_MAX, 16_384, ms(0)), CHUNK_ROWS_MAX);
    }

    #[test]
    fn what_was_written_is_paid_for_in_time() {
        let pace = NonZeroU32::new(500).unwrap();
        assert_eq!(rest_of(250, pace, Duration::from_millis(100)), Duration::from_millis(400));
        assert_eq!(rest_of(250, pace, Duration::from_secs(2)), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn never_slower_than_the_least_nor_faster_than_asked(
            seen in proptest::collection::vec((proptest::option::of(0..3000_u64), any::<u32>()), 0..20),
            asked in 0..5000_u32,
        ) {
            let samples: Vec<Sample> = seen
                .iter()
                .map(|(lag, rows_per_second)| Sample { lag: lag.map(Lag::Bytes), rows_per_second: *rows_per_second })
                .collect();
            let pace = decide(&samples, &limits(asked));
            match (NonZeroU32::new(asked), pace) {
                (Some(asked), pace) => {
                    let pace = pace.expect("what is asked for holds");
                    prop_assert!(pace <= asked && pace >= asked.min(limits(0).lagging_rows_per_second_min));
                }
                (None, Some(pace)) => prop_assert!(pace >= limits(0).lagging_rows_per_second_min),
                (None, None) => {}
            }
        }

        #[test]
        fn more_lag_is_never_a_faster_pace(lag in 501..1500_u64, more in 0..500_u64, rows in 0..100_000_u32) {
            let at = |lag| decide(&[sample(lag, rows)], &limits(0)).expect("it lags");
            prop_assert!(at(lag + more) <= at(lag));
        }

        #[test]
        fn chunks_stay_within_their_limits(max in CHUNK_ROWS_MIN..=CHUNK_ROWS_MAX, rows in 1..20_000_usize, ms in 0..100_000_u64) {
            let next = next_chunk_rows(max, rows, Duration::from_millis(ms));
            prop_assert!((CHUNK_ROWS_MIN..=CHUNK_ROWS_MAX).contains(&next) && next <= max * 2 && next >= max / 2);
        }
    }
}
