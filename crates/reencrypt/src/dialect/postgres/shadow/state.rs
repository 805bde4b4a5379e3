//! The ledger's table of shadows: which copy stands for which table, what everything attached to them is called, and how
//! far each has come.

use rotation::RotationId;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::super::ledger;
use super::relation::Relation;
use crate::EngineError;
use crate::error::Doing;
use crate::ledger::{LedgerMark, epoch_number};
use crate::shadow::{Shadow, ShadowState};
use crate::table::quote;

/// The table, which belongs to the ledger.
pub(in super::super) const CREATE: &str = "
    CREATE TABLE keyturn.shadow (
        rotation text NOT NULL REFERENCES keyturn.rotation ON DELETE CASCADE,
        label text NOT NULL,
        schema_name text NOT NULL,
        table_name text NOT NULL,
        shadow_name text NOT NULL,
        retained_name text NOT NULL,
        state text NOT NULL,
        attached text NOT NULL,
        epoch bigint NOT NULL,
        PRIMARY KEY (rotation, label)
    );";

const COLUMNS: &str = "label, schema_name, table_name, shadow_name, retained_name, state, attached";

/// The version of [`Attached`].
const ATTACHED_VERSION: u32 = 1;

/// One row of the table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) shadow: Shadow,
    /// Unquoted.
    pub(super) schema: String,
    /// The table's own name, unquoted.
    pub(super) relation: String,
    pub(super) attached: Attached,
}

/// Which relations the entry speaks of, and the names of everything that has one of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Attached {
    version: u32,
    /// By these the relations are known whatever they are called meanwhile; a name alone is never dropped.
    pub(super) original_oid: i64,
    pub(super) shadow_oid: i64,
    /// How many columns the original ever had when it was copied. Not written by earlier releases.
    #[serde(default)]
    pub(super) original_columns_ever: Option<i16>,
    pub(super) objects: Vec<Named>,
}

impl Attached {
    pub(super) const fn new(original: &Relation, shadow_oid: i64, objects: Vec<Named>) -> Self {
        Self {
            version: ATTACHED_VERSION,
            original_oid: original.oid,
            shadow_oid,
            original_columns_ever: Some(original.columns_ever),
            objects,
        }
    }
}

/// What kind of thing has a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// An index, and the constraint that it stands for.
    Index,
    /// The sequence of an identity column.
    Sequence,
    /// An object of extended statistics.
    Statistics,
}

/// One thing with its three names, unquoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) kind: Kind,
    pub(super) schema: String,
    /// What the application knows it by.
    pub(super) name: String,
    /// That of the copy before it is swapped in.
    pub(super) shadow: String,
    /// That of the original while it is retained.
    pub(super) retained: String,
}

/// All of a rotation, in the order of their labels. None if the ledger has no such table.
pub(super) async fn all(connection: &mut PgConnection, rotation: &RotationId) -> Result<Vec<Entry>, EngineError> {
    if !ledger::exists(connection).await? {
        return Ok(Vec::new());
    }
    // Reviewed: constants only.
    let sql = format!("SELECT {COLUMNS} FROM keyturn.shadow WHERE rotation = $1 ORDER BY label COLLATE \"C\"");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(rotation.to_string())
        .fetch_all(connection)
        .await
        .doing(|| "reading the ledger's shadows".to_owned())?;
    rows.iter().map(read).collect()
}

/// That of one table.
pub(super) async fn one(
    connection: &mut PgConnection,
    rotation: &RotationId,
    label: &str,
) -> Result<Option<Entry>, EngineError> {
    // Reviewed: constants only.
    let sql = format!("SELECT {COLUMNS} FROM keyturn.shadow WHERE rotation = $1 AND label = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(rotation.to_string())
        .bind(label)
        .fetch_optional(connection)
        .await
        .doing(|| "reading the ledger's shadows".to_owned())?;
    row.as_ref().map(read).transpose()
}

fn read(row: &PgRow) -> Result<Entry, EngineError> {
    let text = |at: usize| row.try_get::<String, _>(at).doing(|| "reading the ledger's shadows".to_owned());
    let attached: Attached = serde_json::from_str(&text(6)?)
        .map_err(|_| EngineError::LedgerUnreadable("what is attached to a shadow has another form".to_owned()))?;
    if attached.version != ATTACHED_VERSION {
        let problem = format!("what is attached to a shadow has version {}", attached.version);
        return Err(EngineError::LedgerUnreadable(problem));
    }
    let state = text(5)?;
    let state = ShadowState::parse(&state)
        .ok_or_else(|| EngineError::LedgerUnreadable(format!("a shadow has the state {state:?}")))?;
    let (schema, name) = (text(1)?, text(3)?);
    let from = from(&schema, &name);
    let shadow = Shadow { label: text(0)?, name, from, retained_name: text(4)?, state };
    Ok(Entry { shadow, schema, relation: text(2)?, attached })
}

/// As SQL reads and fills a copy. Tables that inherit from it there are none.
pub(super) fn from(schema: &str, name: &str) -> String {
    format!("ONLY {}.{}", quote(schema), quote(name))
}

pub(super) async fn insert(connection: &mut PgConnection, mark: &LedgerMark, entry: &Entry) -> Result<(), EngineError> {
    let attached = serde_json::to_string(&entry.attached).expect("plain strings and numbers always have a JSON form");
    // Reviewed: constants only.
    let sql =
        format!("INSERT INTO keyturn.shadow (rotation, {COLUMNS}, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(mark.rotation.to_string())
        .bind(&entry.shadow.label)
        .bind(&entry.schema)
        .bind(&entry.relation)
        .bind(&entry.shadow.name)
        .bind(&entry.shadow.retained_name)
        .bind(entry.shadow.state.as_str())
        .bind(attached)
        .bind(epoch_number(mark))
        .execute(connection)
        .await
        .doing(|| "writing the ledger's shadows".to_owned())?;
    Ok(())
}

pub(super) async fn set_state(
    connection: &mut PgConnection,
    rotation: &RotationId,
    label: &str,
    state: ShadowState,
) -> Result<(), EngineError> {
    sqlx::query("UPDATE keyturn.shadow SET state = $3 WHERE rotation = $1 AND label = $2")
        .bind(rotation.to_string())
        .bind(label)
        .bind(state.as_str())
        .execute(connection)
        .await
        .doing(|| "writing the ledger's shadows".to_owned())?;
    Ok(())
}

/// Forgets a shadow that is dropped.
pub(super) async fn forget(
    connection: &mut PgConnection,
    rotation: &RotationId,
    label: &str,
) -> Result<(), EngineError> {
    sqlx::query("DELETE FROM keyturn.shadow WHERE rotation = $1 AND label = $2")
        .bind(rotation.to_string())
        .bind(label)
        .execute(connection)
        .await
        .doing(|| "writing the ledger's shadows".to_owned())?;
    Ok(())
}
