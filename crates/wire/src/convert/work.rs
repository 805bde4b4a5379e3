//! Between the domain and the protocol: assignments, as an agent is ordered to do them, and their answers.

use rotation::{
    Answer, Assignment, Authorization, Direction, Epoch, Fault, Fence, Inspection, LeaseNumber, Millis, NodeId,
    NotLookedInto, RotationId, Shard, ShardId, SignedRetirement, StrategyChoice, Survey, Term, Unseen, Work,
};

use super::backup::offer;
use super::{ConvertError, authorization_for, enumerated, parsed, required, strategy_choice, table};
use crate::v1;

/// What `Execute` orders: an assignment, the sender's authority, and what the operator signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The sender's authority. Its epoch is the assignment's.
    pub fence: Fence,
    /// What to do.
    pub assignment: Assignment,
    /// The plan's bytes, exactly as their digest covers them; `None` in Preflight.
    pub plan: Option<Vec<u8>>,
    /// The operator's word, with the addressee's sealed bundle only; `None` in Preflight.
    pub authorization: Option<Authorization>,
    /// The operator's word for dropping kept tables; `None` for all other work.
    pub retirement: Option<SignedRetirement>,
}

impl Order {
    /// The message to the assignment's node. Of the sealed bundles it carries that node's and no other.
    pub fn to_request(&self) -> v1::ExecuteRequest {
        v1::ExecuteRequest {
            fence: Some((&self.fence).into()),
            rotation: self.assignment.rotation.to_string(),
            node: self.assignment.node.to_string(),
            work: Some((&self.assignment.work).into()),
            plan: self.plan.clone().unwrap_or_default(),
            authorization: self
                .authorization
                .as_ref()
                .map(|authorization| authorization_for(authorization, &self.assignment.node)),
            retirement: self.retirement.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::ExecuteRequest> for Order {
    type Error = ConvertError;

    fn try_from(request: v1::ExecuteRequest) -> Result<Self, ConvertError> {
        let fence: Fence = required("ExecuteRequest.fence", request.fence)?.try_into()?;
        let assignment = Assignment {
            rotation: parsed::<RotationId>("ExecuteRequest.rotation", &request.rotation)?,
            epoch: fence.epoch,
            node: parsed::<NodeId>("ExecuteRequest.node", &request.node)?,
            work: required("ExecuteRequest.work", request.work)?.try_into()?,
        };
        Ok(Self {
            fence,
            assignment,
            plan: Some(request.plan).filter(|plan| !plan.is_empty()),
            authorization: request.authorization.map(TryInto::try_into).transpose()?,
            retirement: request.retirement.map(Into::into),
        })
    }
}

impl From<&Fence> for v1::Fence {
    fn from(fence: &Fence) -> Self {
        Self { cluster: fence.cluster.to_string(), term: fence.term.get(), epoch: fence.epoch.get() }
    }
}

impl TryFrom<v1::Fence> for Fence {
    type Error = ConvertError;

    fn try_from(fence: v1::Fence) -> Result<Self, ConvertError> {
        Ok(Self {
            cluster: parsed("Fence.cluster", &fence.cluster)?,
            term: Term::new(fence.term),
            epoch: Epoch::new(fence.epoch),
        })
    }
}

fn direction_number(direction: Direction) -> i32 {
    v1::Direction::from(direction).into()
}

fn strategy_number(strategy: StrategyChoice) -> i32 {
    v1::StrategyChoice::from(strategy).into()
}

impl From<&Work> for v1::Work {
    fn from(work: &Work) -> Self {
        use v1::work::Kind;
        let kind = match work {
            Work::Inspect => Kind::Inspect(v1::Inspect {}),
            Work::SurveyDatabase { accepted, shards_wanted, agents, strategy } => {
                Kind::SurveyDatabase(v1::SurveyDatabase {
                    accepted: accepted.iter().map(Into::into).collect(),
                    shards_wanted: *shards_wanted,
                    strategy: strategy_number(*strategy),
                    agents: *agents,
                })
            }
            Work::StoreKey => Kind::StoreKey(v1::StoreKey {}),
            Work::TakeOffline => Kind::TakeOffline(v1::TakeOffline {}),
            Work::FenceDatabase => Kind::FenceDatabase(v1::FenceDatabase {}),
            Work::ReencryptShard { shard, lease, direction, rows_per_second } => {
                Kind::ReencryptShard(v1::ReencryptShard {
                    shard: Some(shard.into()),
                    lease: lease.get(),
                    direction: direction_number(*direction),
                    rows_per_second: *rows_per_second,
                })
            }
            Work::VerifyShard { shard, lease, direction, rows_per_second } => Kind::VerifyShard(v1::VerifyShard {
                shard: Some(shard.into()),
                lease: lease.get(),
                direction: direction_number(*direction),
                rows_per_second: *rows_per_second,
            }),
            Work::RecordPosition => Kind::RecordPosition(v1::RecordPosition {}),
            Work::ActivateKey { at } => Kind::ActivateKey(v1::ActivateKey { at_ms: at.get() }),
            Work::LiftFence { direction, position } => Kind::LiftFence(v1::LiftFence {
                direction: direction_number(*direction),
                position: position.as_ref().map(Into::into),
            }),
            Work::StartInstance { key } => Kind::StartInstance(v1::StartInstance { key: key.to_string() }),
            Work::AdmitInstance => Kind::AdmitInstance(v1::AdmitInstance {}),
            Work::CloseLedger { direction } => {
                Kind::CloseLedger(v1::CloseLedger { direction: direction_number(*direction) })
            }
            Work::TurnBack => Kind::TurnBack(v1::TurnBack {}),
            Work::RestoreKey => Kind::RestoreKey(v1::RestoreKey {}),
            Work::DiscardKey => Kind::DiscardKey(v1::DiscardKey {}),
            Work::FinishShadows => Kind::FinishShadows(v1::FinishShadows {}),
            Work::SwapTables => Kind::SwapTables(v1::SwapTables {}),
            Work::SwapTablesBack => Kind::SwapTablesBack(v1::SwapTablesBack {}),
            Work::RetireTables => Kind::RetireTables(v1::RetireTables {}),
            Work::BackUp { database } => Kind::BackUp(v1::BackUp { database: database.as_ref().map(Into::into) }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Work> for Work {
    type Error = ConvertError;

    fn try_from(work: v1::Work) -> Result<Self, ConvertError> {
        use v1::work::Kind;
        Ok(match required("Work.kind", work.kind)? {
            Kind::Inspect(v1::Inspect {}) => Self::Inspect,
            Kind::SurveyDatabase(survey) => Self::SurveyDatabase {
                accepted: survey.accepted.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                shards_wanted: survey.shards_wanted,
                agents: survey.agents,
                strategy: strategy_choice(survey.strategy)?,
            },
            Kind::StoreKey(v1::StoreKey {}) => Self::StoreKey,
            Kind::TakeOffline(v1::TakeOffline {}) => Self::TakeOffline,
            Kind::FenceDatabase(v1::FenceDatabase {}) => Self::FenceDatabase,
            Kind::ReencryptShard(work) => {
                let (shard, lease, direction) = shard_work(work.shard, work.lease, work.direction)?;
                Self::ReencryptShard { shard, lease, direction, rows_per_second: work.rows_per_second }
            }
            Kind::VerifyShard(work) => {
                let (shard, lease, direction) = shard_work(work.shard, work.lease, work.direction)?;
                Self::VerifyShard { shard, lease, direction, rows_per_second: work.rows_per_second }
            }
            Kind::RecordPosition(v1::RecordPosition {}) => Self::RecordPosition,
            Kind::ActivateKey(work) => Self::ActivateKey { at: Millis::new(work.at_ms) },
            Kind::LiftFence(work) => Self::LiftFence {
                direction: enumerated::<v1::Direction, _>("LiftFence.direction", work.direction)?,
                position: work.position.map(TryInto::try_into).transpose()?,
            },
            Kind::StartInstance(work) => Self::StartInstance { key: parsed("StartInstance.key", &work.key)? },
            Kind::AdmitInstance(v1::AdmitInstance {}) => Self::AdmitInstance,
            Kind::CloseLedger(work) => Self::CloseLedger {
                direction: enumerated::<v1::Direction, _>("CloseLedger.direction", work.direction)?,
            },
            Kind::TurnBack(v1::TurnBack {}) => Self::TurnBack,
            Kind::RestoreKey(v1::RestoreKey {}) => Self::RestoreKey,
            Kind::DiscardKey(v1::DiscardKey {}) => Self::DiscardKey,
            Kind::FinishShadows(v1::FinishShadows {}) => Self::FinishShadows,
            Kind::SwapTables(v1::SwapTables {}) => Self::SwapTables,
            Kind::SwapTablesBack(v1::SwapTablesBack {}) => Self::SwapTablesBack,
            Kind::RetireTables(v1::RetireTables {}) => Self::RetireTables,
            Kind::BackUp(work) => Self::BackUp { database: work.database.map(Into::into) },
        })
    }
}

fn shard_work(
    shard: Option<v1::Shard>,
    lease: u64,
    direction: i32,
) -> Result<(Shard, LeaseNumber, Direction), ConvertError> {
    let shard = required("Work.shard", shard)?.into();
    Ok((shard, LeaseNumber::new(lease), enumerated::<v1::Direction, _>("Work.direction", direction)?))
}

/// A message of the stream that `Execute` answers with.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Work goes on; a hint.
    Progress(v1::Progress),
    /// Done; the last message.
    Answered(Box<Answer>),
    /// Not done; the last message.
    Failed(Fault),
}

impl From<&Report> for v1::Report {
    fn from(report: &Report) -> Self {
        use v1::report::Kind;
        let kind = match report {
            Report::Progress(progress) => Kind::Progress(progress.clone()),
            Report::Answered(answer) => Kind::Answer(answer.as_ref().into()),
            Report::Failed(fault) => Kind::Fault(fault.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = ConvertError;

    fn try_from(report: v1::Report) -> Result<Self, ConvertError> {
        use v1::report::Kind;
        Ok(match required("Report.kind", report.kind)? {
            Kind::Progress(progress) => Self::Progress(progress),
            Kind::Answer(answer) => Self::Answered(Box::new(answer.try_into()?)),
            Kind::Fault(fault) => Self::Failed(fault.try_into()?),
        })
    }
}

impl From<&Answer> for v1::Answer {
    fn from(answer: &Answer) -> Self {
        use v1::answer::Kind;
        let kind = match answer {
            Answer::Inspected(inspection) => Kind::Inspected(inspection.as_ref().into()),
            Answer::DatabaseSurveyed(survey) => Kind::DatabaseSurveyed(survey.as_ref().into()),
            Answer::KeyStored { possession } => Kind::KeyStored(v1::KeyStored { possession: possession.to_string() }),
            Answer::WentOffline => Kind::WentOffline(v1::WentOffline {}),
            Answer::DatabaseFenced { rows } => Kind::DatabaseFenced(v1::DatabaseFenced {
                rows: rows.iter().map(|(table, rows)| v1::TableRows { table: table.clone(), rows: *rows }).collect(),
            }),
            Answer::ShardReencrypted { shard, lease, tally } => Kind::ShardReencrypted(v1::ShardReencrypted {
                shard: shard.get(),
                lease: lease.get(),
                tally: Some(tally.into()),
            }),
            Answer::ShardVerified { shard, lease, tally } => Kind::ShardVerified(v1::ShardVerified {
                shard: shard.get(),
                lease: lease.get(),
                tally: Some(tally.into()),
            }),
            Answer::PositionRecorded(position) => {
                Kind::PositionRecorded(v1::PositionRecorded { position: Some(position.into()) })
            }
            Answer::KeyActivated { key } => Kind::KeyActivated(v1::KeyActivated { key: key.to_string() }),
            Answer::FenceLifted => Kind::FenceLifted(v1::FenceLifted {}),
            Answer::InstanceStarted { key } => Kind::InstanceStarted(v1::InstanceStarted { key: key.to_string() }),
            Answer::InstanceAdmitted => Kind::InstanceAdmitted(v1::InstanceAdmitted {}),
            Answer::LedgerClosed => Kind::LedgerClosed(v1::LedgerClosed {}),
            Answer::TurnedBack => Kind::TurnedBack(v1::TurnedBack {}),
            Answer::KeyRestored { key } => Kind::KeyRestored(v1::KeyRestored { key: key.to_string() }),
            Answer::KeyDiscarded => Kind::KeyDiscarded(v1::KeyDiscarded {}),
            Answer::ShadowsFinished => Kind::ShadowsFinished(v1::ShadowsFinished {}),
            Answer::TablesSwapped => Kind::TablesSwapped(v1::TablesSwapped {}),
            Answer::TablesSwappedBack => Kind::TablesSwappedBack(v1::TablesSwappedBack {}),
            Answer::TablesRetired => Kind::TablesRetired(v1::TablesRetired {}),
            Answer::BackedUp(made) => Kind::BackedUp(made.as_ref().into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Answer> for Answer {
    type Error = ConvertError;

    fn try_from(answer: v1::Answer) -> Result<Self, ConvertError> {
        use v1::answer::Kind;
        Ok(match required("Answer.kind", answer.kind)? {
            Kind::Inspected(inspected) => Self::Inspected(Box::new(inspected.try_into()?)),
            Kind::DatabaseSurveyed(surveyed) => Self::DatabaseSurveyed(Box::new(surveyed.try_into()?)),
            Kind::KeyStored(stored) => {
                Self::KeyStored { possession: parsed("KeyStored.possession", &stored.possession)? }
            }
            Kind::WentOffline(v1::WentOffline {}) => Self::WentOffline,
            Kind::DatabaseFenced(fenced) => {
                Self::DatabaseFenced { rows: fenced.rows.into_iter().map(|rows| (rows.table, rows.rows)).collect() }
            }
            Kind::ShardReencrypted(done) => Self::ShardReencrypted {
                shard: ShardId::new(done.shard),
                lease: LeaseNumber::new(done.lease),
                tally: required("ShardReencrypted.tally", done.tally)?.try_into()?,
            },
            Kind::ShardVerified(done) => Self::ShardVerified {
                shard: ShardId::new(done.shard),
                lease: LeaseNumber::new(done.lease),
                tally: required("ShardVerified.tally", done.tally)?.try_into()?,
            },
            Kind::PositionRecorded(recorded) => {
                Self::PositionRecorded(required("PositionRecorded.position", recorded.position)?.try_into()?)
            }
            Kind::KeyActivated(activated) => Self::KeyActivated { key: parsed("KeyActivated.key", &activated.key)? },
            Kind::FenceLifted(v1::FenceLifted {}) => Self::FenceLifted,
            Kind::InstanceStarted(started) => {
                Self::InstanceStarted { key: parsed("InstanceStarted.key", &started.key)? }
            }
            Kind::InstanceAdmitted(v1::InstanceAdmitted {}) => Self::InstanceAdmitted,
            Kind::LedgerClosed(v1::LedgerClosed {}) => Self::LedgerClosed,
            Kind::TurnedBack(v1::TurnedBack {}) => Self::TurnedBack,
            Kind::KeyRestored(restored) => Self::KeyRestored { key: parsed("KeyRestored.key", &restored.key)? },
            Kind::KeyDiscarded(v1::KeyDiscarded {}) => Self::KeyDiscarded,
            Kind::ShadowsFinished(v1::ShadowsFinished {}) => Self::ShadowsFinished,
            Kind::TablesSwapped(v1::TablesSwapped {}) => Self::TablesSwapped,
            Kind::TablesSwappedBack(v1::TablesSwappedBack {}) => Self::TablesSwappedBack,
            Kind::TablesRetired(v1::TablesRetired {}) => Self::TablesRetired,
            Kind::BackedUp(made) => Self::BackedUp(Box::new(made.try_into()?)),
        })
    }
}

impl From<&Inspection> for v1::Inspected {
    fn from(inspection: &Inspection) -> Self {
        Self {
            release: Some((&inspection.release).into()),
            current_key: inspection.current_key.to_string(),
            instance: inspection.instance.clone(),
            instance_online: inspection.instance_online,
            protector: inspection.protector.clone(),
            database: Some((&inspection.database).into()),
            targets_digest: inspection.targets_digest.to_string(),
            recipient_key: inspection.recipient_key.clone(),
            attestation: Some((&inspection.attestation).into()),
            backup: v1::BackupOffer::from(inspection.backup).into(),
        }
    }
}

impl TryFrom<v1::Inspected> for Inspection {
    type Error = ConvertError;

    fn try_from(inspected: v1::Inspected) -> Result<Self, ConvertError> {
        Ok(Self {
            release: required("Inspected.release", inspected.release)?.into(),
            current_key: parsed("Inspected.current_key", &inspected.current_key)?,
            instance: inspected.instance,
            instance_online: inspected.instance_online,
            protector: inspected.protector,
            database: required("Inspected.database", inspected.database)?.try_into()?,
            targets_digest: parsed("Inspected.targets_digest", &inspected.targets_digest)?,
            recipient_key: inspected.recipient_key,
            attestation: required("Inspected.attestation", inspected.attestation)?.into(),
            backup: offer(inspected.backup)?,
        })
    }
}

impl From<&Survey> for v1::DatabaseSurveyed {
    fn from(survey: &Survey) -> Self {
        Self {
            kind: v1::DatabaseKind::from(survey.kind).into(),
            tables: survey.tables.iter().map(|(name, table)| (name.as_str(), table).into()).collect(),
            shards: survey.shards.iter().map(Into::into).collect(),
            writers_max: survey.writers_max,
            undecryptable: survey.undecryptable.iter().map(Into::into).collect(),
            undecryptable_total: survey.undecryptable_total,
            downtime_forecast_ms: survey.downtime_forecast_ms,
            not_looked_into: survey.unseen.named.iter().cloned().map(Into::into).collect(),
            not_looked_into_total: survey.unseen.total,
        }
    }
}

impl TryFrom<v1::DatabaseSurveyed> for Survey {
    type Error = ConvertError;

    fn try_from(surveyed: v1::DatabaseSurveyed) -> Result<Self, ConvertError> {
        Ok(Self {
            kind: enumerated::<v1::DatabaseKind, _>("DatabaseSurveyed.kind", surveyed.kind)?,
            tables: surveyed.tables.into_iter().map(table).collect::<Result<_, _>>()?,
            shards: surveyed.shards.into_iter().map(Into::into).collect(),
            writers_max: surveyed.writers_max,
            undecryptable: surveyed.undecryptable.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            undecryptable_total: surveyed.undecryptable_total,
            downtime_forecast_ms: surveyed.downtime_forecast_ms,
            unseen: Unseen {
                total: surveyed.not_looked_into_total,
                named: surveyed.not_looked_into.into_iter().map(Into::into).collect(),
            },
        })
    }
}

impl From<NotLookedInto> for v1::NotLookedInto {
    fn from(unseen: NotLookedInto) -> Self {
        Self { table: unseen.table, column: unseen.column, reason: unseen.reason }
    }
}

impl From<v1::NotLookedInto> for NotLookedInto {
    fn from(unseen: v1::NotLookedInto) -> Self {
        Self { table: unseen.table, column: unseen.column, reason: unseen.reason }
    }
}
