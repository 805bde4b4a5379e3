//! What a server must be set to, or what the engine builds on does not hold. Most of it is there in MySQL alone.

use std::collections::BTreeMap;

use sqlx::mysql::MySqlConnection;
use sqlx::{Row as _, raw_sql};

use super::make::Make;
use crate::EngineError;
use crate::error::Doing;

type Settings = BTreeMap<String, String>;

/// Variables and counters, which any account may ask for. Those of group replication are there only where it is.
const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN
    ('performance_schema', 'performance_schema_max_thread_instances', 'group_replication_group_name')";
const COUNTERS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN
    ('Performance_schema_thread_instances_lost', 'Performance_schema_thread_classes_lost', 'Innodb_redo_log_enabled')";

/// What the ledger's tables need, asked for beforehand: they are made when the farm is offline.
const LEDGER: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('innodb_page_size', 'enforce_storage_engine')";
const PAGE_BYTES_MIN: u32 = 8_192;

/// Whether the list of sessions has this one in it.
const LISTS_US: &str = "SELECT COUNT(*) FROM performance_schema.processlist WHERE ID = CONNECTION_ID()";

/// Everything that stands in the way.
pub(super) async fn problems(connection: &mut MySqlConnection, make: Make) -> Result<Vec<String>, EngineError> {
    let mut problems = problems_of_ledger(&settings(connection, &[LEDGER]).await?);
    if make == Make::MySql {
        let settings = settings(connection, &[VARIABLES, COUNTERS]).await?;
        let doing = || "looking for this session on the server's list".to_owned();
        let ours: i64 = raw_sql(LISTS_US).fetch_one(connection).await.and_then(|row| row.try_get(0)).doing(doing)?;
        problems.extend(problems_of(&settings, ours == 1));
    }
    Ok(problems)
}

async fn settings(connection: &mut MySqlConnection, asked: &[&'static str]) -> Result<Settings, EngineError> {
    let doing = || "asking for the settings of the server".to_owned();
    let mut settings = Settings::new();
    for sql in asked {
        for row in raw_sql(*sql).fetch_all(&mut *connection).await.doing(doing)? {
            let (name, value): (String, String) = (row.try_get(0).doing(doing)?, row.try_get(1).doing(doing)?);
            settings.insert(name.to_ascii_lowercase(), value);
        }
    }
    Ok(settings)
}

fn problems_of_ledger(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    let page = settings.get("innodb_page_size").and_then(|size| size.parse::<u32>().ok());
    if page.is_some_and(|size| size < PAGE_BYTES_MIN) {
        let problem = "the server's pages are too small for the ledger's keys: innodb_page_size must be 8k or more";
        problems.push(problem.to_owned());
    }
    let engine = settings.get("enforce_storage_engine").filter(|engine| !engine.is_empty());
    if let Some(engine) = engine.filter(|engine| !engine.eq_ignore_ascii_case("InnoDB")) {
        problems.push(format!(
            "the server makes every table by the engine {engine} (enforce_storage_engine), and the ledger needs InnoDB: \
             SET GLOBAL enforce_storage_engine = NULL"
        ));
    }
    problems
}

/// The same, refused, and a server that is not to be written to.
pub(super) async fn check(connection: &mut MySqlConnection, make: Make) -> Result<(), EngineError> {
    check_writable(connection, make).await?;
    let problems = problems(connection, make).await?;
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Rights(problems)) }
}

/// `read_only` stops everybody in MariaDB who lacks a right of its own for it. In MySQL the right to end others' sessions has it in
/// it, so the agent could write to a server that somebody has told to be a replica, and must look itself.
pub(super) async fn check_writable(connection: &mut MySqlConnection, make: Make) -> Result<(), EngineError> {
    if make == Make::MariaDb {
        return Ok(());
    }
    let row = raw_sql("SELECT @@GLOBAL.read_only").fetch_one(connection).await;
    let read_only: i64 =
        row.and_then(|row| row.try_get_unchecked(0)).doing(|| "asking whether the server is read-only".to_owned())?;
    if read_only == 0 { Ok(()) } else { Err(EngineError::ReadOnly) }
}

/// Threads of a class that the server had no room to register are on no list, so sessions may be missing by kinds too: those of the
/// X protocol alone, while all others are there.
fn problems_of(settings: &Settings, lists_us: bool) -> Vec<String> {
    let of = |name: &str| settings.get(name).map(String::as_str);
    let mut problems = Vec::new();
    let hides = of("performance_schema") != Some("ON")
        || of("performance_schema_max_thread_instances") != Some("-1")
        || of("performance_schema_thread_instances_lost") != Some("0")
        || of("performance_schema_thread_classes_lost") != Some("0")
        || !lists_us;
    if hides {
        problems.push(
            "the server does not list all sessions: it must run with performance_schema = ON, \
             performance_schema_max_thread_instances = -1 and performance_schema_max_thread_classes as they are by \
             default, Performance_schema_thread_instances_lost and Performance_schema_thread_classes_lost must be 0, and \
             performance_schema.processlist must have this very session in it"
                .to_owned(),
        );
    }
    if of("innodb_redo_log_enabled") != Some("ON") {
        problems.push(
            "the server writes no redo log, so that a crash would take all with it: ALTER INSTANCE ENABLE INNODB REDO_LOG"
                .to_owned(),
        );
    }
    if of("group_replication_group_name").is_some_and(|name| !name.is_empty()) {
        problems.push(
            "the server is a member of a replication group (group_replication_group_name is set), whose threads apply \
             other servers' changes at any time; STOP GROUP_REPLICATION and take the name away for the rotation"
                .to_owned(),
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("performance_schema", "ON"),
        ("performance_schema_max_thread_instances", "-1"),
        ("performance_schema_thread_instances_lost", "0"),
        ("performance_schema_thread_classes_lost", "0"),
        ("innodb_redo_log_enabled", "ON"),
    ];

    fn with(name: &str, value: &str) -> Vec<String> {
        let mut settings: BTreeMap<String, String> =
            GOOD.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings.insert(name.to_owned(), value.to_owned());
        problems_of(&settings, true)
    }

    #[test]
    fn each_setting_that_the_proofs_need_is_named() {
        assert_eq!(with("group_replication_group_name", ""), Vec::<String>::new());
        for (name, value, expected) in [
            ("performance_schema", "OFF", "list all sessions"),
            ("performance_schema_max_thread_instances", "100", "max_thread_instances = -1"),
            ("performance_schema_thread_instances_lost", "3", "instances_lost"),
            ("performance_schema_thread_classes_lost", "1", "classes_lost"),
            ("innodb_redo_log_enabled", "OFF", "ENABLE INNODB REDO_LOG"),
            ("group_replication_group_name", "0b1d", "member of a replication group"),
        ] {
            let problems = with(name, value);
            assert!(problems.len() == 1 && problems[0].contains(expected), "{name}: {problems:?}");
        }
        assert_eq!(problems_of(&BTreeMap::new(), true).len(), 2, "a server that says nothing is not trusted");
        let good = GOOD.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(problems_of(&good, false).len(), 1, "nor one that does not list who asks");
    }
}
