//! The downtime budget: how long an operator lets the farm be offline, where a rotation stands towards it, and when it
//! must turn back to be within it.
//!
//! The rotation turns back (or, if the operator said so, goes on and says so) as soon as the way back, with a reserve, would
//! use up the rest of the budget; but not while the way forward ends within the budget, nor when it is the shorter one,
//! since going on is then what serves soonest. Both ways are estimates (`estimate.rs`). Nothing that is safe depends on them
//! or on a clock: a wrong one ends in an undo that was not needed, or in one that comes late.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::course::Signal;
use crate::estimate::Estimate;
use crate::limits::{BUDGET_MAX_MS, BUDGET_MIN_MS};
use crate::run::Run;
use crate::{
    Course, Epoch, Event, Fault, FaultCode, Millis, Outcome, Phase, Plan, Rejection, RejectionCode, Rotation,
    RotationId, State, UndoStep,
};

/// What happens when the farm could not be back within the budget any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBudget {
    /// The rotation is undone, in time to be back within the budget.
    #[default]
    Undo,
    /// It goes on, and its faults say that the budget is overrun.
    Continue,
}

impl OnBudget {
    /// The stable text: `undo` or `continue`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undo => "undo",
            Self::Continue => "continue",
        }
    }
}

/// How long the farm may be offline. Part of the plan, so that the operator signs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DowntimeBudget {
    /// From the first instance that is taken offline to the last one admitted, milliseconds.
    pub max_downtime_ms: u64,
    /// What happens when that cannot be kept.
    pub on_budget: OnBudget,
}

/// Where a rotation with a budget stands towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetStanding {
    /// The budget.
    pub budget: DowntimeBudget,
    /// Used of it, milliseconds: since the instances are being taken offline.
    pub used_ms: u64,
    /// Estimated time until all nodes are admitted with the new key; `None` when not going forward, or not offline.
    pub forward_ms: Option<u64>,
    /// Estimated time until all nodes are admitted with the old key, if it turned back now; `None` as above.
    pub back_ms: Option<u64>,
    /// When it would turn back, if nothing more is heard until then and the way forward is the longer one by then.
    pub turns_back_at: Option<Millis>,
    /// When it was found that the budget could not be kept.
    pub spent_at: Option<Millis>,
}

/// Where the rotation stands towards its budget; `None` when it has none, or no plan yet.
pub fn budget_standing(rotation: &Rotation, now: Millis) -> Option<BudgetStanding> {
    let budget = rotation.plan.as_ref()?.budget?;
    let used_ms = used_ms(rotation, now);
    let estimate = is_counting(rotation).then(|| Estimate::of(rotation)).flatten();
    let turns_back_at = estimate.as_ref().and_then(|estimate| turns_back_at(rotation, estimate, &budget, now));
    Some(BudgetStanding {
        budget,
        used_ms,
        forward_ms: estimate.as_ref().map(|estimate| estimate.forward_ms(now)),
        back_ms: estimate.as_ref().map(|estimate| estimate.back_ms(now)),
        turns_back_at,
        spent_at: rotation.budget_spent_at,
    })
}

/// What the leader should log because a budget calls for it at this time, by a clock of its own that does not jump. Asked
/// again and again while [`budget_counts`].
pub fn budget_decision(state: &State, now: Millis) -> Option<Event> {
    let rotation = active(state)?;
    verdict(rotation, now).map(|_| Event::BudgetSpent {
        rotation: rotation.id,
        epoch: rotation.epoch,
        used_ms: used_ms(rotation, now),
    })
}

/// Whether time uses up a budget now, so that the leader must look at it again and again.
pub fn budget_counts(state: &State) -> bool {
    active(state).is_some_and(|rotation| {
        is_counting(rotation)
            && rotation.budget_spent_at.is_none()
            && rotation.plan.as_ref().is_some_and(|plan| plan.budget.is_some())
    })
}

fn active(state: &State) -> Option<&Rotation> {
    state.active.and_then(|id| state.rotations.get(&id))
}

/// Taken only while the state calls for it by the leader's measure; what was decided over an earlier epoch is late.
pub(crate) fn spent(state: &mut State, now: Millis, id: RotationId, epoch: Epoch, used: u64) -> Outcome {
    let Some(mut run) = Run::of(state, id, now) else { return Outcome::Unchanged };
    let Some(began) = began(run.rotation) else { return Outcome::Unchanged };
    // The leader's own measure counts where its clock was put back since.
    let at = now.max(Millis::new(began.get().saturating_add(used)));
    if run.rotation.epoch != epoch {
        return Outcome::Unchanged;
    }
    let (Some(verdict), Some(standing)) = (verdict(run.rotation, at), budget_standing(run.rotation, at)) else {
        return Outcome::Unchanged;
    };
    let fault = overrun(&standing, verdict);
    run.rotation.budget_spent_at = Some(now);
    match verdict {
        Verdict::TurnBack => {
            run.follow(Signal::OverBudget, Some(fault));
            run.advance();
        }
        Verdict::GoOn => run.record(fault),
    }
    Outcome::Changed
}

/// What a budget that will not be kept leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    TurnBack,
    GoOn,
}

/// Whether the budget will not be kept, and what then; `None` while it may be.
fn verdict(rotation: &Rotation, now: Millis) -> Option<Verdict> {
    let budget = rotation.plan.as_ref().and_then(|plan| plan.budget)?;
    if !is_counting(rotation) || rotation.budget_spent_at.is_some() {
        return None;
    }
    let estimate = Estimate::of(rotation)?;
    let (used, forward, back) = (used_ms(rotation, now), estimate.forward_ms(now), estimate.back_ms(now));
    let is_last_moment = used.saturating_add(estimate.back_with_reserve_ms(now)) >= budget.max_downtime_ms;
    let will_be_late = used.saturating_add(forward) > budget.max_downtime_ms;
    match budget.on_budget {
        OnBudget::Undo if is_last_moment && will_be_late && forward > back => Some(Verdict::TurnBack),
        OnBudget::Continue if is_last_moment && will_be_late => Some(Verdict::GoOn),
        // Going on was the shorter way, and still is.
        OnBudget::Undo | OnBudget::Continue if used >= budget.max_downtime_ms => Some(Verdict::GoOn),
        OnBudget::Undo | OnBudget::Continue => None,
    }
}

/// Instances are, or are being taken, offline, and the rotation goes forward and can still turn back.
const fn is_counting(rotation: &Rotation) -> bool {
    match rotation.course {
        Course::Forward { phase } => {
            matches!(phase, Phase::Quiesce | Phase::Reencrypt | Phase::Verify | Phase::Activate | Phase::Start)
        }
        Course::Undo { .. } | Course::Stuck { .. } | Course::Ended(_) => false,
    }
}

/// When the first instance began to be taken offline.
fn began(rotation: &Rotation) -> Option<Millis> {
    rotation.times.iter().find(|time| time.name == Phase::Quiesce.as_str()).map(|time| time.started)
}

/// The time that the farm has been offline, from when its instances began to be taken offline to when the last one was
/// admitted. Zero before.
fn used_ms(rotation: &Rotation, now: Millis) -> u64 {
    let Some(began) = began(rotation) else { return 0 };
    if matches!(rotation.course, Course::Stuck { step, .. } if step <= UndoStep::AdmitInstances) {
        return now.since(began);
    }
    let admits = [Phase::Admit.as_str(), "undo:admit-instances"];
    // An operator's retry may enter the same step again: the last time counts.
    let admitted = rotation.times.iter().rev().find(|time| admits.contains(&time.name.as_str()));
    admitted.and_then(|time| time.ended).or(rotation.ended_at).unwrap_or(now).since(began)
}

/// The first moment from now on at which the way back uses up the rest; found by halving, since neither the time used nor
/// the estimate ever falls while nothing is heard.
fn turns_back_at(rotation: &Rotation, estimate: &Estimate, budget: &DowntimeBudget, now: Millis) -> Option<Millis> {
    if rotation.budget_spent_at.is_some() {
        return None;
    }
    let is_due =
        |at: Millis| used_ms(rotation, at).saturating_add(estimate.back_with_reserve_ms(at)) >= budget.max_downtime_ms;
    let left = budget.max_downtime_ms.saturating_sub(used_ms(rotation, now));
    let (mut early, mut late) = (now.get(), now.get().saturating_add(left));
    while early < late {
        let middle = early + (late - early) / 2;
        if is_due(Millis::new(middle)) {
            late = middle;
        } else {
            early = middle + 1;
        }
    }
    Some(Millis::new(late))
}

/// Why a plan does not keep its budget; `None` when it does, or has none. Under this throttle, since it holds then.
pub(crate) fn over_budget(plan: &Plan, throttle: Option<u32>) -> Option<String> {
    let budget = plan.budget?;
    let forecast = plan.downtime_forecast_at(throttle);
    (forecast > budget.max_downtime_ms).then(|| {
        let throttled = throttle.map_or_else(String::new, |limit| format!(" at {limit} rows a second"));
        format!(
            "the farm would be offline for about {}{throttled}, and may be for {}",
            Spoken(forecast),
            Spoken(budget.max_downtime_ms)
        )
    })
}

/// A budget that no rotation could have is refused.
pub(crate) fn check(budget: Option<&DowntimeBudget>) -> Result<(), Rejection> {
    match budget {
        Some(budget) if !(BUDGET_MIN_MS..=BUDGET_MAX_MS).contains(&budget.max_downtime_ms) => Err(Rejection::new(
            RejectionCode::DowntimeBudget,
            format!("a budget of {} is none", Spoken(budget.max_downtime_ms)),
            format!("give one of {} to {}", Spoken(BUDGET_MIN_MS), Spoken(BUDGET_MAX_MS)),
        )),
        Some(_) | None => Ok(()),
    }
}

/// The plan that was made does not keep its budget.
pub(crate) fn unaffordable(message: String) -> Fault {
    Fault::new(
        FaultCode::DowntimeBudget,
        message,
        "nothing was changed; plan with a longer --max-downtime, lift the throttle, or see `keyturn db bench` for what \
         slows the database down",
    )
}

fn overrun(standing: &BudgetStanding, verdict: Verdict) -> Fault {
    let message = format!(
        "the farm has been offline for {} of the {} that it may be; the way back takes about {}, and the way forward {}",
        Spoken(standing.used_ms),
        Spoken(standing.budget.max_downtime_ms),
        Spoken(standing.back_ms.unwrap_or_default()),
        Spoken(standing.forward_ms.unwrap_or_default()),
    );
    let next_step = match (verdict, standing.budget.on_budget) {
        (Verdict::TurnBack, _) => {
            "the rotation is undone; find out what slowed it down (a throttle, the database, an instance), then plan again"
        }
        (Verdict::GoOn, OnBudget::Undo) => {
            "it goes on, since an undo would take longer now; `keyturn rotation status` says how long each way takes, and \
             `keyturn rotation abort` undoes it all the same"
        }
        (Verdict::GoOn, OnBudget::Continue) => {
            "it goes on, as was asked for; `keyturn rotation abort` undoes it, and `keyturn rotation throttle --off` may \
             speed it up"
        }
    };
    Fault::new(FaultCode::DowntimeBudget, message, next_step)
}

/// A time in words: `90 s`, `20 min`, `1 h 5 min`.
struct Spoken(u64);

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_ceil(1_000);
        match seconds {
            0..=99 => write!(f, "{seconds} s"),
            100..=3_599 if seconds.is_multiple_of(60) => write!(f, "{} min", seconds / 60),
            100..=3_599 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        }
    }
}
