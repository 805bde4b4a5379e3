//! Runs one command of the configuration: argv and no shell, a deadline, bounded output, an environment without
//! secrets; a command that does not end in time is killed with everything it started.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::config::CommandConfig;
use crate::leftover;

/// How much of each of a command's outputs is kept. More than any answer needs; the rest is read and dropped, so
/// that a talkative command neither blocks nor fills the memory.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// How long the outputs are still read after the command itself has ended: something that it left running may
/// hold them open for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);
/// How much of a command's error output a fault repeats.
const TAIL_CHARS_MAX: usize = 400;
/// What a program may see of the agent's environment. Everything else is withheld: it may hold secrets.
const ENVIRONMENT: [&str; 8] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

/// Of the agent's own environment, what a program may see that it starts.
pub fn harmless_environment() -> impl Iterator<Item = (&'static str, OsString)> {
    ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

/// Who runs the commands of the configuration.
#[tonic::async_trait]
pub trait Commands: Send + Sync {
    /// Runs one with `input` as its standard input, until it ends, its deadline passes, or it is given up.
    async fn run(
        &self,
        command: &CommandConfig,
        input: &[u8],
        cancel: &CancellationToken,
    ) -> Result<Finished, ExecError>;
}

/// Runs them as processes, each named in a folder while it runs.
pub(crate) struct Processes {
    pub(crate) running: PathBuf,
}

#[tonic::async_trait]
impl Commands for Processes {
    async fn run(
        &self,
        command: &CommandConfig,
        input: &[u8],
        cancel: &CancellationToken,
    ) -> Result<Finished, ExecError> {
        run(command, input, &self.running, cancel).await
    }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its error output.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// How it failed, for a fault: status and the end of the error output, without control characters.
    pub(crate) fn failure(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let plain: Vec<char> = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let tail: String = plain[plain.len().saturating_sub(TAIL_CHARS_MAX)..].iter().collect();
        if tail.is_empty() { self.status.to_string() } else { format!("{}, saying: {tail}", self.status) }
    }
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It cannot be run.
    #[error("{program} cannot be run")]
    Spawn {
        /// The first word of the command.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {seconds} s and was killed")]
    TimedOut {
        /// The first word of the command.
        program: String,
        /// The deadline.
        seconds: u64,
    },
    /// The assignment was given up; the command was killed.
    #[error("{program} was killed, since the work it was part of was given up")]
    Cancelled {
        /// The first word of the command.
        program: String,
    },
}

/// The process group of a running command; dropped while armed, it is killed.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs the command with `input` as its standard input. While it runs, it is named in the folder `running`.
async fn run(
    command: &CommandConfig,
    input: &[u8],
    running: &Path,
    cancel: &CancellationToken,
) -> Result<Finished, ExecError> {
    let program = command.program().to_owned();
    let spawn_error = |source| ExecError::Spawn { program: program.clone(), source };
    let mut child = tokio::process::Command::new(command.program())
        .args(command.arguments())
        .env_clear()
        .envs(harmless_environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(spawn_error)?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let named = group.0.map(|leader| leftover::name(running, leader)).transpose();
    if let Err(error) = &named {
        tracing::warn!(program, %error, "the running command could not be named in state_dir");
    }
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let traffic = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A command that does not read its input is free to.
                    let _ = stdin.write_all(input).await;
                }
            };
            tokio::join!(feed, collect(stdout, &mut out), collect(stderr, &mut err));
        };
        tokio::pin!(traffic);
        let deadline = tokio::time::sleep(command.deadline());
        tokio::pin!(deadline);
        let mut traffic_ended = false;
        let status = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(ExecError::Cancelled { program }),
                status = child.wait() => break status.map_err(spawn_error)?,
                () = &mut deadline => {
                    return Err(ExecError::TimedOut { program, seconds: command.deadline().as_secs() });
                }
                () = &mut traffic, if !traffic_ended => traffic_ended = true,
            }
        };
        drop(named);
        // Ended by itself: what it left running, a started instance above all, is to stay.
        group.0 = None;
        if !traffic_ended {
            // Held open beyond that by something it started: what was read so far is the output.
            let _ = tokio::time::timeout(OUTPUT_GRACE, &mut traffic).await;
        }
        status
    };
    Ok(Finished { status, stdout: out, stderr: err })
}

/// Reads to the end, keeping the beginning.
async fn collect(source: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut source) = source else { return };
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = source.read(&mut chunk).await {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..length.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, seconds: u64) -> CommandConfig {
        CommandConfig::new(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()], Duration::from_secs(seconds))
    }

    async fn check(script: &str, input: &[u8]) -> Finished {
        let folder = tempfile::tempdir().unwrap();
        let finished = run(&sh(script, 20), input, folder.path(), &CancellationToken::new()).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "an ended command is named no more");
        finished
    }

    /// A pipe whose writing end is in the hands of the command alone: its end is reached when, and only when,
    /// everything that the command started is gone.
    fn fifo(folder: &std::path::Path) -> std::path::PathBuf {
        let path = folder.join("alive");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    #[tokio::test]
    async fn input_output_and_status_come_through() {
        let finished = check("read line; echo \"got $line\"; echo oops >&2; exit 3", b"hello\n").await;
        assert_eq!(finished.stdout, b"got hello\n");
        assert_eq!(finished.failure(), "exit status: 3, saying: oops");
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let finished = check("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2", b"").await;
        assert!(finished.status.success());
        assert_eq!(finished.stdout.len(), OUTPUT_BYTES_MAX);
        assert_eq!(finished.stderr.len(), OUTPUT_BYTES_MAX);
        assert!(finished.failure().len() < 1_000);
    }

    #[tokio::test]
    async fn input_that_nobody_reads_does_not_block() {
        assert!(check("exit 0", &[0; 1_000_000]).await.status.success());
    }

    #[tokio::test]
    async fn secrets_of_the_environment_are_withheld() {
        // Cargo sets CARGO_MANIFEST_DIR for its tests; it stands for a secret here.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let finished = check("env", b"").await;
        let seen = String::from_utf8(finished.stdout).unwrap();
        assert!(seen.contains("PATH="), "{seen}");
        assert!(!seen.contains("CARGO"), "{seen}");
    }

    #[tokio::test]
    async fn what_does_not_end_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let alive = fifo(folder.path());
        let script = format!("sleep 1000 > {} & sleep 1000", alive.display());
        let reader = tokio::task::spawn_blocking(move || std::fs::read(alive));
        let error =
            run(&sh(&script, 1), b"", &folder.path().join("running"), &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, ExecError::TimedOut { seconds: 1, .. }), "{error}");
        reader.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn given_up_work_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let alive = fifo(folder.path());
        let script = format!("sleep 1000 > {}", alive.display());
        let cancel = CancellationToken::new();
        let opened = cancel.clone();
        let reader = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::File::open(alive).unwrap();
            opened.cancel();
            std::io::copy(&mut file, &mut std::io::sink())
        });
        let error = run(&sh(&script, 100), b"", &folder.path().join("running"), &cancel).await.unwrap_err();
        assert!(matches!(error, ExecError::Cancelled { .. }), "{error}");
        reader.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_it_leaves_running_stays_and_holds_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let go = fifo(folder.path());
        let done = folder.path().join("done");
        nix::unistd::mkfifo(&done, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("(read line < {}; echo $line > {}) & echo started", go.display(), done.display());
        let finished = check(&script, b"").await;
        assert_eq!(finished.stdout, b"started\n");
        std::fs::write(&go, b"still-here\n").unwrap();
        assert_eq!(std::fs::read(&done).unwrap(), b"still-here\n");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let command = CommandConfig::new(vec!["/no/such/program".to_owned()], Duration::from_secs(5));
        let folder = tempfile::tempdir().unwrap();
        let error = run(&command, b"", folder.path(), &CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "/no/such/program cannot be run");
    }
}
