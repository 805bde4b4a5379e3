//! `keyturn db bench`: how fast keys turn in a database, against what the database itself can do.

use clap::Args;
use reencrypt::DatabaseConfig;
use reencrypt::bench::{BenchError, BenchOptions, BenchReport, ROW_BYTES_MAX, ROW_BYTES_MIN, bench};

use super::{ConfigArgs, Database, Stop, database, engine_problem, on};
use crate::exit::Exit;
use crate::output::{OutputArgs, Table, duration, fields, note, thousands};
use crate::problem::Problem;
use crate::process::forbid_core_dumps;

/// More rows measure the disk's space.
const ROWS_MAX: u64 = 100_000_000;
/// More agents than any database takes writers.
const AGENTS_MAX: i64 = 8;
/// More rounds tell no more.
const REPEAT_MAX: i64 = 100;

/// Which database, and how much.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    config: ConfigArgs,
    /// sqlite, postgres or mariadb for a temporary one of this machine's own binaries, or the URL of a running one
    #[arg(long, value_name = "DATABASE", value_parser = database, conflicts_with = "config")]
    database: Option<Database>,
    /// How many rows the scratch table has
    #[arg(long, value_name = "N", default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX))]
    rows: u64,
    /// How many bytes the ciphertext in each row has
    #[arg(long, value_name = "BYTES", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(i64::from(ROW_BYTES_MIN)..=i64::from(ROW_BYTES_MAX)))]
    row_bytes: u32,
    /// How many agents work at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX))]
    agents: u32,
    /// How often everything is measured; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=REPEAT_MAX))]
    repeat: u32,
    #[command(flatten)]
    output: OutputArgs,
}

impl Bench {
    /// Measures.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        let config = self.config.load()?;
        on(self.database.as_ref(), config.as_ref(), async |database, stop| self.measure(&database, stop).await).await
    }

    async fn measure(&self, database: &DatabaseConfig, stop: Stop) -> Result<Exit, Problem> {
        let options =
            BenchOptions { rows: self.rows, row_bytes: self.row_bytes, agents: self.agents, repeat: self.repeat };
        match bench(database, &options, &|words| note(words), stop).await {
            Ok(report) => {
                self.output.print(&report, || text(&report))?;
                Ok(Exit::Done)
            }
            Err(BenchError::Stopped) => {
                note("the scratch tables are removed");
                Ok(Exit::Interrupted)
            }
            Err(BenchError::Engine(error)) => Err(engine_problem("the database could not be measured", &error)),
            Err(BenchError::Left(error)) => Err(engine_problem(
                "the scratch tables, whose names begin with keyturn_bench_, could not be removed",
                &error,
            )),
        }
    }
}

fn text(report: &BenchReport) -> String {
    let mut table = Table::new(&["METHOD", "TIME", "ROWS/S", "OVER UPDATE", "OVER COPY"]);
    let mut row = |method: &str, took_ms: Option<f64>| {
        let Some(took_ms) = took_ms else {
            return table.row([method.to_owned(), String::new(), String::new(), String::new(), String::new()]);
        };
        let over = |floor_ms: f64| format!("{:.2}", took_ms / floor_ms.max(0.1));
        table.row([
            method.to_owned(),
            duration(whole(took_ms)),
            thousands(whole(report.rows as f64 * 1000.0 / took_ms.max(0.1))),
            over(report.update_floor_ms),
            over(report.copy_floor_ms),
        ]);
    };
    row("update floor", Some(report.update_floor_ms));
    row("copy floor", Some(report.copy_floor_ms));
    row("in place", Some(report.in_place_ms));
    row("shadow", report.shadow_ms);
    row("reading back", Some(report.verify_ms));
    row("naive", Some(report.naive_ms));
    let table = table.render();
    let mut head = vec![
        ("Database", report.database.clone()),
        ("Rows", format!("{} with a ciphertext of {} bytes", thousands(report.rows), report.row_bytes)),
        ("Agents", report.agents.to_string()),
        ("Rounds", format!("{}; medians are shown", report.repeat)),
        ("Naive", format!("from {} rows, one commit each", thousands(report.naive_sample_rows))),
    ];
    head.push(("Ciphers", format!("{:.2} times the library's own calls", report.rewrap_over_library)));
    if let Some(bytes) = report.peak_memory_bytes {
        head.push(("Memory", format!("at most {} MiB, all agents together", bytes / (1024 * 1024))));
    }
    if let Some(problem) = &report.shadow_problem {
        head.push(("No shadow", problem.clone()));
    }
    format!("{}\n\n{table}", fields(&head))
}

/// Rounded; none of these numbers is negative or near the limit.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times and rates are small and positive")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}
