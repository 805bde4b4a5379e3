//! A vault's database for one test: made, seeded, granted as docs/database.md says, looked into from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use keys::value::{Cipher, CipherVersion, Encoding};
use keys::{KeySet, SecretKey};
use reencrypt::{DatabaseConfig, Engine, EngineError, LedgerMark, ShardJob, SurveyRequest, SwapJob, Targets};
use rotation::{
    ContentDigest, Direction, Epoch, LeaseNumber, RotationId, Shard, ShardTally, Strategy, StrategyChoice, Survey,
    UndecryptableValue,
};
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Column as _, Connection as _, Row as _, TypeInfo as _, ValueRef as _};
use tempfile::TempDir;

use crate::cluster::{self, Cluster};
use crate::documented::documented;
use crate::mariadb::Server;

/// The four tables of a vault, in the form that all systems take once the types are filled in.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE connections (
        id {bigint} PRIMARY KEY, name text, password {blob}, notes text, updated_at text DEFAULT ('then'));
    CREATE TABLE \"User Entries\" (
        owner {uuid} NOT NULL, \"Seq\" integer NOT NULL, secret {blob}, PRIMARY KEY (owner, \"Seq\"));
    CREATE TABLE documents (\"Slug\" varchar(40) NOT NULL PRIMARY KEY, body text);
    CREATE TABLE attachments (
        entry_id bigint NOT NULL, file_name {name} NOT NULL, content {blob}, PRIMARY KEY (entry_id, file_name));";

pub(crate) const TARGETS: &str = r#"
    version = 1
    [[table]]
    name = "connections"
    key = ["id"]
    [[table.column]]
    name = "password"
    aad = "connections.password"
    [[table.column]]
    name = "notes"
    encoding = "base64"
    [[table]]
    name = "User Entries"
    key = ["owner", "Seq"]
    [[table.column]]
    name = "secret"
    [[table]]
    name = "documents"
    key = ["Slug"]
    [[table.column]]
    name = "body"
    encoding = "base64"
    [[table]]
    name = "attachments"
    key = ["entry_id", "file_name"]
    [[table.column]]
    name = "content"
"#;

pub(crate) static GRANTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) enum Place {
    Sqlite { directory: TempDir },
    Postgres { cluster: Arc<Cluster>, database: String, agent: String, application: String },
    Mariadb { server: Arc<Server>, database: String, agent: String, application: String },
}

pub(crate) struct Vault {
    pub(crate) place: Place,
    pub(crate) config: DatabaseConfig,
    pub(crate) targets: Targets,
    pub(crate) old: SecretKey,
    pub(crate) new: SecretKey,
    pub(crate) rotation: RotationId,
    /// How every table is worked on.
    pub(crate) strategy: Strategy,
}

/// A value in SQL text.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// One registered value as it is found from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Null,
    Empty,
    Old(Vec<u8>),
    New(Vec<u8>),
    Neither(Vec<u8>),
}

/// A text in lines of this width.
pub(crate) fn in_lines(text: &str, width: usize, ending: &str) -> String {
    let line = |line: &[u8]| String::from_utf8(line.to_vec()).unwrap();
    text.as_bytes().chunks(width).map(line).collect::<Vec<_>>().join(ending)
}

/// Every registered value, by table, column and key.
pub(crate) type Census = BTreeMap<(String, String, String), Found>;

/// Runs one test on every system.
macro_rules! on_both {
    ($($(#[$attribute:meta])* async fn $name:ident($vault:ident) $body:block)*) => {
        $($(#[$attribute])* mod $name {
            use super::*;

            async fn check($vault: Vault) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                check(Vault::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                check(Vault::postgres().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_mariadb() {
                check(Vault::mariadb().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_mysql() {
                check(Vault::mysql().await).await;
            }
        })*
    };
}
pub(crate) use on_both;

impl Vault {
    /// The vault's tables in a SQLite file, empty.
    pub(crate) async fn sqlite() -> Self {
        let vault = Self::sqlite_bare(TARGETS);
        vault.run(&vault.types(SCHEMA)).await;
        vault
    }

    /// The vault's tables in a PostgreSQL database, empty, with the roles and grants of docs/database.md.
    pub(crate) async fn postgres() -> Self {
        Self::postgres_on(cluster::shared()).await
    }

    pub(crate) async fn postgres_on(cluster: Arc<Cluster>) -> Self {
        let vault = Self::postgres_bare_on(cluster, TARGETS).await;
        vault.run(&vault.types(SCHEMA)).await;
        vault.run(&vault.named(&documented("table"))).await;
        for (table, key, columns) in [
            ("\"User Entries\"", "owner, \"Seq\"", "secret"),
            ("documents", "\"Slug\"", "body"),
            ("attachments", "entry_id, file_name", "content"),
        ] {
            vault.grant(table, key, columns).await;
        }
        vault
    }

    /// A SQLite file without tables.
    pub(crate) fn sqlite_bare(targets: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.db");
        std::fs::write(&path, "").unwrap();
        let config = DatabaseConfig::new(format!("sqlite://{}", path.display()));
        Self::at(Place::Sqlite { directory }, config, targets)
    }

    /// A PostgreSQL database without tables, with the roles of docs/database.md.
    pub(crate) async fn postgres_bare(targets: &str) -> Self {
        Self::postgres_bare_on(cluster::shared(), targets).await
    }

    async fn postgres_bare_on(cluster: Arc<Cluster>, targets: &str) -> Self {
        Self::postgres_bare_with(cluster, targets, "").await
    }

    /// The database is made with these options.
    pub(crate) async fn postgres_bare_with(cluster: Arc<Cluster>, targets: &str, options: &str) -> Self {
        let (database, number) = cluster.database(options).await;
        let (agent, application) = (format!("agent_{number}"), format!("app_{number}"));
        let mut config = DatabaseConfig::new(cluster.url(&agent, &database));
        config.application_role = Some(application.clone());
        let vault = Self::at(Place::Postgres { cluster, database, agent, application }, config, targets);
        vault.run(&vault.named("CREATE ROLE vault_app LOGIN CONNECTION LIMIT 7;")).await;
        {
            // Parameters belong to the whole server, and two that grant one for the first time get into each other's way.
            let _alone = GRANTING.lock().await;
            vault.run(&vault.named(&documented("grants"))).await;
        }
        vault
    }

    pub(crate) fn at(place: Place, mut config: DatabaseConfig, targets: &str) -> Self {
        // Nobody who should go takes long to, and the tests in which somebody stays wait for it.
        config.sessions_wait = std::time::Duration::from_secs(2);
        Self {
            place,
            config,
            targets: Targets::parse(targets).unwrap(),
            old: SecretKey::generate(),
            new: SecretKey::generate(),
            rotation: RotationId::new(uuid::Uuid::new_v4()),
            strategy: Strategy::InPlace,
        }
    }

    /// The grants of docs/database.md for another table.
    pub(crate) async fn grant(&self, table: &str, key: &str, columns: &str) {
        let sql = if self.is_mariadb() {
            format!("GRANT SELECT, TRIGGER, UPDATE ({columns}) ON vault.{table} TO keyturn_agent@'%';")
        } else {
            format!("GRANT SELECT ({key}, {columns}), UPDATE ({columns}) ON {table} TO keyturn_agent;")
        };
        self.run(&self.named(&sql)).await;
    }

    /// A login that may read the registered columns and keys, and nothing else; of SQLite one that opens the file to read.
    pub(crate) async fn reader(&self) -> DatabaseConfig {
        let columns = [
            ("connections", "id, password, notes"),
            ("\"User Entries\"", "owner, \"Seq\", secret"),
            ("documents", "\"Slug\", body"),
            ("attachments", "entry_id, file_name, content"),
        ];
        let (reader, host, schema) = match &self.place {
            Place::Sqlite { .. } => return DatabaseConfig::new(format!("{}?mode=ro", self.config.url)),
            Place::Postgres { agent, .. } => (format!("{agent}_reader"), "", ""),
            Place::Mariadb { agent, .. } => (format!("{agent}_reader"), "@'%'", "vault."),
        };
        let login = if self.is_mariadb() { "USER" } else { "ROLE" };
        let mut sql = format!("CREATE {login} {reader}{host}{};", if self.is_mariadb() { "" } else { " LOGIN" });
        for (table, columns) in columns {
            sql.push_str(&format!("GRANT SELECT ({columns}) ON {schema}{table} TO {reader}{host};"));
        }
        self.run(&self.named(&sql)).await;
        DatabaseConfig::new(match &self.place {
            Place::Postgres { cluster, database, .. } => cluster.url(&reader, database),
            Place::Mariadb { server, database, .. } => server.url(&reader, database),
            Place::Sqlite { .. } => unreachable!("answered above"),
        })
    }

    /// SQL with the documented names replaced by those of this test.
    pub(crate) fn named(&self, sql: &str) -> String {
        match &self.place {
            Place::Sqlite { .. } => sql.to_owned(),
            Place::Postgres { database, agent, application, .. } => sql
                .replace("keyturn_agent", agent)
                .replace("vault_app", application)
                .replace("DATABASE vault ", &format!("DATABASE {database} ")),
            Place::Mariadb { database, agent, application, .. } => sql
                .replace("keyturn_agent", agent)
                .replace("vault_app", application)
                .replace(" vault.", &format!(" {database}.")),
        }
    }

    pub(crate) fn types(&self, sql: &str) -> String {
        let (bigint, blob, uuid, name) = match &self.place {
            Place::Sqlite { .. } => ("INTEGER", "BLOB", "TEXT", "text"),
            Place::Postgres { .. } => ("bigint", "bytea", "uuid", "text"),
            Place::Mariadb { .. } if self.is_mysql() => ("bigint", "longblob", "char(36)", "varchar(100)"),
            Place::Mariadb { .. } => ("bigint", "longblob", "uuid", "varchar(100)"),
        };
        sql.replace("{bigint}", bigint).replace("{blob}", blob).replace("{uuid}", uuid).replace("{name}", name)
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        matches!(self.place, Place::Sqlite { .. })
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self.place, Place::Postgres { .. })
    }

    /// Or MySQL.
    pub(crate) fn is_mariadb(&self) -> bool {
        matches!(self.place, Place::Mariadb { .. })
    }

    /// An empty vault in another database of the same system.
    pub(crate) async fn another(&self) -> Self {
        match &self.place {
            Place::Sqlite { .. } => Self::sqlite().await,
            Place::Postgres { .. } => Self::postgres().await,
            Place::Mariadb { server, .. } => Self::made_by(server.make).await,
        }
    }

    pub(crate) async fn engine(&self) -> Engine {
        Engine::connect(&self.config, self.targets.clone()).await.unwrap()
    }

    /// Statements as the administrator of the database.
    pub(crate) async fn run(&self, sql: &str) {
        self.try_run(sql).await.unwrap();
    }

    pub(crate) async fn try_run(&self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.place {
            Place::Sqlite { .. } => {
                let mut connection = self.sqlite_connection().await;
                sqlx::raw_sql(sql).execute(&mut connection).await?;
                connection.close().await
            }
            Place::Postgres { .. } => {
                let mut connection = self.superuser().await;
                sqlx::raw_sql(sql).execute(&mut connection).await?;
                connection.close().await
            }
            Place::Mariadb { .. } => {
                let mut connection = self.root().await;
                sqlx::raw_sql(sql).execute(&mut connection).await?;
                connection.close().await
            }
        }
    }

    pub(crate) async fn superuser(&self) -> PgConnection {
        match &self.place {
            Place::Postgres { cluster, database, .. } => cluster.superuser(database).await,
            Place::Sqlite { .. } | Place::Mariadb { .. } => panic!("PostgreSQL only"),
        }
    }

    /// A session of MariaDB's administrator.
    pub(crate) async fn root(&self) -> MySqlConnection {
        match &self.place {
            Place::Mariadb { server, database, .. } => server.superuser(database).await,
            Place::Sqlite { .. } | Place::Postgres { .. } => panic!("MariaDB only"),
        }
    }

    /// A session of the application's user in MariaDB, which may be refused.
    pub(crate) async fn user(&self) -> Result<MySqlConnection, sqlx::Error> {
        match &self.place {
            Place::Mariadb { server, database, application, .. } => {
                MySqlConnection::connect(&server.url(application, database)).await
            }
            Place::Sqlite { .. } | Place::Postgres { .. } => panic!("MariaDB only"),
        }
    }

    /// A session of the application's role, which may be refused.
    pub(crate) async fn application(&self) -> Result<PgConnection, sqlx::Error> {
        match &self.place {
            Place::Postgres { cluster, database, application, .. } => {
                PgConnection::connect(&cluster.url(application, database)).await
            }
            Place::Sqlite { .. } | Place::Mariadb { .. } => panic!("PostgreSQL only"),
        }
    }

    pub(crate) async fn sqlite_connection(&self) -> SqliteConnection {
        match &self.place {
            Place::Sqlite { directory } => {
                let options = SqliteConnectOptions::new().filename(directory.path().join("vault.db"));
                SqliteConnection::connect_with(&options).await.unwrap()
            }
            Place::Postgres { .. } | Place::Mariadb { .. } => panic!("SQLite only"),
        }
    }

    /// Rows as the bytes of their values; in PostgreSQL of text and bytea columns. MariaDB knows no `CAST(… AS text)`,
    /// and is asked for its own.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<Option<Vec<u8>>>> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.place {
            Place::Sqlite { .. } => {
                let mut connection = self.sqlite_connection().await;
                let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                rows.iter()
                    .map(|row| {
                        (0..row.len()).map(|at| row.try_get_unchecked::<Option<Vec<u8>>, _>(at).unwrap()).collect()
                    })
                    .collect()
            }
            Place::Postgres { .. } => {
                let mut connection = self.superuser().await;
                let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                let cell = |row: &sqlx::postgres::PgRow, at: usize| {
                    let kind = row.column(at).type_info().name().to_owned();
                    assert!(["TEXT", "BYTEA", "VARCHAR", "NAME"].contains(&kind.as_str()), "cast {kind} to text");
                    let value = row.try_get_raw(at).unwrap();
                    if value.is_null() { None } else { Some(value.as_bytes().unwrap().to_vec()) }
                };
                rows.iter().map(|row| (0..row.len()).map(|at| cell(row, at)).collect()).collect()
            }
            Place::Mariadb { .. } => {
                let mut connection = self.root().await;
                let sql = AssertSqlSafe(sql.0.replace(" AS text)", " AS CHAR)"));
                let rows = sqlx::raw_sql(sql).fetch_all(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                let cell = |row: &sqlx::mysql::MySqlRow, at: usize| row.try_get_unchecked(at).unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| cell(row, at)).collect()).collect()
            }
        }
    }

    /// The one value of the one row, as text.
    pub(crate) async fn text(&self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        String::from_utf8(rows[0][0].clone().unwrap()).unwrap()
    }

    pub(crate) async fn insert(&self, table: &str, rows: &[Vec<Cell>]) {
        for rows in rows.chunks(500) {
            let tuple = |row: &Vec<Cell>| {
                let cells: Vec<String> = row.iter().map(|cell| self.literal(cell)).collect();
                format!("({})", cells.join(","))
            };
            let tuples: Vec<String> = rows.iter().map(tuple).collect();
            self.run(&format!("INSERT INTO {table} VALUES {}", tuples.join(","))).await;
        }
    }

    pub(crate) fn literal(&self, cell: &Cell) -> String {
        match cell {
            Cell::Null => "NULL".to_owned(),
            Cell::Integer(number) => number.to_string(),
            Cell::Text(text) if self.is_mysql() => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
            Cell::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Cell::Bytes(bytes) if matches!(self.place, Place::Postgres { .. }) => format!("'\\x{}'::bytea", hex(bytes)),
            // Twice the length would be more than a statement may have.
            Cell::Bytes(bytes) if self.is_mariadb() && bytes.len() > 1 << 20 => {
                use base64::Engine as _;
                format!("FROM_BASE64('{}')", base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Cell::Bytes(bytes) => format!("x'{}'", hex(bytes)),
        }
    }

    /// A raw ciphertext under the old key.
    pub(crate) fn raw(&self, plaintext: &str, aad: &str) -> Cell {
        Cell::Bytes(self.encrypt(&self.old, plaintext.as_bytes(), Encoding::Raw, aad))
    }

    /// A base64 ciphertext under the old key.
    pub(crate) fn base64(&self, plaintext: &str) -> Cell {
        let text = self.encrypt(&self.old, plaintext.as_bytes(), Encoding::Base64, "");
        Cell::Text(String::from_utf8(text).unwrap())
    }

    pub(crate) fn encrypt(&self, key: &SecretKey, plaintext: &[u8], encoding: Encoding, aad: &str) -> Vec<u8> {
        Cipher::new(key).encrypt(plaintext, encoding, aad.as_bytes(), CipherVersion::V2).unwrap()
    }

    /// Fills the four tables: `size` connections and fewer of the rest, with NULL and empty values among them.
    pub(crate) async fn seed(&self, size: i64) {
        let connections: Vec<Vec<Cell>> = (0..size)
            .map(|id| {
                let password = match id % 50 {
                    7 => Cell::Null,
                    8 => Cell::Bytes(Vec::new()),
                    _ => self.raw(&format!("password {id}"), "connections.password"),
                };
                let notes = match id % 40 {
                    9 => Cell::Null,
                    10 => Cell::Text(String::new()),
                    _ => self.base64(&format!("notes of {id}")),
                };
                // Negative keys too, and gaps.
                let key = Cell::Integer((id - size / 3) * 3);
                vec![key, Cell::Text(format!("host {id}")), password, notes, Cell::Text("then".to_owned())]
            })
            .collect();
        self.insert("connections", &connections).await;
        let entries: Vec<Vec<Cell>> = (0..size / 2)
            .map(|at| {
                let owner = uuid::Uuid::from_u128(0x1234_5678 + u128::from(at.unsigned_abs() % 37) * 0x0fed_cba9_8765);
                vec![Cell::Text(owner.to_string()), Cell::Integer(at), self.raw(&format!("secret {at}"), "")]
            })
            .collect();
        self.insert("\"User Entries\"", &entries).await;
        let documents: Vec<Vec<Cell>> = (0..size / 4)
            .map(|at| {
                vec![
                    Cell::Text(format!("{}-{at}", ["Ähre", "zoo", "Zoo", "a b", "_"][at as usize % 5])),
                    self.base64(&"long ".repeat(40)),
                ]
            })
            .collect();
        self.insert("documents", &documents).await;
        let attachments: Vec<Vec<Cell>> = (0..size / 100)
            .map(|at| {
                let content = "x".repeat(usize::try_from(at * 7919 % 60_000).unwrap());
                vec![Cell::Integer(at / 3), Cell::Text(format!("file {at}.bin")), self.raw(&content, "")]
            })
            .collect();
        self.insert("attachments", &attachments).await;
    }

    pub(crate) fn mark(&self, epoch: u64, direction: Direction) -> LedgerMark {
        LedgerMark { rotation: self.rotation, epoch: Epoch::new(epoch), direction }
    }

    pub(crate) fn job(&self, shard: &Shard, lease: u64, mark: LedgerMark) -> ShardJob {
        ShardJob {
            mark,
            shard: shard.clone(),
            lease: LeaseNumber::new(lease),
            old: self.old.clone(),
            new: self.new.clone(),
            accepted: Vec::new(),
            strategy: self.strategy,
            rows_per_second: None,
        }
    }

    /// All tables of the survey that go by shadow, which are all or none here.
    pub(crate) fn swap_job(&self, survey: &Survey, mark: LedgerMark) -> SwapJob {
        let shards = if self.strategy == Strategy::Shadow { survey.shards.clone() } else { Vec::new() };
        SwapJob { mark, old: self.old.clone(), new: self.new.clone(), shards }
    }

    /// Turned to the new key in place, verified, and turned back: every value is where it was. Says how many there were.
    pub(crate) async fn there_and_back(&self) -> u64 {
        let before = self.census().await;
        let engine = self.engine().await;
        engine.check_targets().await.unwrap();
        let survey = self.survey().await;
        assert_eq!(survey.undecryptable_total, 0, "{:?}", survey.undecryptable);
        engine.fence(&self.mark(1, Direction::Forward)).await.unwrap();
        let tally = self.reencrypt_all(&survey, 1, self.mark(2, Direction::Forward)).await.unwrap();
        assert_eq!(self.census().await, turned(&before));
        assert_eq!(self.verify_all(&survey, 2, self.mark(3, Direction::Forward)).await.unwrap(), tally);
        engine.turn_back(&self.mark(4, Direction::Back)).await.unwrap();
        assert_eq!(self.reencrypt_all(&survey, 3, self.mark(5, Direction::Back)).await.unwrap(), tally);
        assert_eq!(self.census().await, before);
        tally.values
    }

    pub(crate) async fn survey(&self) -> Survey {
        let ring = KeySet::new("farm", self.old.clone(), 0);
        self.engine().await.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap()
    }

    /// Every shard of the survey in one pass; the sums of what was counted.
    pub(crate) async fn reencrypt_all(
        &self,
        survey: &Survey,
        lease: u64,
        mark: LedgerMark,
    ) -> Result<ShardTally, EngineError> {
        let engine = self.engine().await;
        let mut sum = ShardTally::default();
        for shard in &survey.shards {
            sum = add(&sum, &engine.reencrypt(&self.job(shard, lease, mark), &|_| {}).await?);
        }
        Ok(sum)
    }

    pub(crate) async fn verify_all(
        &self,
        survey: &Survey,
        lease: u64,
        mark: LedgerMark,
    ) -> Result<ShardTally, EngineError> {
        let engine = self.engine().await;
        let mut sum = ShardTally::default();
        for shard in &survey.shards {
            sum = add(&sum, &engine.verify(&self.job(shard, lease, mark), &|_| {}).await?);
        }
        Ok(sum)
    }

    /// Looks at every registered value from outside the engine, with both keys.
    pub(crate) async fn census(&self) -> Census {
        let mut census = Census::new();
        let (old, new) = (Cipher::new(&self.old), Cipher::new(&self.new));
        for table in self.targets.tables() {
            let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let text = |name: &String| match self.is_mariadb() {
                // Leaves bytes alone, which need not be text.
                true => format!("CONCAT({})", quote(name)),
                false => format!("CAST({} AS text)", quote(name)),
            };
            let key: Vec<String> = table.key.iter().map(text).collect();
            let name = match &table.schema {
                Some(schema) => format!("{}.{}", quote(schema), quote(&table.name)),
                None => quote(&table.name),
            };
            for column in &table.columns {
                let sql = format!("SELECT {}, {} FROM {name}", quote(&column.name), key.join(" || '/' || "));
                for row in self.rows(&sql).await {
                    let open = |cipher: &Cipher, stored: &[u8]| {
                        cipher
                            .open(stored, column.encoding, column.aad.as_bytes())
                            .map(|opened| opened.plaintext.to_vec())
                    };
                    let found = match &row[0] {
                        None => Found::Null,
                        Some(stored) if stored.is_empty() => Found::Empty,
                        Some(stored) => match (open(&old, stored), open(&new, stored)) {
                            (Ok(plaintext), Err(_)) => Found::Old(plaintext),
                            (Err(_), Ok(plaintext)) => Found::New(plaintext),
                            (Err(_), Err(_)) => Found::Neither(stored.clone()),
                            (Ok(_), Ok(_)) => panic!("a value opens under both keys"),
                        },
                    };
                    let key = String::from_utf8(row[1].clone().unwrap());
                    let key = key.unwrap_or_else(|error| hex(error.as_bytes()));
                    census.insert((table.label(), column.name.clone(), key), found);
                }
            }
        }
        census
    }
}

/// Does this work to its end while the calling thread stands still, with all that it was about to do. On a thread and
/// runtime of its own: a nested `block_on` would swallow the wake-ups of the work that stands still.
pub(crate) fn stand_still<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// The census with every value under the other key.
pub(crate) fn turned(census: &Census) -> Census {
    let turn = |found: &Found| match found {
        Found::Old(plaintext) => Found::New(plaintext.clone()),
        Found::New(plaintext) => Found::Old(plaintext.clone()),
        other => other.clone(),
    };
    census.iter().map(|(at, found)| (at.clone(), turn(found))).collect()
}

/// How many values are under the old key and under the new one.
pub(crate) fn under(census: &Census) -> (usize, usize) {
    let count = |is: fn(&Found) -> bool| census.values().filter(|found| is(found)).count();
    (count(|found| matches!(found, Found::Old(_))), count(|found| matches!(found, Found::New(_))))
}

/// No value is under the old key while another is under the new one. Looks twice: what was sent before its sender was cut
/// off may be carried out between two statements of the first look.
pub(crate) async fn all_under_one_key(vault: &Vault) {
    let is_mixed = |(old, new)| old > 0 && new > 0;
    if is_mixed(under(&vault.census().await)) {
        let (old, new) = under(&vault.census().await);
        assert!(!is_mixed((old, new)), "{old} under the old key and {new} under the new one");
    }
}

pub(crate) fn request<'a>(
    ring: &'a KeySet,
    accepted: &'a [UndecryptableValue],
    shards_wanted: u32,
) -> SurveyRequest<'a> {
    SurveyRequest { ring, accepted, shards_wanted, strategy: StrategyChoice::Auto, agents: 1 }
}

pub(crate) fn add(a: &ShardTally, b: &ShardTally) -> ShardTally {
    ShardTally {
        rows: a.rows + b.rows,
        values: a.values + b.values,
        undecryptable: a.undecryptable + b.undecryptable,
        digest: ContentDigest::plus(a.digest, b.digest),
        rest: ContentDigest::plus(a.rest, b.rest),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
