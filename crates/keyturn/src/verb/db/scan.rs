//! `keyturn db scan`: every column that holds values of devolutions-crypto, registered or not, and a ready targets.toml.

use std::path::PathBuf;

use clap::Args;
use reencrypt::scan::{ColumnState, ScanReport, targets_file};
use reencrypt::{DatabaseConfig, Engine, Targets};

use super::{ConfigArgs, Database, database, engine_problem, on, registered};
use crate::exit::Exit;
use crate::files::{refuse_existing, replace_shared, write_shared};
use crate::output::{OutputArgs, Table, counted, note, print, thousands};
use crate::problem::Problem;

/// Where to look, and where to write.
#[derive(Debug, Args)]
pub(crate) struct Scan {
    #[command(flatten)]
    config: ConfigArgs,
    /// The URL of a running database, @FILE with it, or - for standard input; with --config, instead of the agent's own
    /// login. sqlite, postgres or mariadb for a
    /// temporary one of this machine's own binaries, which is empty
    #[arg(long, value_name = "DATABASE", value_parser = database)]
    database: Option<Database>,
    /// Write a ready targets.toml: what was found, beside what is registered and excluded already; - is standard output
    #[arg(long, value_name = "FILE")]
    targets: Option<PathBuf>,
    /// Let --targets replace a file that is there
    #[arg(long, requires = "targets")]
    overwrite: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl Scan {
    /// Looks.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let to_stdout = self.targets.as_deref().is_some_and(|path| path.as_os_str() == "-");
        if to_stdout && self.output.json() {
            return Err(Problem::usage(
                "standard output cannot take both JSON and targets.toml",
                "give --targets a file, or leave -o json out",
            ));
        }
        if let Some(path) = self.targets.as_deref().filter(|_| !to_stdout && !self.overwrite) {
            refuse_existing(path).map_err(|problem| Problem {
                next_step: "choose another path, or add --overwrite if it may be replaced".to_owned(),
                ..problem
            })?;
        }
        let config = self.config.load()?;
        let before = registered(config.as_ref())?.unwrap_or(Targets::none());
        on(self.database.as_ref(), config.as_ref(), async |database, stop| {
            tokio::select! {
                exit = self.look(&database, &before, to_stdout) => exit,
                () = stop => Ok(Exit::Interrupted),
            }
        })
        .await
    }

    async fn look(&self, database: &DatabaseConfig, before: &Targets, to_stdout: bool) -> Result<Exit, Problem> {
        let failed = |error: &_| engine_problem("the database could not be looked through", error);
        let engine = Engine::connect(database, before.clone()).await.map_err(|error| failed(&error))?;
        let report = engine.scan(&|_| {}).await.map_err(|error| failed(&error))?;
        if to_stdout {
            note(&text(&report));
            print(&targets_file(&report, before))?;
            return Ok(Exit::Done);
        }
        if let Some(path) = &self.targets {
            let content = targets_file(&report, before);
            if self.overwrite {
                replace_shared(path, content.as_bytes())?;
            } else {
                write_shared(path, content.as_bytes())?;
            }
            note(&format!("{} is written; read it before it is used", path.display()));
        }
        self.output.print(&report, || text(&report))?;
        Ok(Exit::Done)
    }
}

fn text(report: &ScanReport) -> String {
    let mut table = Table::new(&["TABLE", "COLUMN", "STATE", "VALUES", "KIND", "VERSION", "ENCODING"]);
    for column in &report.found {
        for group in &column.values {
            table.row([
                column.table.clone(),
                column.column.clone(),
                column.state.as_str().to_owned(),
                thousands(group.values),
                group.kind.to_string(),
                group.version.to_string(),
                group.encoding.to_owned(),
            ]);
        }
    }
    let mut text = if report.found.is_empty() {
        "No column holds values of devolutions-crypto.".to_owned()
    } else {
        table.render()
    };
    text.push_str(&format!(
        "\n\n{} with {} were looked into.",
        counted(report.tables, "table"),
        counted(report.columns, "column")
    ));
    for column in report.found.iter().filter(|column| column.state == ColumnState::Unregistered) {
        let what = match &column.obstacle {
            None => "is not registered: no rotation begins before it is, or is excluded".to_owned(),
            Some(obstacle) => format!("is not registered, and cannot be: {obstacle}"),
        };
        text.push_str(&format!("\n{}.{} {what}.", column.table, column.column));
    }
    for (column, rights) in report.found.iter().filter_map(|column| Some((column, column.missing_rights.as_ref()?))) {
        text.push_str(&format!("\n{}.{}: {rights}.", column.table, column.column));
    }
    for problem in &report.registered_problems {
        text.push_str(&format!("\nRegistered, and cannot be turned: {problem}."));
    }
    for unseen in &report.not_looked_into {
        let column = unseen.column.as_ref().map_or(String::new(), |column| format!(".{column}"));
        text.push_str(&format!("\n{}{column} was not looked into: {}.", unseen.table, unseen.reason));
    }
    if !report.own_tables.is_empty() {
        text.push_str(&format!("\nPassed over as Keyturn's own: {}.", report.own_tables.join(", ")));
    }
    text
}
