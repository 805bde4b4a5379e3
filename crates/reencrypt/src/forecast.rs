//! How fast rows turn on the database at hand, measured on a few scratch rows while the farm serves: what Preflight's
//! forecast of the time offline stands on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keys::SecretKey;
use rotation::Strategy;

use crate::bench::{Bench, ROW_BYTES_MAX, ROW_BYTES_MIN, Work, clean_up, fill};
use crate::dialect::Dialect;
use crate::dialect::scratch::{LedgerBefore, Scratch, ScratchNames};
use crate::{Engine, EngineError, Targets};

/// Scratch rows at most: enough that connections and the ledger's first entries no longer weigh, and a second's work.
const ROWS_MAX: u64 = 5_000;

/// Scratch rows at least; fewer measure the round trips alone.
const ROWS_MIN: u64 = 20;

/// Stored bytes of all scratch rows together, about.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long the sample may take before it is given up: a forecast is worth no more of an operator's patience, nor of
/// the farm's database.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Rows a second, all agents together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SpeedSample {
    /// Turned in place.
    pub(crate) in_place_rows_per_second: f64,
    /// Turned into a copy, indexes and all; `None` where there are no shadows.
    pub(crate) shadow_rows_per_second: Option<f64>,
    /// Read back.
    pub(crate) verify_rows_per_second: f64,
}

/// Measures rows with a ciphertext of about this size. Leaves nothing behind; what an earlier one left that was killed
/// is removed first.
pub(crate) async fn sample(
    dialect: &Arc<dyn Dialect>,
    row_bytes: u64,
    agents: u32,
) -> Result<SpeedSample, EngineError> {
    let mut scratch = dialect.scratch(ScratchNames::SAMPLE).await?;
    let before = match scratch.make().await {
        Err(EngineError::ScratchTaken(_)) => {
            clean_up(dialect.as_ref(), scratch.as_mut(), LedgerBefore::Present).await?;
            scratch.make().await?
        }
        made => made?,
    };
    let row_bytes = u32::try_from(row_bytes).unwrap_or(ROW_BYTES_MAX).clamp(ROW_BYTES_MIN, ROW_BYTES_MAX);
    let measured = match tokio::time::timeout(TIME_MAX, measure(dialect, scratch.as_mut(), row_bytes, agents)).await {
        Ok(measured) => measured,
        Err(_) => {
            Err(EngineError::TimedOut { doing: "measuring a few scratch rows".to_owned(), seconds: TIME_MAX.as_secs() })
        }
    };
    if measured.is_err() {
        // It may be in the middle of a statement.
        drop(scratch);
        scratch = dialect.scratch(ScratchNames::SAMPLE).await?;
    }
    clean_up(dialect.as_ref(), scratch.as_mut(), before).await?;
    scratch.end().await;
    measured
}

async fn measure(
    dialect: &Arc<dyn Dialect>,
    scratch: &mut dyn Scratch,
    row_bytes: u32,
    agents: u32,
) -> Result<SpeedSample, EngineError> {
    let rows = (BYTES_MAX / u64::from(row_bytes)).clamp(ROWS_MIN, ROWS_MAX);
    let target = scratch.target();
    let label = target.label();
    let engine = |_| Engine::on(Arc::clone(dialect), Targets::only(target.clone()));
    let engines: Vec<Engine> = (0..agents.clamp(1, dialect.writers_max())).map(engine).collect();
    let old = SecretKey::generate();
    fill(scratch, rows, row_bytes, &old).await?;
    let bench = Bench::new(engines, &label, rows, row_bytes, old);

    scratch.renew().await?;
    let mark = Bench::mark();
    scratch.open_ledger(&mark).await?;
    let in_place = paced(rows, bench.run(mark, Work::Reencrypt, Strategy::InPlace)).await?;
    let mut verify = paced(rows, bench.run(mark, Work::Verify, Strategy::InPlace)).await?;
    scratch.forget(&mark).await?;

    let mut shadow = None;
    if bench.lead().shadow_obstacle().await?.is_none() {
        scratch.renew().await?;
        let mark = Bench::mark();
        scratch.open_ledger(&mark).await?;
        shadow = Some(paced(rows, bench.shadow(mark)).await?);
        verify = paced(rows, bench.run(mark, Work::Verify, Strategy::Shadow)).await?;
        let back = scratch.turn_back(&mark).await?;
        bench.lead().drop_shadows(&back).await?;
        scratch.forget(&mark).await?;
    }
    Ok(SpeedSample {
        in_place_rows_per_second: in_place,
        shadow_rows_per_second: shadow,
        verify_rows_per_second: verify,
    })
}

/// Rows a second.
async fn paced<T>(rows: u64, work: impl Future<Output = Result<T, EngineError>>) -> Result<f64, EngineError> {
    let began = Instant::now();
    work.await?;
    Ok(rows as f64 / began.elapsed().as_secs_f64().max(0.001))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DatabaseConfig, dialect};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_sample_leaves_nothing_behind_and_removes_what_one_left_that_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        std::fs::write(&path, "").unwrap();
        let dialect: Arc<dyn Dialect> =
            dialect::of(&DatabaseConfig::new(format!("sqlite://{}", path.display()))).unwrap().into();
        let mut killed = dialect.scratch(ScratchNames::SAMPLE).await.unwrap();
        killed.make().await.unwrap();
        killed.open_ledger(&Bench::mark()).await.unwrap();
        killed.end().await;
        for row_bytes in [10, 512, 1 << 30] {
            let speed = sample(&dialect, row_bytes, 2).await.unwrap();
            assert!(speed.in_place_rows_per_second > 1.0 && speed.verify_rows_per_second > 1.0, "{speed:?}");
        }
        let seen = dialect.see().await.unwrap();
        let left: Vec<&String> = seen.own.iter().filter(|name| name.contains("sample")).collect();
        assert!(left.is_empty(), "{left:?}");
        let mut scratch = dialect.scratch(ScratchNames::SAMPLE).await.unwrap();
        assert!(scratch.left().await.unwrap().is_empty());
    }
}
