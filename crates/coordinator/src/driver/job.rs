//! One assignment with all that it takes to have it done: where the agent is, what the operator signed, by when.

use rotation::{Assignment, Course, Fence, State, Term, Work};
use wire::convert::Order;

/// An assignment ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// What is sent.
    pub(super) order: Order,
    /// Where to.
    pub(super) address: String,
    /// Where the rotation stands; decides the deadline.
    pub(super) course: Course,
}

impl Job {
    /// Makes the job from the state; `None` when the state lacks what an assignment is for, which `pending` rules out.
    pub(super) fn new(state: &State, assignment: Assignment, term: Term) -> Option<Self> {
        let rotation = state.rotations.get(&assignment.rotation)?;
        let address = state.nodes.get(&assignment.node)?.address.clone();
        let fence = Fence { cluster: state.cluster?, term, epoch: assignment.epoch };
        // Kept tables are dropped on a word of its own, which names the plan.
        let retirement = match assignment.work {
            Work::RetireTables => Some(rotation.retiring.as_ref()?.word.clone()),
            _ => None,
        };
        // What was signed goes along once it is signed. Before, in Preflight, nothing but looking is asked.
        let authorization = rotation.authorization.as_ref().map(|authorization| {
            let mut own = authorization.clone();
            own.sealed.retain(|node, _| *node == assignment.node);
            own
        });
        let plan = rotation.plan.as_ref().filter(|_| authorization.is_some()).map(rotation::Plan::to_bytes);
        let course = rotation.course.clone();
        let authorization = authorization.filter(|_| retirement.is_none());
        Some(Self { order: Order { fence, assignment, plan, authorization, retirement }, address, course })
    }
}
