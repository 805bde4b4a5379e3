//! The hidden verbs: the demo's sample application and load balancer, in the same binary because `cargo run` builds
//! no other. Their arguments are local-farm's own.

use std::ffi::OsString;

use clap::Args;

use crate::exit::Exit;
use crate::problem::Problem;
use crate::process::forbid_core_files;

/// Arguments that are passed on as they are.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the sample application, or a command that controls it.
pub(crate) async fn sample_vault(arguments: Arguments) -> Result<Exit, Problem> {
    forbid_core_files()?;
    match local_farm::sample_vault(arguments.arguments).await {
        Ok(code) => Ok(Exit::from_code(code)),
        Err(error) => Err(failed("sample-vault", "the sample application").because(error.as_ref())),
    }
}

/// Runs the load balancer.
pub(crate) async fn balancer(arguments: Arguments) -> Result<Exit, Problem> {
    match local_farm::balancer(arguments.arguments).await {
        Ok(code) => Ok(Exit::from_code(code)),
        Err(error) => Err(failed("balancer", "the load balancer").because(error.as_ref())),
    }
}

fn failed(code: &str, what: &str) -> Problem {
    Problem::refused(
        code,
        format!("{what} of the demo failed"),
        "run `keyturn demo` with --keep DIR and look at its logs",
    )
}
