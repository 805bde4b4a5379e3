//! How results leave the process: data to standard output as a table or JSON, everything else to standard error.

mod paint;
mod plain;
mod table;
mod time;

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::problem::Problem;

pub(crate) use paint::Paint;
pub(crate) use plain::plain;
pub(crate) use table::{Table, fields};
pub(crate) use time::{counted, date_time, duration, file_date, now_ms, thousands};

/// The form in which a command prints its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Not doc comments: they would make every page of help twice as long.
    // For people: aligned columns.
    Table,
    // For programs: one JSON document.
    Json,
}

/// The option that every command takes which prints data.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// The form in which data is printed to standard output.
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

impl OutputArgs {
    /// Whether JSON was asked for.
    pub(crate) fn json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints `data` as JSON, or the text that `table` makes for people.
    pub(crate) fn print<T: Serialize>(self, data: &T, table: impl FnOnce() -> String) -> Result<(), Problem> {
        match self.format {
            Format::Table => print(&plain(&table())),
            Format::Json => {
                let json = serde_json::to_string_pretty(data).map_err(|error| {
                    Problem::refused("internal", "the result has no JSON form", "report it").because(&error)
                })?;
                print(&json)
            }
        }
    }
}

/// Prints data to standard output, ending in a newline. A reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Problem::refused(
            "output",
            "the result could not be written to standard output",
            "look at where standard output goes; what was asked for is done",
        )
        .because(&error)),
    }
}

/// Says something to the person in front of the terminal. If even that fails there is nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", plain(text));
}
