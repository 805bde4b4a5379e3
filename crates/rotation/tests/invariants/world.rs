//! A world that answers pending work in random order, late, twice and wrongly, while operators do as they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use rotation::{
    Answer, Assignment, BackupChoice, BackupOffer, BackupSource, Course, Direction, DowntimeBudget, Entry, Epoch,
    Event, Fault, FaultCode, KeyId, Millis, NodeId, OnBudget, Outcome, Phase, Rejection, Rotation, RotationId,
    RotationOptions, State, StrategyChoice, Work, apply, budget_decision, decisions, pending,
};

use crate::database::{Database, Superseded};
use crate::support::{
    authorization, backed_up, cluster, course_text, fault, good_answer, hash, in_epoch, inspection, leader, node,
    retirement, rotation_id, statement,
};

/// Turns after which a world without faults must have come to rest. An undo of four nodes takes some two hundred.
const CALM_TURNS_MAX: usize = 2_000;

/// A random run.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) nodes: usize,
    pub(crate) hold_at: Option<Phase>,
    /// Whether tables are copied and swapped, rather than changed in place.
    pub(crate) shadows: bool,
    /// How long the farm may be offline, and what then.
    pub(crate) budget: Option<DowntimeBudget>,
    /// So many actions go by before the first whim, so that late phases see whims too.
    pub(crate) quiet: usize,
    /// The operator aborts before this action.
    pub(crate) abort_at: Option<usize>,
    /// How many of 256 actions are faults or whims from then on.
    pub(crate) whims: u8,
    pub(crate) actions: Vec<(u8, u16)>,
}

/// On one line, ready to be pasted into a test.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, hold_at, shadows, budget, quiet, abort_at, whims, actions } = self;
        write!(
            f,
            "Script {{ nodes: {nodes}, hold_at: {hold_at:?}, shadows: {shadows}, budget: {budget:?}, quiet: {quiet}, abort_at: {abort_at:?}, whims: {whims}, actions: vec!{actions:?} }}"
        )
    }
}

pub(crate) fn scripts() -> impl Strategy<Value = Script> {
    let hold_at = prop_oneof![
        6 => Just(None),
        1 => prop::sample::select(&Phase::ALL[2..9]).prop_map(Some),
    ];
    let whims = prop_oneof![Just(0_u8), Just(3), Just(10), Just(40), Just(120)];
    // So many actions go by before the first whim and before an abort, so that late phases and their undo see whims too.
    let calm = (prop_oneof![Just(0), 0..200_usize], any::<bool>());
    // A run's entries are seven milliseconds apart: these are too short for most runs, for some, and for none.
    let budget = prop_oneof![
        2 => Just(None),
        1 => (prop::sample::select(vec![1_000, 1_500, 2_500, 60_000]), any::<bool>()).prop_map(Some),
    ];
    let wish = (hold_at, prop::bool::weighted(0.7), budget);
    (1..=4_usize, wish, calm, whims, vec(any::<(u8, u16)>(), 0..400)).prop_map(
        |(nodes, (hold_at, shadows, budget), (quiet, aborts), whims, actions)| {
            let abort_at = (aborts && quiet > 0).then_some(quiet);
            let budget = budget.map(|(max_downtime_ms, goes_on)| DowntimeBudget {
                max_downtime_ms,
                on_budget: if goes_on { OnBudget::Continue } else { OnBudget::Undo },
            });
            Script { nodes, hold_at, shadows, budget, quiet, abort_at, whims, actions }
        },
    )
}

/// Enough cases to come everywhere (see `coverage.rs`), few enough to run in seconds. More with PROPTEST_CASES.
pub(crate) fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instance {
    Offline,
    Started(KeyId),
    Online(KeyId),
}

/// One node's machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) instance: Instance,
    /// The key in `encryption.config`.
    pub(crate) current: KeyId,
    pub(crate) pending: Option<KeyId>,
    /// The highest epoch that its agent has seen.
    fence: Epoch,
}

/// An assignment that an agent has accepted and may go on with at any time, however late.
#[derive(Debug, Clone)]
struct Running {
    assignment: Assignment,
    old: KeyId,
    new: KeyId,
    /// Whether the signed plan says that tables are copied and swapped.
    shadows: bool,
    entered: bool,
}

/// An entry that was applied, with the state before.
pub(crate) struct Applied {
    pub(crate) before: State,
    pub(crate) entry: Entry,
    pub(crate) result: Result<Outcome, Rejection>,
}

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) machines: BTreeMap<NodeId, Machine>,
    pub(crate) database: Database,
    /// Who stored which rotation's key and proved it.
    pub(crate) proved: BTreeSet<(RotationId, NodeId)>,
    running: Vec<Running>,
    reports: Vec<Event>,
    history: Vec<Event>,
    applied: Vec<Applied>,
    clock: u64,
    rotations: u64,
    hold_at: Option<Phase>,
    shadows: bool,
    budget: Option<DowntimeBudget>,
}

impl World {
    fn new(script: &Script) -> Self {
        let key = KeyId::new([1; 16]);
        let machine = Machine { instance: Instance::Online(key), current: key, pending: None, fence: Epoch::new(0) };
        let mut world = Self {
            state: State::default(),
            machines: (1..=script.nodes).map(|number| (node(number), machine.clone())).collect(),
            database: Database::new(key),
            proved: BTreeSet::new(),
            running: Vec::new(),
            reports: Vec::new(),
            history: Vec::new(),
            applied: Vec::new(),
            clock: 1_000,
            rotations: 0,
            hold_at: script.hold_at,
            shadows: script.shadows,
            budget: script.budget,
        };
        world.say(Event::FarmFounded { cluster: cluster(), farm: "demo".to_owned() });
        for number in 1..=script.nodes {
            world.enroll(number);
        }
        world.request();
        world
    }

    /// Plays a script; `look` sees the world after every action, with the entries that it applied.
    pub(crate) fn play(script: &Script, mut look: impl FnMut(&Self, &[Applied])) -> Self {
        let mut world = Self::new(script);
        for (number, (kind, pick)) in script.actions.iter().enumerate() {
            world.applied.clear();
            if script.abort_at == Some(number) {
                world.abort();
                let applied = std::mem::take(&mut world.applied);
                look(&world, &applied);
            }
            if *kind < script.whims && number >= script.quiet {
                world.whim(usize::from(*pick % 27), usize::from(*pick / 27));
            } else {
                world.go_on(usize::from(*pick));
            }
            let applied = std::mem::take(&mut world.applied);
            look(&world, &applied);
        }
        world
    }

    /// No more faults: everybody does what is pending, the operator goes on, until nothing is left to do.
    pub(crate) fn calm_down(&mut self) {
        // Under a throttle of a few rows a second no plan keeps its budget, and the start is refused.
        self.say(Event::ThrottleRequested { rotation: self.id(), by: "alice".to_owned(), rows_per_second: None });
        for turn in 0..CALM_TURNS_MAX {
            self.applied.clear();
            let at_rest = self.running.is_empty()
                && self.reports.is_empty()
                && pending(&self.state).is_empty()
                && self.state.active.is_none();
            if at_rest {
                return;
            }
            match self.course() {
                Some(Course::Stuck { .. }) => {
                    let (rotation, by) = (self.id(), "alice".to_owned());
                    self.say(Event::RetryRequested { rotation, by });
                }
                Some(_) if self.rotation().is_some_and(|rotation| rotation.paused) => {
                    let (rotation, by) = (self.id(), "alice".to_owned());
                    self.say(Event::ResumeRequested { rotation, by });
                }
                _ => self.go_on(turn),
            }
        }
        panic!("no rest: {:?}, pending {:?}", self.course(), pending(&self.state));
    }

    pub(crate) fn rotation(&self) -> Option<&Rotation> {
        self.state.active.and_then(|id| self.state.rotations.get(&id))
    }

    /// The rotation under way, or the last one.
    pub(crate) fn id(&self) -> RotationId {
        let last = self.state.rotations.last_key_value().map(|(id, _)| *id);
        self.state.active.or(last).unwrap_or_else(|| rotation_id(self.rotations))
    }

    pub(crate) fn course(&self) -> Option<&Course> {
        self.rotation().map(|rotation| &rotation.course)
    }

    pub(crate) fn abort(&mut self) {
        let (rotation, by) = (self.id(), "alice".to_owned());
        self.say(Event::AbortRequested { rotation, by });
    }

    /// The world as text, for a failure's message.
    pub(crate) fn describe(&self) -> String {
        let course = self.state.rotations.get(&self.id()).map(|rotation| course_text(&rotation.course));
        format!("{course:?} {:?} rows {:?}", self.machines, self.database.rows)
    }

    fn say(&mut self, event: Event) {
        self.clock += 7;
        let entry = Entry { at: Millis::new(self.clock), event };
        let before = self.state.clone();
        let result = apply(&mut self.state, &entry);
        self.history.push(entry.event.clone());
        self.applied.push(Applied { before, entry, result });
    }

    fn enroll(&mut self, number: usize) {
        self.say(Event::NodeEnrolled { node: node(number), address: format!("https://127.0.0.1:{}", 7_100 + number) });
    }

    fn request(&mut self) {
        self.rotations += 1;
        let strategy = if self.shadows { StrategyChoice::Shadow } else { StrategyChoice::Auto };
        let options = RotationOptions {
            accepted: Vec::new(),
            hold_at: self.hold_at,
            strategy,
            budget: self.budget,
            backup: BackupChoice::AsConfigured,
        };
        let rotation = rotation_id(self.rotations);
        self.say(Event::RotationRequested { rotation, by: "alice".to_owned(), options });
    }

    fn start(&mut self) {
        let Some(plan) = self.rotation().and_then(|rotation| rotation.plan.as_ref()) else { return };
        // A key of its own for each rotation.
        let number = plan.rotation.as_bytes()[15] % 200;
        let signed = authorization(&statement(plan, KeyId::new([number + 2; 16])));
        self.say(Event::StartRequested {
            rotation: self.id(),
            by: "alice".to_owned(),
            authorization: Box::new(signed),
        });
    }

    /// An operator signs that the tables which the last rotation kept be dropped.
    fn retire(&mut self) {
        let rotation = self.id();
        let Some(plan_digest) = self.state.rotations.get(&rotation).and_then(|rotation| rotation.plan_digest) else {
            return;
        };
        let word = retirement(rotation, plan_digest);
        self.say(Event::RetireRequested { rotation, by: "alice".to_owned(), word });
    }

    /// One useful thing of all that could happen now.
    fn go_on(&mut self, pick: usize) {
        let offered: Vec<Assignment> = pending(&self.state)
            .into_iter()
            .filter(|offer| !self.running.iter().any(|running| running.assignment == *offer))
            .filter(|offer| {
                // Not again what is answered and only not yet reported.
                !self
                    .reports
                    .iter()
                    .any(|report| matches!(report, Event::WorkDone { assignment, .. } if *assignment == offer.id()))
            })
            .collect();
        let mut decided = decisions(&self.state);
        decided.extend(budget_decision(&self.state, Millis::new(self.clock)));
        let approval = usize::from(self.course() == Some(&Course::Forward { phase: Phase::Approval }));
        let total = offered.len() + self.running.len() + self.reports.len() + decided.len() + approval;
        if total == 0 {
            match pick % 4 {
                0 if self.state.active.is_none() => self.request(),
                1 => self.retire(),
                _ => {}
            }
            return;
        }
        let mut index = pick % total;
        if index < offered.len() {
            return self.deliver(&offered[index]);
        }
        index -= offered.len();
        if index < self.running.len() {
            return self.work(index);
        }
        index -= self.running.len();
        if index < self.reports.len() {
            let report = self.reports.swap_remove(index);
            return self.say(report);
        }
        index -= self.reports.len();
        match decided.get(index) {
            Some(decision) => self.say(decision.clone()),
            None => self.start(),
        }
    }

    /// One thing that nobody planned.
    fn whim(&mut self, kind: usize, pick: usize) {
        let offered = pending(&self.state);
        let any = (!offered.is_empty()).then(|| offered[pick % offered.len().max(1)].clone());
        let id = self.id();
        let by = "mallory".to_owned();
        match (kind, any) {
            (0 | 1, Some(any)) => {
                // In an undo the latter says that it is lost, and it begins again.
                let code = if pick.is_multiple_of(3) { FaultCode::DatabasePosition } else { FaultCode::Internal };
                self.say(Event::WorkFailed { assignment: any.id(), fault: fault(code) });
            }
            (2..=4, Some(any)) => {
                self.say(Event::DeadlineMissed { assignment: any.id(), fault: fault(FaultCode::NodeUnreachable) });
            }
            (5 | 6, Some(any)) => self.say(Event::LeaseExpired { assignment: any.id() }),
            (7, Some(any)) => {
                let answer = self.wrong_answer(&any);
                self.say(Event::WorkDone { assignment: any.id(), answer });
            }
            (8, Some(any)) => {
                // Of a neighbouring epoch, never of this one: nobody did this work.
                let nearby = any.epoch.get() + [0, 1, 3, 4][pick % 4];
                let epoch = Epoch::new(nearby.saturating_sub(2));
                let answer = good_answer(&self.state.rotations[&any.rotation], &any);
                self.say(Event::WorkDone { assignment: in_epoch(&any.id(), epoch), answer });
            }
            (9..=11, _) if !self.history.is_empty() => {
                // What was said once is said again, however long ago it was.
                let again = self.history[pick % self.history.len()].clone();
                self.say(again);
            }
            (12 | 13, _) if !self.reports.is_empty() => {
                let twice = self.reports[pick % self.reports.len()].clone();
                self.say(twice);
            }
            (14, _) if !self.reports.is_empty() => {
                self.reports.swap_remove(pick % self.reports.len());
            }
            (15, _) if !self.running.is_empty() => {
                self.running.swap_remove(pick % self.running.len());
            }
            (16, _) => self.say(Event::AbortRequested { rotation: id, by }),
            (17, _) => self.say(Event::PauseRequested { rotation: id, by }),
            (18, _) => self.say(Event::ResumeRequested { rotation: id, by }),
            (19, _) => self.say(Event::RetryRequested { rotation: id, by }),
            (20, _) => self.request(),
            (21, _) => self.say(leader(self.clock)),
            (22, _) => self.start_wrongly(pick),
            (23, _) if pick.is_multiple_of(2) => self.enroll(pick / 2 % self.machines.len() + 1),
            (24, _) => {
                let rows_per_second = (!pick.is_multiple_of(5)).then_some(u32::try_from(pick % 7).unwrap_or(1));
                self.say(Event::ThrottleRequested { rotation: id, by, rows_per_second });
            }
            (25, _) => self.retire(),
            (26, _) => {
                // A leader whose clock is wrong, or who says it late.
                let epoch = Epoch::new(self.state.epoch.get().saturating_sub(u64::from(pick.is_multiple_of(4))));
                let used_ms = [0, 500, 2_000, u64::MAX][pick % 4];
                self.say(Event::BudgetSpent { rotation: id, epoch, used_ms });
            }
            (23, _) => self.say(Event::NodeRemoved { node: node(pick / 2 % self.machines.len() + 1) }),
            _ => {}
        }
    }

    /// The agent accepts an assignment, unless it has seen a higher epoch; older work of its own ends.
    fn deliver(&mut self, assignment: &Assignment) {
        let rotation = &self.state.rotations[&assignment.rotation];
        let machine = self.machines.get_mut(&assignment.node).expect("an enrolled node has a machine");
        if assignment.epoch < machine.fence {
            panic!("work that the state calls for is below the fence of {}", assignment.node);
        }
        machine.fence = assignment.epoch;
        let nothing = KeyId::new([0; 16]);
        let old = rotation.old_key().unwrap_or(nothing);
        let new = rotation.new_key().unwrap_or(nothing);
        self.running
            .retain(|other| other.assignment.node != assignment.node || other.assignment.epoch >= assignment.epoch);
        let shadows = rotation.has_shadows();
        self.running.push(Running { assignment: assignment.clone(), old, new, shadows, entered: false });
    }

    /// An agent goes on with what it accepted: one row, or all of something small.
    fn work(&mut self, index: usize) {
        let mut running = self.running[index].clone();
        let id = running.assignment.id();
        match self.perform(&mut running) {
            Ok(None) => self.running[index] = running,
            Ok(Some(answer)) => {
                self.running.swap_remove(index);
                self.reports.push(Event::WorkDone { assignment: id, answer });
            }
            Err(fault) => {
                self.running.swap_remove(index);
                if fault.code == FaultCode::Superseded {
                    let live = self.calls_for(&running.assignment);
                    assert!(!live, "{id} is called for and was superseded: {}", self.describe());
                }
                self.reports.push(Event::WorkFailed { assignment: id, fault });
            }
        }
    }

    /// Whether the state calls for exactly this work, paused or not.
    fn calls_for(&self, assignment: &Assignment) -> bool {
        let mut state = self.state.clone();
        for rotation in state.rotations.values_mut() {
            rotation.paused = false;
        }
        pending(&state).contains(assignment)
    }

    fn perform(&mut self, running: &mut Running) -> Result<Option<Answer>, Fault> {
        let Running { assignment, old, new, shadows, .. } = running.clone();
        let Assignment { rotation: id, epoch, node, work } = assignment.clone();
        let rotation = self.state.rotations.get(&id).cloned();
        let machine = self.machines.get_mut(&node).expect("an enrolled node has a machine");
        let late = |_: Superseded| fault(FaultCode::Superseded);
        match work {
            Work::Inspect => {
                let mut found = inspection(&node, machine.current);
                found.instance_online = matches!(machine.instance, Instance::Online(_));
                found.backup = match node.as_str() {
                    "node-1" => BackupOffer::Nothing,
                    "node-2" => BackupOffer::Folder,
                    _ => BackupOffer::Database,
                };
                return Ok(Some(Answer::Inspected(Box::new(found))));
            }
            Work::SurveyDatabase { .. } => {
                if self.database.keys() != [machine.current] {
                    return Err(fault(FaultCode::Undecryptable));
                }
            }
            Work::StoreKey => {
                machine.pending = Some(new);
                self.proved.insert((id, node));
            }
            Work::TakeOffline => machine.instance = Instance::Offline,
            Work::FenceDatabase => {
                self.database.enter(id, epoch, Direction::Forward, work.kind()).map_err(late)?;
                self.database.open = false;
            }
            Work::ReencryptShard { ref shard, lease, direction, .. } => {
                if !running.entered {
                    self.database.enter(id, epoch, direction, work.kind()).map_err(late)?;
                    self.database.lease(id, shard.id, lease).map_err(late)?;
                    running.entered = true;
                    return Ok(None);
                }
                self.database.enter(id, epoch, direction, work.kind()).map_err(late)?;
                if !self.database.turn_row(id, shard.id, lease, direction, (old, new), shadows).map_err(late)? {
                    return Ok(None);
                }
            }
            Work::VerifyShard { ref shard, lease, direction, .. } => {
                self.database.enter(id, epoch, direction, work.kind()).map_err(late)?;
                self.database.lease(id, shard.id, lease).map_err(late)?;
                let must = if direction == Direction::Forward { new } else { old };
                if !self.database.verify(id, shard.id, direction, must) {
                    return Err(fault(FaultCode::Undecryptable));
                }
            }
            Work::RecordPosition => {
                self.database.enter(id, epoch, Direction::Forward, work.kind()).map_err(late)?;
            }
            Work::ActivateKey { .. } => {
                if machine.current != new && machine.pending != Some(new) {
                    return Err(fault(FaultCode::KeyStore));
                }
                machine.current = new;
            }
            Work::LiftFence { direction, .. } => {
                self.database.enter(id, epoch, direction, work.kind()).map_err(late)?;
                self.database.lift_fence(id, epoch, direction);
            }
            Work::StartInstance { key } => {
                if machine.current != key {
                    return Err(fault(FaultCode::KeyStore));
                }
                let runs = match machine.instance {
                    Instance::Offline => {
                        machine.instance = Instance::Started(key);
                        key
                    }
                    Instance::Started(runs) | Instance::Online(runs) => runs,
                };
                return Ok(Some(Answer::InstanceStarted { key: runs }));
            }
            Work::AdmitInstance => match machine.instance {
                Instance::Offline => return Err(fault(FaultCode::Instance)),
                Instance::Started(key) | Instance::Online(key) => machine.instance = Instance::Online(key),
            },
            Work::CloseLedger { direction } => {
                self.database.enter(id, epoch, direction, work.kind()).map_err(late)?;
                self.database.drop_shadows(id);
            }
            Work::FinishShadows => {
                self.database.enter(id, epoch, Direction::Forward, work.kind()).map_err(late)?;
                self.database.finish_shadows(id);
            }
            Work::SwapTables => {
                self.database.enter(id, epoch, Direction::Forward, work.kind()).map_err(late)?;
                self.database.swap(id);
            }
            Work::SwapTablesBack => {
                self.database.enter(id, epoch, Direction::Back, work.kind()).map_err(late)?;
                self.database.swap_back(id);
            }
            Work::BackUp { .. } => {}
            Work::RetireTables => self.database.retire(id).map_err(late)?,
            Work::TurnBack => {
                self.database.enter(id, epoch, Direction::Back, work.kind()).map_err(late)?;
                self.database.open = false;
            }
            Work::RestoreKey => machine.current = old,
            Work::DiscardKey => machine.pending = None,
        }
        Ok(rotation.map(|rotation| good_answer(&rotation, &assignment)))
    }

    /// An answer that no honest agent gives. A wrong tally of the forward pass is left out: the undo would rightly be
    /// stuck on it for ever.
    fn wrong_answer(&self, assignment: &Assignment) -> Answer {
        let nobodys = KeyId::new([255; 16]);
        match good_answer(&self.state.rotations[&assignment.rotation], assignment) {
            Answer::Inspected(mut found) => {
                // Not another key: where all nodes tell the same lie, only the attestation finds out.
                found.instance_online = false;
                Answer::Inspected(found)
            }
            Answer::DatabaseSurveyed(mut found) => {
                found.shards.pop();
                Answer::DatabaseSurveyed(found)
            }
            // Of the folder alone where it was asked for the database, and the other way round.
            Answer::BackedUp(found) => {
                let other = if found.database.is_some() { None } else { Some(BackupSource::Made) };
                Answer::BackedUp(Box::new(backed_up(&assignment.node, other.as_ref())))
            }
            Answer::KeyStored { .. } => Answer::KeyStored { possession: hash("a guess") },
            Answer::DatabaseFenced { .. } => Answer::DatabaseFenced { rows: Vec::new() },
            Answer::ShardVerified { shard, lease, mut tally } => {
                tally.rows += 1;
                Answer::ShardVerified { shard, lease, tally }
            }
            Answer::PositionRecorded(mut position) => {
                position.identity.identity = "elsewhere".to_owned();
                Answer::PositionRecorded(position)
            }
            Answer::KeyActivated { .. } => Answer::KeyActivated { key: nobodys },
            Answer::KeyRestored { .. } => Answer::KeyRestored { key: nobodys },
            Answer::InstanceStarted { .. } => Answer::InstanceStarted { key: nobodys },
            Answer::WentOffline
            | Answer::ShardReencrypted { .. }
            | Answer::FenceLifted
            | Answer::InstanceAdmitted
            | Answer::LedgerClosed
            | Answer::TurnedBack
            | Answer::KeyDiscarded
            | Answer::ShadowsFinished
            | Answer::TablesSwapped
            | Answer::TablesSwappedBack
            | Answer::TablesRetired => Answer::PositionRecorded(crate::support::position()),
        }
    }

    fn start_wrongly(&mut self, pick: usize) {
        let Some(plan) = self.rotation().and_then(|rotation| rotation.plan.as_ref()) else { return };
        let mut wrong = statement(plan, KeyId::new([254; 16]));
        match pick % 3 {
            0 => wrong.plan_digest = hash("altered"),
            1 => wrong.new_key = wrong.old_key,
            _ => {
                wrong.nodes.pop_first();
            }
        }
        let signed = authorization(&wrong);
        self.say(Event::StartRequested {
            rotation: self.id(),
            by: "mallory".to_owned(),
            authorization: Box::new(signed),
        });
    }
}
