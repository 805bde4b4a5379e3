//! Tables as people really make them: odd names, schemas, partitions, triggers, generated columns.

use rotation::Direction;

use crate::farm::{Cell, GRANTING, Vault, on_both, turned};

async fn forward(vault: &Vault) -> u64 {
    let before = vault.census().await;
    let engine = vault.engine().await;
    engine.check_targets().await.unwrap();
    let survey = vault.survey().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(vault.census().await, turned(&before));
    assert_eq!(vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
    tally.values
}

const ODD: &str = "version = 1
[[table]]
name = 'select \"x\"; DROP TABLE t; --'
key = ['order', 'size', 'K\"']
[[table.column]]
name = 'bytes_before'
[[table.column]]
name = 'k0 Ünïcode.$1?'
encoding = 'base64'
";

fn odd_table(blob: &str) -> String {
    format!(
        "CREATE TABLE \"select \"\"x\"\"; DROP TABLE t; --\" (
             \"order\" integer NOT NULL, \"size\" integer NOT NULL, \"K\"\"\" integer NOT NULL,
             bytes_before {blob}, \"k0 Ünïcode.$1?\" text, PRIMARY KEY (\"order\", \"size\", \"K\"\"\"))"
    )
}

async fn fill_odd(vault: &Vault) {
    let rows: Vec<Vec<Cell>> = (0..50)
        .map(|at| {
            let key = Cell::Integer(at);
            vec![key.clone(), key.clone(), key, vault.raw(&format!("a {at}"), ""), vault.base64(&format!("b {at}"))]
        })
        .collect();
    vault.insert("\"select \"\"x\"\"; DROP TABLE t; --\"", &rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_need_quotes_and_look_like_ours_work_on_sqlite() {
    let vault = Vault::sqlite_bare(ODD);
    vault.run(&odd_table("BLOB")).await;
    fill_odd(&vault).await;
    assert_eq!(forward(&vault).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_need_quotes_and_look_like_ours_work_on_postgres() {
    let vault = Vault::postgres_bare(ODD).await;
    vault.run(&odd_table("bytea")).await;
    fill_odd(&vault).await;
    vault.run(&vault.named("GRANT USAGE ON SCHEMA public TO keyturn_agent")).await;
    vault
        .grant(
            "\"select \"\"x\"\"; DROP TABLE t; --\"",
            "\"order\", \"size\", \"K\"\"\"",
            "bytes_before, \"k0 Ünïcode.$1?\"",
        )
        .await;
    assert_eq!(forward(&vault).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_another_schema_and_a_partitioned_one_work_in_place() {
    let vault = Vault::postgres_bare(
        "version = 1
         [[table]]\nschema = 'My.Vault'\nname = 'Entries'\nkey = ['region', 'id']\n[[table.column]]\nname = 'secret'\n",
    )
    .await;
    vault.run(
        "CREATE SCHEMA \"My.Vault\";
         CREATE TABLE \"My.Vault\".\"Entries\" (region text, id integer, secret bytea, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
         CREATE TABLE \"My.Vault\".eu PARTITION OF \"My.Vault\".\"Entries\" FOR VALUES IN ('eu');
         CREATE TABLE \"My.Vault\".other PARTITION OF \"My.Vault\".\"Entries\" DEFAULT;",
    ).await;
    let rows: Vec<Vec<Cell>> = (0..90)
        .map(|id| {
            vec![Cell::Text(["eu", "us", "ap"][id as usize % 3].to_owned()), Cell::Integer(id), vault.raw("s", "")]
        })
        .collect();
    vault.insert("\"My.Vault\".\"Entries\"", &rows).await;
    vault.run(&vault.named("GRANT USAGE ON SCHEMA \"My.Vault\" TO keyturn_agent")).await;
    vault.grant("\"My.Vault\".\"Entries\"", "region, id", "secret").await;
    assert_eq!(forward(&vault).await, 90);
}

on_both! {
    async fn the_users_triggers_do_not_fire_and_are_there_afterwards(vault) {
        if vault.is_mariadb() {
            // There they cannot be kept from firing, and such a table is refused (mariadb_schema.rs).
            return;
        }
        vault.seed(200).await;
        if vault.is_sqlite() {
            vault.run(
                "CREATE TABLE audit (what TEXT);
                 CREATE TRIGGER \"touch it\" AFTER UPDATE ON connections BEGIN
                     UPDATE connections SET updated_at = 'now' WHERE id = NEW.id; INSERT INTO audit VALUES ('x;y'); END;",
            ).await;
        } else {
            vault.run(
                "CREATE TABLE audit (what text);
                 CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
                     'BEGIN NEW.updated_at = ''now''; INSERT INTO audit VALUES (''x''); RETURN NEW; END';
                 CREATE TRIGGER \"touch it\" BEFORE UPDATE ON connections FOR EACH ROW EXECUTE FUNCTION touch();
                 CREATE RULE \"note it\" AS ON UPDATE TO documents DO ALSO INSERT INTO audit VALUES ('y');",
            ).await;
        }
        let triggers = if vault.is_sqlite() {
            "SELECT group_concat(name || sql) FROM sqlite_schema WHERE type = 'trigger'"
        } else {
            "SELECT string_agg(tgname || tgenabled::text, '') FROM pg_trigger WHERE NOT tgisinternal"
        };
        let before = vault.text(triggers).await;
        forward(&vault).await;
        assert_eq!(vault.text("SELECT CAST(count(*) AS text) FROM audit").await, "0");
        assert_eq!(vault.text("SELECT CAST(count(*) AS text) FROM connections WHERE updated_at <> 'then'").await, "0");
        assert_eq!(vault.text(triggers).await, before);
        vault.run("UPDATE connections SET name = 'renamed' WHERE id = 0").await;
        assert_eq!(vault.text("SELECT updated_at FROM connections WHERE id = 0").await, "now", "they fire for others");
    }

    async fn columns_generated_from_a_ciphertext_follow_it(vault) {
        vault.seed(100).await;
        let generated = if vault.is_sqlite() {
            "ALTER TABLE documents ADD COLUMN g TEXT GENERATED ALWAYS AS (substr(body, 1, 40)) VIRTUAL"
        } else {
            "ALTER TABLE documents ADD COLUMN g text GENERATED ALWAYS AS (substr(body, 1, 40)) STORED"
        };
        vault.run(generated).await;
        forward(&vault).await;
        assert_eq!(vault.text("SELECT CAST(count(*) AS text) FROM documents WHERE g <> substr(body, 1, 40)").await, "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_turn_triggers_off_only_tables_with_triggers_are_refused() {
    let vault = Vault::postgres().await;
    vault.seed(100).await;
    {
        let _alone = GRANTING.lock().await;
        vault.run(&vault.named("REVOKE SET ON PARAMETER session_replication_role FROM keyturn_agent")).await;
    }
    forward(&vault).await;
    vault
        .run(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER touch BEFORE UPDATE ON connections FOR EACH ROW EXECUTE FUNCTION touch();
         CREATE TRIGGER on_insert BEFORE INSERT ON documents FOR EACH ROW EXECUTE FUNCTION touch();",
        )
        .await;
    let message = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    assert!(
        message.contains("connections has trigger touch") && message.contains("GRANT SET ON PARAMETER"),
        "{message}"
    );
    assert!(!message.contains("on_insert"), "{message}");
    vault.run("ALTER TABLE connections DISABLE TRIGGER touch").await;
    vault.engine().await.check_targets().await.unwrap();
}
