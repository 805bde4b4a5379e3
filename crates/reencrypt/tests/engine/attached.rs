//! A PostgreSQL schema that uses whatever can be attached to a table goes through a rotation, and through an undo from
//! every stage: the catalogue, as pg_dump and queries of our own see it, and all other data are afterwards what they were.

use std::collections::BTreeMap;
use std::process::Command;

use keys::KeySet;
use keys::value::Encoding;
use reencrypt::{Engine, EngineError, ShardJob, SurveyRequest, SwapJob};
use rotation::{Direction, LeaseNumber, Strategy, StrategyChoice, Survey};

use crate::farm::{Cell, Census, Found, Place, Vault, request, turned, under};

const FEATURES: &str = include_str!("features.sql");

/// Tables of features.sql with one secret, and the columns of their keys.
const PLAIN: [(&str, &str); 18] = [
    ("parents", "id"),
    ("children", "id"),
    ("viewed", "id"),
    ("gathered", "id"),
    ("noted", "id"),
    ("ruled", "id"),
    ("guarded", "id"),
    ("parted", "id, region"),
    ("computed", "id"),
    ("derived", "id"),
    ("fast", "id"),
    ("typed", "id"),
    ("rowed", "id"),
    ("embedded", "id"),
    ("called", "id"),
    ("numbered", "id"),
    ("lent", "id"),
    ("public_one", "id"),
];

/// The tables that nothing stands against.
const SHADOWED: [&str; 2] = ["My Vault.secrets", "My Vault.children"];

/// A multiple of what a session takes from the key's sequence at once.
const ROWS: i64 = 42;

/// Everything about the schema, line by line, without what is Keyturn's own.
const CATALOGUE: [&str; 7] = [
    "SELECT concat_ws(' ', c.oid::regclass, relkind, relacl, relispopulated, relreplident, relrowsecurity)
     FROM pg_class c WHERE relnamespace = '\"My Vault\"'::regnamespace",
    "SELECT concat_ws(' ', i.indexrelid::regclass, indisclustered, indisreplident, indimmediate, indisvalid)
     FROM pg_index i JOIN pg_class c ON c.oid = indexrelid WHERE relnamespace = '\"My Vault\"'::regnamespace",
    "SELECT concat_ws(' ', conrelid::regclass, conname, contype, convalidated, condeferrable, condeferred,
                      conindid::regclass, pg_get_constraintdef(oid))
     FROM pg_constraint WHERE connamespace = '\"My Vault\"'::regnamespace",
    "SELECT concat_ws(' ', tgrelid::regclass, regexp_replace(tgname, '[0-9]+', ''), tgenabled, tgtype) FROM pg_trigger",
    "SELECT concat_ws(' ', attrelid::regclass, attname, attacl, attstattarget, attstorage, attcompression, attoptions)
     FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
     WHERE relnamespace = '\"My Vault\"'::regnamespace AND attnum > 0 AND NOT attisdropped",
    "SELECT concat_ws(' ', typname, typtype, typacl) FROM pg_type WHERE typnamespace = '\"My Vault\"'::regnamespace",
    "SELECT concat_ws(' ', pg_describe_object(classid, objid, 0), pg_describe_object(refclassid, refobjid, refobjsubid), deptype)
     FROM pg_depend WHERE classid <> 'pg_trigger'::regclass
       AND pg_describe_object(refclassid, refobjid, 0) LIKE '%\"My Vault\"%'
       AND pg_describe_object(classid, objid, 0) NOT LIKE '%toast%'",
];

struct Schema {
    vault: Vault,
    engine: Engine,
    survey: Survey,
    catalogue: Vec<String>,
    others: Vec<String>,
    census: Census,
    files: Vec<String>,
}

fn targets() -> String {
    let mut text = "version = 1\n[[table]]\nschema = 'My Vault'\nname = 'secrets'\nkey = ['id']\n[[table.column]]\nname = 'secret'\n\
                    aad = 'the secret'\n[[table.column]]\nname = 'notes'\nencoding = 'base64'\n"
        .to_owned();
    for (name, key) in PLAIN {
        let key = key.split(", ").map(|column| format!("'{column}'")).collect::<Vec<_>>().join(", ");
        text += &format!(
            "[[table]]\nschema = 'My Vault'\nname = '{name}'\nkey = [{key}]\n[[table.column]]\nname = 'secret'\n"
        );
    }
    text
}

impl Schema {
    async fn new() -> Self {
        let vault = Vault::postgres_bare(&targets()).await;
        let Place::Postgres { agent, application, .. } = &vault.place else { panic!("not PostgreSQL") };
        let number = agent.trim_start_matches("agent_");
        let sql = FEATURES
            .replace("OWNER", &format!("owner_{number}"))
            .replace("READER", &format!("reader_{number}"))
            .replace("APPLICATION", application);
        vault.run(&format!("CREATE ROLE owner_{number}; CREATE ROLE reader_{number}; ALTER ROLE {agent} BYPASSRLS; GRANT owner_{number} TO {agent}")).await;
        vault.run(&sql).await;
        fill(&vault).await;
        vault.run(&format!("GRANT USAGE ON SCHEMA \"My Vault\" TO {agent}")).await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        // Asked to copy everything, it names all that cannot be copied, and nothing else.
        let ring = KeySet::new("farm", vault.old.clone(), 0);
        let request = SurveyRequest { strategy: StrategyChoice::Shadow, ..request(&ring, &[], 8) };
        let problems = match engine.survey(&request, &|_| {}).await {
            Err(EngineError::Shadows(problems)) => problems,
            other => panic!("{other:?}"),
        };
        assert_eq!(problems.len(), survey.tables.len() - SHADOWED.len(), "{problems:?}");
        for label in SHADOWED {
            assert!(!problems.iter().any(|problem| problem.contains(label)), "{problems:?}");
        }
        let schema = Self {
            catalogue: catalogue(&vault),
            others: others(&vault).await,
            census: vault.census().await,
            files: files(&vault).await,
            vault,
            engine,
            survey,
        };
        let mark = schema.vault.mark(1, Direction::Forward);
        schema.engine.fence(&mark).await.unwrap();
        schema
    }

    fn jobs(&self, epoch: u64, direction: Direction) -> Vec<ShardJob> {
        let mark = self.vault.mark(epoch, direction);
        let job = |shard: &rotation::Shard| ShardJob {
            strategy: if SHADOWED.contains(&shard.table.as_str()) { Strategy::Shadow } else { Strategy::InPlace },
            lease: LeaseNumber::new(epoch),
            ..self.vault.job(shard, epoch, mark)
        };
        self.survey.shards.iter().map(job).collect()
    }

    fn swap_job(&self, epoch: u64, direction: Direction) -> SwapJob {
        let shards = self.survey.shards.iter().filter(|shard| SHADOWED.contains(&shard.table.as_str()));
        SwapJob {
            mark: self.vault.mark(epoch, direction),
            old: self.vault.old.clone(),
            new: self.vault.new.clone(),
            shards: shards.cloned().collect(),
        }
    }

    async fn turn(&self) {
        for job in self.jobs(2, Direction::Forward) {
            self.engine.reencrypt(&job, &|_| {}).await.unwrap();
        }
    }

    async fn finish(&self) {
        self.engine.finish_shadows(&self.vault.mark(3, Direction::Forward), &|_| {}).await.unwrap();
    }

    async fn verify(&self) {
        let mut turned = BTreeMap::new();
        for job in self.jobs(3, Direction::Forward) {
            turned.insert(job.shard.id, self.engine.reencrypt(&job, &|_| {}).await.unwrap());
        }
        for job in self.jobs(4, Direction::Forward) {
            assert_eq!(Some(&self.engine.verify(&job, &|_| {}).await.unwrap()), turned.get(&job.shard.id));
        }
    }

    async fn swap(&self) {
        self.engine.swap(&self.swap_job(5, Direction::Forward), &|_| {}).await.unwrap();
    }

    async fn back(&self) {
        let back = self.vault.mark(7, Direction::Back);
        self.engine.turn_back(&back).await.unwrap();
        self.engine.swap_back(&self.swap_job(8, Direction::Back), &|_| {}).await.unwrap();
        for job in self.jobs(9, Direction::Back) {
            self.engine.reencrypt(&job, &|_| {}).await.unwrap();
        }
        for job in self.jobs(10, Direction::Back) {
            self.engine.verify(&job, &|_| {}).await.unwrap();
        }
        self.engine.lift_fence(&self.vault.mark(11, Direction::Back)).await.unwrap();
    }

    async fn close(&self, direction: Direction) {
        self.engine.close(&self.vault.mark(12, direction)).await.unwrap();
    }

    async fn assert_as_before(&self) {
        assert_same(&catalogue(&self.vault), &self.catalogue);
        assert_same(&others(&self.vault).await, &self.others);
        assert!(self.vault.census().await == self.census, "values differ");
        assert_same(&files(&self.vault).await, &self.files);
        let ours = "SELECT count(*)::text FROM pg_class WHERE relname LIKE 'keyturn_%'";
        assert_eq!(self.vault.text(ours).await, "0");
    }

    async fn assert_turned(&self) {
        assert_same(&catalogue(&self.vault), &self.catalogue);
        assert_same(&others(&self.vault).await, &self.others);
        assert!(self.vault.census().await == turned(&self.census), "values differ");
    }
}

async fn fill(vault: &Vault) {
    vault.run("INSERT INTO \"My Vault\".owners SELECT i, 'owner ' || i, 'person' FROM generate_series(1, 20) i").await;
    let mut sql = String::new();
    for id in 1..=ROWS {
        let raw = |aad| match id % 9 {
            0 => Cell::Null,
            1 => Cell::Bytes(Vec::new()),
            _ => Cell::Bytes(vault.encrypt(
                &vault.old,
                format!("secret {id}").repeat(id as usize).as_bytes(),
                Encoding::Raw,
                aad,
            )),
        };
        let (secret, plain, notes) =
            (vault.literal(&raw("the secret")), vault.literal(&raw("")), vault.literal(&vault.base64("note")));
        sql += &format!(
            "INSERT INTO \"My Vault\".secrets (owner_id, secret, notes, feeling, pair, tags, amount, document, during, place, address)
             SELECT 1 + i % 20, {secret}, {notes}, 'sad', ROW(i, 'it''s'::text)::\"My Vault\".pair, ARRAY['a', NULL, i::text], i * 10.5,
                    jsonb_build_object('i', i, 'n', NULL), CASE WHEN i % 5 > 0 THEN
                    tsrange('2020-01-01'::timestamp + i * interval '1 day', '2020-01-02'::timestamp + i * interval '1 day') END,
                    point(i, -i), '10.0.0.1'::inet + i FROM (SELECT {id} AS i) AS one;"
        );
        for (name, key) in PLAIN {
            let (columns, values) = match (name, key) {
                ("parted", _) => ("id, region", format!("{id}, '{}'", if id % 2 == 0 { "eu" } else { "us" })),
                ("children", _) => ("id, parent_id", format!("{id}, {}", 1 + id / 2)),
                ("numbered", _) => ("id", format!("{id}")),
                _ => ("id", format!("{id}")),
            };
            let overriding = if name == "numbered" { "OVERRIDING SYSTEM VALUE" } else { "" };
            sql += &format!(
                "INSERT INTO \"My Vault\".{name} ({columns}, secret) {overriding} VALUES ({values}, {plain});"
            );
        }
    }
    vault.run(&sql).await;
    vault.run("REFRESH MATERIALIZED VIEW \"My Vault\".gathering; ANALYZE").await;
}

fn catalogue(vault: &Vault) -> Vec<String> {
    let Place::Postgres { cluster, database, .. } = &vault.place else { panic!("not PostgreSQL") };
    let dump = Command::new("pg_dump")
        .args(["--schema-only", "--exclude-schema=keyturn", "--exclude-table=*.keyturn_*"])
        .arg(format!("--dbname={}", cluster.url("postgres", database)))
        .output()
        .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).unwrap();
    // Objects one by one: their order in a dump follows their age. Tokens of restricted dumps are drawn anew each time.
    let objects = text.split("--\n-- Name: ").map(|object| object.trim().to_owned());
    let mut lines: Vec<String> = objects.filter(|object| !object.contains("restrict ")).collect();
    let query = |sql: &str| {
        let output =
            Command::new("psql").args(["-qXAt", "-c", sql]).arg(cluster.url("postgres", database)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    lines.extend(CATALOGUE.iter().flat_map(|sql| query(sql)));
    lines.retain(|line| !line.contains("keyturn"));
    lines.sort();
    lines
}

/// All data but the registered values, and where the sequences stand.
async fn others(vault: &Vault) -> Vec<String> {
    let mut lines = Vec::new();
    let names = PLAIN.iter().map(|(name, _)| *name).chain(["secrets", "owners", "view_of", "gathering"]);
    for name in names {
        let sql = format!("SELECT '{name}' || (to_jsonb(t) - 'secret' - 'notes')::text FROM \"My Vault\".{name} t");
        lines.extend(vault.rows(&sql).await);
    }
    for name in
        ["\"Secret Numbers\"", "secrets_number_seq", "secrets_other_number_seq", "shared_numbers", "numbered_id_seq"]
    {
        lines.extend(vault.rows(&format!("SELECT '{name}' || last_value || is_called FROM \"My Vault\".{name}")).await);
    }
    let mut lines: Vec<String> =
        lines.into_iter().map(|row| String::from_utf8(row[0].clone().unwrap()).unwrap()).collect();
    lines.sort();
    lines
}

/// The files of the tables that go by shadow: an undo brings these very files back.
async fn files(vault: &Vault) -> Vec<String> {
    let sql = "SELECT c.oid || ' ' || relname || ' ' || pg_relation_filenode(c.oid) FROM pg_class c
               WHERE relnamespace = '\"My Vault\"'::regnamespace AND relname IN ('secrets', 'children')";
    vault.rows(sql).await.into_iter().map(|row| String::from_utf8(row[0].clone().unwrap()).unwrap()).collect()
}

/// Tells what differs, and not everything.
fn assert_same(left: &[String], right: &[String]) {
    let only =
        |a: &[String], b: &[String]| -> Vec<String> { a.iter().filter(|line| !b.contains(line)).cloned().collect() };
    assert_eq!((only(left, right), only(right, left)), (Vec::new(), Vec::new()));
    assert_eq!(left.len(), right.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_leaves_catalogue_and_other_data_as_they_were() {
    let schema = Schema::new().await;
    schema.turn().await;
    schema.finish().await;
    schema.verify().await;
    schema.swap().await;
    schema.swap().await;
    schema.assert_turned().await;
    schema.engine.lift_fence(&schema.vault.mark(6, Direction::Forward)).await.unwrap();
    schema.close(Direction::Forward).await;
    // The application goes on where it was: numbers that were never given out, and no hold on what it deletes.
    schema
        .vault
        .run(
            "INSERT INTO \"My Vault\".secrets (owner_id) VALUES (20);
             DELETE FROM \"My Vault\".secrets WHERE owner_id = 1; DELETE FROM \"My Vault\".owners WHERE id = 1;",
        )
        .await;
    let numbers =
        "SELECT id || ' ' || number || ' ' || other_number FROM \"My Vault\".secrets ORDER BY number DESC LIMIT 1";
    assert_eq!(schema.vault.text(numbers).await, format!("{} {1} {1}", 1000 + 7 * ROWS, ROWS + 1));
    let retained = "SELECT count(*)::text FROM pg_class WHERE relname LIKE 'keyturn_%' AND relkind = 'r'";
    assert_eq!(schema.vault.text(retained).await, "2");
    schema.engine.retire(&schema.vault.rotation).await.unwrap();
    schema.engine.retire(&schema.vault.rotation).await.unwrap();
    let ours = "SELECT count(*)::text FROM pg_class WHERE relname LIKE 'keyturn_%'";
    assert_eq!(schema.vault.text(ours).await, "0");
    assert_same(&catalogue(&schema.vault), &schema.catalogue);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_before_anything_is_built_leaves_everything_as_it_was() {
    let schema = Schema::new().await;
    schema.turn().await;
    schema.back().await;
    schema.close(Direction::Back).await;
    schema.close(Direction::Back).await;
    schema.assert_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_before_the_swap_leaves_everything_as_it_was() {
    let schema = Schema::new().await;
    schema.turn().await;
    schema.finish().await;
    schema.verify().await;
    schema.back().await;
    schema.close(Direction::Back).await;
    schema.assert_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_after_the_swap_leaves_everything_as_it_was() {
    let schema = Schema::new().await;
    schema.turn().await;
    schema.finish().await;
    schema.verify().await;
    schema.swap().await;
    schema.back().await;
    schema.close(Direction::Back).await;
    schema.assert_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_after_the_start_leaves_everything_as_it_was() {
    let schema = Schema::new().await;
    schema.turn().await;
    schema.finish().await;
    schema.verify().await;
    schema.swap().await;
    schema.engine.lift_fence(&schema.vault.mark(6, Direction::Forward)).await.unwrap();
    schema.back().await;
    schema.close(Direction::Back).await;
    schema.assert_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_application_wrote_after_the_start_stays_and_is_turned_back() {
    let schema = Schema::new().await;
    schema.turn().await;
    schema.finish().await;
    schema.verify().await;
    schema.swap().await;
    schema.engine.lift_fence(&schema.vault.mark(6, Direction::Forward)).await.unwrap();
    let vault = &schema.vault;
    let secret = vault.literal(&Cell::Bytes(vault.encrypt(&vault.new, b"written since", Encoding::Raw, "the secret")));
    vault.run(&format!("INSERT INTO \"My Vault\".secrets (owner_id, secret) VALUES (5, {secret})")).await;
    schema.back().await;
    schema.close(Direction::Back).await;
    let census = vault.census().await;
    assert_eq!(under(&census).1, 0, "nothing is left under the new key");
    let since = census.values().filter(|found| **found == Found::Old(b"written since".to_vec())).count();
    assert_eq!(since, 1);
    assert_eq!(census.len(), schema.census.len() + 2);
    assert_same(&catalogue(vault), &schema.catalogue);
    // The table to which nobody wrote is the original; of the other the original is gone, and no copy is left.
    let files = files(vault).await;
    assert_eq!(files.iter().filter(|file| schema.files.contains(file)).count(), 1, "{files:?}");
    let ours = "SELECT count(*)::text FROM pg_class WHERE relname LIKE 'keyturn_%'";
    assert_eq!(vault.text(ours).await, "0");
}
