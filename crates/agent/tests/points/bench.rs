//! One step of a rotation under every failure: it fails, is repeated, dies at every durable write, and is done once more.
//!
//! Before a step everything is remembered, and brought back for each try: files, database, and with them the fence.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use fail_points::Point;
use rotation::{Answer, DatabasePosition, KeyId, Work, WorkKind};

use crate::process::{self, Action, Place, Points, Process};
use crate::support::database::Database;
use crate::support::farm::{ROWS, opens};
use crate::support::{Failure, Farm, Leader};

/// One assignment of a course.
pub(crate) struct Step {
    /// The assignment, as it is given now: shards and times come from what was before.
    pub(crate) work: Box<dyn Fn(&Bench) -> Work>,
    /// The points that it passes, in order and each once; `None` for a step that others try.
    pub(crate) passes: Option<Vec<Point>>,
}

/// What a step leaves behind, as far as it can be told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    current: KeyId,
    pending: Option<KeyId>,
    application_files: Vec<String>,
    state_files: Vec<String>,
    rows_under_old: usize,
    rows_under_new: usize,
    tables: usize,
    instance: String,
}

/// A farm of one node whose agent is a process.
pub(crate) struct Bench {
    pub(crate) farm: Farm,
    pub(crate) leader: Leader,
    /// What was answered to `RecordPosition`.
    pub(crate) position: Option<DatabasePosition>,
    points: Points,
    agent: Option<Process>,
}

impl Bench {
    /// A farm on SQLite, enrolled.
    pub(crate) async fn new() -> Self {
        Self::with(Farm::new().await).await
    }

    /// A farm on another database, enrolled.
    pub(crate) async fn on(database: Box<dyn Database>) -> Self {
        Self::with(Farm::on(tempfile::tempdir().unwrap(), database).await).await
    }

    async fn with(farm: Farm) -> Self {
        let points = Points::in_folder(&farm.path().join("points"));
        let agent = Process::start(farm.path(), &points);
        let leader = Leader::enrolled(&farm, &agent).await;
        Self { farm, leader, position: None, points, agent: Some(agent) }
    }

    /// Does the steps one after the other, each in an epoch of its own.
    pub(crate) async fn go(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.leader.next_phase();
            let answer = match &step.passes {
                None => self.answer(&(step.work)(self)).await,
                Some(passes) => self.try_all(&step, passes).await,
            };
            if let Answer::PositionRecorded(position) = answer {
                self.position = Some(position);
            }
        }
    }

    async fn try_all(&mut self, step: &Step, passes: &[Point]) -> Answer {
        let work = (step.work)(self);
        let kind = work.kind();
        let fence = self.fence();
        self.remember().await;

        self.start();
        self.points.passed();
        let first = self.answer(&work).await;
        let places = self.points.passed();
        let end = self.world().await;
        let expected: Vec<&str> = passes.iter().map(|point| point.name()).collect();
        for side in ["before", "after"] {
            let mut passed = distinct(&places, side);
            if side == "after" {
                // One may stand around another.
                passed.sort_by_key(|name| expected.iter().position(|point| point == name));
            }
            assert_eq!(passed, expected, "{kind}: the points that it passes ({side})");
        }

        // The same again is answered, and nothing is done.
        assert_eq!(self.answer(&work).await, first, "{kind}");
        assert_eq!(self.points.passed(), [], "{kind} was done again");
        assert_eq!(self.world().await, end, "{kind}");
        // As another assignment it looks at what is, and finds it done. An undo is undone twice by this.
        let epoch = self.leader.fence;
        self.leader.next_phase();
        let later = self.answer(&(step.work)(self)).await;
        assert!(alike(&later, &first), "{kind} a second time: {later:?}, and {first:?} before");
        assert_eq!(self.world().await, end, "{kind} a second time");
        self.leader.fence = epoch;

        for place in &places {
            let of = format!("{kind} at {} ({})", place.name, place.nth);
            self.bring_back().await;
            self.start();
            self.points.arm(place, Action::Error);
            let failure = self.leader.ask(work.clone()).await.expect_err(&of);
            check_named(failure, place, &of);
            self.points.disarm();
            assert!(alike(&self.answer(&work).await, &first), "{of}: tried again");
            assert_eq!(self.world().await, end, "{of}: tried again");

            self.bring_back().await;
            self.start();
            self.points.arm(place, Action::Kill);
            self.leader.ask(work.clone()).await.expect_err(&of);
            self.agent.take().unwrap().wait_killed();
            self.points.disarm();
            self.check_crashed(fence, &of).await;
            self.start();
            assert!(alike(&self.answer(&work).await, &first), "{of}: after the crash");
            assert_eq!(self.world().await, end, "{of}: after the crash");
        }
        self.points.passed();
        first
    }

    /// Recovers the node by hand, with the agent gone for good, and lets that fail and die at each of its points in turn.
    /// The points that it passes.
    pub(crate) async fn recover(&mut self) -> BTreeSet<String> {
        let fence = self.fence();
        self.remember().await;
        self.points.passed();
        self.recovered("at first");
        let places = self.points.passed();
        let end = self.world().await;
        for place in &places {
            for action in [Action::Error, Action::Kill] {
                let of = format!("a recovery at {} ({}), {action:?}", place.name, place.nth);
                self.bring_back().await;
                self.points.arm(place, action);
                let ended = process::recover(self.farm.path(), &self.points).status;
                let killed = ended.signal() == Some(nix::sys::signal::Signal::SIGKILL as i32);
                assert!(!ended.success() && killed == (action == Action::Kill), "{of}: {ended}");
                self.points.disarm();
                self.check_crashed(fence, &of).await;
                self.recovered(&of);
                assert_eq!(self.world().await, end, "{of}: done again");
            }
        }
        distinct(&places, "after").into_iter().map(str::to_owned).collect()
    }

    fn recovered(&self, of: &str) {
        let output = process::recover(self.farm.path(), &self.points);
        assert!(output.status.success(), "{of}: {}", String::from_utf8_lossy(&output.stderr));
    }

    async fn answer(&self, work: &Work) -> Answer {
        self.leader.answer(work.clone()).await
    }

    /// Preflight's answers become the signed plan.
    pub(crate) async fn approve(&mut self) {
        self.leader.preflight(&self.farm).await;
        self.leader.approve(&self.farm);
    }

    fn start(&mut self) {
        self.agent = None;
        self.agent = Some(Process::start(self.farm.path(), &self.points));
        self.leader.reconnect(&self.farm, self.agent.as_ref().unwrap());
    }

    async fn remember(&mut self) {
        self.agent = None;
        let kept = self.farm.path().join("kept");
        let _ = fs::remove_dir_all(&kept);
        fs::create_dir(&kept).unwrap();
        for folder in ["state", "instance"] {
            copy(&self.farm.path().join(folder), &kept);
        }
        self.farm.database.snapshot().await;
    }

    async fn bring_back(&mut self) {
        self.agent = None;
        for folder in ["state", "instance"] {
            fs::remove_dir_all(self.farm.path().join(folder)).unwrap();
            copy(&self.farm.path().join("kept").join(folder), self.farm.path());
        }
        self.farm.database.restore().await;
    }

    /// What must be so at every instant.
    async fn check_crashed(&self, fence: u64, of: &str) {
        let keys = self.farm.instance.store().current().unwrap_or_else(|error| panic!("{of}: {error}"));
        let (old, new) = (self.farm.old.id(), self.farm.new.id());
        assert!([old, new].contains(&keys.active().secret.id()), "{of}: another key is current");
        assert!(keys.find(old).is_some(), "{of}: the old key is gone");
        assert!(self.fence() >= fence, "{of}: the fence sank");
        self.rows(of).await;
    }

    /// Every row opens under exactly one of the two keys; how many under which.
    async fn rows(&self, of: &str) -> (usize, usize) {
        let (mut under_old, mut under_new) = (0, 0);
        for (id, stored) in self.farm.database.rows().await {
            match (opens(&self.farm.old, id, &stored), opens(&self.farm.new, id, &stored)) {
                (true, false) => under_old += 1,
                (false, true) => under_new += 1,
                other => panic!("{of}: row {id} opens under {other:?}"),
            }
        }
        assert_eq!(under_old + under_new, usize::try_from(ROWS).unwrap(), "{of}: rows are missing");
        (under_old, under_new)
    }

    async fn world(&self) -> World {
        let store = self.farm.instance.store();
        let (rows_under_old, rows_under_new) = self.rows("looking").await;
        let mut state_files: Vec<String> = names(&self.farm.path().join("state"));
        state_files.sort();
        World {
            current: store.current().unwrap().active().secret.id(),
            pending: store.pending().unwrap().map(|keys| keys.active().secret.id()),
            application_files: self.farm.instance.application_files(),
            state_files,
            rows_under_old,
            rows_under_new,
            tables: self.farm.tables().await.len(),
            instance: self.farm.instance.state(),
        }
    }

    /// The epoch of the agent's fence on disk.
    fn fence(&self) -> u64 {
        let text = fs::read(self.farm.path().join("state/fence.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        json["record"]["current"]["epoch"].as_u64().unwrap()
    }
}

/// It says where it failed, that trying again may help, and what to do.
fn check_named(failure: Failure, place: &Place, of: &str) {
    let expected = format!("the test lets {} fail", place.name);
    match failure {
        Failure::Fault(fault) => {
            assert!(fault.message.contains(&expected), "{of}: {fault}");
            assert!(fault.retryable && !fault.next_step.is_empty(), "{of}: {fault}");
        }
        // Before anything was begun: the agent could not keep what it must remember.
        Failure::Refused(status) => {
            assert_eq!(status.code(), tonic::Code::Unavailable, "{of}: {status}");
            assert!(status.message().contains(&expected), "{of}: {status}");
        }
    }
}

/// Whether two answers say the same. What is made anew after a crash, and what is measured, may differ.
fn alike(one: &Answer, other: &Answer) -> bool {
    match (one, other) {
        (Answer::Inspected(one), Answer::Inspected(other)) => {
            (one.current_key, &one.database, one.targets_digest)
                == (other.current_key, &other.database, other.targets_digest)
        }
        (Answer::DatabaseSurveyed(one), Answer::DatabaseSurveyed(other)) => {
            let rows = |survey: &rotation::Survey| -> Vec<(String, u64)> {
                survey.tables.iter().map(|(name, table)| (name.clone(), table.rows)).collect()
            };
            (rows(one), &one.shards) == (rows(other), &other.shards)
        }
        // The server's history goes on by itself.
        (Answer::PositionRecorded(one), Answer::PositionRecorded(other)) => one.identity == other.identity,
        // Given out again, a shard has a later lease.
        (Answer::ShardReencrypted { tally: one, .. }, Answer::ShardReencrypted { tally: other, .. })
        | (Answer::ShardVerified { tally: one, .. }, Answer::ShardVerified { tally: other, .. }) => one == other,
        _ => one == other,
    }
}

/// The points of which this side was passed, in order and each once.
fn distinct<'a>(places: &'a [Place], side: &str) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let names = places.iter().filter_map(|place| place.name.strip_suffix(side)?.strip_suffix('/'));
    names.filter(|name| seen.insert(*name)).collect()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// With owners, permissions and hard links.
fn copy(from: &Path, into: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(into).status().unwrap().success());
}

/// Every kind of work: a new one does not compile here until it is listed, and the courses must try it.
pub(crate) fn kinds() -> BTreeSet<WorkKind> {
    const ALL: [WorkKind; 21] = [
        WorkKind::Inspect,
        WorkKind::SurveyDatabase,
        WorkKind::StoreKey,
        WorkKind::TakeOffline,
        WorkKind::FenceDatabase,
        WorkKind::ReencryptShard,
        WorkKind::VerifyShard,
        WorkKind::RecordPosition,
        WorkKind::ActivateKey,
        WorkKind::LiftFence,
        WorkKind::StartInstance,
        WorkKind::AdmitInstance,
        WorkKind::CloseLedger,
        WorkKind::TurnBack,
        WorkKind::RestoreKey,
        WorkKind::DiscardKey,
        WorkKind::FinishShadows,
        WorkKind::SwapTables,
        WorkKind::SwapTablesBack,
        WorkKind::RetireTables,
        WorkKind::BackUp,
    ];
    let all: BTreeSet<WorkKind> = ALL.into_iter().collect();
    // Every variant's number, by an exhaustive match.
    assert!(all.iter().all(|kind| number(*kind) < ALL.len()) && all.len() == ALL.len());
    all
}

fn number(kind: WorkKind) -> usize {
    match kind {
        WorkKind::Inspect => 0,
        WorkKind::SurveyDatabase => 1,
        WorkKind::StoreKey => 2,
        WorkKind::TakeOffline => 3,
        WorkKind::FenceDatabase => 4,
        WorkKind::ReencryptShard => 5,
        WorkKind::VerifyShard => 6,
        WorkKind::RecordPosition => 7,
        WorkKind::ActivateKey => 8,
        WorkKind::LiftFence => 9,
        WorkKind::StartInstance => 10,
        WorkKind::AdmitInstance => 11,
        WorkKind::CloseLedger => 12,
        WorkKind::TurnBack => 13,
        WorkKind::RestoreKey => 14,
        WorkKind::DiscardKey => 15,
        WorkKind::FinishShadows => 16,
        WorkKind::SwapTables => 17,
        WorkKind::SwapTablesBack => 18,
        WorkKind::RetireTables => 19,
        WorkKind::BackUp => 20,
    }
}
