//! A rotation together with the parts of the state that decide about it: `Stand` to look, `Run` to change.

use std::collections::BTreeMap;

use crate::course::{self, Next, Signal};
use crate::limits::{FAULTS_MAX, PHASE_TIMES_MAX};
use crate::{
    Course, Epoch, Fault, Millis, Node, NodeCatchUp, NodeId, NodeProgress, Phase, PhaseTime, Quarantine, Rotation,
    RotationId, State, UndoStep, Work, estimate, lease, phases,
};

/// A rotation and the nodes, to look at.
#[derive(Clone, Copy)]
pub(crate) struct Stand<'a> {
    pub(crate) nodes: &'a BTreeMap<NodeId, Node>,
    pub(crate) rotation: &'a Rotation,
}

impl<'a> Stand<'a> {
    /// The nodes that barriers wait for: those that take part and are not held.
    pub(crate) fn present(self) -> impl Iterator<Item = (&'a NodeId, &'a NodeProgress)> {
        self.rotation.nodes.iter().filter(move |(id, _)| !self.is_held(id))
    }

    /// Whether the node is held (or was removed since the end).
    pub(crate) fn is_held(self, node: &NodeId) -> bool {
        self.nodes.get(node).is_none_or(|node| node.quarantine.is_some())
    }

    /// Whether the farm would still have a node if this one were held.
    pub(crate) fn can_do_without(self, node: &NodeId) -> bool {
        self.present().any(|(id, _)| id != node)
    }

    /// Whether every node that is not held has come so far.
    pub(crate) fn all(self, done: impl Fn(&NodeProgress) -> bool) -> bool {
        self.present().all(|(_, progress)| done(progress))
    }

    /// This work for every node that is not held and has not done it.
    pub(crate) fn each_until(self, done: impl Fn(&NodeProgress) -> bool, work: &Work) -> Vec<(NodeId, Work)> {
        self.present().filter(|(_, progress)| !done(progress)).map(|(id, _)| (id.clone(), work.clone())).collect()
    }

    /// This work for the lead, unless it is done.
    pub(crate) fn lead_until(self, done: bool, work: Work) -> Vec<(NodeId, Work)> {
        match &self.rotation.lead {
            Some(lead) if !done => vec![(lead.clone(), work)],
            Some(_) | None => Vec::new(),
        }
    }
}

/// A rotation and everything that its progress may change.
pub(crate) struct Run<'a> {
    pub(crate) now: Millis,
    pub(crate) farm: &'a str,
    pub(crate) nodes: &'a mut BTreeMap<NodeId, Node>,
    pub(crate) rotation: &'a mut Rotation,
    epoch: &'a mut Epoch,
    active: &'a mut Option<RotationId>,
}

impl<'a> Run<'a> {
    /// The rotation with this id.
    pub(crate) fn of(state: &'a mut State, id: RotationId, now: Millis) -> Option<Self> {
        Some(Self {
            now,
            farm: &state.farm,
            nodes: &mut state.nodes,
            rotation: state.rotations.get_mut(&id)?,
            epoch: &mut state.epoch,
            active: &mut state.active,
        })
    }

    /// The same, to look at.
    pub(crate) fn stand(&self) -> Stand<'_> {
        Stand { nodes: self.nodes, rotation: self.rotation }
    }

    /// One node's progress.
    pub(crate) fn progress(&mut self, node: &NodeId) -> Option<&mut NodeProgress> {
        self.rotation.nodes.get_mut(node)
    }

    /// Goes on as far as the work that is done allows, and leases shards where rows are to be worked on.
    /// Ends because every turn but the last moves along the transition table, which has no way back without an entry of
    /// its own.
    pub(crate) fn advance(&mut self) {
        while !self.rotation.paused {
            if phases::is_complete(self.stand()) {
                if !self.follow(Signal::Done, None) {
                    return;
                }
            } else {
                match lease::give_out(self) {
                    Ok(()) => return,
                    Err(fault) => {
                        if !self.follow(Signal::Failed, Some(fault)) {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Moves where the transition table says, and nowhere else. The fault, if any, is recorded in any case.
    pub(crate) fn follow(&mut self, signal: Signal, fault: Option<Fault>) -> bool {
        if let Some(fault) = &fault {
            self.record(fault.clone());
        }
        let Some(next) = course::next(&self.rotation.course, signal) else { return false };
        self.enter(next, fault);
        true
    }

    /// Remembers what went wrong. A fault that is known already moves to the end, so that one that repeats does not
    /// push out the others.
    pub(crate) fn record(&mut self, fault: Fault) {
        let faults = &mut self.rotation.faults;
        faults.retain(|known| *known != fault);
        if faults.len() >= FAULTS_MAX {
            faults.remove(0);
        }
        faults.push(fault);
    }

    /// Holds a node: barriers go on without it, and it is not admitted until it has followed.
    pub(crate) fn hold(&mut self, id: &NodeId, reason: Fault) {
        self.record(reason.clone());
        if let Some(node) = self.nodes.get_mut(id) {
            node.quarantine = Some(Quarantine { rotation: self.rotation.id, since: self.now, reason });
        }
        if let Some(progress) = self.progress(id) {
            progress.catch_up = NodeCatchUp::default();
        }
        if self.rotation.lead.as_ref() == Some(id) {
            self.change_lead();
        }
    }

    /// The application was let into the database: from here on any node may be asked to start its instance, and may do so
    /// without our hearing of it.
    pub(crate) fn let_in(&mut self) {
        let present: Vec<NodeId> = self.stand().present().map(|(id, _)| id.clone()).collect();
        for id in &present {
            if let Some(progress) = self.progress(id) {
                progress.may_run = true;
            }
        }
    }

    /// Does without a node until the next phase or step: no shards, no lead.
    pub(crate) fn shun(&mut self, id: &NodeId) {
        if let Some(progress) = self.progress(id) {
            progress.shunned = true;
        }
    }

    /// Makes another node the lead. False when there is none.
    pub(crate) fn change_lead(&mut self) -> bool {
        let candidate = self.stand().present().find(|(_, progress)| !progress.shunned).map(|(id, _)| id.clone());
        let found = candidate.is_some();
        if found {
            self.rotation.lead = candidate;
        }
        found
    }

    /// Gives every node another chance.
    pub(crate) fn forgive(&mut self) {
        for progress in self.rotation.nodes.values_mut() {
            progress.shunned = false;
        }
    }

    fn enter(&mut self, next: Next, reason: Option<Fault>) {
        // Every move raises the epoch, so that answers to earlier work, and late workers, are recognised.
        estimate::measure_next(self.rotation, self.now);
        *self.epoch = self.epoch.next();
        self.rotation.epoch = *self.epoch;
        self.forgive();
        self.rotation.lead_done = false;
        self.rotation.lease_rounds = 0;
        for shard in self.rotation.shards.values_mut() {
            shard.lease = None;
        }
        if let Some(last) = self.rotation.times.last_mut() {
            last.ended.get_or_insert(self.now);
        }
        match next {
            Next::Forward(phase) => {
                self.rotation.course = Course::Forward { phase };
                self.rotation.reached = phase;
                self.rotation.paused = self.rotation.options.hold_at == Some(phase);
                if phase == Phase::Activate {
                    self.rotation.activated_at = Some(self.now);
                }
                self.begin_time(phase.as_str().to_owned());
            }
            Next::Undo { from, step } => {
                self.rotation.course = Course::Undo { from, step };
                if step == UndoStep::TurnBack {
                    // The ledger knows what is still so.
                    phases::rows::forget_restored(self);
                }
                self.rotation.paused = false;
                self.begin_time(format!("undo:{}", step.as_str()));
            }
            Next::Stuck { from, step } => {
                let reason = reason.unwrap_or_else(|| phases::undo::unexplained(step));
                let next_steps = phases::undo::next_steps(self.rotation.id, step, &reason);
                self.rotation.course = Course::Stuck { from, step, reason, next_steps };
                self.rotation.paused = false;
            }
            Next::Ended(ending) => {
                self.rotation.course = Course::Ended(ending);
                self.rotation.paused = false;
                self.rotation.ended_at = Some(self.now);
                *self.active = None;
            }
        }
    }

    fn begin_time(&mut self, name: String) {
        let times = &mut self.rotation.times;
        if times.len() >= PHASE_TIMES_MAX {
            times.remove(0);
        }
        times.push(PhaseTime { name, started: self.now, ended: None });
    }
}
