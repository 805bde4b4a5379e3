//! The transition table: the only place that says which phase or step may follow which. What it does not list is refused.

use crate::{Course, Ending, Phase, UndoStep};

/// What makes a rotation move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// All work of the present phase or step is done, and its checks hold.
    Done,
    /// An operator signed the plan.
    Authorized,
    /// The leader logged that all are to be admitted.
    AdmitDecided,
    /// Something went wrong that the present phase or step cannot get over.
    Failed,
    /// An operator asked for the end.
    Aborted,
    /// The downtime budget leaves no more time than the way back takes.
    OverBudget,
    /// An operator asked a stuck rotation to try again.
    Retried,
    /// The database no longer has what earlier steps of the undo did to it.
    HistoryLost,
    /// An agent said that the rotation was undone by hand.
    Recovered,
}

/// Where a signal leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// To a phase of the way forward.
    Forward(Phase),
    /// To a step of the undo.
    Undo {
        /// The phase that had been reached.
        from: Phase,
        /// The step.
        step: UndoStep,
    },
    /// Nowhere, until an operator says `retry`.
    Stuck {
        /// The phase that had been reached.
        from: Phase,
        /// The step that failed.
        step: UndoStep,
    },
    /// To the end.
    Ended(Ending),
}

/// A column of the table: a phase, a fresh undo of the present phase, or the end.
#[derive(Debug, Clone, Copy)]
enum To {
    Phase(Phase),
    Undo,
    Ended(Ending),
}

/// The way forward. Nothing leads from Admit or Completed into an undo; what was undone by hand before anybody was
/// admitted is undone.
const FORWARD: [(Phase, Signal, To); 37] = [
    (Phase::Preflight, Signal::Done, To::Phase(Phase::Approval)),
    (Phase::Preflight, Signal::Failed, To::Ended(Ending::Refused)),
    (Phase::Preflight, Signal::Aborted, To::Ended(Ending::Withdrawn)),
    (Phase::Approval, Signal::Authorized, To::Phase(Phase::Distribute)),
    (Phase::Approval, Signal::Aborted, To::Ended(Ending::Withdrawn)),
    (Phase::Distribute, Signal::Done, To::Phase(Phase::Quiesce)),
    (Phase::Distribute, Signal::Failed, To::Undo),
    (Phase::Distribute, Signal::Aborted, To::Undo),
    (Phase::Distribute, Signal::Recovered, To::Ended(Ending::RolledBack)),
    (Phase::Quiesce, Signal::Done, To::Phase(Phase::Reencrypt)),
    (Phase::Quiesce, Signal::Failed, To::Undo),
    (Phase::Quiesce, Signal::Aborted, To::Undo),
    (Phase::Quiesce, Signal::OverBudget, To::Undo),
    (Phase::Quiesce, Signal::Recovered, To::Ended(Ending::RolledBack)),
    (Phase::Reencrypt, Signal::Done, To::Phase(Phase::Verify)),
    (Phase::Reencrypt, Signal::Failed, To::Undo),
    (Phase::Reencrypt, Signal::Aborted, To::Undo),
    (Phase::Reencrypt, Signal::OverBudget, To::Undo),
    (Phase::Reencrypt, Signal::Recovered, To::Ended(Ending::RolledBack)),
    (Phase::Verify, Signal::Done, To::Phase(Phase::Activate)),
    (Phase::Verify, Signal::Failed, To::Undo),
    (Phase::Verify, Signal::Aborted, To::Undo),
    (Phase::Verify, Signal::OverBudget, To::Undo),
    (Phase::Verify, Signal::Recovered, To::Ended(Ending::RolledBack)),
    (Phase::Activate, Signal::Done, To::Phase(Phase::Start)),
    (Phase::Activate, Signal::Failed, To::Undo),
    (Phase::Activate, Signal::Aborted, To::Undo),
    (Phase::Activate, Signal::OverBudget, To::Undo),
    (Phase::Activate, Signal::Recovered, To::Ended(Ending::RolledBack)),
    (Phase::Start, Signal::AdmitDecided, To::Phase(Phase::Admit)),
    (Phase::Start, Signal::Failed, To::Undo),
    (Phase::Start, Signal::Aborted, To::Undo),
    (Phase::Start, Signal::OverBudget, To::Undo),
    (Phase::Start, Signal::Recovered, To::Ended(Ending::RolledBack)),
    (Phase::Admit, Signal::Done, To::Phase(Phase::Completed)),
    // Taken only while nobody was admitted: the decision was logged, and the farm had been put back before it was heard.
    (Phase::Admit, Signal::Recovered, To::Ended(Ending::RolledBack)),
    (Phase::Completed, Signal::Done, To::Ended(Ending::Completed)),
];

/// The steps of an undo in order, each with the first phase from which on it is needed.
const UNDO: [(UndoStep, Phase); 11] = [
    (UndoStep::TurnBack, Phase::Quiesce),
    (UndoStep::StopInstances, Phase::Start),
    (UndoStep::RestoreKeys, Phase::Activate),
    (UndoStep::SwapTablesBack, Phase::Activate),
    (UndoStep::RestoreRows, Phase::Reencrypt),
    (UndoStep::VerifyRows, Phase::Reencrypt),
    (UndoStep::LiftFence, Phase::Quiesce),
    (UndoStep::StartInstances, Phase::Quiesce),
    (UndoStep::AdmitInstances, Phase::Quiesce),
    (UndoStep::DiscardKeys, Phase::Distribute),
    (UndoStep::CloseLedger, Phase::Quiesce),
];

/// Where `signal` leads from `course`; `None` when it leads nowhere.
pub(crate) fn next(course: &Course, signal: Signal) -> Option<Next> {
    match course {
        Course::Forward { phase } => {
            let (.., to) = FORWARD.iter().find(|(from, by, _)| from == phase && *by == signal)?;
            Some(match *to {
                To::Phase(phase) => Next::Forward(phase),
                To::Undo => first_step(*phase),
                To::Ended(ending) => Next::Ended(ending),
            })
        }
        Course::Undo { from, step } => match signal {
            Signal::Done => Some(step_after(*from, *step)),
            Signal::Failed => Some(Next::Stuck { from: *from, step: *step }),
            Signal::HistoryLost => Some(undo_again(*from, *step)),
            Signal::Recovered => Some(Next::Ended(Ending::RolledBack)),
            Signal::Authorized | Signal::AdmitDecided | Signal::Aborted | Signal::OverBudget | Signal::Retried => None,
        },
        Course::Stuck { from, step, .. } => match signal {
            Signal::Retried => Some(Next::Undo { from: *from, step: begins_again_at(*step) }),
            Signal::HistoryLost => match undo_again(*from, *step) {
                Next::Stuck { from, step } => Some(Next::Undo { from, step }),
                again => Some(again),
            },
            Signal::Recovered => Some(Next::Ended(Ending::RolledBack)),
            Signal::Done
            | Signal::Authorized
            | Signal::AdmitDecided
            | Signal::Failed
            | Signal::Aborted
            | Signal::OverBudget => None,
        },
        Course::Ended(_) => None,
    }
}

/// With which step a stuck undo begins again. A step on the database may have failed because the database lost what
/// earlier steps did, and the ledger's word of it: it begins with the ledger, and what is done still is not done twice.
/// Once instances may run under the old key, only with what failed.
const fn begins_again_at(step: UndoStep) -> UndoStep {
    match step {
        UndoStep::TurnBack
        | UndoStep::SwapTablesBack
        | UndoStep::RestoreRows
        | UndoStep::VerifyRows
        | UndoStep::LiftFence => UndoStep::TurnBack,
        UndoStep::StopInstances
        | UndoStep::RestoreKeys
        | UndoStep::StartInstances
        | UndoStep::AdmitInstances
        | UndoStep::DiscardKeys
        | UndoStep::CloseLedger => step,
    }
}

/// What the database lost is done again, beginning with the ledger. Once the undo has let the application in, that is as
/// it is from Start on: every instance is stopped first, and what the application wrote is counted by nobody.
fn undo_again(from: Phase, step: UndoStep) -> Next {
    match step {
        UndoStep::TurnBack => Next::Stuck { from, step },
        // Nothing had been done to the database.
        _ if from < Phase::Quiesce => Next::Stuck { from, step },
        UndoStep::StopInstances
        | UndoStep::RestoreKeys
        | UndoStep::SwapTablesBack
        | UndoStep::RestoreRows
        | UndoStep::VerifyRows
        | UndoStep::LiftFence => Next::Undo { from, step: UndoStep::TurnBack },
        UndoStep::StartInstances | UndoStep::AdmitInstances | UndoStep::DiscardKeys | UndoStep::CloseLedger => {
            Next::Undo { from: from.max(Phase::Start), step: UndoStep::TurnBack }
        }
    }
}

fn first_step(from: Phase) -> Next {
    steps_from(from).next().map_or(Next::Ended(Ending::RolledBack), |step| Next::Undo { from, step })
}

fn step_after(from: Phase, step: UndoStep) -> Next {
    steps_from(from)
        .find(|later| *later > step)
        .map_or(Next::Ended(Ending::RolledBack), |step| Next::Undo { from, step })
}

fn steps_from(from: Phase) -> impl Iterator<Item = UndoStep> {
    UNDO.iter().filter(move |(_, needed_from)| from >= *needed_from).map(|(step, _)| *step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNALS: [Signal; 9] = [
        Signal::Done,
        Signal::Authorized,
        Signal::AdmitDecided,
        Signal::Failed,
        Signal::Aborted,
        Signal::OverBudget,
        Signal::Retried,
        Signal::HistoryLost,
        Signal::Recovered,
    ];

    fn forward(phase: Phase) -> Course {
        Course::Forward { phase }
    }

    #[test]
    fn no_row_stands_twice() {
        for (index, (from, by, _)) in FORWARD.iter().enumerate() {
            let again = FORWARD[index + 1..].iter().any(|(other, signal, _)| other == from && signal == by);
            assert!(!again, "{from:?} {by:?}");
        }
    }

    #[test]
    fn every_phase_follows_the_one_before_by_one_signal_only() {
        for pair in Phase::ALL.windows(2) {
            let signals: Vec<Signal> = SIGNALS
                .into_iter()
                .filter(|signal| next(&forward(pair[0]), *signal) == Some(Next::Forward(pair[1])))
                .collect();
            let expected = match pair[0] {
                Phase::Approval => Signal::Authorized,
                Phase::Start => Signal::AdmitDecided,
                _ => Signal::Done,
            };
            assert_eq!(signals, [expected], "from {:?}", pair[0]);
        }
    }

    #[test]
    fn no_phase_is_skipped_or_entered_again() {
        for phase in Phase::ALL {
            for signal in SIGNALS {
                if let Some(Next::Forward(to)) = next(&forward(phase), signal) {
                    assert_eq!(
                        Phase::ALL.iter().position(|p| *p == to),
                        Phase::ALL.iter().position(|p| *p == phase).map(|p| p + 1)
                    );
                }
            }
        }
    }

    #[test]
    fn failure_and_abort_lead_back_before_admit_and_nowhere_from_there() {
        for phase in Phase::ALL {
            for signal in [Signal::Failed, Signal::Aborted] {
                let to = next(&forward(phase), signal);
                match phase {
                    Phase::Preflight | Phase::Approval => {
                        assert!(matches!(to, None | Some(Next::Ended(Ending::Refused | Ending::Withdrawn))), "{to:?}");
                    }
                    Phase::Admit | Phase::Completed => assert_eq!(to, None, "{phase:?} {signal:?}"),
                    _ => assert!(matches!(to, Some(Next::Undo { from, .. }) if from == phase), "{to:?}"),
                }
            }
        }
    }

    #[test]
    fn a_spent_budget_leads_back_while_the_farm_is_offline_and_nowhere_else() {
        for phase in Phase::ALL {
            let to = next(&forward(phase), Signal::OverBudget);
            if (Phase::Quiesce..=Phase::Start).contains(&phase) {
                assert!(matches!(to, Some(Next::Undo { from, .. }) if from == phase), "{to:?}");
            } else {
                assert_eq!(to, None, "{phase:?}");
            }
        }
    }

    #[test]
    fn what_was_recovered_by_hand_ends_rolled_back_and_only_between_the_signature_and_the_end() {
        for phase in Phase::ALL {
            let expected =
                (phase > Phase::Approval && phase < Phase::Completed).then_some(Next::Ended(Ending::RolledBack));
            assert_eq!(next(&forward(phase), Signal::Recovered), expected, "{phase:?}");
        }
        let undo = Course::Undo { from: Phase::Verify, step: UndoStep::RestoreRows };
        assert_eq!(next(&undo, Signal::Recovered), Some(Next::Ended(Ending::RolledBack)));
    }

    #[test]
    fn every_undo_walks_its_steps_in_order_and_ends_rolled_back() {
        assert_eq!(UNDO.map(|(step, _)| step), UndoStep::ALL);
        for phase in &Phase::ALL[2..8] {
            let mut at = next(&forward(*phase), Signal::Failed);
            let mut last = None;
            while let Some(Next::Undo { from, step }) = at {
                assert_eq!(from, *phase);
                assert!(last < Some(step), "{step:?} after {last:?}");
                last = Some(step);
                at = next(&Course::Undo { from, step }, Signal::Done);
            }
            assert_eq!(at, Some(Next::Ended(Ending::RolledBack)));
        }
    }

    #[test]
    fn a_retry_takes_the_step_again_and_on_the_database_begins_with_the_ledger() {
        for (step, needed_from) in UNDO {
            let reason = crate::Fault::new(crate::FaultCode::Database, "", "");
            let stuck = Course::Stuck { from: needed_from, step, reason, next_steps: Vec::new() };
            let Some(Next::Undo { from, step: again }) = next(&stuck, Signal::Retried) else { panic!("{step:?}") };
            assert_eq!(from, needed_from);
            assert!(again == step || again == UndoStep::TurnBack && step < UndoStep::StartInstances, "{step:?}");
            assert!(steps_from(from).any(|needed| needed == again), "{again:?} of {from:?}");
        }
    }

    #[test]
    fn lost_history_leads_back_to_the_ledger_and_past_the_fence_through_every_step() {
        for (step, needed_from) in UNDO {
            for from in [needed_from, Phase::Start] {
                let reason = crate::Fault::new(crate::FaultCode::DatabasePosition, "", "");
                let stuck = Course::Stuck { from, step, reason, next_steps: Vec::new() };
                let from_undo = next(&Course::Undo { from, step }, Signal::HistoryLost);
                let from_stuck = next(&stuck, Signal::HistoryLost);
                if step == UndoStep::TurnBack || from < Phase::Quiesce {
                    assert_eq!(from_undo, Some(Next::Stuck { from, step }));
                    assert_eq!(from_stuck, Some(Next::Undo { from, step }));
                    continue;
                }
                let from = if step > UndoStep::LiftFence { Phase::Start } else { from };
                assert_eq!(from_undo, Some(Next::Undo { from, step: UndoStep::TurnBack }), "{step:?}");
                assert_eq!(from_stuck, from_undo, "{step:?}");
            }
        }
        for phase in Phase::ALL {
            assert_eq!(next(&forward(phase), Signal::HistoryLost), None, "{phase:?}");
        }
    }

    #[test]
    fn the_end_is_the_end() {
        for ending in [Ending::Refused, Ending::Withdrawn, Ending::Completed, Ending::RolledBack] {
            for signal in SIGNALS {
                assert_eq!(next(&Course::Ended(ending), signal), None);
            }
        }
    }
}
