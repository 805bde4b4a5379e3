//! Does one assignment that was accepted. All of it looks at what is before it changes anything, so that it may be
//! done again after a crash.

mod backup;
mod instance;
mod key;
mod preflight;
mod rows;
mod tables;

use std::future::Future;
use std::sync::Arc;

use reencrypt::NoteKind;
use rotation::{Answer, Assignment, Fault, FaultCode, Plan, Statement, Work};

use crate::authorize::Grant;
use crate::fault::fault;
use crate::node::Node;
use crate::registry::{Ticket, given_up};

/// One accepted assignment with all it needs.
pub(crate) struct Job {
    pub(crate) node: Arc<Node>,
    pub(crate) assignment: Assignment,
    pub(crate) warrant: Warrant,
    pub(crate) ticket: Ticket,
}

/// With what right an assignment is done.
#[derive(Debug)]
pub(crate) enum Warrant {
    /// It changes nothing, so it needs none.
    Preflight,
    /// An operator signed the rotation.
    Start(Box<Grant>),
    /// An operator signed that the tables be dropped which the rotation of this plan kept.
    Retirement(Box<Plan>),
}

/// An authorised assignment: a [`Job`] whose grant is there.
pub(crate) struct Signed<'a> {
    pub(crate) node: &'a Node,
    pub(crate) assignment: &'a Assignment,
    pub(crate) grant: &'a Grant,
    pub(crate) ticket: &'a Ticket,
}

impl Job {
    /// Does it. A fault bears the node's name.
    pub(crate) async fn perform(self) -> Result<Answer, Fault> {
        let result = match self.recovered_by_hand() {
            Some(fault) => Err(fault),
            None => match self.dispatch().await {
                Err(fault) => Err(self.recovered_elsewhere().await.unwrap_or(fault)),
                done => done,
            },
        };
        let id = self.assignment.id();
        match &result {
            Ok(_) => tracing::info!(%id, "done"),
            Err(fault) => tracing::warn!(%id, code = %fault.code, retryable = fault.retryable, "{}", fault.message),
        }
        result.map_err(|fault| Fault { node: Some(self.node.id.clone()), ..fault })
    }

    fn grant(&self) -> Option<&Grant> {
        match &self.warrant {
            Warrant::Start(grant) => Some(grant),
            Warrant::Preflight | Warrant::Retirement(_) => None,
        }
    }

    /// What an administrator undid on this node is not taken up again.
    fn recovered_by_hand(&self) -> Option<Fault> {
        let memory = self.node.memory();
        let mark = self.grant().and(memory.recovered.get(self.assignment.rotation))?;
        Some(recovered(&format!("this node was put back by `keyturn recover` and serves under key {}", mark.key)))
    }

    /// Work that failed because the rotation was undone by hand from another node. Work on this node's instance or key
    /// store alone is not asked about: it may be what brings the node after.
    async fn recovered_elsewhere(&self) -> Option<Fault> {
        let Self { node, assignment, .. } = self;
        let grant = self.grant()?;
        if !needs_way_forward(&assignment.work, &grant.statement) {
            return None;
        }
        // Admitted with the old key, a node only comes after.
        if assignment.work == Work::AdmitInstance
            && node.current_keys().ok()?.active().secret.id() != grant.statement.new_key
        {
            return None;
        }
        let history = node.engine.history().await.ok()?;
        let found = history.iter().find(|found| found.rotation == assignment.rotation)?;
        let by = found.nodes(NoteKind::Recovered).next()?;
        Some(recovered(&format!("the database was put back by `keyturn recover` on {by}")))
    }

    async fn dispatch(&self) -> Result<Answer, Fault> {
        let Self { node, assignment, warrant, ticket } = self;
        let uncovered = || refused("the work is not covered by an operator's signature");
        let signed = || match warrant {
            Warrant::Start(grant) => Ok(Signed { node, assignment, grant, ticket }),
            Warrant::Preflight | Warrant::Retirement(_) => Err(uncovered()),
        };
        match &assignment.work {
            Work::Inspect => self.in_turn(preflight::inspect(node, assignment.rotation, ticket)).await,
            Work::SurveyDatabase { accepted, shards_wanted, agents, strategy } => {
                let asked =
                    preflight::Asked { accepted, shards_wanted: *shards_wanted, agents: *agents, strategy: *strategy };
                self.until_given_up(preflight::survey(node, &asked, ticket)).await
            }
            Work::BackUp { database } => {
                self.until_given_up(backup::back_up(node, assignment.rotation, database.as_ref(), ticket)).await
            }
            Work::StoreKey => self.in_turn(key::store(signed()?)).await,
            Work::ActivateKey { at } => self.in_turn(key::activate(signed()?, *at)).await,
            Work::RestoreKey => self.in_turn(key::restore(signed()?)).await,
            Work::DiscardKey => self.in_turn(key::discard(signed()?)).await,
            Work::TakeOffline => self.in_turn(instance::take_offline(signed()?)).await,
            Work::StartInstance { key } => self.in_turn(instance::start(signed()?, *key)).await,
            Work::AdmitInstance => self.in_turn(instance::admit(signed()?)).await,
            Work::FenceDatabase => self.until_given_up(rows::fence(signed()?)).await,
            Work::ReencryptShard { shard, lease, direction, rows_per_second } => {
                let leased = rows::Leased { shard, lease: *lease, rows_per_second: *rows_per_second };
                self.until_given_up(rows::reencrypt(signed()?, &leased, *direction)).await
            }
            Work::VerifyShard { shard, lease, direction, rows_per_second } => {
                let leased = rows::Leased { shard, lease: *lease, rows_per_second: *rows_per_second };
                self.until_given_up(rows::verify(signed()?, &leased, *direction)).await
            }
            Work::RecordPosition => self.until_given_up(rows::record_position(signed()?)).await,
            Work::LiftFence { direction, position } => {
                self.until_given_up(rows::lift_fence(signed()?, *direction, position.as_ref())).await
            }
            Work::CloseLedger { direction } => self.until_given_up(rows::close(signed()?, *direction)).await,
            Work::TurnBack => self.until_given_up(rows::turn_back(signed()?)).await,
            Work::FinishShadows => self.until_given_up(tables::finish(signed()?)).await,
            Work::SwapTables => self.until_given_up(tables::swap(signed()?)).await,
            Work::SwapTablesBack => self.until_given_up(tables::swap_back(signed()?)).await,
            Work::RetireTables => match warrant {
                Warrant::Retirement(plan) => self.until_given_up(tables::retire(node, assignment, plan)).await,
                Warrant::Preflight | Warrant::Start(_) => Err(uncovered()),
            },
        }
    }

    /// Work on the instance or the key store: one at a time, and to its own end. It asks between its steps whether
    /// it is still wanted; dropped in the middle, a later assignment could overtake half a step.
    async fn in_turn(&self, work: impl Future<Output = Result<Answer, Fault>> + Send) -> Result<Answer, Fault> {
        self.ticket.waiting_for("earlier work on this node to end");
        let _turn = tokio::select! {
            () = self.ticket.cancel.cancelled() => return Err(given_up()),
            turn = self.node.turn.lock() => turn,
        };
        self.ticket.still_wanted()?;
        self.ticket.waiting_for("");
        work.await
    }

    /// Work on the database: dropped where it is when it is given up, which the engine's transactions allow.
    async fn until_given_up(&self, work: impl Future<Output = Result<Answer, Fault>> + Send) -> Result<Answer, Fault> {
        tokio::select! {
            () = self.ticket.cancel.cancelled() => Err(given_up()),
            result = work => result,
        }
    }
}

impl Signed<'_> {
    /// The work must find this node's instance held offline for its rotation.
    fn needs_held(&self, to: &str) -> Result<(), Fault> {
        if self.node.is_held_for(self.assignment.rotation) {
            return Ok(());
        }
        Err(refused(&format!("asked to {to}, but this node does not hold its instance offline for the rotation")))
    }
}

/// Whether the work ends with the rotation. What brings a node back after that, instance and files, does not.
fn needs_way_forward(work: &Work, statement: &Statement) -> bool {
    match work {
        Work::StartInstance { key } => *key == statement.new_key,
        Work::FenceDatabase
        | Work::ReencryptShard { .. }
        | Work::VerifyShard { .. }
        | Work::RecordPosition
        | Work::LiftFence { .. }
        | Work::CloseLedger { .. }
        | Work::FinishShadows
        | Work::SwapTables
        | Work::SwapTablesBack
        | Work::TurnBack
        | Work::AdmitInstance => true,
        Work::Inspect
        | Work::SurveyDatabase { .. }
        | Work::StoreKey
        | Work::TakeOffline
        | Work::ActivateKey { .. }
        | Work::RestoreKey
        | Work::DiscardKey
        | Work::BackUp { .. }
        | Work::RetireTables => false,
    }
}

/// The rotation was undone by hand, and is over.
fn recovered(message: &str) -> Fault {
    fault(FaultCode::Recovered, message, "nothing: the rotation ends as rolled back; plan it again")
}

/// The assignment was accepted, and what the node finds forbids it all the same.
fn refused(message: &str) -> Fault {
    fault(
        FaultCode::AssignmentRefused,
        message,
        "abort the rotation and look at what the coordinators sent; it is not what a rotation needs here",
    )
}
