//! Keeps a writer to its pace: measures chunks, steers their size, asks after the standbys and sleeps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dialect::Session;
use crate::pace::{self, Limits, Pace, SAMPLE_EVERY, SAMPLES_MAX, Sample};
use crate::sink::PageSize;

/// How long one asks after the standbys. Whoever does not answer by then is not waited for.
const LAG_TIME_MAX: Duration = Duration::from_secs(2);

/// How often it is said that a sleeping writer is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Pacer {
    limits: Limits,
    size: Arc<PageSize>,
    /// What the dialect takes at once.
    rows_max: usize,
    /// What the time of chunks permits.
    chunk_rows: usize,
    samples: Vec<Sample>,
    sampled: Instant,
    rows_since_sample: u64,
    pace: Pace,
    /// From when on rows are paid for in time.
    paid: Instant,
}

impl Pacer {
    pub(super) fn new(limits: Limits, size: Arc<PageSize>, rows_max: usize) -> Self {
        let now = Instant::now();
        let chunk_rows = size.limit().rows_max;
        let pace = pace::decide(&[], &limits);
        let pacer = Self {
            limits,
            size,
            rows_max,
            chunk_rows,
            samples: Vec::new(),
            sampled: now,
            rows_since_sample: 0,
            pace,
            paid: now,
        };
        pacer.steer();
        pacer
    }

    fn steer(&self) {
        let rows = self.chunk_rows.min(self.rows_max).min(pace::chunk_rows_at(self.pace));
        self.size.set_rows_max(rows.max(1));
    }

    /// After a chunk: learns from it, and sleeps until the next one is due.
    pub(super) async fn wrote(&mut self, rows: u64, took: Duration, session: &mut dyn Session, alive: impl Fn()) {
        let rows_of_chunk = usize::try_from(rows).unwrap_or(usize::MAX);
        self.chunk_rows = pace::next_chunk_rows(self.chunk_rows, rows_of_chunk, took);
        self.rows_since_sample += rows;
        self.sample(session).await;
        self.steer();
        let now = Instant::now();
        let Some(pace) = self.pace else {
            self.paid = now;
            return;
        };
        let mut rest = pace::rest_of(rows, pace, now.saturating_duration_since(self.paid));
        // What was slower than it might have been is not made up for: the pace is a limit at every time.
        self.paid = now + rest;
        while !rest.is_zero() {
            let part = rest.min(ALIVE_EVERY);
            tokio::time::sleep(part).await;
            alive();
            rest -= part;
        }
    }

    async fn sample(&mut self, session: &mut dyn Session) {
        let passed = self.sampled.elapsed();
        if passed < SAMPLE_EVERY {
            return;
        }
        // Who cannot be asked does not hold us; a lost connection is found out by the next chunk.
        let lag = match tokio::time::timeout(LAG_TIME_MAX, session.replication_lag()).await {
            Ok(Ok(lag)) => lag,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the standbys cannot be asked after");
                None
            }
            Err(_) => None,
        };
        let rate = self.rows_since_sample as f64 / passed.as_secs_f64();
        if self.samples.len() == SAMPLES_MAX {
            self.samples.remove(0);
        }
        self.samples.push(Sample { lag, rows_per_second: rate as u32 });
        self.sampled = Instant::now();
        self.rows_since_sample = 0;
        self.pace = pace::decide(&self.samples, &self.limits);
    }
}
