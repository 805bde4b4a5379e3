//! What the ledger in MariaDB knows of copies, together with what the names of tables say: data definition is not
//! transactional, so a copy is swapped in exactly when its original stands under the name under which it is retained.

use rotation::RotationId;
use sqlx::Row as _;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use super::super::{ledger, quote};
use crate::EngineError;
use crate::error::Doing;
use crate::ledger::{LedgerMark, epoch_number};
use crate::shadow::{Shadow, ShadowState};

/// Its row stands in the ledger, and the table perhaps not, or with indexes; nothing has been filled into it.
pub(super) const MAKING: &str = "making";

/// Names are looked up in InnoDB's own catalog, which hides nothing from who has the right PROCESS.
const ALL: &str = "
    SELECT s.label, s.shadow_name, s.retained_name, s.state,
           EXISTS (SELECT 1 FROM information_schema.INNODB_SYS_TABLES i
                   WHERE BINARY i.NAME = CONCAT(CAST(CONVERT(DATABASE() USING filename) AS BINARY), '/',
                                                CAST(s.shadow_name AS BINARY))),
           EXISTS (SELECT 1 FROM information_schema.INNODB_SYS_TABLES i
                   WHERE BINARY i.NAME = CONCAT(CAST(CONVERT(DATABASE() USING filename) AS BINARY), '/',
                                                CAST(s.retained_name AS BINARY)))
    FROM keyturn_shadow s WHERE s.rotation = ? ORDER BY s.label";

/// A copy as the ledger and the names of tables have it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) shadow: Shadow,
    /// The table is still to be made.
    pub(super) is_making: bool,
}

/// All of a rotation, by label; none where there is no ledger.
pub(super) async fn all(connection: &mut MySqlConnection, rotation: &RotationId) -> Result<Vec<Entry>, EngineError> {
    if !ledger::exists(connection).await? {
        return Ok(Vec::new());
    }
    let doing = || "reading the shadows in the ledger".to_owned();
    let rows = sqlx::query(ALL).bind(rotation.to_string()).fetch_all(connection).await.doing(doing)?;
    rows.iter().map(read).collect()
}

pub(super) async fn one(
    connection: &mut MySqlConnection,
    rotation: &RotationId,
    label: &str,
) -> Result<Option<Entry>, EngineError> {
    Ok(all(connection, rotation).await?.into_iter().find(|entry| entry.shadow.label == label))
}

fn read(row: &MySqlRow) -> Result<Entry, EngineError> {
    let doing = || "reading a shadow in the ledger".to_owned();
    let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
    let flag = |at: usize| row.try_get_unchecked::<i64, _>(at).map(|flag| flag != 0).doing(doing);
    let (label, name, retained_name, noted) = (text(0)?, text(1)?, text(2)?, text(3)?);
    let is_making = noted == MAKING;
    let noted = if is_making { Some(ShadowState::Building) } else { ShadowState::parse(&noted) };
    let noted =
        noted.ok_or_else(|| EngineError::LedgerUnreadable(format!("the shadow of {label} is in no known state")))?;
    let state = settled(noted, flag(4)?, flag(5)?);
    let from = quote(&name);
    Ok(Entry { shadow: Shadow { label, name, from, retained_name, state }, is_making })
}

/// What a noted state has become, by which names there are.
fn settled(noted: ShadowState, copy_apart: bool, original_retained: bool) -> ShadowState {
    match noted {
        // Renamed, and nobody came to note it.
        ShadowState::Built if original_retained => ShadowState::Swapped,
        ShadowState::Swapped if original_retained => ShadowState::Swapped,
        ShadowState::Swapped if copy_apart => ShadowState::Dropping,
        ShadowState::Swapped => ShadowState::Retired,
        ShadowState::Building
        | ShadowState::Built
        | ShadowState::Dropping
        | ShadowState::Kept
        | ShadowState::Retired => noted,
    }
}

/// Notes one that is going to be made.
pub(super) async fn insert(
    connection: &mut MySqlConnection,
    mark: &LedgerMark,
    table: &str,
    shadow: &Shadow,
) -> Result<(), EngineError> {
    sqlx::query(
        "INSERT INTO keyturn_shadow (rotation, label, table_name, shadow_name, retained_name, state, epoch)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(mark.rotation.to_string())
    .bind(&shadow.label)
    .bind(table)
    .bind(&shadow.name)
    .bind(&shadow.retained_name)
    .bind(MAKING)
    .bind(epoch_number(mark))
    .execute(connection)
    .await
    .doing(|| format!("noting the shadow of {} in the ledger", shadow.label))?;
    Ok(())
}

/// Moves one on.
pub(super) async fn set(
    connection: &mut MySqlConnection,
    rotation: &RotationId,
    label: &str,
    state: ShadowState,
) -> Result<(), EngineError> {
    sqlx::query("UPDATE keyturn_shadow SET state = ? WHERE rotation = ? AND label = ?")
        .bind(state.as_str())
        .bind(rotation.to_string())
        .bind(label)
        .execute(connection)
        .await
        .doing(|| format!("noting in the ledger that the shadow of {label} is {}", state.as_str()))?;
    Ok(())
}

/// Forgets one that was dropped.
pub(super) async fn remove(
    connection: &mut MySqlConnection,
    rotation: &RotationId,
    label: &str,
) -> Result<(), EngineError> {
    sqlx::query("DELETE FROM keyturn_shadow WHERE rotation = ? AND label = ?")
        .bind(rotation.to_string())
        .bind(label)
        .execute(connection)
        .await
        .doing(|| format!("removing the shadow of {label} from the ledger"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_what_a_crash_left() {
        for (noted, copy, retained, expected) in [
            (ShadowState::Built, true, false, ShadowState::Built),
            (ShadowState::Built, false, true, ShadowState::Swapped),
            (ShadowState::Swapped, false, true, ShadowState::Swapped),
            (ShadowState::Swapped, true, false, ShadowState::Dropping),
            (ShadowState::Swapped, false, false, ShadowState::Retired),
            (ShadowState::Building, true, false, ShadowState::Building),
            (ShadowState::Kept, false, true, ShadowState::Kept),
        ] {
            assert_eq!(settled(noted, copy, retained), expected, "{noted:?} {copy} {retained}");
        }
    }
}
