//! The sample application whose keys are rotated: a password vault, and the commands with which an agent controls it.

mod control;
mod fill;
mod folder;
mod run;
mod service;
mod settings;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use folder::Folder;
pub(crate) use service::NOT_ADMITTED_HEADER;
pub(crate) use settings::Settings;

/// What the hidden verb `sample-vault` takes.
#[derive(Debug, Parser)]
#[command(name = "sample-vault", about = "A password vault to try Keyturn on, and the commands that control it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to end; not admitted at first.
    Run(Run),
    /// Start it in the background, so that it outlives whoever asked; not admitted at first.
    Start(At),
    /// Take no new requests and wait until those under way are finished.
    Drain(At),
    /// End it, and have it refuse to run until `start`.
    Offline(At),
    /// Print how it is: online, drained, started or offline.
    Observe(At),
    /// Read a ciphertext in base64 from standard input; have the running process open it; print what was in it.
    Canary(At),
    /// Take requests again.
    Admit(At),
    /// Create the tables of an empty database and fill them with entries under the instance's key.
    Seed(fill::Seed),
}

/// How it runs.
#[derive(Debug, Parser)]
struct Run {
    #[command(flatten)]
    at: At,
    /// In a session of its own, so that neither its parent's end nor its terminal's takes it along.
    #[arg(long)]
    detached: bool,
}

/// Where the instance lives.
#[derive(Debug, Parser)]
struct At {
    /// The instance's folder, with its instance.toml.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs one command.
pub(crate) async fn run(arguments: Vec<OsString>) -> anyhow::Result<u8> {
    let arguments = match crate::arguments::parse::<Arguments>("sample-vault", arguments) {
        Ok(arguments) => arguments,
        Err(code) => return Ok(code),
    };
    match arguments.command {
        Command::Run(run) => run::run(&Folder::new(run.at.dir), run.detached).await,
        Command::Start(at) => control::start(&Folder::new(at.dir)).await,
        Command::Drain(at) => control::drain(&Folder::new(at.dir)).await,
        Command::Offline(at) => control::offline(&Folder::new(at.dir)).await,
        Command::Observe(at) => control::print_observed(&Folder::new(at.dir)).await,
        Command::Canary(at) => control::canary(&Folder::new(at.dir)).await,
        Command::Admit(at) => control::admit(&Folder::new(at.dir)).await,
        Command::Seed(seed) => seed.run().await,
    }?;
    Ok(0)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
