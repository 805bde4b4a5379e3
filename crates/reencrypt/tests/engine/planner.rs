//! Whatever the database's defaults for sessions are, ours find every row by its key's index.

use rotation::Direction;

use crate::farm::{Cell, Place, Vault, turned};

/// Defaults that somebody may have set for reports or by mistake; those that are not about plans stop our work or
/// change how names read. With auto_explain the server writes down how it really ran each statement.
const HOSTILE: &[(&str, &str)] = &[
    ("enable_indexscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("enable_nestloop", "off"),
    ("enable_partition_pruning", "off"),
    ("enable_seqscan", "on"),
    ("enable_hashjoin", "on"),
    ("enable_mergejoin", "on"),
    ("enable_sort", "on"),
    ("enable_bitmapscan", "on"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "on"),
    ("random_page_cost", "1000"),
    ("default_transaction_read_only", "on"),
    ("statement_timeout", "'2s'"),
    ("idle_session_timeout", "'2s'"),
    ("quote_all_identifiers", "on"),
    ("\"DateStyle\"", "'German'"),
    ("bytea_output", "'escape'"),
    ("session_preload_libraries", "'auto_explain'"),
    ("auto_explain.log_min_duration", "0"),
];

/// Settings that a write of ours must run with.
const EXPECTED: &[(&str, &str)] = &[
    ("enable_indexscan", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "auto"),
    ("jit", "off"),
    ("transaction_read_only", "off"),
    ("statement_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("search_path", "pg_catalog, pg_temp"),
];

const TABLES: &[(&str, &str, &str)] =
    &[("plan_number", "id bigint", "id"), ("plan_uuid", "id uuid", "id"), ("plan_pair", "a text, b integer", "a, b")];

fn key(table: &str, at: i64) -> Vec<Cell> {
    match table {
        "plan_number" => vec![Cell::Integer(at)],
        "plan_uuid" => vec![Cell::Text(uuid::Uuid::from_u128(0x1357 * u128::from(at.unsigned_abs())).to_string())],
        _ => vec![Cell::Text(format!("a {}", at % 7)), Cell::Integer(at)],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_defaults_of_the_database_change_neither_settings_nor_plans_in_tables_never_analysed() {
    let mut targets = "version = 1\n".to_owned();
    for (table, _, key) in TABLES {
        let key: Vec<String> = key.split(", ").map(|column| format!("'{column}'")).collect();
        targets += &format!("[[table]]\nname = '{table}'\nkey = [{}]\n[[table.column]]\nname = 'c'\n", key.join(", "));
    }
    let vault = Vault::postgres_bare(&targets).await;
    // A constraint that looks at the session in which it is checked.
    let expected: Vec<String> = EXPECTED.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    vault
        .run(&format!(
            "CREATE FUNCTION sound(bytea) RETURNS boolean LANGUAGE plpgsql AS $$
             DECLARE wrong text;
             BEGIN
                 SELECT string_agg(name || ' is ' || current_setting(name), ', ') INTO wrong
                 FROM (VALUES {}) AS expected (name, value) WHERE current_setting(name) <> value;
                 IF session_user <> 'postgres' AND wrong <> '' THEN RAISE '%', wrong; END IF;
                 RETURN true;
             END $$",
            expected.join(", ")
        ))
        .await;
    vault.run(&vault.named("GRANT USAGE ON SCHEMA public TO keyturn_agent")).await;
    for (table, columns, primary_key) in TABLES {
        vault
            .run(&format!(
                "CREATE TABLE {table} ({columns}, c bytea CHECK (sound(c)), PRIMARY KEY ({primary_key}))
                 WITH (autovacuum_enabled = off)"
            ))
            .await;
        let rows: Vec<Vec<Cell>> =
            (0..3000).map(|at| key(table, at).into_iter().chain([vault.raw(&format!("{at}"), "")]).collect()).collect();
        vault.insert(table, &rows).await;
        vault.grant(table, primary_key, "c").await;
    }
    let before = vault.census().await;
    let Place::Postgres { cluster, database, .. } = &vault.place else { panic!("it is PostgreSQL") };
    let hostile = HOSTILE.iter().map(|(name, value)| format!("ALTER DATABASE {database} SET {name} = {value};"));
    vault.run(&hostile.collect::<String>()).await;

    let engine = vault.engine().await;
    engine.check_targets().await.unwrap();
    let survey = vault.survey().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
    vault.run(&format!("SET transaction_read_only = off; ALTER DATABASE {database} RESET ALL")).await;
    assert_eq!(vault.census().await, turned(&before));

    let log = cluster.log();
    for (table, ..) in TABLES {
        let name = format!("\"public\".\"{table}\" AS t");
        // The look for what is registered nowhere reads whole tables, and is to.
        let looks = |entry: &&str| entry.contains("AS v(n, tag)");
        let ours: Vec<&str> =
            log.split("LOG:  duration:").filter(|entry| entry.contains(&name) && !looks(entry)).collect();
        let updates = ours.iter().filter(|entry| entry.contains("UPDATE ONLY")).count();
        assert!(updates >= 3 && ours.len() >= updates + 6, "{updates} of {} statements:\n{log}", ours.len());
        for entry in ours {
            assert!(entry.contains(&format!("{table}_pkey")) && !entry.contains("Seq Scan on"), "{entry}");
        }
    }
}
