//! `keyturn soak`: a whole farm on this machine, rotation after rotation, random faults, every check. local-farm does it;
//! here its options are read.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::demo::{NODES_MAX, ROWS_MAX, coordinators, database};
use crate::duration::parse_duration;
use crate::exit::Exit;
use crate::output::OutputArgs;
use crate::problem::Problem;
use crate::process::forbid_core_files;

/// The options of the soak.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// For how long rotations begin: 90s, 10m, 8h. The last one is seen through
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    duration: Duration,
    /// sqlite, postgres or mariadb for a database of the soak's own, or the URL of a running one
    #[arg(long, value_name = "DATABASE", default_value = "sqlite", value_parser = database)]
    database: String,
    /// How many nodes the farm has
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=NODES_MAX))]
    nodes: u32,
    /// How many coordinators: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = coordinators)]
    coordinators: u32,
    /// How many rows are seeded, over all tables
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX))]
    rows: u64,
    /// Break the same things at the same moments as the soak that printed this number
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Keep everything in this directory: database, bundles, stores, logs
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Soak {
    /// Runs the soak.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        forbid_core_files()?;
        let options = local_farm::SoakOptions {
            duration: self.duration,
            database: self.database,
            nodes: self.nodes,
            coordinators: self.coordinators,
            rows: self.rows,
            seed: self.seed,
            keep: self.keep,
            json: self.output.json(),
        };
        match local_farm::soak(options).await {
            Ok(code) => Ok(Exit::from_code(code)),
            Err(error) if error.is::<local_farm::WrongUsage>() => {
                Err(Problem::usage(error.to_string(), "`keyturn soak --help` says what each option takes"))
            }
            Err(error) => Err(Problem::refused(
                "soak",
                "the soak could not be carried out",
                "run it again with --keep DIR and look at the logs in that directory",
            )
            .because(error.as_ref())),
        }
    }
}
