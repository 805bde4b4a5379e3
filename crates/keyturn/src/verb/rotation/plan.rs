//! `keyturn rotation plan`: preflight, which looks at everything and changes nothing, and the plan that it makes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use wire::v1;

use super::get;
use crate::accepted;
use crate::duration::parse_duration;
use crate::exit::Exit;
use crate::operator::{CallFailed, Client, Coordinators, OperatorArgs, follow};
use crate::output::{OutputArgs, note};
use crate::problem::Problem;
use crate::view::{RotationView, plan_of, plan_text};

/// What is chosen beforehand.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Values that may stay undecryptable: the `undecryptable` list of an earlier `plan -o json`
    #[arg(long, value_name = "FILE")]
    accept: Option<PathBuf>,
    /// Pause as soon as this phase is entered, until `keyturn rotation resume`
    #[arg(long, value_name = "PHASE", value_enum)]
    hold_at: Option<HoldAt>,
    /// How tables are re-encrypted: in place, as a copy that is swapped in, or each by what is faster and possible
    #[arg(long, value_name = "STRATEGY", value_enum, default_value_t)]
    strategy: Strategy,
    /// How long the farm may be offline: 90s, 20m, 1h30m. Refused when the forecast exceeds it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_downtime: Option<Duration>,
    /// What to do under way when it would be exceeded: undo in time to be back within it, or go on
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, requires = "max_downtime")]
    on_budget: OnBudget,
    /// Prove this backup of the database, in the backup folder of the node that has it, instead of making one
    #[arg(long, value_name = "PATH", conflicts_with = "no_backup")]
    backup: Option<String>,
    /// Make no backup, whatever the agents' configurations say
    #[arg(long)]
    no_backup: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// The phases at which a rotation can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HoldAt {
    Distribute,
    Quiesce,
    Reencrypt,
    Verify,
    Activate,
    Start,
    Admit,
}

/// How tables are re-encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Strategy {
    #[default]
    Auto,
    InPlace,
    Shadow,
}

/// What happens when the budget would be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum OnBudget {
    #[default]
    Undo,
    Continue,
}

impl OnBudget {
    const fn choice(self) -> v1::OnBudget {
        match self {
            Self::Undo => v1::OnBudget::Undo,
            Self::Continue => v1::OnBudget::Continue,
        }
    }
}

impl Strategy {
    const fn choice(self) -> v1::StrategyChoice {
        match self {
            Self::Auto => v1::StrategyChoice::Auto,
            Self::InPlace => v1::StrategyChoice::InPlace,
            Self::Shadow => v1::StrategyChoice::Shadow,
        }
    }
}

impl HoldAt {
    const fn phase(self) -> v1::Phase {
        match self {
            Self::Distribute => v1::Phase::Distribute,
            Self::Quiesce => v1::Phase::Quiesce,
            Self::Reencrypt => v1::Phase::Reencrypt,
            Self::Verify => v1::Phase::Verify,
            Self::Activate => v1::Phase::Activate,
            Self::Start => v1::Phase::Start,
            Self::Admit => v1::Phase::Admit,
        }
    }
}

impl Plan {
    /// Asks for it and waits until it is made, or found impossible.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let accepted = self.accept.as_deref().map(accepted::read).transpose()?.unwrap_or_default();
        let coordinators = self.operator.coordinators()?;
        let request = v1::PlanRotationRequest {
            accepted: accepted.iter().map(v1::UndecryptableValue::from).collect(),
            hold_at: self.hold_at.map_or(v1::Phase::Unspecified, HoldAt::phase).into(),
            strategy: self.strategy.choice().into(),
            max_downtime_ms: self.max_downtime.map(|given| u64::try_from(given.as_millis()).unwrap_or(u64::MAX)),
            on_budget: self.on_budget.choice().into(),
            backup_shown: self.backup.clone(),
            no_backup: self.no_backup,
        };
        let id = request_plan(&coordinators, request).await?;
        let rotation = follow(&coordinators, &id, |rotation| {
            rotation.phase() != v1::Phase::Preflight || rotation.outcome() != v1::Outcome::Running
        })
        .await?;
        self.output.print(&RotationView::from(&rotation), || plan_text(&rotation))?;
        if rotation.outcome() == v1::Outcome::Running {
            self.check_budget(&rotation)?;
            note(&format!("Nothing was changed. `keyturn rotation start {id}` signs this plan and turns the keys."));
            return Ok(Exit::Done);
        }
        // Why was said when it was seen.
        Err(Problem::refused(
            "not-planned",
            format!("rotation {id} ended in preflight; nothing was changed"),
            "do what is said above, then plan again",
        ))
    }
}

impl Plan {
    /// A coordinator of an earlier release passes over a budget that it does not know, and the plan lacks it.
    fn check_budget(&self, rotation: &v1::Rotation) -> Result<(), Problem> {
        let planned = plan_of(rotation).and_then(|plan| plan.budget).map(|budget| budget.max_downtime_ms);
        match self.max_downtime.map(|asked| asked.as_millis()) {
            Some(asked) if planned.map(u128::from) != Some(asked) => Err(Problem::refused(
                "no-budget",
                format!("the plan of rotation {} does not have the downtime budget that was asked for", rotation.id),
                "run the same release of keyturn on every coordinator, or `keyturn rotation abort` and plan without it",
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// Asks the leader. The same request twice would be two rotations, so that after a lost answer a refusal because one is
/// under way means ours, if we asked for it.
async fn request_plan(coordinators: &Coordinators, request: v1::PlanRotationRequest) -> Result<String, Problem> {
    let plan = |mut client: Client| {
        let request = request.clone();
        async move { client.plan_rotation(request).await }
    };
    match coordinators.call("planning a rotation", plan).await {
        Ok(answered) => Ok(answered.value.id),
        Err(CallFailed { problem, lost: true })
            if problem.code == rotation::RejectionCode::RotationUnderWay.as_str() =>
        {
            let found = get(coordinators, None).await?;
            let ours = found.requested_by == coordinators.tls().identity().name
                && matches!(found.phase(), v1::Phase::Preflight | v1::Phase::Approval)
                && found.outcome() == v1::Outcome::Running;
            if ours { Ok(found.id) } else { Err(problem) }
        }
        Err(failed) => Err(failed.into()),
    }
}
