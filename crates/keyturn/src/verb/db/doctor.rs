//! `keyturn db doctor`: under which key every registered value is, and on request all of them under the active one.

use std::path::PathBuf;

use clap::Args;
use keys::KeySet;
use reencrypt::doctor::DoctorReport;
use reencrypt::{DatabaseConfig, Engine, Targets};
use rotation::UndecryptableValue;

use super::{ConfigArgs, Database, database, engine_problem, on, registered};
use crate::accepted;
use crate::exit::Exit;
use crate::output::{OutputArgs, Table, counted, note, thousands};
use crate::problem::Problem;
use crate::process::forbid_core_dumps;

/// Undecryptable values that the table shows; JSON has more.
const SHOWN_MAX: usize = 20;

/// Whose keys, and which database.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    config: ConfigArgs,
    /// The URL of a running database, @FILE with it, or - for standard input, instead of the one in the configuration. sqlite, postgres or mariadb for a temporary
    /// one of this machine's own binaries, which is empty
    #[arg(long, value_name = "DATABASE", value_parser = database)]
    database: Option<Database>,
    /// Turn values under an older key of this node's store to the active one
    ///
    /// Works while the farm serves: a value is written only if it still holds what was read. Refused while a rotation is
    /// under way.
    #[arg(long)]
    repair: bool,
    /// Values that may open under no key: the file that `rotation plan --accept` took, or the `undecryptable` list of an
    /// earlier `doctor -o json`
    ///
    /// A value is accepted by table, column, primary key and the digest of its bytes. Nothing remembers it from one run to
    /// the next.
    #[arg(long, value_name = "FILE")]
    accept: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A node that was left behind by a rotation may hold a key that is not the farm's.
fn refuse_if_held(config: &agent::Config) -> Result<(), Problem> {
    let next_step = "bring the node back first (`keyturn node list` says what it waits for), or run this on another";
    match agent::held_for(config) {
        Ok(None) => Ok(()),
        Ok(Some(rotation)) => Err(Problem::refused(
            "node-held",
            format!("this node is held offline for rotation {rotation}, so its key need not be the farm's"),
            next_step,
        )),
        Err(error) => {
            Err(Problem::refused("node-held", "it cannot be told whether this node is held", next_step).because(&error))
        }
    }
}

impl Doctor {
    /// Looks, and repairs.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        let Some(config) = self.config.load()? else {
            return Err(Problem::usage(
                "it is not said whose keys are to open the values",
                "add --config with the agent's configuration",
            ));
        };
        let targets = match (&self.database, registered(Some(&config))?) {
            // It has none of the tables.
            (Some(Database::Spare(_)), _) => Targets::none(),
            (_, Some(targets)) => targets,
            (_, None) => {
                return Err(Problem::refused(
                    "targets",
                    format!("{} registers nothing", config.database.targets.display()),
                    "`keyturn db scan --targets FILE` writes one",
                ));
            }
        };
        if self.repair {
            refuse_if_held(&config)?;
        }
        let accepted = self.accept.as_deref().map(accepted::read).transpose()?.unwrap_or_default();
        let ring = agent::open_store(&config)
            .current()
            .map_err(|error| super::super::key::store_problem("this node's keys could not be read", &error))?;
        on(self.database.as_ref(), Some(&config), async |database, stop| {
            tokio::select! {
                exit = self.look(&database, targets, &ring, &accepted) => exit,
                () = stop => Ok(Exit::Interrupted),
            }
        })
        .await
    }

    async fn look(
        &self,
        database: &DatabaseConfig,
        targets: Targets,
        ring: &KeySet,
        accepted: &[UndecryptableValue],
    ) -> Result<Exit, Problem> {
        let failed = |error: &_| engine_problem("the values could not be looked at", error);
        let engine = Engine::connect(database, targets).await.map_err(|error| failed(&error))?;
        let report = engine.doctor(ring, accepted, self.repair, &|_| {}).await.map_err(|error| failed(&error))?;
        self.output.print(&report, || text(&report))?;
        if report.well {
            return Ok(Exit::Done);
        }
        note(advice(&report, self.repair));
        Ok(Exit::VerificationFailed)
    }
}

fn advice(report: &DoctorReport, repaired: bool) -> &'static str {
    if report.undecryptable_total > 0 {
        "not well: values open under no key of this node; find the key that they are under, repair them, or accept them as \
         they are: --accept FILE, with what `doctor -o json` printed"
    } else if repaired {
        "not well: values under an older key remain; the application writes them, or another node's does: compare its keys"
    } else {
        "not well: values are under an older key; --repair turns them to the active one"
    }
}

fn text(report: &DoctorReport) -> String {
    let mut table = Table::new(&["TABLE", "COLUMN", "KEY", "STATE", "VALUES"]);
    for column in &report.columns {
        let mut row = |key: &str, state: &str, values: u64| {
            table.row([
                column.table.clone(),
                column.column.clone(),
                key.to_owned(),
                state.to_owned(),
                thousands(values),
            ]);
        };
        let active = column.keys.get(&report.active_key).copied().unwrap_or_default();
        row(&report.active_key, "active", active);
        for (key, values) in column.keys.iter().filter(|(key, _)| **key != report.active_key) {
            row(key, "decrypt-only", *values);
        }
        if column.undecryptable > 0 {
            row("", "undecryptable", column.undecryptable);
        }
        if column.accepted > 0 {
            row("", "accepted", column.accepted);
        }
        if column.empty > 0 {
            row("", "empty", column.empty);
        }
    }
    let mut text = table.render();
    if report.repaired > 0 {
        text.push_str(&format!("\n\n{} turned to the active key.", counted(report.repaired, "value")));
    }
    for value in report.undecryptable.iter().take(SHOWN_MAX) {
        text.push_str(&format!("\n{}.{} of row {}: {}", value.table, value.column, value.key.0, value.reason));
    }
    let more = report.undecryptable_total.saturating_sub(SHOWN_MAX as u64);
    if more > 0 {
        text.push_str(&format!("\n… and {} more", thousands(more)));
    }
    text
}
