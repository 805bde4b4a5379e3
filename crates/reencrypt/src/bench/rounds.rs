//! The rounds of a measurement: every method once in each, each on a fresh table; then the medians.

use std::time::{Duration, Instant};

use keys::SecretKey;
use keys::value::{Encoding, Rewrapper};
use rotation::{DatabaseKind, ShardTally, Strategy};
use serde::Serialize;

use super::work::{Bench, Work};
use super::{BenchOptions, fill, memory};
use crate::dialect::scratch::Scratch;
use crate::{DatabaseConfig, Engine, EngineError, Targets};

/// Rows that the naive method turns; the rest is extrapolated, since all of them would take minutes and tell no more.
const NAIVE_ROWS_MAX: u64 = 2000;

/// What was measured. Times are medians over the rounds, milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// `postgres`, `mariadb` or `sqlite`.
    pub database: String,
    /// Rows of the scratch table.
    pub rows: u64,
    /// Stored bytes of the ciphertext in each row.
    pub row_bytes: u32,
    /// Agents that worked at once; fewer than asked for where the database has fewer writers.
    pub agents: u32,
    /// How often everything was measured.
    pub repeat: u32,
    /// One UPDATE that gives every row another value of the same size.
    pub update_floor_ms: f64,
    /// The database's own copy of the table, with its three indexes.
    pub copy_floor_ms: f64,
    /// Every row turned in place.
    pub in_place_ms: f64,
    /// Every row turned into a copy, up to where it is ready to be swapped in; `None` if that is not possible.
    pub shadow_ms: Option<f64>,
    /// Why not.
    pub shadow_problem: Option<String>,
    /// Every row read back under the new key, after the fastest strategy that was measured.
    pub verify_ms: f64,
    /// One row and one commit at a time, extrapolated to all rows.
    pub naive_ms: f64,
    /// From how many rows.
    pub naive_sample_rows: u64,
    /// `in_place_ms` over `update_floor_ms`.
    pub in_place_over_update: f64,
    /// `shadow_ms` over `update_floor_ms`.
    pub shadow_over_update: Option<f64>,
    /// `shadow_ms` over `copy_floor_ms`.
    pub shadow_over_copy: Option<f64>,
    /// `naive_ms` over `shadow_ms`.
    pub naive_over_shadow: Option<f64>,
    /// Turning one value of this size, over the library's own calls in a bare loop, on one thread.
    pub rewrap_over_library: f64,
    /// The highest resident memory of this process while the engine worked, all agents together, bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Every round, for who distrusts medians.
    pub rounds: Vec<Round>,
}

/// One round, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Round {
    /// See [`BenchReport::update_floor_ms`].
    pub update_floor_ms: f64,
    /// See [`BenchReport::copy_floor_ms`].
    pub copy_floor_ms: f64,
    /// See [`BenchReport::in_place_ms`].
    pub in_place_ms: f64,
    /// Reading back what was turned in place.
    pub in_place_verify_ms: f64,
    /// See [`BenchReport::shadow_ms`].
    pub shadow_ms: Option<f64>,
    /// Reading back the copy.
    pub shadow_verify_ms: Option<f64>,
    /// See [`BenchReport::naive_ms`].
    pub naive_ms: f64,
}

pub(super) async fn measure(
    config: &DatabaseConfig,
    options: &BenchOptions,
    scratch: &mut dyn Scratch,
    say: &(dyn Fn(&str) + Send + Sync),
) -> Result<BenchReport, EngineError> {
    let target = scratch.target();
    let label = target.label();
    let mut engines = Vec::new();
    let mut agents = options.agents;
    while engines.len() < agents as usize {
        let engine = Engine::connect(config, Targets::only(target.clone())).await?;
        agents = agents.min(engine.writers_max());
        engines.push(engine);
    }
    let kind = engines.first().map_or(DatabaseKind::Sqlite, Engine::kind);
    let stored_bytes = options.row_bytes as usize;
    let speed = tokio::task::spawn_blocking(move || keys::value::measure_speed(stored_bytes))
        .await
        .map_err(|error| EngineError::Internal(format!("measuring the ciphers ended early: {error}")))?
        .map_err(|error| EngineError::Internal(format!("the ciphers could not be measured: {error}")))?;
    let old = SecretKey::generate();
    say(&format!("filling a scratch table with {} rows", options.rows));
    fill(scratch, options.rows, options.row_bytes, &old).await?;
    let bench = Bench::new(engines, &label, options.rows, options.row_bytes, old);
    let mut rounds = Vec::new();
    let mut measuring = Measuring { bench: &bench, options, scratch, shadow_problem: None, peak_bytes: None };
    for number in 1..=options.repeat {
        let said = |what: &str, took: f64| say(&format!("round {number} of {}: {what} {took:.0} ms", options.repeat));
        rounds.push(measuring.round(&said).await?);
    }
    let Measuring { shadow_problem, peak_bytes, .. } = measuring;
    let mut report = report(kind, options, &rounds);
    report.agents = agents;
    report.rewrap_over_library = (speed.over_library() * 1000.0).round() / 1000.0;
    report.peak_memory_bytes = peak_bytes;
    report.shadow_problem = shadow_problem;
    report.rounds = rounds;
    Ok(report)
}

struct Measuring<'a> {
    bench: &'a Bench,
    options: &'a BenchOptions,
    scratch: &'a mut dyn Scratch,
    shadow_problem: Option<String>,
    peak_bytes: Option<u64>,
}

impl Measuring<'_> {
    async fn round(&mut self, said: &(dyn Fn(&str, f64) + Send + Sync)) -> Result<Round, EngineError> {
        self.scratch.renew().await?;
        let update_floor_ms = timed(self.scratch.update_floor()).await?;
        said("update floor", update_floor_ms);

        self.scratch.renew().await?;
        let copy_floor_ms = timed(self.scratch.copy_floor()).await?;
        self.scratch.drop_copy().await?;
        said("copy floor", copy_floor_ms);

        // A copy leaves its table as fresh as it was.
        let naive_ms = self.naive().await?;
        said("naive", naive_ms);

        self.scratch.renew().await?;
        memory::forget_peak();
        let (in_place_ms, in_place_verify_ms) = self.in_place().await?;
        self.peak_bytes = self.peak_bytes.max(memory::peak_bytes());
        said("in place", in_place_ms);
        said("reading back", in_place_verify_ms);

        self.scratch.renew().await?;
        memory::forget_peak();
        let shadow = self.shadow().await?;
        self.peak_bytes = self.peak_bytes.max(memory::peak_bytes());
        if let Some((shadow_ms, verify_ms)) = shadow {
            said("shadow", shadow_ms);
            said("reading it back", verify_ms);
        }
        Ok(Round {
            update_floor_ms,
            copy_floor_ms,
            in_place_ms,
            in_place_verify_ms,
            shadow_ms: shadow.map(|(shadow_ms, _)| shadow_ms),
            shadow_verify_ms: shadow.map(|(_, verify_ms)| verify_ms),
            naive_ms,
        })
    }

    async fn in_place(&mut self) -> Result<(f64, f64), EngineError> {
        let mark = Bench::mark();
        self.scratch.open_ledger(&mark).await?;
        let (turned, took_ms) = clocked(self.bench.run(mark, Work::Reencrypt, Strategy::InPlace)).await?;
        let (verified, verify_ms) = clocked(self.bench.run(mark, Work::Verify, Strategy::InPlace)).await?;
        self.scratch.forget(&mark).await?;
        self.check(&turned, &verified)?;
        Ok((took_ms, verify_ms))
    }

    /// Nothing where the database has no shadows; why is kept.
    async fn shadow(&mut self) -> Result<Option<(f64, f64)>, EngineError> {
        let lead = self.bench.lead();
        self.shadow_problem = lead.shadow_obstacle().await?;
        if self.shadow_problem.is_some() {
            return Ok(None);
        }
        let mark = Bench::mark();
        self.scratch.open_ledger(&mark).await?;
        let (turned, took_ms) = clocked(self.bench.shadow(mark)).await?;
        let (verified, verify_ms) = clocked(self.bench.run(mark, Work::Verify, Strategy::Shadow)).await?;
        let back = self.scratch.turn_back(&mark).await?;
        lead.drop_shadows(&back).await?;
        self.scratch.forget(&mark).await?;
        self.check(&turned, &verified)?;
        Ok(Some((took_ms, verify_ms)))
    }

    /// A figure of work that was not done is none.
    fn check(&self, turned: &ShardTally, verified: &ShardTally) -> Result<(), EngineError> {
        if turned.rows == self.options.rows && turned.values == self.options.rows && turned == verified {
            return Ok(());
        }
        Err(EngineError::Internal(format!(
            "of {} scratch rows {} were turned and {} read back, or not with the same content",
            self.options.rows, turned.rows, verified.rows
        )))
    }

    /// What a script does: one row, one commit. The rows lie evenly over the table.
    async fn naive(&mut self) -> Result<f64, EngineError> {
        let rows = self.options.rows;
        let sample = rows.min(NAIVE_ROWS_MAX);
        let rewrapper = Rewrapper::new(self.bench.old(), self.bench.new_key());
        let began = Instant::now();
        for number in 0..sample {
            let id = i64::try_from(number * rows / sample + 1).unwrap_or(i64::MAX);
            let stored = self.scratch.read(id).await?;
            let turned = rewrapper
                .rewrap(&stored, Encoding::Raw, &[])
                .map_err(|error| EngineError::Internal(format!("a scratch row did not turn: {error}")))?;
            self.scratch.write(id, &turned.stored).await?;
        }
        Ok(ms(began.elapsed()) * rows as f64 / sample as f64)
    }
}

fn report(kind: DatabaseKind, options: &BenchOptions, rounds: &[Round]) -> BenchReport {
    let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let of_some = |figure: fn(&Round) -> Option<f64>| {
        let figures: Vec<f64> = rounds.iter().filter_map(figure).collect();
        (!figures.is_empty()).then(|| median(figures))
    };
    let update_floor_ms = of(|round| round.update_floor_ms);
    let copy_floor_ms = of(|round| round.copy_floor_ms);
    let in_place_ms = of(|round| round.in_place_ms);
    let shadow_ms = of_some(|round| round.shadow_ms);
    let naive_ms = of(|round| round.naive_ms);
    let verify_ms = of_some(|round| round.shadow_verify_ms).unwrap_or_else(|| of(|round| round.in_place_verify_ms));
    BenchReport {
        database: kind.to_string(),
        rows: options.rows,
        row_bytes: options.row_bytes,
        agents: options.agents,
        repeat: options.repeat,
        update_floor_ms,
        copy_floor_ms,
        in_place_ms,
        shadow_ms,
        shadow_problem: None,
        verify_ms,
        naive_ms,
        naive_sample_rows: options.rows.min(NAIVE_ROWS_MAX),
        in_place_over_update: ratio(in_place_ms, update_floor_ms),
        shadow_over_update: shadow_ms.map(|shadow_ms| ratio(shadow_ms, update_floor_ms)),
        shadow_over_copy: shadow_ms.map(|shadow_ms| ratio(shadow_ms, copy_floor_ms)),
        naive_over_shadow: shadow_ms.map(|shadow_ms| ratio(naive_ms, shadow_ms)),
        rewrap_over_library: 0.0,
        peak_memory_bytes: None,
        rounds: Vec::new(),
    }
}

async fn timed(work: impl Future<Output = Result<(), EngineError>>) -> Result<f64, EngineError> {
    clocked(work).await.map(|((), took_ms)| took_ms)
}

async fn clocked<T>(work: impl Future<Output = Result<T, EngineError>>) -> Result<(T, f64), EngineError> {
    let began = Instant::now();
    let done = work.await?;
    Ok((done, ms(began.elapsed())))
}

/// With one decimal: no measurement of a database means more.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// With three decimals.
fn ratio(of: f64, over: f64) -> f64 {
    (of / over.max(0.1) * 1000.0).round() / 1000.0
}

/// The middle one, or the mean of the two in the middle.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        length if length % 2 == 1 => figures[middle],
        _ => ((figures[middle - 1] + figures[middle]) * 5.0).round() / 10.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_of_medians_and_absent_where_nothing_was_measured() {
        let round = |update: f64, shadow: Option<f64>| Round {
            update_floor_ms: update,
            copy_floor_ms: 200.0,
            in_place_ms: 1100.0,
            in_place_verify_ms: 50.0,
            shadow_ms: shadow,
            shadow_verify_ms: shadow.map(|_| 40.0),
            naive_ms: 6000.0,
        };
        let options = BenchOptions { rows: 10_000, row_bytes: 512, agents: 2, repeat: 3 };
        let rounds = [round(900.0, Some(310.0)), round(1000.0, Some(300.0)), round(1100.0, Some(290.0))];
        let with = report(DatabaseKind::Postgres, &options, &rounds);
        assert_eq!((with.shadow_over_update, with.shadow_over_copy), (Some(0.3), Some(1.5)));
        assert_eq!((with.naive_over_shadow, with.naive_sample_rows), (Some(20.0), 2000));
        assert!((with.in_place_over_update - 1.1).abs() < 1e-9 && (with.verify_ms - 40.0).abs() < 1e-9);
        let without = report(DatabaseKind::Sqlite, &options, &[round(1000.0, None)]);
        assert_eq!((without.shadow_ms, without.naive_over_shadow), (None, None));
        assert!((without.verify_ms - 50.0).abs() < 1e-9);
    }
}
