//! What the process does for itself before a verb runs: no core dumps where keys are, logging, signals.

use clap::{Args, ValueEnum};
use nix::sys::resource::{Resource, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::problem::Problem;

/// How a service writes its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    // For people.
    #[default]
    Text,
    // One JSON object per line.
    Json,
}

/// The options of the verbs that run as services.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LogArgs {
    /// How log lines are written to standard error; what is logged is chosen by RUST_LOG
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// What a service logs when `RUST_LOG` says nothing. openraft repeats every failed heartbeat to a replica that is down,
/// several times a second; who leads is logged by the coordinator itself. What a database's functions choose to say may be of rows.
pub(crate) const SERVICE_FILTER: &str = "info,openraft=error,openraft::replication=off,sqlx::postgres::notice=off";
/// What any other verb logs: it talks to a person, who needs no log, and no pages of a statement that took a while.
pub(crate) const VERB_FILTER: &str = "warn,sqlx::query=error,sqlx::postgres::notice=off";

/// Begins logging to standard error. `default` is the filter when `RUST_LOG` says nothing.
pub(crate) fn start_logging(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only when a logger is set already, which keeps working.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(crate::output::Paint::stderr().is_coloured()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Keeps keys in memory out of core files and of other processes' reach. Called before a bundle is opened.
pub(crate) fn forbid_core_dumps() -> Result<(), Problem> {
    forbid_core_files()?;
    nix::sys::prctl::set_dumpable(false).map_err(|error| not_forbidden(&error))
}

/// Keeps keys in memory out of core files alone. For the demo's application, whose open files an agent must be able to see.
pub(crate) fn forbid_core_files() -> Result<(), Problem> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| not_forbidden(&error))
}

fn not_forbidden(error: &nix::Error) -> Problem {
    Problem::refused(
        "core-dumps",
        "core dumps could not be switched off for this process",
        "a sandbox may forbid setrlimit or prctl; allow them, since a core file would hold the key",
    )
    .because(error)
}

/// Ends when the process is told to, by SIGTERM, SIGINT or SIGHUP. For verbs that clean up after themselves.
pub(crate) async fn told_to_end() {
    let Ok(mut hung_up) = signal(SignalKind::hangup()) else { return told_to_stop().await };
    tokio::select! {
        () = told_to_stop() => {}
        _ = hung_up.recv() => {}
    }
}

/// Ends when the process is told to, by SIGTERM or SIGINT.
pub(crate) async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process at once, which is safe for all that Keyturn does.
        return std::future::pending().await;
    };
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "told to stop");
}
