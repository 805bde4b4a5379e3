//! Has one assignment done: calls the agent, listens, tries again while patience lasts, and answers what to log.

use std::time::Instant;

use futures::StreamExt as _;
use rotation::{AgentRelease, Answer, AssignmentId, Event, Fault, FaultCode, Millis, NodeId};
use tokio::sync::watch;
use tokio::time::{sleep, timeout_at};
use tonic::{Code, Status};
use wire::convert::Report;

use super::agents::Agents;
use super::hints::Hints;
use super::job::Job;
use super::patience::{Failure, Next, Patience, SILENCE_MAX};
use crate::raft::now;

/// Works on a job until there is something to log.
pub(super) async fn perform(job: &Job, agents: &impl Agents, hints: &watch::Sender<Hints>) -> Event {
    let id = job.order.assignment.id();
    let mut patience = Patience::new(&job.order.assignment, &job.course, Instant::now());
    hints.send_modify(|hints| hints.begin(id.clone(), now(), until(&patience), Instant::now()));
    // However this ends, also by being dropped, the hint goes.
    let _ended = EndHint { hints, id: &id };
    loop {
        let failure = match attempt(job, &id, agents, &mut patience, hints).await {
            Ok(event) => return event,
            Err(failure) => failure,
        };
        let words = match &failure {
            Failure::Fault(fault) => fault.message.clone(),
            Failure::Unreached(reason) => reason.clone(),
        };
        let now = Instant::now();
        match patience.failed(failure, now) {
            Next::Log(event) => return event,
            Next::TryAgain(pause) => {
                tracing::debug!(assignment = %id, "trying again in {} ms: {words}", pause.as_millis());
                hints.send_modify(|hints| hints.trouble(&id, words));
                sleep(pause.min(patience.ends().duration_since(now))).await;
            }
        }
    }
}

/// Calls the agent once. Answers what to log, or why it came to nothing.
async fn attempt(
    job: &Job,
    id: &AssignmentId,
    agents: &impl Agents,
    patience: &mut Patience,
    hints: &watch::Sender<Hints>,
) -> Result<Event, Failure> {
    let node = &id.node;
    let silent = |patience: &Patience| {
        agents.renew(node);
        let now = Instant::now();
        if now >= patience.ends() {
            Ok(patience.ended(now))
        } else {
            Err(Failure::Unreached(format!("{node} was silent for {} s", SILENCE_MAX.as_secs())))
        }
    };
    let wait = |patience: &Patience| patience.ends().min(Instant::now() + SILENCE_MAX).into();

    let calling = agents.execute(node, &job.address, job.order.to_request());
    let mut reports = match timeout_at(wait(patience), calling).await {
        Err(_) => return silent(patience),
        Ok(Err(status)) => return Err(refusal(id, &status)),
        Ok(Ok(reports)) => reports,
    };
    loop {
        let report = match timeout_at(wait(patience), reports.next()).await {
            Err(_) => return silent(patience),
            Ok(Some(Err(status))) => return Err(refusal(id, &status)),
            Ok(None) => return Err(Failure::Unreached(format!("{node} ended the call without an answer"))),
            Ok(Some(Ok(report))) => report,
        };
        match Report::try_from(report) {
            Ok(Report::Progress(report)) => {
                let now = Instant::now();
                patience.heard(report.rows_done, now);
                hints.send_modify(|hints| hints.progress(id, report, until(patience), now));
            }
            Ok(Report::Answered(answer)) => {
                if let Some(fault) = of_another_protocol(node, &answer) {
                    return Err(Failure::Fault(fault));
                }
                if let Answer::ShardReencrypted { tally, .. } | Answer::ShardVerified { tally, .. } = &*answer {
                    hints.send_modify(|hints| hints.done(id, tally.rows, Instant::now()));
                }
                return Ok(Event::WorkDone { assignment: id.clone(), answer: *answer });
            }
            Ok(Report::Failed(fault)) => return Err(Failure::Fault(Fault { node: Some(node.clone()), ..fault })),
            Err(error) => {
                return Err(Failure::Fault(refused(id, format!("{node} answered what cannot be read: {error}"))));
            }
        }
    }
}

/// An agent that speaks another protocol than these coordinators is given no more than the question what it is.
fn of_another_protocol(node: &NodeId, answer: &Answer) -> Option<Fault> {
    let Answer::Inspected(inspection) = answer else { return None };
    let AgentRelease { version, protocol } = &inspection.release;
    let ours = AgentRelease::PROTOCOL;
    (*protocol != ours).then(|| Fault {
        code: FaultCode::NodesDisagree,
        node: Some(node.clone()),
        message: format!(
            "the agent of {node}, of release {version}, speaks protocol {protocol}, and the coordinators speak {ours}"
        ),
        next_step: "run the same release on coordinators and agents, then plan again".to_owned(),
        retryable: false,
    })
}

/// When patience ends, by the clock that operators read.
fn until(patience: &Patience) -> Millis {
    let left = patience.ends().saturating_duration_since(Instant::now());
    Millis::new(now().get().saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
}

/// A call that ended with a status: the agent refused, or was not reached.
fn refusal(id: &AssignmentId, status: &Status) -> Failure {
    match status.code() {
        Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => {
            let mut fault = refused(id, wire::status::describe(status));
            if let Some(problem) = wire::status::problem(status).filter(|problem| !problem.next_step.is_empty()) {
                fault.next_step = problem.next_step;
            }
            Failure::Fault(fault)
        }
        _ => {
            let mut words = wire::status::describe(status);
            if let Some(problem) = wire::status::problem(status).filter(|problem| !problem.next_step.is_empty()) {
                words = format!("{words}; {}", problem.next_step);
            }
            Failure::Unreached(words)
        }
    }
}

fn refused(id: &AssignmentId, message: String) -> Fault {
    Fault {
        code: FaultCode::AssignmentRefused,
        node: Some(id.node.clone()),
        message: format!("{} refused {}: {message}", id.node, id.kind),
        next_step: format!("see in the agent's log on {} why it refused", id.node),
        retryable: false,
    }
}

struct EndHint<'a> {
    hints: &'a watch::Sender<Hints>,
    id: &'a AssignmentId,
}

impl Drop for EndHint<'_> {
    fn drop(&mut self) {
        self.hints.send_modify(|hints| hints.end(self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn an_agent_of_another_protocol_is_refused_by_name() {
        let mut inspection = sample::inspection();
        inspection.release = AgentRelease { version: "9.9.9".to_owned(), protocol: AgentRelease::PROTOCOL };
        assert_eq!(of_another_protocol(&sample::node(), &Answer::Inspected(Box::new(inspection.clone()))), None);
        for other in [AgentRelease::PROTOCOL - 1, AgentRelease::PROTOCOL + 1] {
            inspection.release.protocol = other;
            let answer = Answer::Inspected(Box::new(inspection.clone()));
            let fault = of_another_protocol(&sample::node(), &answer).expect("refused");
            assert!(!fault.retryable && fault.node == Some(sample::node()), "{fault}");
            for named in ["9.9.9".to_owned(), other.to_string(), AgentRelease::PROTOCOL.to_string()] {
                assert!(fault.message.contains(&named), "{fault}");
            }
        }
    }
}
