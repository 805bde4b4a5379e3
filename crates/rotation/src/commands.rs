//! What operators ask of a rotation: request, start, abort, pause, resume, retry. Throttle and retire have files of their
//! own.

use std::collections::BTreeMap;

use crate::course::{self, Signal};
use crate::farm::{not_founded, refuse_while_under_way};
use crate::lease;
use crate::limits::ACCEPTED_MAX;
use crate::phases::approval;
use crate::phases::undo;
use crate::retire::refuse_while_retiring;
use crate::run::Run;
use crate::{
    Authorization, Course, Ending, Fault, FaultCode, Millis, NodeProgress, Outcome, Pace, Phase, PhaseTime, Rejection,
    RejectionCode, Rotation, RotationId, RotationOptions, State,
};
use crate::{budget, estimate};

pub(crate) fn request(
    state: &mut State,
    now: Millis,
    id: RotationId,
    by: &str,
    options: &RotationOptions,
) -> Result<Outcome, Rejection> {
    if state.cluster.is_none() {
        return Err(not_founded());
    }
    // The same request again, for example after an answer that was lost.
    if state.rotations.contains_key(&id) {
        return Ok(Outcome::Unchanged);
    }
    refuse_while_under_way(state, "no other rotation can begin")?;
    refuse_while_retiring(state, None, "no rotation can begin")?;
    check_options(options)?;
    let Some(lead) = state.nodes.keys().next().cloned() else {
        return Err(Rejection::new(
            RejectionCode::NoNodes,
            "no node is enrolled, so there is nothing to rotate",
            "enroll every node of the farm with `keyturn node enroll`",
        ));
    };
    if let Some((node, quarantine)) = state.nodes.iter().find_map(|(id, node)| Some((id, node.quarantine.as_ref()?))) {
        return Err(Rejection::new(
            RejectionCode::NodeHeld,
            format!("node {node} is held since rotation {}: {}", quarantine.rotation, quarantine.reason),
            "start its agent and wait until `keyturn node list` shows it free, or `keyturn node remove` it",
        ));
    }

    state.epoch = state.epoch.next();
    let phase = Phase::Preflight;
    let rotation = Rotation {
        id,
        requested_by: by.to_owned(),
        requested_at: now,
        options: options.clone(),
        course: Course::Forward { phase },
        reached: phase,
        epoch: state.epoch,
        paused: false,
        nodes: state.nodes.keys().map(|node| (node.clone(), NodeProgress::default())).collect(),
        lead: Some(lead),
        survey: None,
        plan: None,
        plan_digest: None,
        authorization: None,
        lead_done: false,
        lease_rounds: 0,
        rows_fixed: BTreeMap::new(),
        shards: BTreeMap::new(),
        position: None,
        activated_at: None,
        times: vec![PhaseTime { name: phase.as_str().to_owned(), started: now, ended: None }],
        faults: Vec::new(),
        leader_changes: 0,
        ended_at: None,
        throttle: None,
        retiring: None,
        pace: Pace::default(),
        budget_spent_at: None,
    };
    state.rotations.insert(id, rotation);
    state.active = Some(id);
    Ok(Outcome::RotationRequested(id))
}

fn check_options(options: &RotationOptions) -> Result<(), Rejection> {
    if options.accepted.len() > ACCEPTED_MAX {
        return Err(Rejection::new(
            RejectionCode::Accepted,
            format!("{} values are to be accepted, and {ACCEPTED_MAX} may be", options.accepted.len()),
            "repair some of these values first",
        ));
    }
    budget::check(options.budget.as_ref())?;
    match options.hold_at {
        None
        | Some(
            Phase::Distribute
            | Phase::Quiesce
            | Phase::Reencrypt
            | Phase::Verify
            | Phase::Activate
            | Phase::Start
            | Phase::Admit,
        ) => Ok(()),
        Some(phase @ (Phase::Preflight | Phase::Approval | Phase::Completed)) => Err(Rejection::new(
            RejectionCode::HoldAt,
            format!("a rotation cannot be held at {}", phase.as_str()),
            "name one of distribute, quiesce, reencrypt, verify, activate, start, admit",
        )),
    }
}

pub(crate) fn start(
    state: &mut State,
    now: Millis,
    id: RotationId,
    authorization: &Authorization,
) -> Result<Outcome, Rejection> {
    let rotation = find(state, id)?;
    match &rotation.authorization {
        Some(known) if known == authorization => return Ok(Outcome::Unchanged),
        Some(_) => {
            return Err(Rejection::new(
                RejectionCode::AlreadyStarted,
                format!("rotation {id} was started with another statement"),
                "see `keyturn rotation status`; abort it if the other statement was wrong",
            ));
        }
        None => {}
    }
    if course::next(&rotation.course, Signal::Authorized).is_none() {
        return Err(wrong_phase(rotation, "started"));
    }
    approval::check(&state.farm, rotation, authorization)?;
    // By the throttle of now: one that came after the plan makes it slower than was forecast.
    if let Some(message) = rotation.plan.as_ref().and_then(|plan| budget::over_budget(plan, rotation.throttle)) {
        return Err(Rejection::new(
            RejectionCode::DowntimeBudget,
            message,
            "lift the throttle with `keyturn rotation throttle --off`, or plan again with a longer --max-downtime",
        ));
    }

    let Some(mut run) = Run::of(state, id, now) else { return Err(unknown(id)) };
    run.rotation.authorization = Some(authorization.clone());
    run.follow(Signal::Authorized, None);
    run.advance();
    Ok(Outcome::Changed)
}

pub(crate) fn abort(state: &mut State, now: Millis, id: RotationId, by: &str) -> Result<Outcome, Rejection> {
    let rotation = find(state, id)?;
    if course::next(&rotation.course, Signal::Aborted).is_none() {
        return match &rotation.course {
            Course::Undo { .. } | Course::Ended(Ending::Refused | Ending::Withdrawn | Ending::RolledBack) => {
                Ok(Outcome::Unchanged)
            }
            Course::Stuck { .. } => Err(Rejection::new(
                RejectionCode::WrongPhase,
                format!("rotation {id} is being undone already, and is stuck"),
                format!("follow its next steps, then run `keyturn rotation retry {id}`"),
            )),
            Course::Forward { .. } | Course::Ended(Ending::Completed) => Err(past_return(id, "aborted")),
        };
    }
    let Some(mut run) = Run::of(state, id, now) else { return Err(unknown(id)) };
    let fault = Fault::new(
        FaultCode::Aborted,
        format!("{by} asked for the rotation to end"),
        "nothing; the farm stays on its old key",
    );
    run.follow(Signal::Aborted, Some(fault));
    run.advance();
    Ok(Outcome::Changed)
}

/// No new work is given out. Leases on shards are taken back, so that who works on one puts it down between two chunks;
/// all other work is short, and finished.
pub(crate) fn pause(state: &mut State, now: Millis, id: RotationId) -> Result<Outcome, Rejection> {
    let rotation = find(state, id)?;
    match &rotation.course {
        Course::Forward { phase: Phase::Admit | Phase::Completed } | Course::Ended(Ending::Completed) => {
            return Err(past_return(id, "paused"));
        }
        Course::Forward { phase: Phase::Approval } | Course::Stuck { .. } | Course::Ended(_) => {
            return Err(wrong_phase(rotation, "paused"));
        }
        Course::Forward { .. } | Course::Undo { .. } => {}
    }
    let outcome = set_paused(state, now, id, true);
    if let Some(mut run) = Run::of(state, id, now) {
        lease::take_back(&mut run);
    }
    Ok(outcome)
}

pub(crate) fn resume(state: &mut State, now: Millis, id: RotationId) -> Result<Outcome, Rejection> {
    let rotation = find(state, id)?;
    if rotation.has_ended() {
        return Err(wrong_phase(rotation, "resumed"));
    }
    let outcome = set_paused(state, now, id, false);
    if let Some(mut run) = Run::of(state, id, now)
        && outcome == Outcome::Changed
    {
        run.advance();
    }
    Ok(outcome)
}

pub(crate) fn retry(state: &mut State, now: Millis, id: RotationId) -> Result<Outcome, Rejection> {
    let rotation = find(state, id)?;
    if course::next(&rotation.course, Signal::Retried).is_none() {
        return Err(Rejection::new(
            RejectionCode::NotStuck,
            format!("rotation {id} is not stuck"),
            "see `keyturn rotation status` for what it waits for",
        ));
    }
    let Some(mut run) = Run::of(state, id, now) else { return Err(unknown(id)) };
    let lost = match &run.rotation.course {
        Course::Stuck { reason, .. } => undo::can_begin_again(run.stand(), reason),
        Course::Forward { .. } | Course::Undo { .. } | Course::Ended(_) => false,
    };
    run.follow(if lost { Signal::HistoryLost } else { Signal::Retried }, None);
    run.advance();
    Ok(Outcome::Changed)
}

fn set_paused(state: &mut State, now: Millis, id: RotationId, paused: bool) -> Outcome {
    match state.rotations.get_mut(&id) {
        Some(rotation) if rotation.paused != paused => {
            estimate::measure_anew(rotation, now);
            rotation.paused = paused;
            Outcome::Changed
        }
        Some(_) | None => Outcome::Unchanged,
    }
}

pub(crate) fn find(state: &State, id: RotationId) -> Result<&Rotation, Rejection> {
    state.rotations.get(&id).ok_or_else(|| unknown(id))
}

pub(crate) fn unknown(id: RotationId) -> Rejection {
    Rejection::new(
        RejectionCode::UnknownRotation,
        format!("there is no rotation {id}"),
        "see `keyturn rotation list` for those that are remembered",
    )
}

fn past_return(id: RotationId, what: &str) -> Rejection {
    Rejection::new(
        RejectionCode::PointOfNoReturn,
        format!("rotation {id} cannot be {what}: new data may exist under the new key since Admit"),
        "let it complete; to go back, rotate again with the old key's successor",
    )
}

pub(crate) fn wrong_phase(rotation: &Rotation, what: &str) -> Rejection {
    let stands = match &rotation.course {
        Course::Forward { phase } => format!("in phase {}", phase.as_str()),
        Course::Undo { step, .. } => format!("being undone, at {}", step.as_str()),
        Course::Stuck { step, .. } => format!("stuck at {}", step.as_str()),
        Course::Ended(Ending::Refused) => "refused".to_owned(),
        Course::Ended(Ending::Withdrawn) => "withdrawn".to_owned(),
        Course::Ended(Ending::Completed) => "completed".to_owned(),
        Course::Ended(Ending::RolledBack) => "rolled back".to_owned(),
    };
    Rejection::new(
        RejectionCode::WrongPhase,
        format!("rotation {} cannot be {what}: it is {stands}", rotation.id),
        "see `keyturn rotation status` for what it waits for",
    )
}
