//! A backup takes the place of a damaged MariaDB database: tables change places in one step, everything else is made anew,
//! and whoever is interrupted anywhere goes on.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Arc;

use reencrypt::{DatabaseConfig, Engine, RestorePlace, RestoreStage, Targets};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::documented::documented;
use crate::farm::{Place, Vault};
use crate::mariadb::Server;
use crate::proxy::{Cut, Proxy};

/// More than a restore sends.
const STATEMENTS_MAX: i64 = 200;

/// What an application may have besides its tables. Each statement by itself.
const THINGS: [&str; 16] = [
    "CREATE TABLE parents (id int PRIMARY KEY AUTO_INCREMENT, name varchar(20) CHARACTER SET latin1)",
    "CREATE TABLE children (id int PRIMARY KEY, parent int, length int AS (parent * 2) STORED, CONSTRAINT of_parent
     FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE, CHECK (id > 0))",
    "INSERT INTO parents (name) VALUES ('Zoë'), ('b')",
    "INSERT INTO children (id, parent) VALUES (1, 1), (2, 2)",
    "CREATE SEQUENCE numbers START WITH 7",
    "CREATE TABLE audit (what text)",
    "CREATE TRIGGER second BEFORE INSERT ON parents FOR EACH ROW SET NEW.name = CONCAT(NEW.name, '2')",
    "CREATE TRIGGER first BEFORE INSERT ON parents FOR EACH ROW PRECEDES second SET NEW.name = CONCAT(NEW.name, '1')",
    "CREATE TRIGGER noted AFTER DELETE ON children FOR EACH ROW INSERT INTO audit VALUES ('größer; \\')",
    "CREATE VIEW z AS SELECT id, name FROM parents",
    "CREATE VIEW a AS SELECT z.id, c.length FROM z JOIN children c ON c.parent = z.id",
    "CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN n * 2",
    "CREATE VIEW doubled AS SELECT twice(id) AS two FROM children",
    "CREATE DEFINER = nobody@nowhere PROCEDURE clear_up() BEGIN DELETE FROM audit; SELECT 'done; ö'; END",
    "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 03:00:00' DO CALL clear_up()",
    "CREATE VIEW damaged_soon AS SELECT 1 AS one",
];

/// Values, a table, a view of a restored table's name and a routine that the backup does not have; and what it has is gone.
const DAMAGE: [&str; 9] = [
    "UPDATE connections SET password = 'nonsense'",
    "DROP TRIGGER first",
    "DROP VIEW damaged_soon",
    "CREATE TABLE damaged_soon (id int PRIMARY KEY)",
    "DROP PROCEDURE clear_up",
    "CREATE PROCEDURE later() SELECT 1",
    "CREATE OR REPLACE VIEW a AS SELECT 2 AS two",
    "DROP TABLE audit",
    "CREATE VIEW audit AS SELECT 3 AS three",
];

struct Restored {
    vault: Vault,
    server: Arc<Server>,
    database: String,
    before: String,
    grants: String,
}

impl Restored {
    /// A database with everything, its backup loaded beside it, and then damaged.
    async fn new() -> Self {
        Self::on(Vault::mariadb().await).await
    }

    async fn on(vault: Vault) -> Self {
        let Place::Mariadb { server, database, application, .. } = &vault.place else { panic!("MariaDB only") };
        let (server, database, application) = (Arc::clone(server), database.clone(), application.clone());
        vault.seed(40).await;
        let mut root = vault.root().await;
        for sql in THINGS {
            sqlx::raw_sql(sql).execute(&mut root).await.unwrap();
        }
        let grant = format!("GRANT EXECUTE ON FUNCTION twice TO {application}@localhost");
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut root).await.unwrap();
        root.close().await.unwrap();
        let before = dump(&server, &database);
        let grants = vault
            .text(&format!(
                "SELECT GROUP_CONCAT(Routine_name, Proc_priv) FROM mysql.procs_priv WHERE User = '{application}'"
            ))
            .await;
        let place = place(&vault, &server.url("root", &database));
        assert_eq!(place.stage().await.unwrap(), RestoreStage::Untouched);
        let url = place.prepare().await.unwrap().unwrap().url;
        load(&server, &url, &before);
        // Half loaded is not loaded, and goes when it is begun again.
        assert_eq!(place.stage().await.unwrap(), RestoreStage::Untouched);
        let url = place.prepare().await.unwrap().unwrap().url;
        load(&server, &url, &before);
        place.loaded().await.unwrap();
        assert_eq!(place.stage().await.unwrap(), RestoreStage::Loaded);
        let mut root = vault.root().await;
        for sql in DAMAGE {
            sqlx::raw_sql(sql).execute(&mut root).await.unwrap();
        }
        root.close().await.unwrap();
        Self { vault, server, database, before, grants }
    }

    async fn is_moved(&self) -> bool {
        let left = format!(
            "SELECT CAST(count(*) AS text) FROM information_schema.TABLES
             WHERE TABLE_SCHEMA = 'keyturn_restored_{}' AND TABLE_NAME = 'connections'",
            tag(&self.vault)
        );
        self.vault.text(&left).await == "0"
    }

    async fn assert_in_place(&self) {
        let place = place(&self.vault, &self.server.url("root", &self.database));
        assert_eq!(place.stage().await.unwrap(), RestoreStage::InPlace);
        assert_eq!(dump(&self.server, &self.database), self.before);
        let aside = place.kept_as().trim_start_matches("database ").to_owned();
        let text = async |sql: String| self.vault.text(&sql).await;
        let values = format!("SELECT CAST(count(*) AS text) FROM {aside}.connections WHERE password = 'nonsense'");
        assert_eq!(text(values).await, "40", "the damaged rows are kept");
        let written = format!(
            "SELECT GROUP_CONCAT(name ORDER BY name) FROM {aside}.keyturn_restore_definition WHERE kind <> 'TRIGGER'"
        );
        assert_eq!(text(written).await, "a,audit,doubled,later,nightly,twice,z", "the damaged definitions are kept");
        let triggers = format!(
            "SELECT GROUP_CONCAT(name ORDER BY name) FROM {aside}.keyturn_restore_definition WHERE kind = 'TRIGGER'"
        );
        assert_eq!(text(triggers).await, "noted,second");
        let Place::Mariadb { application, .. } = &self.vault.place else { panic!("MariaDB only") };
        let grants =
            format!("SELECT GROUP_CONCAT(Routine_name, Proc_priv) FROM mysql.procs_priv WHERE User = '{application}'");
        assert_eq!(text(grants).await, self.grants, "rights on routines stay");
        let leftover = format!(
            "SELECT CAST(count(*) AS text) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'keyturn_restored_{}'",
            tag(&self.vault)
        );
        assert_eq!(text(leftover).await, "0");
        // Foreign keys are among the tables that they were among.
        self.vault.run("DELETE FROM parents WHERE id = 1").await;
        assert_eq!(text("SELECT CAST(count(*) AS text) FROM children".to_owned()).await, "1");
        assert_eq!(text(format!("SELECT CAST(count(*) AS text) FROM {aside}.children")).await, "2");
        self.vault.run(&format!("DROP DATABASE {aside}")).await;
    }
}

fn place(vault: &Vault, login: &str) -> RestorePlace {
    RestorePlace::new(&vault.config, Some(login), &tag(vault)).unwrap()
}

/// Begins the names of what is made of a backup. Every database of the one server has its own.
fn tag(vault: &Vault) -> String {
    let Place::Mariadb { database, .. } = &vault.place else { panic!("MariaDB only") };
    format!("{:0>12}", database.trim_start_matches("vault_"))
}

/// Everything in a database.
fn dump(server: &Server, database: &str) -> String {
    dump_as("root", server, database)
}

fn dump_as(user: &str, server: &Server, database: &str) -> String {
    let dumped = Command::new("mariadb-dump")
        .arg("--no-defaults")
        .arg(format!("--user={user}"))
        .args(["--single-transaction", "--skip-comments", "--routines", "--events", "--triggers", "--hex-blob"])
        .arg(format!("--socket={}", server.socket().display()))
        .arg(database)
        .output()
        .unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    String::from_utf8(dumped.stdout).unwrap()
}

fn load(server: &Server, url: &str, dump: &str) {
    let database = url.split(['/', '?']).nth(3).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    let loaded = Command::new("mariadb")
        .args(["--no-defaults", "--user=root", "--default-character-set=utf8mb4"])
        .arg(format!("--socket={}", server.socket().display()))
        .arg(database)
        .stdin(Stdio::from(File::open(file.path()).unwrap()))
        .output()
        .unwrap();
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_may_lose_its_connection_at_every_statement() {
    for cut in [Cut::Before, Cut::After] {
        let restored = Restored::new().await;
        let mut cuts = 0;
        let left_behind = std::sync::atomic::AtomicBool::new(false);
        let (mut statements, mut moved) = (0, false);
        loop {
            statements += 1;
            assert!(statements < STATEMENTS_MAX, "it does not end");
            let proxy = Proxy::mariadb(restored.server.socket(), statements, cut);
            let place = place(&restored.vault, &proxy.mariadb_url("root", &restored.database));
            // As whoever restores does: where it stands first, and then the rest.
            let done = async {
                match place.stage().await? {
                    RestoreStage::InPlace => return Ok(()),
                    RestoreStage::LeftBehind => {
                        left_behind.store(true, std::sync::atomic::Ordering::Relaxed);
                        return place.clear_up().await;
                    }
                    RestoreStage::Untouched | RestoreStage::Loaded => {}
                }
                place.loaded_url().await?;
                place.put_in_place(true).await
            };
            match done.await {
                Ok(()) => break,
                Err(error) => assert!(error.fault().retryable, "after {statements}: {}", error.fault().message),
            }
            cuts += 1;
            // What comes behind the move is far from the beginning no more, and is gone through from there.
            if !moved && restored.is_moved().await {
                (statements, moved) = (0, true);
            }
        }
        assert!(cuts > 30, "a restore has more statements than {cuts}");
        assert!(left_behind.into_inner(), "the last statement was lost, and the one before was not");
        restored.assert_in_place().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_in_the_database_is_named_and_nothing_is_changed() {
    let restored = Restored::new().await;
    let place = place(&restored.vault, &restored.server.url("root", &restored.database));
    let damaged = dump(&restored.server, &restored.database);
    let mut other = restored.vault.root().await;
    let refused = place.put_in_place(true).await.unwrap_err().fault();
    assert!(refused.message.contains("\"root\""), "{}", refused.message);
    other.ping().await.unwrap();
    other.close().await.unwrap();
    assert_eq!(dump(&restored.server, &restored.database), damaged);
    // A foreign key of another database would follow the damaged table.
    let elsewhere = format!("elsewhere_{}", tag(&restored.vault));
    let referring = format!(
        "CREATE DATABASE {elsewhere}; CREATE TABLE {elsewhere}.t (p int, FOREIGN KEY (p) REFERENCES {}.parents (id))",
        restored.database
    );
    restored.vault.run(&referring).await;
    let refused = place.put_in_place(true).await.unwrap_err().fault();
    assert!(refused.message.contains(&elsewhere), "{}", refused.message);
    assert_eq!(dump(&restored.server, &restored.database), damaged);
    restored.vault.run(&format!("DROP DATABASE {elsewhere}")).await;
    place.put_in_place(true).await.unwrap();
    restored.assert_in_place().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_comes_back_and_accounts_that_were_locked_before_stay_so() {
    let restored = Restored::new().await;
    let Place::Mariadb { application, .. } = &restored.vault.place else { panic!("MariaDB only") };
    // Fenced by a rotation that the backup knows nothing of; one account was locked before.
    restored.vault.run(&format!("CREATE USER {application}@'10.%' ACCOUNT LOCK")).await;
    restored.vault.engine().await.fence(&restored.vault.mark(1, rotation::Direction::Forward)).await.unwrap();
    let locked = format!(
        "SELECT GROUP_CONCAT(Host ORDER BY Host) FROM mysql.global_priv
         WHERE User = '{application}' AND JSON_VALUE(Priv, '$.account_locked') = '1'"
    );
    assert_eq!(restored.vault.text(&locked).await, "10.%,localhost");
    let place = place(&restored.vault, &restored.server.url("root", &restored.database));
    place.put_in_place(true).await.unwrap();
    assert_eq!(restored.vault.text(&locked).await, "10.%");
    restored.assert_in_place().await;

    let gone = Restored::new().await;
    let place = self::place(&gone.vault, &gone.server.url("root", &gone.database));
    let mut server = gone.server.superuser("mysql").await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {}", gone.database))).execute(&mut server).await.unwrap();
    server.close().await.unwrap();
    place.put_in_place(true).await.unwrap();
    assert_eq!(place.stage().await.unwrap(), RestoreStage::InPlace);
    assert_eq!(dump(&gone.server, &gone.database), gone.before);
}

/// They would run beside whoever restores, and before the rows are turned back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_neither_loaded_nor_put_in_place_where_its_events_would_run() {
    let restored = Restored::on(Vault::mariadb_on(Arc::new(Server::start(""))).await).await;
    let place = place(&restored.vault, &restored.server.url("root", &restored.database));
    let damaged = dump(&restored.server, &restored.database);
    restored.vault.run("SET GLOBAL event_scheduler = ON").await;
    for refused in [place.prepare().await.map(drop), place.put_in_place(true).await] {
        let fault = refused.unwrap_err().fault();
        assert!(fault.message.contains("SET GLOBAL event_scheduler = OFF"), "{}", fault.message);
    }
    assert_eq!(place.stage().await.unwrap(), RestoreStage::Loaded);
    assert_eq!(dump(&restored.server, &restored.database), damaged);
    restored.vault.run("SET GLOBAL event_scheduler = OFF").await;
    place.put_in_place(true).await.unwrap();
    restored.assert_in_place().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_grants_show_a_backup_everything_and_less_is_refused() {
    let restored = Restored::new().await;
    let user = format!("backup_{}", tag(&restored.vault));
    let grants = restored.vault.named(&documented("mariadb backups")).replace("keyturn_backup", &user);
    restored.vault.run(&grants).await;
    let config = DatabaseConfig::new(restored.server.url(&user, &restored.database));
    let login = Engine::connect(&config, Targets::none()).await.unwrap();
    login.check_backup_rights().await.unwrap();
    let seen = dump_as(&user, &restored.server, &restored.database);
    assert_eq!(seen, dump(&restored.server, &restored.database));
    for (right, on) in [("TRIGGER", format!("{}.*", restored.database)), ("SELECT", "mysql.proc".to_owned())] {
        restored.vault.run(&format!("REVOKE {right} ON {on} FROM {user}@'%'")).await;
        let refused = login.check_backup_rights().await.unwrap_err().fault();
        assert!(refused.message.contains(&format!("GRANT {right} ON")), "{}", refused.message);
    }
}
