//! How long each table will keep the farm offline: from a sample that was measured on this database, or, where a sample
//! is worth more than the time it forecasts or cannot be taken, from how long the survey read.

use std::sync::Arc;
use std::time::Duration;

use rotation::Strategy;

use crate::dialect::Dialect;
use crate::forecast::{SpeedSample, sample};

/// How much longer than its survey a table takes while the farm is offline: re-encrypting reads, opens, encrypts
/// and writes (measured 2 to 3 times a survey), and verifying is a survey again. A shadow is written faster, but its
/// indexes are built, and the original is read once more before the swap.
const OFFLINE_OVER_SURVEY: u32 = 4;

/// Rows of all tables from which on a sample is taken.
const SAMPLED_ROWS_MIN: u64 = 20_000;

/// What a row costs besides its bytes, as the split into shards has it.
const ROW_COST_BYTES: u64 = 256;

/// What a table holds, and how long its survey took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) surveyed_in: Duration,
}

impl Size {
    const fn cost(&self) -> u64 {
        self.rows * ROW_COST_BYTES + self.bytes
    }
}

/// Forecasts for tables of one database.
#[derive(Debug)]
pub(super) struct Forecaster {
    agents: u32,
    /// With the cost of its rows.
    sample: Option<(SpeedSample, u64)>,
}

impl Forecaster {
    pub(super) async fn new(dialect: &Arc<dyn Dialect>, agents: u32, sizes: &[Size]) -> Self {
        let agents = agents.clamp(1, dialect.writers_max().max(1));
        let rows: u64 = sizes.iter().map(|size| size.rows).sum();
        if rows < SAMPLED_ROWS_MIN {
            return Self { agents, sample: None };
        }
        let row_bytes = sizes.iter().map(|size| size.bytes).sum::<u64>() / rows;
        let sample = match sample(dialect, row_bytes, agents).await {
            Ok(sample) => Some((sample, ROW_COST_BYTES + row_bytes)),
            Err(error) => {
                tracing::warn!(%error, "no sample could be measured; the forecast stands on how fast the survey read");
                None
            }
        };
        Self { agents, sample }
    }

    /// Turning, verifying, and for a shadow the look at the original before the swap.
    pub(super) fn forecast(&self, size: &Size, strategy: Strategy) -> Duration {
        let Some((sample, cost_of_row)) = &self.sample else {
            return size.surveyed_in * OFFLINE_OVER_SURVEY / self.agents;
        };
        let rows = size.cost() as f64 / *cost_of_row as f64;
        let reading = rows / sample.verify_rows_per_second;
        let seconds = match (strategy, sample.shadow_rows_per_second) {
            (Strategy::Shadow, Some(shadow)) => rows / shadow + 2.0 * reading,
            (Strategy::Shadow, None) | (Strategy::InPlace, _) => rows / sample.in_place_rows_per_second + reading,
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: SpeedSample = SpeedSample {
        in_place_rows_per_second: 1000.0,
        shadow_rows_per_second: Some(4000.0),
        verify_rows_per_second: 2000.0,
    };

    fn size(rows: u64, bytes: u64) -> Size {
        Size { rows, bytes, surveyed_in: Duration::from_secs(3) }
    }

    #[test]
    fn a_sample_is_scaled_by_what_rows_cost() {
        let forecaster = Forecaster { agents: 1, sample: Some((SAMPLE, 512)) };
        let forecast = |size, strategy| forecaster.forecast(&size, strategy).as_millis();
        assert_eq!(forecast(size(8000, 8000 * 256), Strategy::InPlace), 12_000);
        assert_eq!(forecast(size(8000, 8000 * 256), Strategy::Shadow), 10_000);
        assert_eq!(forecast(size(8000, 8000 * 768), Strategy::InPlace), 24_000, "rows of twice the cost");
        assert_eq!(forecast(size(0, 0), Strategy::InPlace), 0);
    }

    #[test]
    fn without_a_sample_the_surveys_own_time_tells() {
        let forecaster = Forecaster { agents: 2, sample: None };
        assert_eq!(forecaster.forecast(&size(10, 10), Strategy::InPlace), Duration::from_secs(6));
    }
}
