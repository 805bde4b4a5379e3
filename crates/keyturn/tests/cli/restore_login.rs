//! `keyturn recover --backup` with nothing but the logins and rights of docs/database.md: the agents', that of backups, and one
//! to restore with that is no superuser.

use std::os::unix::fs::OpenOptionsExt as _;

use sqlx::{AssertSqlSafe, Connection as _};

use crate::documented::documented;
use crate::recover::{assert_ends_rolled_back, assert_rows_under, assert_serving, hold, recover, states};
use crate::restore::only_backup;
use crate::support::text;
use crate::vault::VaultFarm;

/// The vault's tables, each with its encrypted columns.
const TABLES: [(&str, &str); 4] = [
    ("connections", "credentials"),
    ("user_vault_entries", "password, notes"),
    ("documentation", "body"),
    ("attachments", "content"),
];

/// A block of the page for each of the vault's tables.
fn for_tables(block: &str) -> String {
    let one = documented(block);
    TABLES
        .map(|(table, columns)| one.replace("password, notes", columns).replace(".connections", &format!(".{table}")))
        .concat()
}

/// As the administrator.
fn tell(vault: &VaultFarm, sql: &str) {
    ask(vault, sql);
}

/// One text, or none.
fn ask(vault: &VaultFarm, sql: &str) -> Option<String> {
    let url = &vault.urls.agent;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sql = AssertSqlSafe(sql.to_owned());
    runtime.block_on(async {
        if url.starts_with("postgres") {
            let mut connection = sqlx::PgConnection::connect(url).await.expect("connected");
            let row = sqlx::raw_sql(sql).fetch_all(&mut connection).await.expect("good SQL").pop();
            connection.close().await.expect("closed");
            row.and_then(|row| sqlx::Row::get(&row, 0))
        } else {
            let mut connection = sqlx::MySqlConnection::connect(url).await.expect("connected");
            let row = sqlx::raw_sql(sql).fetch_all(&mut connection).await.expect("good SQL").pop();
            connection.close().await.expect("closed");
            row.and_then(|row| sqlx::Row::get_unchecked(&row, 0))
        }
    })
}

/// The administrator's URL as somebody else's.
fn of(vault: &VaultFarm, login: &str) -> String {
    let (scheme, rest) = vault.urls.agent.split_once("://").expect("a URL");
    format!("{scheme}://{login}@{}", rest.split_once('@').expect("a login").1)
}

/// All agents come as theirs, and the first node makes backups and restores them as those for that.
fn with_documented_logins(vault: &mut VaultFarm) {
    vault.agents_come_as(&of(vault, "keyturn_agent"));
    for login in ["backup", "restore"] {
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(vault.farm.path(login));
        let url = of(vault, &format!("keyturn_{login}"));
        std::io::Write::write_all(&mut file.expect("made"), url.as_bytes()).expect("written");
    }
    vault.configure(0, "[backup]\ndirectory = \"backups\"\nurl_file = \"backup\"\nrestore_url_file = \"restore\"\n");
}

#[test]
fn on_postgresql_the_documented_login_that_is_no_superuser_puts_a_backup_back() {
    let mut vault = VaultFarm::on_postgres(2);
    tell(&vault, "ALTER DATABASE vault OWNER TO vault_app; DROP ROLE keyturn_agent");
    tell(
        &vault,
        &[
            documented("grants"),
            for_tables("table"),
            documented("see all"),
            documented("backups"),
            documented("restore"),
        ]
        .concat(),
    );
    with_documented_logins(&mut vault);
    let rights = r"SELECT string_agg(concat_ws(' ', name, owner, rights), E'\n' ORDER BY name) FROM (
        SELECT name, pg_get_userbyid(owner), (SELECT string_agg(right_::text, ' ' ORDER BY right_::text) FROM unnest(acl) AS r (right_))
        FROM (
            SELECT relname, relowner, relacl FROM pg_class
            WHERE relnamespace::regnamespace::text IN ('public', 'keyturn') AND relname NOT LIKE 'note%'
            UNION ALL SELECT nspname, nspowner, nspacl FROM pg_namespace WHERE nspname IN ('public', 'keyturn')
            UNION ALL SELECT datname, datdba, datacl FROM pg_database WHERE datname = current_database()
        ) AS each (name, owner, acl)
    ) AS readable (name, owner, rights)";
    // A rotation that is rolled back leaves a ledger, which the backup has.
    hold(&vault, "reencrypt", &["--no-backup"]);
    vault.rotation(&["abort"]).done();
    vault.rotation(&["watch"]);
    let before = ask(&vault, rights).expect("rights");
    assert!(before.contains("rotation keyturn_agent"), "{before}");
    hold(&vault, "verify", &[]);
    vault.kill_keyturn();
    let fenced = "SELECT rolcanlogin::text FROM pg_roles WHERE rolname = 'vault_app'";
    assert_eq!(ask(&vault, fenced).as_deref(), Some("false"), "the rotation shut it out");
    // Values that open under no key: the undo finds out in the middle.
    tell(&vault, "UPDATE user_vault_entries SET password = 'DQwCAAAAAgBk' || md5(id::text)");
    assert_eq!(recover(&vault, 0, &[]).code, 4);

    let done = recover(&vault, 0, &["--backup", text(&only_backup(&vault))]);
    assert!(!done.stderr.contains("superuser"), "{}", done.stderr);
    let done = done.json();
    assert!(states(&done, "done").contains(&"put-in-place".to_owned()), "{done}");
    assert_rows_under(&vault, "old");
    assert_eq!(ask(&vault, rights).as_ref(), Some(&before));
    assert_eq!(ask(&vault, fenced).as_deref(), Some("true"));
    recover(&vault, 1, &[]).done();
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn on_mariadb_the_documented_login_puts_a_backup_back() {
    let mut vault = VaultFarm::on_mariadb(2);
    tell(&vault, "DROP USER IF EXISTS keyturn_agent@localhost; DROP USER IF EXISTS keyturn_agent@'%'");
    let grants = ["mariadb grants", "mariadb see all", "mariadb backups", "mariadb restore"].map(documented).concat();
    tell(&vault, &(grants + &for_tables("mariadb table")));
    // In the administrator's name, and in one that is gone.
    for made in [
        "CREATE VIEW named AS SELECT id, name FROM connections",
        "CREATE TRIGGER stays BEFORE INSERT ON connections FOR EACH ROW SET NEW.id = NEW.id",
        "CREATE DEFINER = nobody@nowhere FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN n * 2",
    ] {
        tell(&vault, made);
    }
    with_documented_logins(&mut vault);
    hold(&vault, "verify", &[]);
    vault.kill_keyturn();
    let locked = "SELECT GROUP_CONCAT(Host) FROM mysql.global_priv
                  WHERE User = 'vault_app' AND JSON_VALUE(Priv, '$.account_locked') = '1'";
    assert!(ask(&vault, locked).is_some(), "the rotation shut it out");
    // Values that open under no key: the undo finds out in the middle.
    tell(&vault, "UPDATE user_vault_entries SET password = CONCAT('DQwCAAAAAgBk', MD5(id))");
    tell(&vault, "DROP TRIGGER stays");
    assert_eq!(recover(&vault, 0, &[]).code, 4);

    let done = recover(&vault, 0, &["--backup", text(&only_backup(&vault))]).json();
    assert!(states(&done, "done").contains(&"put-in-place".to_owned()), "{done}");
    assert_rows_under(&vault, "old");
    let things = "SELECT GROUP_CONCAT(name, ' ', definer ORDER BY name) FROM (
                      SELECT TABLE_NAME AS name, DEFINER AS definer FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'vault'
                      UNION ALL SELECT TRIGGER_NAME, DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'vault'
                      UNION ALL SELECT ROUTINE_NAME, DEFINER FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'vault'
                  ) AS all_of_it";
    let found = ask(&vault, things).expect("things");
    assert_eq!(found, "named root@localhost,stays root@localhost,twice nobody@nowhere");
    assert_eq!(ask(&vault, locked), None);
    recover(&vault, 1, &[]).done();
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}
