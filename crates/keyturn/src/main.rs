//! The one binary of Keyturn: every role of a farm is a verb of it.

mod accepted;
mod database_url;
mod duration;
mod exit;
mod files;
mod operator;
mod output;
mod password;
mod problem;
mod process;
mod verb;
mod view;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use output::{Paint, note};

fn main() -> anyhow::Result<ExitCode> {
    let cli = verb::Cli::parse();
    // Chosen once for the whole process: two providers, or none, make rustls panic at the first connection.
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    anyhow::ensure!(installed.is_ok(), "another TLS provider was installed before this one");
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let exit = match runtime.block_on(verb::run(cli)) {
        Ok(exit) => exit,
        Err(problem) => {
            note(&problem.render(Paint::stderr()));
            problem.exit
        }
    };
    // A password prompt or a database call may still occupy a thread; nothing that matters waits there.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit.code()))
}
