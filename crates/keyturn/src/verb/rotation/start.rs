//! `keyturn rotation start`: the operator's word. Both bundles are opened, every node is checked, the plan is signed; then
//! the rotation is followed to its end.

use std::path::PathBuf;

use clap::Args;
use keys::{KEY_BYTES, KeySet};
use rotation::{Authorization, OnBudget, RotationId, UndecryptableValue};
use wire::v1;

use super::confirm::confirm;
use super::{get, named, parse_id};
use crate::exit::Exit;
use crate::operator::{CallFailed, Client, ClosedBundle, Coordinators, OperatorArgs, Proposal, authorize, follow};
use crate::output::{OutputArgs, Paint, counted, duration, note};
use crate::password::{PasswordArgs, Source};
use crate::problem::Problem;
use crate::process::forbid_core_dumps;
use crate::view::{RotationView, backups, outcome_exit, summary_text, unseen};

/// What is signed, with what.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The planned rotation; without it the one that waits for approval
    id: Option<RotationId>,
    /// The bundle with the new key
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The bundle with the farm's present key, its escrow
    #[arg(long, value_name = "FILE")]
    current_bundle: PathBuf,
    #[command(flatten)]
    password: PasswordArgs,
    /// Read the current bundle's password from this file; '-' is standard input [default: as the new bundle's]
    #[arg(long, value_name = "PATH", conflicts_with = "current_password_fd")]
    current_password_file: Option<PathBuf>,
    /// Read the current bundle's password from this open file descriptor
    #[arg(long, value_name = "N")]
    current_password_fd: Option<u32>,
    /// Do not ask for the farm's name before the start
    #[arg(long)]
    yes: bool,
    /// Wait for the rotation's end, which is what happens anyway
    #[arg(long, conflicts_with = "detach")]
    wait: bool,
    /// Return as soon as the rotation is started
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl Start {
    /// Signs, starts, follows.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        self.check_sources()?;
        let (new, current) = (ClosedBundle::read(&self.bundle)?, ClosedBundle::read(&self.current_bundle)?);
        let coordinators = self.operator.coordinators()?;
        let rotation = self.approvable(&coordinators).await?;
        let id = rotation.id.clone();
        let proposal = Proposal::read(&parse_id(&id)?, &rotation.plan, &rotation.plan_digest)?;
        let (new, current) = self.open(&new, &current)?;
        let authorization = authorize(coordinators.tls(), &proposal, &current, &new)?;
        let new_key = new.active().secret.id().to_string();
        // The keys are sealed; this process needs them no longer.
        drop((new, current));
        self.confirm(&proposal)?;
        let started = start(&coordinators, &id, &new_key, &authorization).await?;
        let rotation = if self.detach {
            started
        } else {
            follow(&coordinators, &id, |rotation| outcome_exit(rotation).is_some()).await?
        };
        self.output.print(&RotationView::from(&rotation), || summary_text(&rotation, Paint::stdout()))?;
        Ok(outcome_exit(&rotation).filter(|_| !self.detach).unwrap_or(Exit::Done))
    }

    fn current_source(&self) -> Option<Source> {
        let given = self.current_password_file.is_some() || self.current_password_fd.is_some();
        given.then(|| Source::new(self.current_password_file.as_deref(), self.current_password_fd))
    }

    /// Standard input can be read to its end only once.
    fn check_sources(&self) -> Result<(), Problem> {
        if self.password.source() == Source::Stdin && self.current_source() == Some(Source::Stdin) {
            return Err(Problem::usage(
                "both passwords cannot come from standard input",
                "leave out --current-password-file if they are the same, or give one as a file or file descriptor",
            ));
        }
        Ok(())
    }

    /// Opens both bundles; without a source of its own the current one is tried with the new one's password.
    fn open(&self, new: &ClosedBundle, current: &ClosedBundle) -> Result<(KeySet, KeySet), Problem> {
        let source = self.password.source();
        let password = source.read(&new.name())?;
        let new_set = new.open(&password)?;
        let current_set = match self.current_source() {
            Some(other) => current.open(&other.read(&current.name())?)?,
            None if source == Source::Prompt => current.open(&source.read(&current.name())?)?,
            None => current.open(&password)?,
        };
        // Such a key is rotated away. A new one is refused when the plan is signed.
        let bytes = current_set.active().secret.length_bytes();
        if bytes != KEY_BYTES {
            note(&format!("warning: the current key has {bytes} bytes, not {KEY_BYTES}"));
        }
        Ok((new_set, current_set))
    }

    /// The rotation, once its plan waits for approval.
    async fn approvable(&self, coordinators: &Coordinators) -> Result<v1::Rotation, Problem> {
        let mut rotation = get(coordinators, self.id).await?;
        let in_preflight = |rotation: &v1::Rotation| {
            rotation.phase() == v1::Phase::Preflight && rotation.outcome() == v1::Outcome::Running
        };
        if in_preflight(&rotation) {
            rotation = follow(coordinators, &rotation.id, |rotation| !in_preflight(rotation)).await?;
        }
        if rotation.phase() == v1::Phase::Approval && rotation.outcome() == v1::Outcome::Running {
            return Ok(rotation);
        }
        let view = RotationView::from(&rotation);
        Err(match rotation.outcome() {
            v1::Outcome::Running | v1::Outcome::Stuck | v1::Outcome::Unspecified => Problem::refused(
                "already-started",
                format!("rotation {} is under way: {} at {}", view.id, view.outcome, view.phase),
                "`keyturn rotation watch` follows it, `keyturn rotation abort` ends it",
            ),
            v1::Outcome::Completed | v1::Outcome::RolledBack | v1::Outcome::Refused | v1::Outcome::Withdrawn => {
                Problem::refused(
                    "no-plan",
                    format!("no plan waits for approval; rotation {} has ended ({})", view.id, view.outcome),
                    "make one with `keyturn rotation plan`",
                )
            }
        })
    }

    /// The last warning. Without `--yes` the farm's name must be typed.
    fn confirm(&self, proposal: &Proposal) -> Result<(), Problem> {
        let plan = &proposal.plan;
        let rows: u64 = plan.tables.values().map(|table| table.rows).sum();
        note(&format!(
            "{} The farm {} goes offline for about {}: {}, {}, {}. Until the nodes are admitted again \
             everything can be undone; after that the way back is another rotation. Plan {}.",
            Paint::stderr().yellow("Warning:"),
            plan.farm,
            duration(plan.downtime_forecast_ms),
            counted(plan.nodes.len() as u64, "node"),
            counted(plan.tables.len() as u64, "table"),
            counted(rows, "row"),
            proposal.digest,
        ));
        if let Some(budget) = &plan.budget {
            let then = match budget.on_budget {
                OnBudget::Undo => "it is undone in time to be back within that",
                OnBudget::Continue => "it goes on all the same if that is exceeded",
            };
            note(&format!("It may be offline for {}: {then}.", duration(budget.max_downtime_ms)));
        }
        // From the bytes that are signed, not from what the coordinator says of them: a node, a table or a backup that it
        // left out would be missing here.
        note(&format!("Nodes: {}", named(plan.nodes.keys())));
        note(&format!("Tables: {}", named(plan.tables.keys())));
        if !plan.accepted.is_empty() {
            let values = counted(plan.accepted.len() as u64, "value");
            note(&format!("{values} that open under no known key stay as they are:"));
            for value in &plan.accepted {
                let UndecryptableValue { table, column, key, raw_digest, reason } = value;
                note(&format!("  {table}.{column} {key}, BLAKE3 {raw_digest}: {reason}", key = key.0));
            }
        }
        note(&backups(plan));
        if let Some(unseen) = unseen(plan) {
            note(&unseen);
        }
        if self.yes {
            return Ok(());
        }
        let stdin_taken = self.password.source() == Source::Stdin || self.current_source() == Some(Source::Stdin);
        confirm(&plan.farm, stdin_taken, "nothing was started")
    }
}

/// Sends the operator's word. If an answer was lost, the rotation itself shows whether it arrived: only this plan and this
/// new key can have started it.
async fn start(
    coordinators: &Coordinators,
    id: &str,
    new_key: &str,
    authorization: &Authorization,
) -> Result<v1::Rotation, Problem> {
    let request = v1::StartRotationRequest { id: id.to_owned(), authorization: Some(authorization.into()) };
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.start_rotation(request).await }
    };
    match coordinators.call("starting the rotation", call).await {
        Ok(answered) => Ok(answered.value),
        Err(CallFailed { problem, lost: true }) => {
            let found = get(coordinators, Some(parse_id(id)?)).await?;
            if found.new_key == new_key { Ok(found) } else { Err(problem) }
        }
        Err(failed) => Err(failed.into()),
    }
}
