//! What a MariaDB database has besides tables: views, routines, triggers and events. RENAME moves none of them, so a restore
//! writes them down, and makes them anew where they belong.

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::make::Make;
use super::{connect, literal, quote};
use crate::EngineError;
use crate::error::Doing;

/// Where they are written down.
pub(super) const TABLE: &str = "keyturn_restore_definition";

const LIST: &str = "
    SELECT ROUTINE_TYPE, ROUTINE_NAME, 0 FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = ?
    UNION ALL SELECT 'VIEW', TABLE_NAME, 0 FROM information_schema.VIEWS WHERE TABLE_SCHEMA = ?
    UNION ALL SELECT 'TRIGGER', TRIGGER_NAME, ACTION_ORDER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = ?
    UNION ALL SELECT 'EVENT', EVENT_NAME, 0 FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ?
    ORDER BY 1, 3, 2";

const COLUMNS: &str = "kind, name, sql_mode, collation, time_zone, statement";

/// In the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Package,
    PackageBody,
    Function,
    Procedure,
    View,
    Trigger,
    Event,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Package, Self::PackageBody, Self::Function, Self::Procedure, Self::View, Self::Trigger, Self::Event];

    /// As the catalog and SQL call it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Package => "PACKAGE",
            Self::PackageBody => "PACKAGE BODY",
            Self::Function => "FUNCTION",
            Self::Procedure => "PROCEDURE",
            Self::View => "VIEW",
            Self::Trigger => "TRIGGER",
            Self::Event => "EVENT",
        }
    }

    /// The column of `SHOW CREATE` that has the statement.
    const fn column(self) -> &'static str {
        match self {
            Self::Package => "Create Package",
            Self::PackageBody => "Create Package Body",
            Self::Function => "Create Function",
            Self::Procedure => "Create Procedure",
            Self::View => "Create View",
            Self::Trigger => "SQL Original Statement",
            Self::Event => "Create Event",
        }
    }

    fn parse(text: &str) -> Result<Self, EngineError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            EngineError::Unsupported(format!("the database has a {text}, which this release cannot move"))
        })
    }
}

/// One of them, with the settings that it was made under.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) kind: Kind,
    pub(super) name: String,
    sql_mode: String,
    collation: String,
    time_zone: String,
    statement: String,
}

impl Definition {
    pub(super) fn drop_from(&self, database: &str) -> String {
        format!("DROP {} IF EXISTS {}.{}", self.kind.as_str(), quote(database), quote(&self.name))
    }

    /// Replacing keeps the rights that others have on it.
    fn create(&self) -> String {
        match self.statement.strip_prefix("CREATE ") {
            Some(rest) => format!("CREATE OR REPLACE {rest}"),
            None => self.statement.clone(),
        }
    }
}

/// All that a database has.
pub(super) async fn of(server: &mut MySqlConnection, database: &str) -> Result<Vec<Definition>, EngineError> {
    let doing = || format!("looking for views, routines, triggers and events of database {database}");
    let mut list = sqlx::query(LIST);
    for _ in 0..4 {
        list = list.bind(database);
    }
    let rows = list.fetch_all(&mut *server).await.doing(doing)?;
    // Inside it, so that its own tables are named without it.
    run(server, format!("USE {}", quote(database))).await.doing(doing)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let (kind, name): (String, String) =
            (row.try_get_unchecked(0).doing(doing)?, row.try_get_unchecked(1).doing(doing)?);
        found.push(show(server, Kind::parse(&kind)?, name).await?);
    }
    run(server, "USE information_schema".to_owned()).await.doing(doing)?;
    found.sort_by_key(|definition| definition.kind);
    Ok(found)
}

async fn show(server: &mut MySqlConnection, kind: Kind, name: String) -> Result<Definition, EngineError> {
    let doing = || format!("reading the definition of {} {name}", kind.as_str());
    // Reviewed: a keyword and a quoted identifier.
    let sql = format!("SHOW CREATE {} {}", kind.as_str(), quote(&name));
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(server).await.doing(doing)?;
    let text = |column: &str| row.try_get_unchecked::<Option<String>, _>(column);
    let statement = text(kind.column()).doing(doing)?.ok_or_else(|| {
        EngineError::Rights(vec![format!("the login may not read the definition of {} {name}", kind.as_str())])
    })?;
    Ok(Definition {
        // A view has no mode of its own, and only an event a time zone.
        sql_mode: text("sql_mode").ok().flatten().unwrap_or_default(),
        collation: text("collation_connection").doing(doing)?.unwrap_or_else(|| "utf8mb4_bin".to_owned()),
        time_zone: text("time_zone").ok().flatten().unwrap_or_else(|| "SYSTEM".to_owned()),
        statement,
        kind,
        name,
    })
}

/// Writes them into a database. What is written there already stays: it was there before this was begun the last time.
pub(super) async fn write_down(
    server: &mut MySqlConnection,
    database: &str,
    found: &[Definition],
) -> Result<(), EngineError> {
    let doing = || format!("writing definitions into database {database}");
    let table = format!("{}.{TABLE}", quote(database));
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {table} (
             kind VARCHAR(16) NOT NULL, name VARCHAR(64) NOT NULL, place INT NOT NULL, sql_mode TEXT NOT NULL,
             collation VARCHAR(64) NOT NULL, time_zone VARCHAR(64) NOT NULL, statement LONGTEXT NOT NULL,
             PRIMARY KEY (kind, name)
         ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    );
    run(server, create).await.doing(doing)?;
    let insert = format!("INSERT IGNORE INTO {table} ({COLUMNS}, place) VALUES (?, ?, ?, ?, ?, ?, ?)");
    let mut transaction = server.begin().await.doing(doing)?;
    for (place, definition) in found.iter().enumerate() {
        // Reviewed: a quoted identifier.
        sqlx::query(AssertSqlSafe(insert.clone()))
            .bind(definition.kind.as_str())
            .bind(&definition.name)
            .bind(&definition.sql_mode)
            .bind(&definition.collation)
            .bind(&definition.time_zone)
            .bind(&definition.statement)
            .bind(u32::try_from(place).unwrap_or(u32::MAX))
            .execute(&mut *transaction)
            .await
            .doing(doing)?;
    }
    transaction.commit().await.doing(doing)
}

/// What was written down, in the order in which it is made.
pub(super) async fn written_down(server: &mut MySqlConnection, database: &str) -> Result<Vec<Definition>, EngineError> {
    let doing = || format!("reading the definitions in database {database}");
    // Reviewed: a quoted identifier.
    let sql = format!("SELECT {COLUMNS} FROM {}.{TABLE} ORDER BY place", quote(database));
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(server).await.doing(doing)?;
    let read = |row: &MySqlRow| {
        let text = |at: usize| row.try_get_unchecked::<String, _>(at).doing(doing);
        Ok(Definition {
            kind: Kind::parse(&text(0)?)?,
            name: text(1)?,
            sql_mode: text(2)?,
            collation: text(3)?,
            time_zone: text(4)?,
            statement: text(5)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Makes them in a database. A view may need another that comes later, so what fails is tried again as long as any succeeds.
pub(super) async fn make(
    login: &MySqlConnectOptions,
    database: &str,
    wanted: Vec<Definition>,
) -> Result<(), EngineError> {
    // A connection of its own, which is left with somebody else's settings.
    let mut server = connect(&login.clone().database(database)).await?.connection;
    let mut wanted = wanted;
    while !wanted.is_empty() {
        let before = wanted.len();
        let mut failed = Vec::new();
        let mut first = None;
        for definition in wanted {
            match make_one(&mut server, &definition).await {
                Ok(()) => {}
                Err(error) => {
                    first.get_or_insert_with(|| {
                        (format!("making {} {}", definition.kind.as_str(), definition.name), error)
                    });
                    failed.push(definition);
                }
            }
        }
        if let Some((doing, error)) = first.filter(|_| failed.len() == before) {
            return Err(error).doing(|| doing);
        }
        wanted = failed;
    }
    // An error there loses nothing.
    let _ = server.close().await;
    Ok(())
}

async fn make_one(server: &mut MySqlConnection, definition: &Definition) -> Result<(), sqlx::Error> {
    let settings = format!(
        "SET SESSION sql_mode = {}, collation_connection = {}, time_zone = {}",
        literal(&definition.sql_mode, Make::MariaDb),
        literal(&definition.collation, Make::MariaDb),
        literal(&definition.time_zone, Make::MariaDb)
    );
    run(server, settings).await?;
    run(server, definition.create()).await
}

async fn run(server: &mut MySqlConnection, sql: String) -> Result<(), sqlx::Error> {
    // Reviewed: quoted identifiers and literals, and statements that the server itself showed.
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(server).await.map(drop)
}
