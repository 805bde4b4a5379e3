//! The plan of a rotation: what preflight found, what will be done, and the digest that an operator signs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AgentRelease, DatabaseBackup, Digest, DowntimeBudget, FolderArchive, KeyId, NodeId, RotationId, ShardId};

/// Which database system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseKind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    Mariadb,
    /// SQLite: one host, one writing agent.
    Sqlite,
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
            Self::Sqlite => "sqlite",
        })
    }
}

/// Which database it is, so that a node that points at another one is found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseIdentity {
    /// The system.
    pub kind: DatabaseKind,
    /// A text that is equal exactly for the same database: system identifier and database, or device and inode.
    pub identity: String,
}

/// Where the database's history stood: recorded at Verify, compared before Start and before anybody is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabasePosition {
    /// The database.
    pub identity: DatabaseIdentity,
    /// PostgreSQL's timeline; 0 where there is none.
    pub timeline: u64,
    /// PostgreSQL's LSN as a number of bytes; 0 where there is none.
    pub position: u64,
}

impl DatabasePosition {
    /// What says that this is not where the history of `earlier` has led to: another database, or one that lost a part
    /// of that history. `None` when nothing does.
    pub fn loss_since(&self, earlier: &Self) -> Option<String> {
        if self.identity != earlier.identity {
            return Some(format!("it was {} then, and is {} now", earlier.identity.identity, self.identity.identity));
        }
        if self.timeline != earlier.timeline {
            return Some(format!("its timeline was {} then, and is {} now", earlier.timeline, self.timeline));
        }
        (self.position < earlier.position)
            .then(|| format!("its history reached byte {} then, and only {} now", earlier.position, self.position))
    }
}

/// How a table is re-encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Batched compare-and-set updates of the table itself.
    InPlace,
    /// A re-encrypted copy beside the table, swapped in by name once it is verified.
    Shadow,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InPlace => "in-place",
            Self::Shadow => "shadow",
        })
    }
}

/// How an operator wants tables to be re-encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyChoice {
    /// Each table by the strategy that keeps the farm offline for the shortest time.
    #[default]
    Auto,
    /// Every table in place.
    InPlace,
    /// Every table by shadow; refused when one cannot be.
    Shadow,
}

/// A primary key as text, in the engine's own notation (a JSON array of its column values).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyBound(pub String);

/// A range of primary keys. The first range of a table has no `after`, the last no `through`, so that
/// together they cover every row that there is or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRange {
    /// Rows with a greater key belong to the range; `None` from the beginning.
    pub after: Option<KeyBound>,
    /// Rows up to and including this key belong to the range; `None` to the end.
    pub through: Option<KeyBound>,
}

/// A piece of one table that one agent works on at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number in the plan.
    pub id: ShardId,
    /// The table, as targets.toml names it.
    pub table: String,
    /// Which rows.
    pub range: ShardRange,
    /// How many rows it held when the plan was made; a hint for progress.
    pub rows_estimated: u64,
}

/// A value that opens under no known key. The operator may accept it, bound to its raw bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UndecryptableValue {
    /// The table, as targets.toml names it.
    pub table: String,
    /// The column.
    pub column: String,
    /// The primary key, in the engine's notation.
    pub key: KeyBound,
    /// BLAKE3 of the stored bytes; acceptance ends when they change.
    pub raw_digest: Digest,
    /// Why it does not open, in words.
    pub reason: String,
}

/// A node's part of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNode {
    /// Its release.
    pub release: AgentRelease,
    /// The key it holds now.
    pub current_key: KeyId,
    /// The public key that its bundle is to be sealed to, made for this rotation alone (hex of devolutions-crypto's
    /// serialized public key).
    pub recipient_key: String,
    /// The digest of its targets.toml.
    pub targets_digest: Digest,
    /// The database it sees.
    pub database: DatabaseIdentity,
    /// How its key store is bound to the machine, and what that is worth; for the report.
    pub protector: String,
    /// The node's word that the recipient key is its own: certificate chain (DER, leaf first, hex), a signature by
    /// that certificate's key, and a MAC under a key derived from the farm's current key. The operator's command
    /// line checks all of it before it seals anything.
    pub attestation: Attestation,
}

/// Proof that a recipient key belongs to an enrolled node that holds the farm's current key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The agent's certificate and intermediates, DER, leaf first, each as hex.
    pub certificates: Vec<String>,
    /// Signature by the certificate's key over the attested context, hex.
    pub signature: String,
    /// MAC over the same context under a key derived from the farm's current key, hex.
    pub mac: String,
}

impl Attestation {
    /// What the agent's signature is for, so that none given elsewhere passes for one.
    pub const SIGNATURE_DOMAIN: &str = "keyturn attestation v1";
}

/// A table's part of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanTable {
    /// The encrypted columns, in the order of targets.toml.
    pub columns: Vec<String>,
    /// How it is re-encrypted.
    pub strategy: Strategy,
    /// Why so, in one clause.
    pub reason: String,
    /// Expected time of its rows while the farm is offline, milliseconds.
    pub forecast_ms: u64,
    /// Rows at preflight.
    pub rows: u64,
    /// Values neither NULL nor empty at preflight, over all encrypted columns.
    pub values: u64,
    /// Stored bytes of these values at preflight.
    pub bytes: u64,
}

/// Everything that an operator agrees to by signing its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of this format: 3 with a budget, anything backed up or anything unseen, else 2, which has all but that.
    pub format: u32,
    /// The farm's name.
    pub farm: String,
    /// The rotation.
    pub rotation: RotationId,
    /// Every node, none left out.
    pub nodes: BTreeMap<NodeId, PlanNode>,
    /// Every registered table.
    pub tables: BTreeMap<String, PlanTable>,
    /// The shards, covering every table wholly.
    pub shards: Vec<Shard>,
    /// How many agents may write to the database at once; 1 for SQLite.
    pub writers_max: u32,
    /// Values that open under no key and that the operator accepted when asking for the plan.
    pub accepted: Vec<UndecryptableValue>,
    /// Expected time from the first instance offline to the last one back, milliseconds.
    pub downtime_forecast_ms: u64,
    /// How long the farm may be offline; `None` without a bound.
    #[serde(default)]
    pub budget: Option<DowntimeBudget>,
    /// The backup of the database to fall back on; `None` when there is none.
    #[serde(default)]
    pub backup: Option<DatabaseBackup>,
    /// The archives of the application's folder, of the nodes that are configured to make one.
    #[serde(default)]
    pub folders: BTreeMap<NodeId, FolderArchive>,
    /// Where nobody looked for values that are not registered.
    #[serde(default)]
    pub unseen: Unseen,
}

/// What the agent's role could not look into when it searched the database for values that nobody registered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Unseen {
    /// How much of it there is.
    pub total: u64,
    /// The first of it.
    pub named: Vec<NotLookedInto>,
}

impl Unseen {
    /// How many are named. More would not be read by anybody, and they travel in the coordinators' log.
    const NAMED_MAX: usize = 100;

    /// All of it, of which the first are named.
    pub fn of(mut all: Vec<NotLookedInto>) -> Self {
        let total = all.len() as u64;
        all.truncate(Self::NAMED_MAX);
        Self { total, named: all }
    }

    /// Everything was looked into.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// A table or column that was not looked into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLookedInto {
    /// As plan and messages would call the table.
    pub table: String,
    /// The column; the whole table without one.
    pub column: Option<String>,
    /// Why.
    pub reason: String,
}

/// A plan as it is signed. What a plan does not have is left out, so that one without a budget has the same bytes, and so
/// the same digest, as one that was made before there were any.
#[derive(Serialize)]
struct Signed<'a> {
    format: u32,
    farm: &'a str,
    rotation: RotationId,
    nodes: &'a BTreeMap<NodeId, PlanNode>,
    tables: &'a BTreeMap<String, PlanTable>,
    shards: &'a [Shard],
    writers_max: u32,
    accepted: &'a [UndecryptableValue],
    downtime_forecast_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a DowntimeBudget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<&'a DatabaseBackup>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    folders: &'a BTreeMap<NodeId, FolderArchive>,
    #[serde(skip_serializing_if = "Unseen::is_empty")]
    unseen: &'a Unseen,
}

/// A plan that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadPlanError {
    /// Not the JSON of a plan.
    #[error("the plan cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// Written by a release that this one does not know.
    #[error("the plan has format {0}, and this release reads formats {earliest} to {current}; use the same release everywhere", earliest = Plan::FORMAT_WITHOUT_BUDGET, current = Plan::FORMAT)]
    Format(u32),
}

/// What every format of a plan has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Plan {
    /// The newest format.
    pub const FORMAT: u32 = 3;

    /// The format of a plan without a budget.
    pub const FORMAT_WITHOUT_BUDGET: u32 = 2;

    /// The format that a plan with or without a budget is written in: an earlier release refuses what it does not know, and
    /// reads all else.
    pub const fn format_with(budget: Option<&DowntimeBudget>) -> u32 {
        if budget.is_some() { Self::FORMAT } else { Self::FORMAT_WITHOUT_BUDGET }
    }

    /// The exact bytes that are signed: JSON with fields in the order of declaration and maps in key order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self {
            format,
            farm,
            rotation,
            nodes,
            tables,
            shards,
            writers_max,
            accepted,
            downtime_forecast_ms,
            budget,
            backup,
            folders,
            unseen,
        } = self;
        let signed = Signed {
            format: *format,
            farm,
            rotation: *rotation,
            nodes,
            tables,
            shards,
            writers_max: *writers_max,
            accepted,
            downtime_forecast_ms: *downtime_forecast_ms,
            budget: budget.as_ref(),
            backup: backup.as_ref(),
            folders,
            unseen,
        };
        serde_json::to_vec(&signed).expect("a plan has string keys only, so it always has a JSON form")
    }

    /// Reads what [`Plan::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReadPlanError> {
        // The format first: a plan of another one lacks fields, and that is not what is wrong with it.
        let Head { format } = serde_json::from_slice(bytes).map_err(ReadPlanError::Malformed)?;
        if !(Self::FORMAT_WITHOUT_BUDGET..=Self::FORMAT).contains(&format) {
            return Err(ReadPlanError::Format(format));
        }
        serde_json::from_slice(bytes).map_err(ReadPlanError::Malformed)
    }

    /// A table of which the shards leave rows out: every table's must run from its beginning to its end without a gap.
    /// For those who do not take a coordinator's word for it.
    pub fn table_with_gap(&self) -> Option<&str> {
        // Where each table's shards have come to: nowhere yet, up to a key, or to the table's end. Whatever the order of
        // the keys: a row is in the first shard of an unbroken chain that ends at or behind it.
        let mut reached: BTreeMap<&str, Option<Option<&KeyBound>>> =
            self.tables.keys().map(|table| (table.as_str(), None)).collect();
        for Shard { table, range, .. } in &self.shards {
            let continues = match reached.get(table.as_str()) {
                Some(None) => range.after.is_none(),
                Some(Some(end)) => end.is_some() && range.after.as_ref() == *end,
                None => false,
            };
            if !continues {
                return Some(table);
            }
            reached.insert(table, Some(range.through.as_ref()));
        }
        reached.into_iter().find(|(_, reached)| *reached != Some(None)).map(|(table, _)| table)
    }

    /// The digest of a plan's bytes: `blake3::derive_key("keyturn plan v1", bytes)`.
    pub fn digest_of(bytes: &[u8]) -> Digest {
        Digest::new(blake3::derive_key("keyturn plan v1", bytes))
    }

    /// The digest of this plan.
    pub fn digest(&self) -> Digest {
        Self::digest_of(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnBudget;

    /// A plan of one table `a` with these ranges.
    fn plan(ranges: &[(Option<&str>, Option<&str>)]) -> Plan {
        let bound = |text: &Option<&str>| text.map(|text| KeyBound(text.to_owned()));
        let shard = |(id, (after, through)): (u64, &(Option<&str>, Option<&str>))| Shard {
            id: ShardId::new(id),
            table: "a".to_owned(),
            range: ShardRange { after: bound(after), through: bound(through) },
            rows_estimated: 1,
        };
        let table = PlanTable {
            columns: Vec::new(),
            strategy: Strategy::InPlace,
            reason: String::new(),
            forecast_ms: 1,
            rows: 1,
            values: 1,
            bytes: 1,
        };
        Plan {
            format: Plan::FORMAT,
            farm: "demo".to_owned(),
            rotation: RotationId::new(uuid::Uuid::from_u128(1)),
            nodes: BTreeMap::new(),
            tables: BTreeMap::from([("a".to_owned(), table)]),
            shards: (0..).zip(ranges).map(shard).collect(),
            writers_max: 1,
            accepted: Vec::new(),
            downtime_forecast_ms: 1,
            budget: None,
            backup: None,
            folders: BTreeMap::new(),
            unseen: Unseen::default(),
        }
    }

    #[test]
    fn a_plan_without_a_budget_has_the_bytes_that_it_always_had() {
        let mut plan = plan(&[]);
        plan.format = Plan::format_with(None);
        let text = String::from_utf8(plan.to_bytes()).expect("JSON");
        assert!(text.starts_with(r#"{"format":2,"farm":"demo","rotation":"#), "{text}");
        assert!(text.ends_with(r#""accepted":[],"downtime_forecast_ms":1}"#), "{text}");
        assert_eq!(Plan::from_bytes(text.as_bytes()).expect("read"), plan);

        plan.budget = Some(DowntimeBudget { max_downtime_ms: 1_200_000, on_budget: OnBudget::Continue });
        plan.format = Plan::format_with(plan.budget.as_ref());
        let text = String::from_utf8(plan.to_bytes()).expect("JSON");
        let end = r#""downtime_forecast_ms":1,"budget":{"max_downtime_ms":1200000,"on_budget":"continue"}}"#;
        assert!(text.starts_with(r#"{"format":3,"#) && text.ends_with(end), "{text}");
        assert_eq!(Plan::from_bytes(text.as_bytes()).expect("read"), plan);
        for other in ["1", "4"] {
            let foreign = text.replacen('3', other, 1);
            assert!(matches!(Plan::from_bytes(foreign.as_bytes()), Err(ReadPlanError::Format(_))), "{other}");
        }
    }

    #[test]
    fn what_nobody_looked_into_is_signed_and_the_first_of_it_named() {
        let place = |at: u32| NotLookedInto { table: format!("t{at}"), column: None, reason: "no right".to_owned() };
        let mut plan = plan(&[]);
        plan.unseen = Unseen::of(vec![place(1)]);
        let text = String::from_utf8(plan.to_bytes()).expect("JSON");
        let end = r#""unseen":{"total":1,"named":[{"table":"t1","column":null,"reason":"no right"}]}}"#;
        assert!(text.ends_with(end), "{text}");
        assert_eq!(Plan::from_bytes(text.as_bytes()).expect("read"), plan);
        let many = Unseen::of((0..101).map(place).collect());
        assert_eq!((many.total, many.named.len()), (101, 100));
    }

    #[test]
    fn a_plan_whose_shards_leave_rows_out_names_the_table() {
        let whole: [&[_]; 2] = [&[(None, None)], &[(None, Some("1")), (Some("1"), Some("2")), (Some("2"), None)]];
        for ranges in whole {
            assert_eq!(plan(ranges).table_with_gap(), None, "{ranges:?}");
        }
        let gaps: [&[_]; 7] = [
            &[],
            &[(Some("1"), None)],
            &[(None, Some("1"))],
            &[(None, Some("1")), (Some("2"), None)],
            &[(None, Some("1")), (Some("1"), Some("2"))],
            &[(None, Some("1")), (Some("1"), None), (Some("2"), None)],
            &[(None, None), (None, None)],
        ];
        for ranges in gaps {
            assert_eq!(plan(ranges).table_with_gap(), Some("a"), "{ranges:?}");
        }
        let mut foreign = plan(&[(None, None)]);
        foreign.shards[0].table = "b".to_owned();
        assert_eq!(foreign.table_with_gap(), Some("b"));
    }
}
