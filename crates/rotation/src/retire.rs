//! The retirement of tables that a completed rotation kept: asked for on an operator's signed word, given to one node,
//! and over when that node says that they are gone, or when no node can do it.

use crate::commands::{find, unknown, wrong_phase};
use crate::farm::refuse_while_under_way;
use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{
    Answer, Course, Ending, Fault, Millis, NodeId, Outcome, Rejection, RejectionCode, Retirement, Retiring, Rotation,
    RotationId, SignedRetirement, State, Work,
};

const SIGN_AGAIN: &str = "sign it again with `keyturn rotation retire` of the coordinators' release";

/// Takes an operator's signed word, whose signature the coordinator has checked and the agent checks again.
pub(crate) fn request(
    state: &mut State,
    now: Millis,
    id: RotationId,
    by: &str,
    word: &SignedRetirement,
) -> Result<Outcome, Rejection> {
    let rotation = find(state, id)?;
    if !matches!(rotation.course, Course::Ended(Ending::Completed)) {
        return Err(wrong_phase(rotation, "retired"));
    }
    check(&state.farm, rotation, word)?;
    match &rotation.retiring {
        // Said again, for example after an answer that was lost.
        Some(known) if known.word == *word || known.done.is_some() => return Ok(Outcome::Unchanged),
        Some(_) | None => {}
    }
    if rotation.kept_tables().is_empty() {
        return Err(Rejection::new(
            RejectionCode::NothingKept,
            format!("rotation {id} keeps no tables: all were re-encrypted in place"),
            "nothing is to be done",
        ));
    }
    refuse_while_under_way(state, "no tables can be retired")?;
    refuse_while_retiring(state, Some(id), "no other tables can be retired")?;
    let stand = Stand { nodes: &state.nodes, rotation };
    let Some(node) = stand.present().next().map(|(node, _)| node.clone()) else {
        return Err(Rejection::new(
            RejectionCode::NoNodes,
            format!("none of the nodes of rotation {id} is enrolled and free, so there is nobody to drop its tables"),
            "start the agents of held nodes and wait until `keyturn node list` shows them free",
        ));
    };
    // A new epoch: agents have seen higher ones than that in which the rotation ended, if there were others since.
    let epoch = state.epoch.next();
    let rotation = state.rotations.get_mut(&id).ok_or_else(|| unknown(id))?;
    rotation.epoch = epoch;
    state.epoch = epoch;
    for progress in rotation.nodes.values_mut() {
        progress.shunned = false;
    }
    rotation.retiring = Some(Retiring { by: by.to_owned(), since: now, word: word.clone(), node, done: None });
    Ok(Outcome::Changed)
}

/// Whether the word is of this farm, this rotation and its plan.
fn check(farm: &str, rotation: &Rotation, word: &SignedRetirement) -> Result<(), Rejection> {
    let refused = |message: String| Err(Rejection::new(RejectionCode::Retirement, message, SIGN_AGAIN));
    let retirement = match word.read() {
        Ok(retirement) => retirement,
        Err(error) => return refused(format!("the signed retirement cannot be read: {error}")),
    };
    if retirement.format != Retirement::FORMAT {
        return refused(format!(
            "the retirement has format {}, and this release reads {}",
            retirement.format,
            Retirement::FORMAT
        ));
    }
    if retirement.farm != farm || retirement.rotation != rotation.id {
        return refused(format!(
            "the retirement is of rotation {} of farm {:?}, and this is {} of {farm:?}",
            retirement.rotation, retirement.farm, rotation.id
        ));
    }
    if Some(retirement.plan_digest) != rotation.plan_digest {
        return refused(format!("the retirement is of a plan of digest {}", retirement.plan_digest));
    }
    Ok(())
}

/// Refuses what would raise the epoch over a retirement that is under way.
pub(crate) fn refuse_while_retiring(state: &State, but: Option<RotationId>, what: &str) -> Result<(), Rejection> {
    let retiring = state.rotations.values().find(|rotation| Some(rotation.id) != but && is_under_way(rotation));
    match retiring {
        None => Ok(()),
        Some(rotation) => Err(Rejection::new(
            RejectionCode::Retiring,
            format!("{what} while the tables that rotation {} kept are being dropped", rotation.id),
            format!("wait for its end: `keyturn rotation status {}`", rotation.id),
        )),
    }
}

/// Whether a retirement is asked for and not done.
pub(crate) fn is_under_way(rotation: &Rotation) -> bool {
    rotation.retiring.as_ref().is_some_and(|retiring| retiring.done.is_none())
}

/// The work of a rotation's retirement.
pub(crate) fn work(rotation: &Rotation) -> Option<(NodeId, Work)> {
    let retiring = rotation.retiring.as_ref().filter(|retiring| retiring.done.is_none())?;
    Some((retiring.node.clone(), Work::RetireTables))
}

/// The tables are gone.
pub(crate) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    let Answer::TablesRetired = answer else { return Err(unexpected(node, work, answer)) };
    let now = run.now;
    if let Some(retiring) = &mut run.rotation.retiring {
        retiring.done = Some(now);
    }
    Ok(())
}

/// The node could not do it. When it was only not heard, another one is asked; else, and when none is left, the operator
/// must ask again.
pub(crate) fn fail(run: &mut Run<'_>, node: &NodeId, fault: Fault, another: bool) {
    run.record(fault);
    run.shun(node);
    let next = run.stand().present().find(|(_, progress)| another && !progress.shunned).map(|(node, _)| node.clone());
    run.rotation.retiring = match (run.rotation.retiring.take(), next) {
        (Some(retiring), Some(node)) => Some(Retiring { node, ..retiring }),
        (Some(_) | None, None) | (None, Some(_)) => None,
    };
}
