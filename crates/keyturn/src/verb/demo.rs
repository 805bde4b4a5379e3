//! `keyturn demo`: a whole farm on this machine, one rotation, every check. local-farm does it; here its options are read.

use std::path::PathBuf;

use clap::Args;

use crate::database_url;
use crate::exit::Exit;
use crate::output::OutputArgs;
use crate::problem::Problem;
use crate::process::forbid_core_files;

/// What can be broken on purpose.
const KINDS: [&str; 9] = [
    "leader",
    "agent",
    "instance",
    "row",
    "database",
    "partition-agent",
    "partition-leader",
    "zombie",
    "coordinator-disk",
];
/// The phases at which something can be broken.
const PHASES: [&str; 7] = ["distribute", "quiesce", "reencrypt", "verify", "activate", "start", "admit"];
/// Processes on one machine beyond this only wait for each other.
pub(super) const NODES_MAX: i64 = 16;
/// A demo with more rows measures the disk and nothing else.
pub(super) const ROWS_MAX: u64 = 100_000_000;

/// The options of the demo.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// sqlite, postgres or mariadb for a database of the demo's own, or the URL of a running one
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
    /// Keep everything in this directory: database, bundles, stores, logs, report, farm.json
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Break something when the rotation reaches a phase, for example agent@reencrypt
    ///
    /// Kinds: leader, agent, instance, row, database, partition-agent, partition-leader, zombie,
    /// coordinator-disk. Phases: distribute, quiesce, reencrypt, verify, activate, start, admit.
    /// What was broken heals after ten seconds.
    #[arg(long, value_name = "KIND@PHASE", value_parser = fault)]
    fail: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Demo {
    /// Runs the demo.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        if self.database == "sqlite" && self.fail.as_deref().is_some_and(|fail| fail.starts_with("database@")) {
            return Err(Problem::usage(
                "--fail database@… restarts a database server, and SQLite has none",
                "add --database postgres or mariadb, or break something else",
            ));
        }
        forbid_core_files()?;
        let options = local_farm::DemoOptions {
            database: self.database,
            nodes: self.nodes,
            coordinators: self.coordinators,
            rows: self.rows,
            keep: self.keep,
            fail: self.fail,
            json: self.output.json(),
        };
        match local_farm::demo(options).await {
            Ok(code) => Ok(Exit::from_code(code)),
            Err(error) if error.is::<local_farm::WrongUsage>() => {
                Err(Problem::usage(error.to_string(), "`keyturn demo --help` says what each option takes"))
            }
            Err(error) => Err(Problem::refused(
                "demo",
                "the demo could not be carried out",
                "run it again with --keep DIR and look at the logs in that directory",
            )
            .because(error.as_ref())),
        }
    }
}

pub(super) fn database(text: &str) -> Result<String, String> {
    if matches!(text, "sqlite" | "postgres" | "mariadb") {
        Ok(text.to_owned())
    } else if text.contains("://") || text == "-" || text.starts_with('@') {
        database_url::given(text)
    } else {
        Err("use sqlite, postgres, mariadb, the URL of a running database, @FILE with one in it, or -".to_owned())
    }
}

pub(super) fn coordinators(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("use 1, 3 or 5: any other number survives no more failures".to_owned()),
    }
}

fn fault(text: &str) -> Result<String, String> {
    let (kind, phase) = text.split_once('@').ok_or("write it as KIND@PHASE, for example agent@reencrypt")?;
    if !KINDS.contains(&kind) {
        return Err(format!("{kind:?} is nothing that can be broken: use one of {}", KINDS.join(", ")));
    }
    if !PHASES.contains(&phase) {
        return Err(format!("nothing can be broken at {phase:?}: use one of {}", PHASES.join(", ")));
    }
    Ok(text.to_owned())
}
