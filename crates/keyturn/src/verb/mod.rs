//! The tree of commands; the tree of folders is the same.

mod agent;
mod completions;
mod coordinator;
mod db;
mod demo;
mod hidden;
mod key;
mod node;
mod pki;
mod recover;
mod rotation;
mod soak;

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::problem::Problem;
use crate::process::{SERVICE_FILTER, VERB_FILTER, start_logging};

/// Turns the encryption keys of a whole farm at once: everywhere, or nowhere.
///
/// Nouns first, verbs second. Data goes to standard output, everything else to standard error.
///
/// Exit codes: 0 done; 1 refused or failed, nothing left to undo; 2 wrong usage; 3 rolled back;
/// 4 stuck, an operator is needed; 5 no leader or no connection; 6 verification failed.
#[derive(Debug, Parser)]
#[command(name = "keyturn", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a whole farm on this machine, rotate its keys under load, and check everything
    Demo(demo::Demo),
    /// Turn the keys of such a farm again and again under random faults, and count what comes of it
    Soak(soak::Soak),
    /// Run a coordinator, one replica of the rotation's state; or list, add, replace and remove them
    Coordinator(coordinator::Coordinator),
    /// Run a node's agent
    Agent(agent::Agent),
    /// Make the farm's certificates
    #[command(subcommand)]
    Pki(pki::Pki),
    /// Handle key bundles and a node's key store
    #[command(subcommand)]
    Key(key::Key),
    /// Manage the farm's nodes
    #[command(subcommand)]
    Node(node::Node),
    /// Look into a database: what holds ciphertexts, under which keys, and how fast they turn
    #[command(subcommand)]
    Db(db::Db),
    /// Plan, start and follow rotations
    #[command(subcommand)]
    Rotation(rotation::Rotation),
    /// Put this node back after a failure, without any coordinator: rows, encryption.config, instance
    Recover(recover::Recover),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// The sample application of the demo
    #[command(hide = true)]
    SampleVault(hidden::Arguments),
    /// The load balancer of the demo
    #[command(hide = true)]
    Balancer(hidden::Arguments),
}

/// Carries out what was asked.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Problem> {
    let service = match &cli.command {
        Command::Coordinator(verb) => verb.service_log(),
        Command::Agent(verb) => Some(verb.log.log_format),
        Command::Demo(_)
        | Command::Soak(_)
        | Command::Pki(_)
        | Command::Key(_)
        | Command::Node(_)
        | Command::Db(_)
        | Command::Rotation(_)
        | Command::Recover(_)
        | Command::Completions(_)
        | Command::SampleVault(_)
        | Command::Balancer(_) => None,
    };
    start_logging(service.unwrap_or_default(), if service.is_some() { SERVICE_FILTER } else { VERB_FILTER });
    match cli.command {
        Command::Demo(verb) => verb.run().await,
        Command::Soak(verb) => verb.run().await,
        Command::Coordinator(verb) => verb.run().await,
        Command::Agent(verb) => verb.run().await,
        Command::Pki(verb) => verb.run(),
        Command::Key(verb) => verb.run(),
        Command::Node(verb) => verb.run().await,
        Command::Db(verb) => verb.run().await,
        Command::Rotation(verb) => verb.run().await,
        Command::Recover(verb) => verb.run().await,
        Command::Completions(verb) => verb.run(),
        Command::SampleVault(arguments) => hidden::sample_vault(arguments).await,
        Command::Balancer(arguments) => hidden::balancer(arguments).await,
    }
}
