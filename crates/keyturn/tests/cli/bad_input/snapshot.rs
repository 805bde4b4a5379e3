//! All that a rotation may change, as it stands at one moment: rows, tables, the files of the key stores, instances.

use std::collections::BTreeMap;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

use crate::support::run;
use crate::vault::VaultFarm;

/// See above.
pub(super) struct Snapshot {
    /// By table: its definition, then every row in the database's own notation, in which no two values are alike.
    pub(super) tables: BTreeMap<String, Vec<String>>,
    /// By path: the bytes.
    stores: BTreeMap<String, Vec<u8>>,
    /// By node: its state, and which process it is.
    instances: Vec<(String, String)>,
}

impl Snapshot {
    pub(super) fn of(vault: &VaultFarm) -> Self {
        let instances = (0..vault.names().count()).map(|number| {
            let folder = vault.instance(number);
            let state = run(["sample-vault", "observe", "--dir", &folder]).done();
            (state, std::fs::read_to_string(format!("{folder}/vault.pid")).expect("it names its process"))
        });
        Self { tables: tables(vault), stores: stores(vault), instances: instances.collect() }
    }

    /// Sees that nothing is changed, and that it is what a farm looks like that serves and was never touched.
    #[track_caller]
    pub(super) fn assert_unchanged(&self, vault: &VaultFarm) {
        let now = Self::of(vault);
        assert_eq!(self.tables, now.tables);
        assert!(now.tables.keys().all(|table| !table.starts_with("keyturn")), "{:?}", now.tables.keys());
        assert_eq!(self.stores.keys().collect::<Vec<_>>(), now.stores.keys().collect::<Vec<_>>());
        assert!(self.stores == now.stores, "a file of a key store has other bytes");
        assert!(self.instances == now.instances, "{:?} before, {:?} now", self.instances, now.instances);
        assert!(now.instances.iter().all(|(state, _)| state == "online\n"), "{:?}", now.instances);
    }
}

/// Runs statements behind everybody's back, as an administrator of the database might.
pub(super) fn alter_database(vault: &VaultFarm, sql: &str) {
    on_database(vault, async |connection| {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
    });
}

fn tables(vault: &VaultFarm) -> BTreeMap<String, Vec<String>> {
    on_database(vault, async |connection| {
        let mut tables = BTreeMap::new();
        let found = sqlx::query("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetch_all(&mut *connection);
        for table in found.await? {
            let name: String = table.try_get(0)?;
            let columns = sqlx::query("SELECT 'quote(\"' || name || '\")' FROM pragma_table_info(?)").bind(&name);
            let columns: Result<Vec<String>, _> =
                columns.fetch_all(&mut *connection).await?.iter().map(|row| row.try_get(0)).collect();
            let columns = columns?.join(" || ', ' || ");
            let rows = sqlx::query(AssertSqlSafe(format!("SELECT {columns} FROM \"{name}\" ORDER BY 1")));
            let mut content: Vec<String> = vec![table.try_get(1)?];
            for row in rows.fetch_all(&mut *connection).await? {
                content.push(row.try_get(0)?);
            }
            tables.insert(name, content);
        }
        Ok(tables)
    })
}

fn on_database<T>(vault: &VaultFarm, work: impl AsyncFnOnce(&mut SqliteConnection) -> sqlx::Result<T>) -> T {
    let options = SqliteConnectOptions::new().filename(vault.farm.path("vault.db"));
    let work = async {
        let mut connection = options.connect().await?;
        let done = work(&mut connection).await?;
        connection.close().await.map(|()| done)
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(work).expect("the database answers")
}

fn stores(vault: &VaultFarm) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in vault.names() {
        for entry in std::fs::read_dir(vault.farm.path(&format!("{name}/store"))).expect("a folder") {
            let path = entry.expect("an entry").path();
            files.insert(path.display().to_string(), std::fs::read(&path).expect("readable"));
        }
    }
    files
}
