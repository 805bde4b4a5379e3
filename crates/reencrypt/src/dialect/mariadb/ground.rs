//! What a server of MySQL must be set to, or what the engine builds on does not hold. Nothing of it is there in MariaDB.

use std::collections::BTreeMap;

use sqlx::mysql::MySqlConnection;
use sqlx::{Row as _, raw_sql};

use super::make::Make;
use crate::EngineError;
use crate::error::Doing;

/// Variables and counters, which any account may ask for. Those of group replication are there only where it is.
const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN
    ('performance_schema', 'performance_schema_max_thread_instances', 'group_replication_single_primary_mode')";
const COUNTERS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN
    ('Performance_schema_thread_instances_lost', 'Innodb_redo_log_enabled')";

/// Everything that stands in the way.
pub(super) async fn problems(connection: &mut MySqlConnection, make: Make) -> Result<Vec<String>, EngineError> {
    if make == Make::MariaDb {
        return Ok(Vec::new());
    }
    let doing = || "asking for the settings of the server".to_owned();
    let mut settings = BTreeMap::new();
    for sql in [VARIABLES, COUNTERS] {
        for row in raw_sql(sql).fetch_all(&mut *connection).await.doing(doing)? {
            let (name, value): (String, String) = (row.try_get(0).doing(doing)?, row.try_get(1).doing(doing)?);
            settings.insert(name.to_ascii_lowercase(), value);
        }
    }
    Ok(problems_of(&settings))
}

/// The same, refused.
pub(super) async fn check(connection: &mut MySqlConnection, make: Make) -> Result<(), EngineError> {
    let problems = problems(connection, make).await?;
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Rights(problems)) }
}

fn problems_of(settings: &BTreeMap<String, String>) -> Vec<String> {
    let of = |name: &str| settings.get(name).map(String::as_str);
    let mut problems = Vec::new();
    let hides = of("performance_schema") != Some("ON")
        || of("performance_schema_max_thread_instances") != Some("-1")
        || of("performance_schema_thread_instances_lost") != Some("0");
    if hides {
        problems.push(
            "the server does not list all sessions: it must run with performance_schema = ON and \
             performance_schema_max_thread_instances = -1 (the defaults), and Performance_schema_thread_instances_lost \
             must be 0"
                .to_owned(),
        );
    }
    if of("innodb_redo_log_enabled") != Some("ON") {
        problems.push(
            "the server writes no redo log, so that a crash would take all with it: ALTER INSTANCE ENABLE INNODB REDO_LOG"
                .to_owned(),
        );
    }
    if of("group_replication_single_primary_mode") == Some("OFF") {
        problems.push(
            "the server is one of several primaries of a group, in which the locks of one do not hold on another; \
             make it a group with a single primary for the rotation"
                .to_owned(),
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("performance_schema", "ON"),
        ("performance_schema_max_thread_instances", "-1"),
        ("performance_schema_thread_instances_lost", "0"),
        ("innodb_redo_log_enabled", "ON"),
    ];

    fn with(name: &str, value: &str) -> Vec<String> {
        let mut settings: BTreeMap<String, String> =
            GOOD.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings.insert(name.to_owned(), value.to_owned());
        problems_of(&settings)
    }

    #[test]
    fn each_setting_that_the_proofs_need_is_named() {
        assert_eq!(with("group_replication_single_primary_mode", "ON"), Vec::<String>::new());
        for (name, value, expected) in [
            ("performance_schema", "OFF", "list all sessions"),
            ("performance_schema_max_thread_instances", "100", "max_thread_instances = -1"),
            ("performance_schema_thread_instances_lost", "3", "instances_lost"),
            ("innodb_redo_log_enabled", "OFF", "ENABLE INNODB REDO_LOG"),
            ("group_replication_single_primary_mode", "OFF", "several primaries"),
        ] {
            let problems = with(name, value);
            assert!(problems.len() == 1 && problems[0].contains(expected), "{name}: {problems:?}");
        }
        assert_eq!(problems_of(&BTreeMap::new()).len(), 2, "a server that says nothing is not trusted");
    }
}
