//! Between the domain and the protocol: values that more than one message holds. Work and its answers are in `work`.
//!
//! Towards the protocol every value has a form (`From`); from it, a message may lack or misstate something
//! (`TryFrom`, [`ConvertError`] names the field).

mod backup;
mod work;

use std::fmt::Display;
use std::str::FromStr;

use rotation::{
    AgentRelease, Attestation, Authorization, BackupOffer, BudgetStanding, DatabaseIdentity, DatabaseKind,
    DatabasePosition, Direction, DowntimeBudget, Fault, FaultCode, KeyBound, Millis, NodeId, OnBudget, Phase,
    PlanTable, Shard, ShardId, ShardRange, ShardTally, SignedRetirement, Strategy, StrategyChoice, UndecryptableValue,
};
use tonic::{Code, Status};

pub use backup::backup_choice;
pub use work::{Order, Report};

use crate::{status, v1};

/// A message that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field is not set.
    #[error("the field {field} is not set")]
    Missing {
        /// Its name, after the message's: `Shard.table`.
        field: &'static str,
    },
    /// A field holds what it may not.
    #[error("the field {field} is invalid: {reason}")]
    Invalid {
        /// Its name, after the message's.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<ConvertError> for Status {
    fn from(error: ConvertError) -> Self {
        status::error(
            Code::InvalidArgument,
            "INVALID_MESSAGE",
            error.to_string(),
            "use the same release of Keyturn everywhere",
        )
    }
}

pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

pub(crate) fn invalid(field: &'static str, reason: impl Display) -> ConvertError {
    ConvertError::Invalid { field, reason: reason.to_string() }
}

/// Reads an id or digest from its text.
pub(crate) fn parsed<T>(field: &'static str, text: &str) -> Result<T, ConvertError>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error| invalid(field, error))
}

/// Reads an enum from its number and then from its protocol form.
pub(crate) fn enumerated<V, T>(field: &'static str, number: i32) -> Result<T, ConvertError>
where
    V: TryFrom<i32> + TryInto<T, Error = ConvertError>,
{
    V::try_from(number).map_err(|_| invalid(field, format_args!("{number} is not known")))?.try_into()
}

/// Phases as they stand in a request where none may be given.
pub fn optional_phase(number: i32) -> Result<Option<Phase>, ConvertError> {
    match v1::Phase::try_from(number) {
        Ok(v1::Phase::Unspecified) => Ok(None),
        _ => enumerated::<v1::Phase, Phase>("hold_at", number).map(Some),
    }
}

/// The choice of a strategy; none is auto.
pub fn strategy_choice(number: i32) -> Result<StrategyChoice, ConvertError> {
    match v1::StrategyChoice::try_from(number) {
        Ok(v1::StrategyChoice::Unspecified) => Ok(StrategyChoice::Auto),
        _ => enumerated::<v1::StrategyChoice, StrategyChoice>("strategy", number),
    }
}

/// A downtime budget as it was asked for.
pub fn downtime_budget(max_downtime_ms: Option<u64>, on_budget: i32) -> Result<Option<DowntimeBudget>, ConvertError> {
    let on_budget = match v1::OnBudget::try_from(on_budget) {
        Ok(v1::OnBudget::Unspecified) => OnBudget::Undo,
        _ => enumerated::<v1::OnBudget, OnBudget>("on_budget", on_budget)?,
    };
    Ok(max_downtime_ms.map(|max_downtime_ms| DowntimeBudget { max_downtime_ms, on_budget }))
}

/// A budget and where a rotation stands towards it.
impl From<&BudgetStanding> for v1::Budget {
    fn from(standing: &BudgetStanding) -> Self {
        let BudgetStanding { budget, used_ms, forward_ms, back_ms, turns_back_at, spent_at } = *standing;
        Self {
            max_downtime_ms: budget.max_downtime_ms,
            on_budget: v1::OnBudget::from(budget.on_budget).into(),
            used_ms,
            left_ms: budget.max_downtime_ms.saturating_sub(used_ms),
            forward_ms,
            back_ms,
            turns_back_at_ms: turns_back_at.map_or(0, Millis::get),
            spent_at_ms: spent_at.map_or(0, Millis::get),
        }
    }
}

/// An enum of the same names on both sides; the protocol's may be unspecified.
macro_rules! same_names {
    ($name:ident: $($variant:ident),+) => {
        impl From<$name> for v1::$name {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => Self::$variant,)+
                }
            }
        }

        impl TryFrom<v1::$name> for $name {
            type Error = ConvertError;

            fn try_from(value: v1::$name) -> Result<Self, ConvertError> {
                match value {
                    v1::$name::Unspecified => Err(ConvertError::Missing { field: stringify!($name) }),
                    $(v1::$name::$variant => Ok(Self::$variant),)+
                }
            }
        }
    };
}

same_names!(Phase: Preflight, Approval, Distribute, Quiesce, Reencrypt, Verify, Activate, Start, Admit, Completed);
same_names!(Direction: Forward, Back);
same_names!(DatabaseKind: Postgres, Mariadb, Sqlite);
same_names!(StrategyChoice: Auto, InPlace, Shadow);
same_names!(BackupOffer: Nothing, Folder, Database);
same_names!(OnBudget: Undo, Continue);

/// What a fault may say at most, bytes of each text: whatever it quotes, it must fit into the log.
const FAULT_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Stands at the end of what was cut.
const CUT: &str = " …";

fn cut(mut text: String) -> String {
    if text.len() > FAULT_TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(FAULT_TEXT_BYTES_MAX - CUT.len()));
        text.push_str(CUT);
    }
    text
}

impl From<&Fault> for v1::Fault {
    fn from(fault: &Fault) -> Self {
        Self {
            code: fault.code.as_str().to_owned(),
            node: fault.node.as_ref().map(NodeId::to_string).unwrap_or_default(),
            message: cut(fault.message.clone()),
            next_step: cut(fault.next_step.clone()),
            retryable: fault.retryable,
        }
    }
}

impl TryFrom<v1::Fault> for Fault {
    type Error = ConvertError;

    fn try_from(fault: v1::Fault) -> Result<Self, ConvertError> {
        let code = FaultCode::ALL
            .into_iter()
            .find(|code| code.as_str() == fault.code)
            .ok_or_else(|| invalid("Fault.code", format_args!("{:?} is not known", fault.code)))?;
        let node = if fault.node.is_empty() { None } else { Some(parsed("Fault.node", &fault.node)?) };
        let (message, next_step) = (cut(fault.message), cut(fault.next_step));
        Ok(Self { code, node, message, next_step, retryable: fault.retryable })
    }
}

impl From<&DatabaseIdentity> for v1::DatabaseIdentity {
    fn from(database: &DatabaseIdentity) -> Self {
        Self { kind: v1::DatabaseKind::from(database.kind).into(), identity: database.identity.clone() }
    }
}

impl TryFrom<v1::DatabaseIdentity> for DatabaseIdentity {
    type Error = ConvertError;

    fn try_from(database: v1::DatabaseIdentity) -> Result<Self, ConvertError> {
        let kind = enumerated::<v1::DatabaseKind, _>("DatabaseIdentity.kind", database.kind)?;
        Ok(Self { kind, identity: database.identity })
    }
}

impl From<&DatabasePosition> for v1::DatabasePosition {
    fn from(position: &DatabasePosition) -> Self {
        Self { identity: Some((&position.identity).into()), timeline: position.timeline, position: position.position }
    }
}

impl TryFrom<v1::DatabasePosition> for DatabasePosition {
    type Error = ConvertError;

    fn try_from(position: v1::DatabasePosition) -> Result<Self, ConvertError> {
        Ok(Self {
            identity: required("DatabasePosition.identity", position.identity)?.try_into()?,
            timeline: position.timeline,
            position: position.position,
        })
    }
}

impl From<&AgentRelease> for v1::AgentRelease {
    fn from(release: &AgentRelease) -> Self {
        Self { version: release.version.clone(), protocol: release.protocol }
    }
}

impl From<v1::AgentRelease> for AgentRelease {
    fn from(release: v1::AgentRelease) -> Self {
        Self { version: release.version, protocol: release.protocol }
    }
}

impl From<&Attestation> for v1::Attestation {
    fn from(attestation: &Attestation) -> Self {
        // What is not hex becomes empty, which no verification accepts.
        let bytes = |text: &String| hex::decode(text).unwrap_or_default();
        Self {
            certificates: attestation.certificates.iter().map(bytes).collect(),
            signature: bytes(&attestation.signature),
            mac: bytes(&attestation.mac),
        }
    }
}

impl From<v1::Attestation> for Attestation {
    fn from(attestation: v1::Attestation) -> Self {
        Self {
            certificates: attestation.certificates.iter().map(hex::encode).collect(),
            signature: hex::encode(attestation.signature),
            mac: hex::encode(attestation.mac),
        }
    }
}

impl From<&Shard> for v1::Shard {
    fn from(shard: &Shard) -> Self {
        let bound = |bound: &Option<KeyBound>| bound.as_ref().map(|bound| bound.0.clone());
        Self {
            id: shard.id.get(),
            table: shard.table.clone(),
            after: bound(&shard.range.after),
            through: bound(&shard.range.through),
            rows_estimated: shard.rows_estimated,
        }
    }
}

impl From<v1::Shard> for Shard {
    fn from(shard: v1::Shard) -> Self {
        Self {
            id: ShardId::new(shard.id),
            table: shard.table,
            range: ShardRange { after: shard.after.map(KeyBound), through: shard.through.map(KeyBound) },
            rows_estimated: shard.rows_estimated,
        }
    }
}

impl From<(&str, &PlanTable)> for v1::Table {
    fn from((name, table): (&str, &PlanTable)) -> Self {
        Self {
            name: name.to_owned(),
            columns: table.columns.clone(),
            strategy: table.strategy.to_string(),
            rows: table.rows,
            values: table.values,
            bytes: table.bytes,
            reason: table.reason.clone(),
            forecast_ms: table.forecast_ms,
        }
    }
}

/// Reads a table with its name.
pub(crate) fn table(table: v1::Table) -> Result<(String, PlanTable), ConvertError> {
    let known = [Strategy::InPlace, Strategy::Shadow];
    let Some(strategy) = known.into_iter().find(|strategy| strategy.to_string() == table.strategy) else {
        return Err(invalid("Table.strategy", format_args!("{:?} is not known", table.strategy)));
    };
    let counted = PlanTable {
        columns: table.columns,
        strategy,
        reason: table.reason,
        forecast_ms: table.forecast_ms,
        rows: table.rows,
        values: table.values,
        bytes: table.bytes,
    };
    Ok((table.name, counted))
}

impl From<&UndecryptableValue> for v1::UndecryptableValue {
    fn from(value: &UndecryptableValue) -> Self {
        Self {
            table: value.table.clone(),
            column: value.column.clone(),
            key: value.key.0.clone(),
            raw_digest: value.raw_digest.to_string(),
            reason: value.reason.clone(),
        }
    }
}

impl TryFrom<v1::UndecryptableValue> for UndecryptableValue {
    type Error = ConvertError;

    fn try_from(value: v1::UndecryptableValue) -> Result<Self, ConvertError> {
        Ok(Self {
            table: value.table,
            column: value.column,
            key: KeyBound(value.key),
            raw_digest: parsed("UndecryptableValue.raw_digest", &value.raw_digest)?,
            reason: value.reason,
        })
    }
}

impl From<&ShardTally> for v1::ShardTally {
    fn from(tally: &ShardTally) -> Self {
        Self {
            rows: tally.rows,
            values: tally.values,
            undecryptable: tally.undecryptable,
            digest: tally.digest.to_string(),
            rest: tally.rest.to_string(),
        }
    }
}

impl TryFrom<v1::ShardTally> for ShardTally {
    type Error = ConvertError;

    fn try_from(tally: v1::ShardTally) -> Result<Self, ConvertError> {
        Ok(Self {
            rows: tally.rows,
            values: tally.values,
            undecryptable: tally.undecryptable,
            digest: parsed("ShardTally.digest", &tally.digest)?,
            rest: parsed("ShardTally.rest", &tally.rest)?,
        })
    }
}

impl From<&Authorization> for v1::Authorization {
    fn from(authorization: &Authorization) -> Self {
        Self {
            statement: authorization.statement.clone(),
            certificates: authorization.certificates.clone(),
            signature: authorization.signature.clone(),
            sealed: authorization.sealed.iter().map(|(node, sealed)| (node.to_string(), sealed.clone())).collect(),
        }
    }
}

impl TryFrom<v1::Authorization> for Authorization {
    type Error = ConvertError;

    fn try_from(authorization: v1::Authorization) -> Result<Self, ConvertError> {
        Ok(Self {
            statement: authorization.statement,
            certificates: authorization.certificates,
            signature: authorization.signature,
            sealed: authorization
                .sealed
                .into_iter()
                .map(|(node, sealed)| Ok((parsed("Authorization.sealed", &node)?, sealed)))
                .collect::<Result<_, ConvertError>>()?,
        })
    }
}

impl From<&SignedRetirement> for v1::SignedRetirement {
    fn from(word: &SignedRetirement) -> Self {
        Self {
            retirement: word.retirement.clone(),
            certificates: word.certificates.clone(),
            signature: word.signature.clone(),
        }
    }
}

impl From<v1::SignedRetirement> for SignedRetirement {
    fn from(word: v1::SignedRetirement) -> Self {
        Self { retirement: word.retirement, certificates: word.certificates, signature: word.signature }
    }
}

/// The authorization as one agent gets it: with its own sealed bundle and no other.
pub fn authorization_for(authorization: &Authorization, node: &NodeId) -> v1::Authorization {
    let own = authorization.sealed.get(node).map(|sealed| (node.to_string(), sealed.clone()));
    v1::Authorization {
        statement: authorization.statement.clone(),
        certificates: authorization.certificates.clone(),
        signature: authorization.signature.clone(),
        sealed: own.into_iter().collect(),
    }
}
