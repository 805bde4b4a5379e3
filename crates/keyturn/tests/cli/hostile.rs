//! What a database's own functions, names and rows could do to whoever makes a backup of it and proves it, on a real
//! PostgreSQL.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::support::{Ran, run};
use crate::vault::VaultFarm;

/// A folder that a server's user may write, and a file in it that nobody makes unless a trap catches somebody.
pub(crate) struct Trap {
    _folder: tempfile::TempDir,
    caught: PathBuf,
}

impl Trap {
    pub(crate) fn set() -> Self {
        let folder = tempfile::Builder::new().prefix("k").rand_bytes(4).tempdir_in("/tmp").expect("a folder");
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("open");
        let caught = folder.path().join("p");
        Self { _folder: folder, caught }
    }

    /// The file.
    pub(crate) fn caught(&self) -> String {
        self.caught.display().to_string()
    }

    #[track_caller]
    pub(crate) fn caught_nobody(&self) {
        assert!(!Path::new(&self.caught).exists(), "a command ran as the server's user");
    }
}

pub(crate) fn tell(url: &str, sql: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut connection = sqlx::PgConnection::connect(url).await.expect("connected");
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect("good SQL");
        connection.close().await.expect("closed");
    });
}

fn as_application(vault: &VaultFarm, sql: &str) {
    tell(&vault.urls.agent.replace("//postgres@", "//vault_app@"), sql);
}

fn back_up(vault: &VaultFarm) -> Ran {
    run(["db", "backup", "-o", "json", "--config", &vault.config(0), "--output-dir", &vault.farm.path("backups")])
}

/// It was made and proved; every row of every table was opened.
fn proved(vault: &VaultFarm) -> Value {
    let made = back_up(vault).json();
    let tables = made["tables"].as_array().expect("tables");
    assert!(tables.len() == 4 && tables.iter().all(|table| table["rows"] == table["rows_opened"]), "{made}");
    made
}

/// Functions that say they are harmless, and catch whoever calls them as a superuser.
fn trapped(trap: &Trap) -> String {
    format!(
        "CREATE FUNCTION public.trap() RETURNS int LANGUAGE plpgsql VOLATILE AS $f$ BEGIN
             IF current_setting('is_superuser') = 'on' THEN COPY (SELECT current_user) TO PROGRAM 'cat >{}'; END IF;
             RETURN 1; END $f$;
         CREATE FUNCTION public.harmless(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN
             PERFORM public.trap(); RETURN $1; END $f$;
         CREATE TABLE public.trapped (id int CHECK (public.harmless(id) > 0));
         INSERT INTO public.trapped VALUES (1);
         CREATE INDEX ON public.trapped (public.harmless(id));
         CREATE MATERIALIZED VIEW public.seen AS SELECT public.trap() AS a;",
        trap.caught.display()
    )
}

#[test]
fn functions_of_the_application_do_not_run_as_a_superuser_where_a_backup_is_restored_aside() {
    let vault = VaultFarm::on_postgres(1);
    let trap = Trap::set();
    as_application(&vault, &trapped(&trap));
    proved(&vault);
    trap.caught_nobody();
}

#[test]
fn the_name_of_a_role_is_a_name_whatever_stands_in_it() {
    let vault = VaultFarm::on_postgres(1);
    let trap = Trap::set();
    // A name has 63 bytes at most.
    let name = format!("x\nCREATE ROLE y;COPY(SELECT 1)TO PROGRAM'cat >{}'--", trap.caught.display());
    assert!(name.len() <= 63, "{name}");
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    // The policy cannot be restored without the role.
    let made = format!(
        "CREATE ROLE {quoted}; CREATE POLICY p ON public.documentation TO {quoted} USING (true);
         ALTER TABLE public.documentation ENABLE ROW LEVEL SECURITY;
         ALTER TABLE public.documentation FORCE ROW LEVEL SECURITY"
    );
    tell(&vault.urls.agent, &made);
    proved(&vault);
    trap.caught_nobody();
}

#[test]
fn a_database_with_what_only_a_superuser_may_make_is_proved_all_the_same() {
    let vault = VaultFarm::on_postgres(1);
    tell(
        &vault.urls.agent,
        "CREATE SCHEMA \"Ext x\"; CREATE EXTENSION bloom SCHEMA \"Ext x\"; COMMENT ON EXTENSION bloom IS 'filters';
         CREATE TABLE filtered (id int); CREATE INDEX ON filtered USING bloom (id);
         CREATE EXTENSION hstore; CREATE EXTENSION postgres_fdw;
         CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
         CREATE USER MAPPING FOR vault_app SERVER elsewhere OPTIONS (user 'u', password 'p');
         CREATE FOREIGN TABLE far (a hstore) SERVER elsewhere;
         CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER watched ON ddl_command_end EXECUTE FUNCTION watch();
         SELECT lo_from_bytea(0, 'large')",
    );
    proved(&vault);
}

#[test]
fn a_row_that_stops_a_restore_is_quoted_in_no_message() {
    let vault = VaultFarm::on_postgres(1);
    as_application(
        &vault,
        "CREATE TABLE picky (t text CHECK (current_user = 'vault_app')); INSERT INTO picky VALUES ('hunter2')",
    );
    let failed = back_up(&vault);
    assert!(!failed.stderr.contains("hunter2") && !failed.stderr.contains("DETAIL"), "{}", failed.stderr);
    failed.failed(1, &["pg_restore failed", "violates check constraint"]);
}
