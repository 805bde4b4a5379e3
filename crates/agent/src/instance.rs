//! Drives the instance with the commands of the configuration. Its state is observed, never inferred from how a
//! command ended or how long it took.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fail_points::{Point, point};
use keys::SecretKey;
use rotation::{Fault, FaultCode};
use tokio_util::sync::CancellationToken;

use crate::config::{CommandConfig, InstanceConfig};
use crate::exec::{Commands, ExecError, Finished, Processes};
use crate::fault::{chain, retryable};
use crate::registry::{Ticket, given_up};

/// How long after the first look at the instance the next is taken while a state is waited for. It doubles up to the longest:
/// the farm is offline meanwhile, and each look runs a command.
const OBSERVE_FIRST: Duration = Duration::from_millis(20);
const OBSERVE_LONGEST: Duration = Duration::from_millis(200);
/// How much of a wrong observation a fault repeats.
const WORD_CHARS_MAX: usize = 40;

/// What the `observe` command says of the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It runs and clients reach it.
    Online,
    /// It runs, and no new client reaches it.
    Drained,
    /// It runs and was not yet let to clients.
    Started,
    /// It does not run.
    Offline,
}

impl Condition {
    const ALL: [Self; 4] = [Self::Online, Self::Drained, Self::Started, Self::Offline];

    /// The word that `observe` prints.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Drained => "drained",
            Self::Started => "started",
            Self::Offline => "offline",
        }
    }

    const fn is_running(self) -> bool {
        match self {
            Self::Online | Self::Drained | Self::Started => true,
            Self::Offline => false,
        }
    }
}

/// The instance of this node.
pub(crate) struct Driver {
    commands: InstanceConfig,
    runner: Arc<dyn Commands>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("commands", &self.commands).finish_non_exhaustive()
    }
}

impl Driver {
    /// Drives with these commands, naming them in the folder `running` while they run.
    pub(crate) fn new(commands: InstanceConfig, running: PathBuf) -> Self {
        Self::with(commands, Arc::new(Processes { running }))
    }

    /// Drives with these commands, which `runner` runs.
    pub(crate) fn with(commands: InstanceConfig, runner: Arc<dyn Commands>) -> Self {
        Self { commands, runner }
    }

    /// What it is doing now.
    pub(crate) async fn observe(&self, cancel: &CancellationToken) -> Result<Condition, Fault> {
        let finished = self.succeed("observe", &self.commands.observe, b"", cancel).await?;
        let said = String::from_utf8_lossy(&finished.stdout);
        let word = said.trim();
        Condition::ALL.into_iter().find(|condition| condition.as_str() == word).ok_or_else(|| {
            let shown: String = word.chars().take(WORD_CHARS_MAX).collect();
            retryable(
                FaultCode::Instance,
                format!("the `observe` command printed {shown:?}, which is none of online, drained, started, offline"),
                "correct the observe command in the agent's configuration",
            )
        })
    }

    /// Drains it, if clients reach it, and takes it offline. Offline already, it is still told to stay so.
    pub(crate) async fn take_offline(&self, ticket: &Ticket) -> Result<(), Fault> {
        match self.observe(&ticket.cancel).await {
            Ok(Condition::Online) => self.drain(ticket).await?,
            Ok(Condition::Drained | Condition::Started | Condition::Offline) => {}
            // An instance that answers nobody is not drained, but it must still be possible to stop it.
            Err(fault) => tracing::warn!("going offline without a drain: {}", fault.message),
        }
        ticket.still_wanted()?;
        ticket.waiting_for("taking the instance offline");
        self.change(point!(INSTANCE_OFFLINE), "offline", &self.commands.offline, ticket).await?;
        self.reach("offline", self.commands.offline.deadline(), ticket, |condition| !condition.is_running()).await
    }

    async fn drain(&self, ticket: &Ticket) -> Result<(), Fault> {
        ticket.waiting_for("draining the instance");
        point!(INSTANCE_DRAIN).before().map_err(|error| cut_off("drain", &error))?;
        match self.runner.run(&self.commands.drain, b"", &ticket.cancel).await {
            // Clients had their time. That none is left is proved in the database, not here.
            Err(error @ ExecError::TimedOut { .. }) => {
                tracing::warn!(%error, "going offline without a full drain");
                Ok(())
            }
            ended => check("drain", ended).map(drop),
        }?;
        point!(INSTANCE_DRAIN).after().map_err(|error| cut_off("drain", &error))
    }

    /// Starts it, if it does not run, and waits until it does. It is not let to clients by this.
    pub(crate) async fn start(&self, ticket: &Ticket) -> Result<(), Fault> {
        if self.observe(&ticket.cancel).await?.is_running() {
            return Ok(());
        }
        ticket.still_wanted()?;
        ticket.waiting_for("starting the instance");
        self.change(point!(INSTANCE_START), "start", &self.commands.start, ticket).await?;
        self.reach("started", self.commands.start.deadline(), ticket, Condition::is_running).await
    }

    /// Has the running process open a value that was encrypted with `key` just now.
    pub(crate) async fn prove(&self, key: &SecretKey, ticket: &Ticket) -> Result<(), Fault> {
        ticket.waiting_for("the instance's answer to the canary");
        let challenge = keys::canary::challenge(key);
        let input = format!("{}\n", challenge.ciphertext_base64);
        let finished = self
            .succeed("canary", &self.commands.canary, input.as_bytes(), &ticket.cancel)
            .await
            .map_err(|fault| Fault { code: FaultCode::Canary, ..fault })?;
        if challenge.is_answered_by(&finished.stdout) {
            return Ok(());
        }
        // What it printed instead is withheld: it may be somebody's plaintext.
        Err(retryable(
            FaultCode::Canary,
            format!(
                "the running instance did not open a value encrypted with key {}: it holds another key, or another \
                 process answered",
                key.id()
            ),
            "look at the instance's log; check that its canary command asks the process that this agent starts",
        ))
    }

    /// Lets clients reach it.
    pub(crate) async fn admit(&self, ticket: &Ticket) -> Result<(), Fault> {
        ticket.waiting_for("admitting the instance");
        self.change(point!(INSTANCE_ADMIT), "admit", &self.commands.admit, ticket).await?;
        self.reach("online", self.commands.admit.deadline(), ticket, |condition| condition == Condition::Online).await
    }

    /// Looks again and again until the state is there.
    async fn reach(
        &self,
        wanted: &str,
        within: Duration,
        ticket: &Ticket,
        reached: impl Fn(Condition) -> bool,
    ) -> Result<(), Fault> {
        let begun = Instant::now();
        let mut pause = OBSERVE_FIRST;
        loop {
            let observed = self.observe(&ticket.cancel).await;
            ticket.still_wanted()?;
            if observed.as_ref().is_ok_and(|condition| reached(*condition)) {
                return Ok(());
            }
            let said = match &observed {
                Ok(condition) => format!("it is {}", condition.as_str()),
                Err(fault) => fault.message.clone(),
            };
            if begun.elapsed() >= within {
                return Err(retryable(
                    FaultCode::Instance,
                    format!("waited {} s for the instance to be {wanted}: {said}", within.as_secs()),
                    format!("see why the instance does not become {wanted}; its own log says most"),
                ));
            }
            ticket.waiting_for(&format!("the instance to be {wanted}: {said}"));
            tokio::select! {
                () = ticket.cancel.cancelled() => return Err(given_up()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = OBSERVE_LONGEST.min(pause * 2);
        }
    }

    /// Runs a command that changes what the instance does.
    async fn change(&self, point: Point, name: &str, command: &CommandConfig, ticket: &Ticket) -> Result<(), Fault> {
        point.before().map_err(|error| cut_off(name, &error))?;
        self.succeed(name, command, b"", &ticket.cancel).await?;
        point.after().map_err(|error| cut_off(name, &error))
    }

    async fn succeed(
        &self,
        name: &str,
        command: &CommandConfig,
        input: &[u8],
        cancel: &CancellationToken,
    ) -> Result<Finished, Fault> {
        check(name, self.runner.run(command, input, cancel).await)
    }
}

/// A command that could not be begun, or whose end was not seen.
fn cut_off(name: &str, error: &std::io::Error) -> Fault {
    retryable(
        FaultCode::Instance,
        chain(&format!("running the `{name}` command"), error),
        "see the agent's log and the instance's own",
    )
}

fn check(name: &str, ended: Result<Finished, ExecError>) -> Result<Finished, Fault> {
    match ended {
        Ok(finished) if finished.status.success() => Ok(finished),
        Ok(finished) => Err(retryable(
            FaultCode::Instance,
            format!("the `{name}` command failed with {}", finished.failure()),
            format!("run the {name} command of the agent's configuration by hand and see what it needs"),
        )),
        Err(ExecError::Cancelled { .. }) => Err(given_up()),
        Err(error @ ExecError::TimedOut { .. }) => Err(retryable(
            FaultCode::Instance,
            chain(&format!("the `{name}` command"), &error),
            format!("see what the {name} command waits for, or give it a longer deadline_s"),
        )),
        Err(error @ ExecError::Spawn { .. }) => Err(retryable(
            FaultCode::Instance,
            chain(&format!("the `{name}` command"), &error),
            format!("correct the {name} command in the agent's configuration"),
        )),
    }
}
