//! Sessions on a real server, below the engine: what a scan reads, what stands against a shadow, and every stage of one.

#[path = "../../../tests/engine/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of the engine, which use more of it")]
mod cluster;

use std::process::Command;
use std::sync::Arc;

use rotation::{ContentDigest, Direction, Epoch, LeaseNumber, RotationId, ShardId, ShardTally};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use self::cluster::Cluster;
use crate::dialect::{self, Chunk, Dialect, Fields, PageLimit, Scan, Session, Written};
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::shadow::{Pair, ShadowState};
use crate::sink::{PageSink, PageSize, Rooms};
use crate::table::{Change, KeyRange, Row, Table};
use crate::{DatabaseConfig, Targets};

const FEATURES: &str = include_str!("../../../tests/engine/features.sql");

const ROWS: &str = r#"
    INSERT INTO "My Vault".owners SELECT i, 'owner ' || i, 'person' FROM generate_series(1, 20) i;
    INSERT INTO "My Vault".secrets (owner_id, secret, notes, feeling, "pair", tags, amount, document, during, place, address)
    SELECT 1 + i % 20, decode(repeat(md5(i::text), 1 + i % 40), 'hex'), CASE WHEN i % 7 > 0 THEN 'note ' || i END, 'sad',
           ROW(i, 'it''s'::text)::"My Vault".pair, ARRAY['a', NULL, i::text], i / 7.0, jsonb_build_object('i', i, 'n', NULL),
           tsrange('2020-01-01'::timestamp + i * interval '1 day', '2020-01-02'::timestamp + i * interval '1 day'),
           point(i, -i), '10.0.0.1'::inet + i
    FROM generate_series(1, 500) i;
    UPDATE "My Vault".secrets SET secret = NULL WHERE owner_id = 3;
    UPDATE "My Vault".secrets SET secret = '' WHERE owner_id = 4;"#;

static GRANTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A database with roles of its own.
struct Place {
    cluster: Arc<Cluster>,
    database: String,
    number: u32,
    dialect: Box<dyn Dialect>,
}

impl Place {
    async fn with(sql: &str) -> Self {
        let cluster = cluster::shared();
        let (database, number) = cluster.database("").await;
        let config = DatabaseConfig::new(cluster.url(&format!("agent_{number}"), &database));
        let place = Self { dialect: dialect::of(&config).unwrap(), cluster, database, number };
        place
            .run(
                "CREATE ROLE OWNER; CREATE ROLE READER; CREATE ROLE APPLICATION LOGIN; CREATE ROLE AGENT LOGIN;
                 GRANT OWNER TO AGENT; GRANT pg_signal_backend, pg_read_all_stats TO AGENT;
                 CREATE SCHEMA keyturn AUTHORIZATION AGENT;",
            )
            .await;
        {
            // Rights on parameters belong to the whole server, and two that grant one get into each other's way.
            let _alone = GRANTING.lock().await;
            place.run("GRANT SET ON PARAMETER session_replication_role TO AGENT").await;
        }
        place.run(sql).await;
        place
    }

    async fn superuser(&self) -> PgConnection {
        self.cluster.superuser(&self.database).await
    }

    fn named(&self, sql: &str) -> String {
        let number = self.number;
        sql.replace("OWNER", &format!("owner_{number}"))
            .replace("READER", &format!("reader_{number}"))
            .replace("APPLICATION", &format!("application_{number}"))
            .replace("AGENT", &format!("agent_{number}"))
            .replace(&format!("owner_{number}ED"), "OWNED")
    }

    async fn run(&self, sql: &str) {
        let mut superuser = self.superuser().await;
        sqlx::raw_sql(AssertSqlSafe(self.named(sql))).execute(&mut superuser).await.unwrap();
    }

    /// The schema as PostgreSQL's own tool writes it, and what that leaves out.
    async fn catalogue(&self) -> Vec<String> {
        let dump = Command::new("pg_dump")
            .args(["--schema-only", "--exclude-schema=keyturn", "--exclude-table=*.keyturn_*"])
            .arg(format!("--dbname={}", self.cluster.url("postgres", &self.database)))
            .output()
            .unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        // Objects one by one: their order in a dump follows their age.
        let text = String::from_utf8(dump.stdout).unwrap();
        let objects = text.split("--\n-- Name: ").filter(|object| !object.contains("keyturn"));
        let mut lines: Vec<String> = objects.map(|object| object.trim().to_owned()).collect();
        // The tokens of restricted dumps are drawn anew each time.
        lines.retain(|object| !object.contains("\\restrict") && !object.contains("\\unrestrict"));
        let mut superuser = self.superuser().await;
        for sql in [
            "SELECT concat_ws(' ', c.oid::regclass, relkind, relacl, relispopulated)
             FROM pg_class c WHERE relnamespace = '\"My Vault\"'::regnamespace ORDER BY 1",
            "SELECT concat_ws(' ', i.indexrelid::regclass, indisclustered, indisreplident, indimmediate, indisvalid)
             FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
             WHERE relnamespace = '\"My Vault\"'::regnamespace ORDER BY 1",
            "SELECT concat_ws(' ', conrelid::regclass, conname, contype, convalidated, condeferrable, condeferred,
                              conindid::regclass, pg_get_constraintdef(oid))
             FROM pg_constraint WHERE connamespace = '\"My Vault\"'::regnamespace ORDER BY 1",
            "SELECT concat_ws(' ', tgrelid::regclass, regexp_replace(tgname, '[0-9]+', ''), tgenabled, tgtype)
             FROM pg_trigger ORDER BY 1",
            "SELECT concat_ws(' ', attrelid::regclass, attname, attacl, attstattarget, attstorage, attcompression, attoptions)
             FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
             WHERE relnamespace = '\"My Vault\"'::regnamespace AND attnum > 0 AND NOT attisdropped ORDER BY 1",
            "SELECT concat_ws(' ', typname, typtype, typacl) FROM pg_type
             WHERE typnamespace = '\"My Vault\"'::regnamespace ORDER BY 1",
        ] {
            let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(&mut superuser).await.unwrap();
            lines.extend(rows.into_iter().map(|(row,)| row).filter(|row| !row.contains("keyturn")));
        }
        lines.sort();
        lines
    }

    /// One text for each row of the query.
    async fn texts(&self, sql: &str) -> Vec<String> {
        let mut superuser = self.superuser().await;
        let rows: Vec<(String,)> =
            sqlx::query_as(AssertSqlSafe(self.named(sql))).fetch_all(&mut superuser).await.unwrap();
        rows.into_iter().map(|(row,)| row).collect()
    }

    async fn table(&self, session: &mut dyn Session, name: &str, columns: &[&str], key: &str) -> Table {
        let columns: String = columns
            .iter()
            .map(|column| {
                format!(
                    "[[table.column]]\nname = '{column}'\n{}",
                    if *column == "notes" { "encoding = 'base64'\n" } else { "" }
                )
            })
            .collect();
        let targets = format!("version = 1\n[[table]]\nschema = 'My Vault'\nname = '{name}'\nkey = {key}\n{columns}");
        session.tables(&Targets::parse(&targets).unwrap()).await.unwrap().remove(0)
    }
}

fn mark(rotation: RotationId, epoch: u64, direction: Direction) -> LedgerMark {
    LedgerMark { rotation, epoch: Epoch::new(epoch), direction }
}

async fn read(session: &mut dyn Session, table: &Table, fields: Fields) -> Vec<Row> {
    let size = PageSize::new(PageLimit { rows_max: 100, bytes_max: 1 << 20 });
    let (mut sink, mut pages) = PageSink::new(Arc::new(size), &Rooms::new());
    let range = KeyRange::default();
    let scan = Scan { table, range: &range, fields };
    let reading = async {
        session.scan(&scan, &mut sink).await.unwrap();
        sink.end().await.unwrap();
    };
    let taking = async {
        let mut rows = Vec::new();
        while let Some(page) = pages.recv().await {
            rows.extend(page.rows);
        }
        rows
    };
    tokio::join!(reading, taking).1
}

/// Fills the copy with every value turned round, and builds everything on it.
async fn fill(session: &mut dyn Session, reader: &mut dyn Session, mark: LedgerMark, table: &Table) -> Pair {
    let shadow = session.shadow(&mark, table).await.unwrap();
    let pair = Pair { original: table.clone(), shadow };
    let copy = pair.copy();
    let claim = Claim { mark, shard: ShardId::new(0), pass: Pass::Reencrypt, lease: LeaseNumber::new(1) };
    let mut before = session.enter(&claim).await.unwrap();
    for rows in read(reader, table, Fields::All).await.chunks(123) {
        let after = before.after(
            rows[rows.len() - 1].key.clone(),
            &ShardTally { rows: rows.len() as u64, ..Default::default() },
            ContentDigest::default(),
        );
        let change = |row: &Row| Change {
            row: row.clone(),
            new: row.values.iter().map(|value| value.bytes().map(turned)).collect(),
        };
        let changes: Vec<Change> = rows.iter().map(change).collect();
        let chunk =
            Chunk { claim: &claim, table, before: &before, after: &after, changes: &changes, into: Some(&copy) };
        assert_eq!(session.commit(&chunk).await.unwrap(), Written::Committed);
        before = after;
    }
    let done = ShardRecord { done: true, ..before.clone() };
    let chunk = Chunk { claim: &claim, table, before: &before, after: &done, changes: &[], into: None };
    session.commit(&chunk).await.unwrap();
    let steps = session.build_steps(&mark, &pair).await.unwrap();
    for step in &steps {
        session.build(&mark, &pair, step).await.unwrap();
        session.build(&mark, &pair, step).await.unwrap();
    }
    let left = session.build_steps(&mark, &pair).await.unwrap();
    assert!(left.iter().all(|step| step.sql.starts_with("ANALYZE")), "{left:?}");
    session.built(&mark, &pair).await.unwrap();
    session.built(&mark, &pair).await.unwrap();
    assert!(session.build_steps(&mark, &pair).await.unwrap().is_empty());
    pair
}

fn turned(value: &[u8]) -> Vec<u8> {
    value.iter().rev().copied().collect()
}

async fn refreshed(session: &mut dyn Session, pair: &Pair, rotation: &RotationId) -> Pair {
    let shadow = session.shadows(rotation).await.unwrap().into_iter().find(|shadow| shadow.label == pair.shadow.label);
    Pair { shadow: shadow.unwrap(), ..pair.clone() }
}

const OTHERS: &str =
    "SELECT (to_jsonb(s) - 'secret' - 'notes')::text || tableoid::regclass FROM \"My Vault\".secrets s ORDER BY id";
const VALUES: &str = "SELECT COALESCE(secret::text, '-') || COALESCE(notes, '-') FROM \"My Vault\".secrets ORDER BY id";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_attached_to_a_table_comes_over_and_goes_back() {
    let place = Place::with(FEATURES).await;
    place.run(ROWS).await;
    let mut session = place.dialect.open().await.unwrap();
    let mut reader = place.dialect.open().await.unwrap();
    let (session, reader) = (session.as_mut(), reader.as_mut());
    let table = place.table(session, "secrets", &["secret", "notes"], "['id']").await;
    let catalogue = place.catalogue().await;
    assert_eq!(session.shadow_obstacle(&table).await.unwrap(), None);
    assert_same(&place.catalogue().await, &catalogue);

    let rotation = RotationId::new(uuid::Uuid::new_v4());
    let forward = mark(rotation, 1, Direction::Forward);
    session.fence(&forward).await.unwrap();
    let (others, values) = (place.texts(OTHERS).await, place.texts(VALUES).await);
    let pair = fill(session, reader, forward, &table).await;
    assert_eq!(
        read(reader, &table, Fields::All).await.iter().map(|row| row.rest.clone()).collect::<Vec<_>>(),
        read(reader, &pair.copy(), Fields::All).await.iter().map(|row| row.rest.clone()).collect::<Vec<_>>(),
    );

    session.hold_for_swap(&forward, std::slice::from_ref(&pair)).await.unwrap();
    session.swap(&forward, std::slice::from_ref(&pair)).await.unwrap();
    let pair = refreshed(session, &pair, &rotation).await;
    assert_eq!(pair.shadow.state, ShadowState::Swapped);
    assert_same(&place.catalogue().await, &catalogue);
    assert_eq!(place.texts(OTHERS).await, others);
    assert_ne!(place.texts(VALUES).await, values);
    // A swap that is asked for again finds it done.
    session.hold_for_swap(&forward, std::slice::from_ref(&pair)).await.unwrap();
    session.swap(&forward, std::slice::from_ref(&pair)).await.unwrap();

    let back = mark(rotation, 2, Direction::Back);
    session.turn_back(&back).await.unwrap();
    session.hold_for_swap(&back, std::slice::from_ref(&pair)).await.unwrap();
    session.swap_back(&back, std::slice::from_ref(&pair), &[]).await.unwrap();
    assert_eq!(place.texts(VALUES).await, values);
    session.drop_shadows(&back).await.unwrap();
    session.drop_shadows(&back).await.unwrap();
    assert_same(&place.catalogue().await, &catalogue);
    session.close(&back).await.unwrap();
    session.drop_shadows(&back).await.unwrap();
}

/// Tells what differs, and not everything.
fn assert_same(left: &[String], right: &[String]) {
    let only =
        |a: &[String], b: &[String]| -> Vec<String> { a.iter().filter(|line| !b.contains(line)).cloned().collect() };
    assert_eq!((only(left, right), only(right, left)), (Vec::new(), Vec::new()));
    assert_eq!(left.len(), right.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_exactly_is_named() {
    let place = Place::with(FEATURES).await;
    let mut session = place.dialect.open().await.unwrap();
    let session = session.as_mut();
    for (name, key, reason) in [
        ("parents", "['id']", "referenced by the foreign key children_parent_id_fkey of table \"My Vault\".children"),
        ("viewed", "['id']", "view \"My Vault\".view_of depends on it"),
        ("gathered", "['id']", "materialized view \"My Vault\".gathering depends on it"),
        ("noted", "['id']", "has the trigger touching"),
        ("ruled", "['id']", "has the rule no_delete"),
        ("guarded", "['id']", "has the policy of_tenant"),
        ("parted", "['id', 'region']", "is partitioned"),
        ("computed", "['id']", "its column size is generated"),
        ("derived", "['id']", "inherits from base"),
        ("fast", "['id']", "is unlogged"),
        ("typed", "['id']", "is a table of the type \"My Vault\".card"),
        ("rowed", "['id']", "function \"My Vault\".of_row(\"My Vault\".rowed) depends on it"),
        ("embedded", "['id']", "column one of table \"My Vault\".embedding depends on it"),
        ("called", "['id']", "function \"My Vault\".calling() depends on it"),
        ("numbered", "['id']", "default value for column id of table \"My Vault\".numbered_too depends on it"),
        ("lent", "['id']", "a right on it was granted by application_"),
        ("public_one", "['id']", "is in the publication of_one"),
    ] {
        let table = place.table(session, name, &["secret"], key).await;
        let found = session.shadow_obstacle(&table).await.unwrap().unwrap_or_default();
        assert!(found.contains(reason), "{name}: {found}");
    }
    place.run("GRANT SELECT, UPDATE ON \"My Vault\".foreign_owned TO AGENT").await;
    let table = place.table(session, "foreign_owned", &["secret"], "['id']").await;
    let found = session.shadow_obstacle(&table).await.unwrap().unwrap_or_default();
    assert!(found.contains("may not act as its owner, who is a superuser"), "{found}");
    place.run("ALTER TABLE \"My Vault\".foreign_owned owner to READER").await;
    let found = session.shadow_obstacle(&table).await.unwrap().unwrap_or_default();
    assert!(found.contains("may not act as its owner: GRANT reader_"), "{found}");

    // What only rows show is looked for among them.
    place.run(ROWS).await;
    let table = place.table(session, "secrets", &["secret", "notes"], "['id']").await;
    for (sql, undo, reason) in [
        ("CREATE PUBLICATION every FOR ALL TABLES", "DROP PUBLICATION every", "publication every is for all tables"),
        (
            "CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA \"My Vault\"",
            "DROP PUBLICATION of_schema",
            "publication of_schema is for all tables of its schema",
        ),
        (
            "REVOKE CREATE ON SCHEMA \"My Vault\" FROM OWNER",
            "GRANT CREATE ON SCHEMA \"My Vault\" TO OWNER",
            "may not create tables in its schema: GRANT CREATE ON SCHEMA \"My Vault\" TO owner_",
        ),
        (
            "REVOKE ALL ON \"My Vault\".owners FROM OWNER",
            "GRANT ALL ON \"My Vault\".owners TO OWNER",
            "may not reference table \"My Vault\".owners",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets DISABLE TRIGGER ALL",
            "ALTER TABLE \"My Vault\".secrets ENABLE TRIGGER ALL",
            "triggers of its foreign keys are not enabled as usual",
        ),
        (
            "CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
             CREATE EVENT TRIGGER noticing ON ddl_command_end EXECUTE FUNCTION noticed();
             ALTER EVENT TRIGGER noticing ENABLE ALWAYS",
            "DROP EVENT TRIGGER noticing",
            "event trigger noticing would fire",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets ADD COLUMN known aclitem",
            "ALTER TABLE \"My Vault\".secrets DROP COLUMN known",
            "column \"known\" is of a type without a binary form",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets ADD COLUMN declared xml[]",
            "ALTER TABLE \"My Vault\".secrets DROP COLUMN declared",
            "column \"declared\" is XML, whose binary form is not exact",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets ADD COLUMN own oid DEFAULT '\"My Vault\".secrets'::regclass",
            "ALTER TABLE \"My Vault\".secrets DROP COLUMN own",
            "names the table itself",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets ADD COLUMN kin oid CONSTRAINT kin CHECK (kin <> '\"My Vault\".secrets'::regclass)",
            "ALTER TABLE \"My Vault\".secrets DROP COLUMN kin",
            "constraint kin on table \"My Vault\".secrets names the table itself",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets ADD COLUMN kind regtype DEFAULT '\"My Vault\".secrets'::regtype",
            "ALTER TABLE \"My Vault\".secrets DROP COLUMN kind",
            "names the table itself",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets ADD CONSTRAINT here CHECK (tableoid <> 0)",
            "ALTER TABLE \"My Vault\".secrets DROP CONSTRAINT here",
            "constraint here on table \"My Vault\".secrets names the table itself",
        ),
        (
            "ALTER TABLE \"My Vault\".secrets ADD COLUMN sort bigint; ALTER TABLE \"My Vault\".secrets ALTER COLUMN sort SET DEFAULT currval('\"My Vault\".\"Secret Numbers\"')",
            "ALTER TABLE \"My Vault\".secrets DROP COLUMN sort",
            "names the sequence of an identity column",
        ),
        (
            "REVOKE INSERT ON \"My Vault\".secrets FROM PUBLIC, OWNER",
            "GRANT INSERT ON \"My Vault\".secrets TO PUBLIC, OWNER",
            "has not the right to INSERT",
        ),
        (
            "REVOKE UPDATE, DELETE, TRUNCATE ON \"My Vault\".secrets FROM OWNER",
            "GRANT UPDATE, DELETE, TRUNCATE ON \"My Vault\".secrets TO OWNER",
            "and to UPDATE or DELETE",
        ),
        (
            "REVOKE UPDATE ON SEQUENCE \"My Vault\".\"Secret Numbers\" FROM OWNER",
            "GRANT UPDATE ON SEQUENCE \"My Vault\".\"Secret Numbers\" TO OWNER",
            "may not set the sequence of an identity column",
        ),
        (
            "COMMENT ON TYPE \"My Vault\".secrets IS 'a row'",
            "COMMENT ON TYPE \"My Vault\".secrets IS NULL",
            "its row type has a comment",
        ),
        (
            "CREATE DOMAIN \"My Vault\".positive AS integer; ALTER TABLE \"My Vault\".secrets ADD COLUMN below \"My Vault\".positive DEFAULT -1;
             ALTER DOMAIN \"My Vault\".positive ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID",
            "ALTER TABLE \"My Vault\".secrets DROP COLUMN below; DROP DOMAIN \"My Vault\".positive",
            "the domain of its column below has the constraint positive, which is not valid",
        ),
        (
            "CREATE FUNCTION \"My Vault\".helper(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
             CREATE FUNCTION \"My Vault\".helped(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN helper($1); END';
             SET search_path = \"My Vault\"; CREATE INDEX helped ON secrets (helped(notes))",
            "DROP FUNCTION \"My Vault\".helped CASCADE; DROP FUNCTION \"My Vault\".helper",
            "function helper(text) does not exist",
        ),
        (
            "CREATE FUNCTION \"My Vault\".whole(\"My Vault\".secrets) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
             ALTER TABLE \"My Vault\".secrets ADD CONSTRAINT whole CHECK (\"My Vault\".whole(secrets))",
            "ALTER TABLE \"My Vault\".secrets DROP CONSTRAINT whole; DROP FUNCTION \"My Vault\".whole",
            "function \"My Vault\".whole(\"My Vault\".secrets) depends on it",
        ),
    ] {
        assert_eq!(session.shadow_obstacle(&table).await.unwrap(), None, "before {sql}");
        place.run(sql).await;
        let found = session.shadow_obstacle(&table).await.unwrap().unwrap_or_default();
        assert!(found.contains(reason), "{sql}: {found}");
        place.run(undo).await;
    }
}
