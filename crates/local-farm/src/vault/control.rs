//! The commands with which an agent controls an instance. Each looks at how things are and does what is missing, so
//! that each may be repeated, and none kills.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _, stdin, stdout};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::folder::Folder;
use super::service::{DRAINED, STARTED};
use crate::http::{request, send};

/// An instance that runs answers a look at it within this time.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// How long requests under way may take when it drains; longer than any of the vault's.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(25);

/// How long it may take to answer after it was started.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often a starting instance is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How an instance is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    /// It takes requests.
    Online,
    /// It runs and took requests before.
    Drained,
    /// It runs and never took requests.
    Started,
    /// No process runs.
    Offline,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "online",
            Self::Drained => DRAINED,
            Self::Started => STARTED,
            Self::Offline => "offline",
        })
    }
}

/// Looks at the process and asks it. A process that runs and does not answer is an error, not a state.
pub(crate) async fn observe(folder: &Folder) -> anyhow::Result<Observed> {
    let Some(process) = folder.process()? else {
        return Ok(Observed::Offline);
    };
    let address = folder.settings()?.listen;
    let answer = match send(address, request(Method::GET, address, "/healthz", Bytes::new()), LOOK_LIMIT).await {
        Ok(answer) => answer,
        // It ended while it was asked.
        Err(_) if !process.is_alive() => return Ok(Observed::Offline),
        Err(error) => return Err(error).with_context(|| format!("process {} runs but does not answer", process.pid)),
    };
    match (answer.status(), answer.body().as_ref()) {
        (StatusCode::OK, _) => Ok(Observed::Online),
        (_, body) if body == DRAINED.as_bytes() => Ok(Observed::Drained),
        (_, body) if body == STARTED.as_bytes() => Ok(Observed::Started),
        (status, _) => bail!("process {} answers {status} to /healthz", process.pid),
    }
}

pub(super) async fn print_observed(folder: &Folder) -> anyhow::Result<()> {
    let observed = observe(folder).await?;
    writeln!(stdout(), "{observed}").context("printing the state")
}

/// Starts it in a session of its own, so that neither the agent's end nor its terminal's takes it along.
pub(super) async fn start(folder: &Folder) -> anyhow::Result<()> {
    folder.unmark_offline()?;
    let deadline = Instant::now() + START_LIMIT;
    let mut child = None;
    let mut last = None;
    while Instant::now() < deadline {
        match observe(folder).await {
            Ok(Observed::Online | Observed::Drained | Observed::Started) => return Ok(()),
            Ok(Observed::Offline) => match &mut child {
                None => child = Some(spawn(folder)?),
                Some(child) => {
                    if let Some(status) = child.try_wait().context("waiting for the instance")? {
                        bail!("the instance ended at once ({status}); see {}", folder.log_path().display());
                    }
                }
            },
            // It may be on its way up, or on its way down after an earlier `offline`.
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(POLL).await;
    }
    let problem = anyhow::anyhow!(
        "the instance did not answer within {} s; see {}",
        START_LIMIT.as_secs(),
        folder.log_path().display()
    );
    Err(last.map_or_else(|| problem, |last| last.context("the instance did not start in time")))
}

fn spawn(folder: &Folder) -> anyhow::Result<Child> {
    let path = folder.log_path();
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("opening {}", path.display()))?;
    let program = std::env::current_exe().context("finding this program")?;
    Command::new(program)
        .args(["sample-vault", "run", "--detached", "--dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("sharing the log")?)
        .stderr(log)
        .spawn()
        .context("starting the instance")
}

pub(super) async fn drain(folder: &Folder) -> anyhow::Result<()> {
    if folder.process()?.is_none() {
        return Ok(());
    }
    ask(folder, "/admin/drain", Bytes::new(), DRAIN_LIMIT).await.map(drop)
}

pub(super) async fn admit(folder: &Folder) -> anyhow::Result<()> {
    ask(folder, "/admin/admit", Bytes::new(), LOOK_LIMIT).await.map(drop)
}

pub(super) async fn offline(folder: &Folder) -> anyhow::Result<()> {
    folder.mark_offline()?;
    let Some(process) = folder.process()? else {
        return Ok(());
    };
    process.signal(Signal::SIGTERM)?;
    if process.wait_gone(END_LIMIT).await {
        return Ok(());
    }
    bail!("process {} still runs {} s after SIGTERM; find out what holds it", process.pid, END_LIMIT.as_secs());
}

pub(super) async fn canary(folder: &Folder) -> anyhow::Result<()> {
    let mut ciphertext = String::new();
    stdin().read_to_string(&mut ciphertext).context("reading the canary from standard input")?;
    let answer = ask(folder, "/canary", ciphertext.trim().to_owned().into(), LOOK_LIMIT).await?;
    stdout().write_all(answer.body()).context("printing what was in the canary")
}

/// Posts to the running instance and insists on success.
async fn ask(folder: &Folder, path: &str, body: Bytes, limit: Duration) -> anyhow::Result<Response<Bytes>> {
    let address: SocketAddr = folder.settings()?.listen;
    let answer = send(address, request(Method::POST, address, path, body), limit).await?;
    if !answer.status().is_success() {
        bail!("the instance answers {} to {path}: {}", answer.status(), String::from_utf8_lossy(answer.body()));
    }
    Ok(answer)
}
