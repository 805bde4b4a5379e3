//! A small farm in the test's hand: entries go in, the course and the pending work are read as text.
#![expect(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use rotation::{
    AgentRelease, Answer, Assignment, AssignmentId, Attestation, Authorization, BackupOffer, BackupSource, ClusterId,
    ContentDigest, Course, DatabaseBackup, DatabaseIdentity, DatabaseKind, DatabasePosition, Digest, Entry, Epoch,
    Event, Fault, FaultCode, FolderArchive, Inspection, KeyBound, KeyId, Millis, NodeBackup, NodeGrant, NodeId,
    Outcome, Phase, Plan, PlanTable, Rejection, Retirement, Rotation, RotationId, RotationOptions, Shard, ShardId,
    ShardRange, ShardTally, SignedRetirement, State, Statement, Strategy, StrategyChoice, Survey, Term, UndoStep, Work,
    apply, decisions, pending,
};

/// Rows of each shard of each table. Six shards; the last table is empty.
pub(crate) const TABLES: [(&str, &[u64]); 3] = [("connections", &[2, 2, 2]), ("entries", &[2, 2]), ("notes", &[0])];
pub(crate) const SHARDS: u64 = 6;

/// Between two entries.
pub(crate) const ENTRY_MS: u64 = 10;

pub(crate) const OLD: KeyId = KeyId::new([1; 16]);
pub(crate) const NEW: KeyId = KeyId::new([2; 16]);

pub(crate) fn node(number: usize) -> NodeId {
    format!("node-{number}").parse().expect("a node id")
}

pub(crate) fn rotation_id(number: u64) -> RotationId {
    format!("01890a5d-ac96-774b-bcce-{number:012x}").parse().expect("a UUID")
}

pub(crate) fn cluster() -> ClusterId {
    "7d444840-9dc0-41d1-b245-5ffdce74fad2".parse().expect("a UUID")
}

pub(crate) fn hash(text: &str) -> Digest {
    Digest::new(*blake3::hash(text.as_bytes()).as_bytes())
}

pub(crate) fn fault(code: FaultCode) -> Fault {
    Fault::new(code, format!("injected {code}"), "nothing, this is a test")
}

pub(crate) fn database() -> DatabaseIdentity {
    DatabaseIdentity { kind: DatabaseKind::Postgres, identity: "7301-vault".to_owned() }
}

pub(crate) fn inspection(node: &NodeId, key: KeyId) -> Inspection {
    Inspection {
        release: AgentRelease { version: "0.1.0".to_owned(), protocol: 1 },
        current_key: key,
        instance: "online".to_owned(),
        instance_online: true,
        protector: "hostkey".to_owned(),
        database: database(),
        targets_digest: hash("targets"),
        recipient_key: format!("recipient of {node}"),
        attestation: Attestation {
            certificates: vec!["00".to_owned()],
            signature: "00".to_owned(),
            mac: "00".to_owned(),
        },
        backup: BackupOffer::Nothing,
    }
}

/// What a node answers that backs up its folder, and the database if it is asked.
pub(crate) fn backed_up(node: &NodeId, asked: Option<&BackupSource>) -> NodeBackup {
    let made_at = Millis::new(1_000);
    let folder = FolderArchive { path: format!("/backups/{node}.tar"), bytes: 1, digest: hash("folder"), made_at };
    let database = asked.map(|source| DatabaseBackup {
        node: node.clone(),
        path: match source {
            BackupSource::Made => "/backups/vault.dump".to_owned(),
            BackupSource::Shown(path) => path.clone(),
        },
        bytes: 2,
        digest: hash("backup"),
        made_at,
        shown: *source != BackupSource::Made,
        position: Some(position()),
        key: OLD,
        tables: BTreeMap::new(),
        proof: "restored".to_owned(),
        made_ms: 3,
        proved_ms: 4,
    });
    NodeBackup { folder, database }
}

/// A survey that chooses in place for every table.
pub(crate) fn survey() -> Survey {
    let mut shards = Vec::new();
    let mut tables = Vec::new();
    for (table, parts) in TABLES {
        for (index, rows) in parts.iter().enumerate() {
            let bound = |index: usize| KeyBound(format!("[{index}]"));
            shards.push(Shard {
                id: ShardId::new(u64::try_from(shards.len()).expect("few shards")),
                table: table.to_owned(),
                range: ShardRange {
                    after: (index > 0).then(|| bound(index)),
                    through: (index + 1 < parts.len()).then(|| bound(index + 1)),
                },
                rows_estimated: *rows,
            });
        }
        let rows = parts.iter().sum();
        let columns = vec!["secret".to_owned()];
        tables.push((
            table.to_owned(),
            PlanTable {
                columns,
                strategy: Strategy::InPlace,
                reason: "chosen".to_owned(),
                forecast_ms: 10,
                rows,
                values: rows,
                bytes: rows * 100,
            },
        ));
    }
    Survey {
        kind: DatabaseKind::Postgres,
        tables,
        shards,
        writers_max: 3,
        undecryptable: Vec::new(),
        undecryptable_total: 0,
        downtime_forecast_ms: 1_000,
        unseen: rotation::Unseen::default(),
    }
}

/// The same, which chooses to copy every table with rows.
pub(crate) fn shadow_survey() -> Survey {
    let mut survey = survey();
    for (_, table) in &mut survey.tables {
        if table.rows > 0 {
            table.strategy = Strategy::Shadow;
        }
    }
    survey
}

pub(crate) fn rows_of(shard: ShardId) -> u64 {
    let all: Vec<u64> = TABLES.iter().flat_map(|(_, parts)| parts.iter().copied()).collect();
    all[usize::try_from(shard.get()).expect("few shards")]
}

/// What a shard holds, whichever key it is under.
pub(crate) fn tally(shard: ShardId) -> ShardTally {
    let rows = rows_of(shard);
    let digest = ContentDigest::new(u128::from(shard.get() + 1) << 100);
    ShardTally { rows, values: rows, undecryptable: 0, digest, rest: digest }
}

pub(crate) fn position() -> DatabasePosition {
    DatabasePosition { identity: database(), timeline: 1, position: 4_096 }
}

pub(crate) fn possession(rotation: RotationId, node: &NodeId, key: KeyId) -> Digest {
    hash(&format!("{rotation} {node} {key}"))
}

/// What an honest operator signs for this plan.
pub(crate) fn statement(plan: &Plan, new_key: KeyId) -> Statement {
    let nodes = plan.nodes.iter().map(|(id, planned)| {
        let proof = possession(plan.rotation, id, new_key);
        let grant = NodeGrant {
            recipient_key: planned.recipient_key.clone(),
            sealed_digest: Digest::new(*blake3::hash(&sealed(id)).as_bytes()),
            possession_digest: Digest::new(*blake3::hash(proof.as_bytes()).as_bytes()),
        };
        (id.clone(), grant)
    });
    Statement {
        format: Statement::FORMAT,
        farm: plan.farm.clone(),
        rotation: plan.rotation,
        plan_digest: plan.digest(),
        old_key: plan.nodes.values().next().expect("a plan has nodes").current_key,
        new_key,
        nodes: nodes.collect(),
    }
}

/// What an honest operator signs to have kept tables dropped.
pub(crate) fn retirement(rotation: RotationId, plan_digest: Digest) -> SignedRetirement {
    let retirement = Retirement { format: Retirement::FORMAT, farm: "demo".to_owned(), rotation, plan_digest };
    SignedRetirement { retirement: retirement.to_bytes(), certificates: vec![vec![0]], signature: vec![0] }
}

fn sealed(node: &NodeId) -> Vec<u8> {
    format!("sealed for {node}").into_bytes()
}

pub(crate) fn authorization(statement: &Statement) -> Authorization {
    Authorization {
        statement: statement.to_bytes(),
        certificates: vec![vec![0]],
        signature: vec![0],
        sealed: statement.nodes.keys().map(|id| (id.clone(), sealed(id))).collect(),
    }
}

/// What an agent that does its work well answers.
pub(crate) fn good_answer(rotation: &Rotation, assignment: &Assignment) -> Answer {
    let node = &assignment.node;
    let new_key = rotation.new_key().unwrap_or(NEW);
    match &assignment.work {
        Work::Inspect => Answer::Inspected(Box::new(inspection(node, OLD))),
        Work::SurveyDatabase { strategy: StrategyChoice::Shadow, .. } => {
            Answer::DatabaseSurveyed(Box::new(shadow_survey()))
        }
        Work::SurveyDatabase { .. } => Answer::DatabaseSurveyed(Box::new(survey())),
        Work::StoreKey => Answer::KeyStored { possession: possession(rotation.id, node, new_key) },
        Work::TakeOffline => Answer::WentOffline,
        Work::FenceDatabase => Answer::DatabaseFenced {
            rows: TABLES.iter().map(|(table, parts)| ((*table).to_owned(), parts.iter().sum())).collect(),
        },
        Work::ReencryptShard { shard, lease, .. } => {
            Answer::ShardReencrypted { shard: shard.id, lease: *lease, tally: tally(shard.id) }
        }
        Work::VerifyShard { shard, lease, .. } => {
            Answer::ShardVerified { shard: shard.id, lease: *lease, tally: tally(shard.id) }
        }
        Work::RecordPosition => Answer::PositionRecorded(position()),
        Work::ActivateKey { .. } => Answer::KeyActivated { key: new_key },
        Work::LiftFence { .. } => Answer::FenceLifted,
        Work::StartInstance { key } => Answer::InstanceStarted { key: *key },
        Work::AdmitInstance => Answer::InstanceAdmitted,
        Work::CloseLedger { .. } => Answer::LedgerClosed,
        Work::TurnBack => Answer::TurnedBack,
        Work::RestoreKey => Answer::KeyRestored { key: rotation.old_key().expect("there is a plan") },
        Work::DiscardKey => Answer::KeyDiscarded,
        Work::FinishShadows => Answer::ShadowsFinished,
        Work::SwapTables => Answer::TablesSwapped,
        Work::SwapTablesBack => Answer::TablesSwappedBack,
        Work::RetireTables => Answer::TablesRetired,
        Work::BackUp { database } => Answer::BackedUp(Box::new(backed_up(node, database.as_ref()))),
    }
}

/// `node-1 reencrypt-shard 0.1`: node, kind, and for a shard its number and lease.
pub(crate) fn label(assignment: &Assignment) -> String {
    let id = assignment.id();
    match id.shard {
        Some((shard, lease)) => format!("{} {} {shard}.{lease}", id.node, id.kind),
        None => format!("{} {}", id.node, id.kind),
    }
}

/// `forward:quiesce`, `undo:restore-rows`, `stuck:restore-rows`, `ended:rolled-back`.
pub(crate) fn course_text(course: &Course) -> String {
    match course {
        Course::Forward { phase } => format!("forward:{}", phase.as_str()),
        Course::Undo { step, .. } => format!("undo:{}", step.as_str()),
        Course::Stuck { step, .. } => format!("stuck:{}", step.as_str()),
        Course::Ended(ending) => {
            format!("ended:{}", serde_json::to_value(ending).expect("an ending is a text").as_str().expect("text"))
        }
    }
}

/// A farm whose state a test moves entry by entry.
pub(crate) struct Farm {
    pub(crate) state: State,
    pub(crate) id: RotationId,
    clock: u64,
}

impl Farm {
    /// Founded, with this many nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        let mut farm = Self { state: State::default(), id: rotation_id(1), clock: 1_000 };
        farm.say(Event::FarmFounded { cluster: cluster(), farm: "demo".to_owned() });
        for number in 1..=nodes {
            farm.say(Event::NodeEnrolled {
                node: node(number),
                address: format!("https://127.0.0.1:{}", 7_100 + number),
            });
        }
        farm
    }

    /// With a rotation that was just requested.
    pub(crate) fn requested(nodes: usize) -> Self {
        let mut farm = Self::new(nodes);
        farm.request(RotationOptions::default());
        farm
    }

    /// With a rotation that everything went well in until it entered this phase.
    pub(crate) fn at(nodes: usize, phase: Phase) -> Self {
        let mut farm = Self::requested(nodes);
        farm.go_to(&format!("forward:{}", phase.as_str()));
        farm
    }

    /// The same, with every table that has rows copied and swapped.
    pub(crate) fn at_with_shadows(nodes: usize, phase: Phase) -> Self {
        let mut farm = Self::new(nodes);
        farm.request(RotationOptions { strategy: StrategyChoice::Shadow, ..RotationOptions::default() });
        farm.go_to(&format!("forward:{}", phase.as_str()));
        farm
    }

    /// The same, and then its operator aborted it and everything went well until the undo entered this step.
    pub(crate) fn undoing(nodes: usize, from: Phase, step: &str) -> Self {
        // The one step that a rotation without copies goes through in no time.
        let swaps = step == UndoStep::SwapTablesBack.as_str();
        let mut farm = if swaps { Self::at_with_shadows(nodes, from) } else { Self::at(nodes, from) };
        // In Start something must have happened for the instances to need stopping.
        if from == Phase::Start {
            farm.answer("node-1 lift-fence");
        }
        farm.abort();
        farm.go_to(&format!("undo:{step}"));
        farm
    }

    /// Time goes by, and nothing is heard.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.clock += ms;
    }

    /// The leader's clock.
    pub(crate) fn now(&self) -> Millis {
        Millis::new(self.clock)
    }

    pub(crate) fn entry(&mut self, event: Event) -> Entry {
        self.clock += ENTRY_MS;
        Entry { at: Millis::new(self.clock), event }
    }

    pub(crate) fn try_say(&mut self, event: Event) -> Result<Outcome, Rejection> {
        let entry = self.entry(event);
        apply(&mut self.state, &entry)
    }

    /// Applies what must not be refused.
    pub(crate) fn say(&mut self, event: Event) -> Outcome {
        self.try_say(event).expect("this must not be refused")
    }

    /// Applies what must be refused, and looks that nothing changed.
    pub(crate) fn refused(&mut self, event: Event) -> Rejection {
        let before = self.state.clone();
        let rejection = self.try_say(event).expect_err("this must be refused");
        assert_eq!(self.state, before, "a refusal must leave the state as it was");
        assert!(!rejection.message.is_empty() && !rejection.next_step.is_empty(), "{rejection:?}");
        rejection
    }

    pub(crate) fn request(&mut self, options: RotationOptions) -> Outcome {
        let (rotation, by) = (self.id, "alice".to_owned());
        self.say(Event::RotationRequested { rotation, by, options })
    }

    pub(crate) fn abort_event(&self) -> Event {
        Event::AbortRequested { rotation: self.id, by: "alice".to_owned() }
    }

    pub(crate) fn abort(&mut self) -> Outcome {
        self.say(self.abort_event())
    }

    pub(crate) fn pause_event(&self) -> Event {
        Event::PauseRequested { rotation: self.id, by: "alice".to_owned() }
    }

    pub(crate) fn resume(&mut self) -> Outcome {
        self.say(Event::ResumeRequested { rotation: self.id, by: "alice".to_owned() })
    }

    pub(crate) fn retry(&mut self) -> Outcome {
        self.say(Event::RetryRequested { rotation: self.id, by: "alice".to_owned() })
    }

    pub(crate) fn throttle_event(&self, rows_per_second: Option<u32>) -> Event {
        Event::ThrottleRequested { rotation: self.id, by: "alice".to_owned(), rows_per_second }
    }

    pub(crate) fn retire_event(&self) -> Event {
        let plan_digest = self.rotation().plan_digest.unwrap_or_else(|| hash("no plan"));
        let word = retirement(self.id, plan_digest);
        Event::RetireRequested { rotation: self.id, by: "alice".to_owned(), word }
    }

    pub(crate) fn start_event(&self, authorization: Authorization) -> Event {
        Event::StartRequested { rotation: self.id, by: "alice".to_owned(), authorization: Box::new(authorization) }
    }

    pub(crate) fn start(&mut self) -> Outcome {
        let statement = statement(self.plan(), NEW);
        self.say(self.start_event(authorization(&statement)))
    }

    pub(crate) fn rotation(&self) -> &Rotation {
        &self.state.rotations[&self.id]
    }

    pub(crate) fn plan(&self) -> &Plan {
        self.rotation().plan.as_ref().expect("preflight is over")
    }

    pub(crate) fn course(&self) -> String {
        course_text(&self.rotation().course)
    }

    pub(crate) fn pending(&self) -> Vec<String> {
        pending(&self.state).iter().map(label).collect()
    }

    /// The pending assignment with this label.
    pub(crate) fn find(&self, wanted: &str) -> Assignment {
        pending(&self.state)
            .into_iter()
            .find(|assignment| label(assignment) == wanted)
            .unwrap_or_else(|| panic!("{wanted} is not pending, but {:?} in {}", self.pending(), self.course()))
    }

    pub(crate) fn done_event(&self, wanted: &str) -> Event {
        let assignment = self.find(wanted);
        Event::WorkDone { assignment: assignment.id(), answer: good_answer(self.rotation(), &assignment) }
    }

    pub(crate) fn answer(&mut self, wanted: &str) -> Outcome {
        let event = self.done_event(wanted);
        self.say(event)
    }

    pub(crate) fn answer_with(&mut self, wanted: &str, answer: Answer) -> Outcome {
        let assignment = self.find(wanted).id();
        self.say(Event::WorkDone { assignment, answer })
    }

    pub(crate) fn fail(&mut self, wanted: &str, code: FaultCode) -> Outcome {
        let assignment = self.find(wanted).id();
        self.say(Event::WorkFailed { assignment, fault: fault(code) })
    }

    pub(crate) fn miss(&mut self, wanted: &str) -> Outcome {
        let assignment = self.find(wanted).id();
        self.say(Event::DeadlineMissed { assignment, fault: fault(FaultCode::NodeUnreachable) })
    }

    pub(crate) fn expire(&mut self, wanted: &str) -> Outcome {
        let assignment = self.find(wanted).id();
        self.say(Event::LeaseExpired { assignment })
    }

    /// One turn in which everything goes well: the first pending work is answered, or the due decision is logged, or
    /// the operator starts.
    pub(crate) fn turn(&mut self) -> bool {
        if let Some(assignment) = pending(&self.state).first() {
            let answer = good_answer(&self.state.rotations[&assignment.rotation], assignment);
            self.say(Event::WorkDone { assignment: assignment.id(), answer });
        } else if let Some(decision) = decisions(&self.state).pop() {
            self.say(decision);
        } else if self.course() == "forward:approval" {
            self.start();
        } else {
            return false;
        }
        true
    }

    /// Everything goes well until this course is reached.
    pub(crate) fn go_to(&mut self, course: &str) {
        while self.course() != course {
            assert!(self.turn(), "{course} was never reached: nothing to do in {}", self.course());
        }
    }

    /// Everything goes well until nothing is left to do.
    pub(crate) fn go_on(&mut self) {
        while self.turn() {}
    }

    pub(crate) fn held(&self, number: usize) -> bool {
        self.state.nodes[&node(number)].quarantine.is_some()
    }

    pub(crate) fn fault_codes(&self) -> Vec<FaultCode> {
        self.rotation().faults.iter().map(|fault| fault.code).collect()
    }
}

/// Holds course and pending work against what is expected.
#[track_caller]
pub(crate) fn check(farm: &Farm, course: &str, pending: &[&str]) {
    assert_eq!((farm.course(), farm.pending()), (course.to_owned(), pending.iter().map(|s| (*s).to_owned()).collect()));
}

pub(crate) fn leader(term: u64) -> Event {
    Event::LeaderElected { term: Term::new(term), replica: 1 }
}

/// The same assignment in another epoch.
pub(crate) fn in_epoch(id: &AssignmentId, epoch: Epoch) -> AssignmentId {
    AssignmentId { epoch, ..id.clone() }
}

pub(crate) fn counts(rows: &[(&str, u64)]) -> Answer {
    let rows: BTreeMap<String, u64> = rows.iter().map(|(table, rows)| ((*table).to_owned(), *rows)).collect();
    Answer::DatabaseFenced { rows: rows.into_iter().collect() }
}
