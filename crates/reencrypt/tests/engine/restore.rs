//! A restored database takes the place of a damaged one on a server where anybody may have stored anything.

use reencrypt::{EngineError, RestorePlace, RestoreStage};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::farm::{Place, TARGETS, Vault};

/// A backup's digest; nothing here reads a backup.
const DIGEST: &str = "5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed";

/// The place of the vault's database, with the superuser to restore with.
fn place(vault: &Vault) -> RestorePlace {
    let Place::Postgres { cluster, database, .. } = &vault.place else { panic!("of PostgreSQL") };
    RestorePlace::new(&vault.config, Some(&cluster.url("postgres", database)), DIGEST).unwrap()
}

fn database(vault: &Vault) -> &str {
    let Place::Postgres { database, .. } = &vault.place else { panic!("of PostgreSQL") };
    database
}

/// What the superuser is answered, in this database.
async fn ask(vault: &Vault, database: &str, sql: String) -> Vec<String> {
    let Place::Postgres { cluster, .. } = &vault.place else { panic!("of PostgreSQL") };
    let mut superuser = cluster.superuser(database).await;
    let answers = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut superuser).await.unwrap();
    superuser.close().await.unwrap();
    answers
}

async fn tell(vault: &Vault, url: &str, sql: String) {
    let Place::Postgres { .. } = &vault.place else { panic!("of PostgreSQL") };
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn url(vault: &Vault, role: &str, database: &str) -> String {
    let Place::Postgres { cluster, .. } = &vault.place else { panic!("of PostgreSQL") };
    cluster.url(role, database)
}

async fn load(place: &RestorePlace) {
    place.prepare().await.unwrap().unwrap();
    place.loaded().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_stored_as_its_search_path_is_copied_and_not_obeyed() {
    let vault = Vault::postgres().await;
    let Place::Postgres { application, .. } = &vault.place else { panic!("of PostgreSQL") };
    let folder = tempfile::Builder::new().prefix("kt-").rand_bytes(4).tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let pwned = folder.path().join("pwned");
    let attack = format!("x;copy/**/(select/**/current_user)/**/to/**/program/**/$$cat>{}$$;--", pwned.display());
    // As the application itself, without any right but to log in.
    let live = database(&vault);
    tell(
        &vault,
        &url(&vault, application, live),
        format!(
            "SELECT set_config('search_path', $q${attack}$q$, false);
             ALTER ROLE {application} IN DATABASE {live} SET search_path FROM CURRENT;
             ALTER ROLE {application} IN DATABASE {live} SET application_name = 'it''s; \\'"
        ),
    )
    .await;
    let settings = |database: &str| {
        ask(
            &vault,
            "postgres",
            format!(
                "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
                 WHERE datname = '{database}' ORDER BY 1"
            ),
        )
    };
    let before = settings(live).await;
    assert!(before.contains(&format!("search_path={attack}")), "{before:?}");
    load(&place(&vault)).await;
    assert!(!pwned.exists(), "a command ran as the superuser");
    let after = settings(&format!("keyturn_restored_{}", &DIGEST[..12])).await;
    // The same one name, as the server takes it: a bare one in lower case.
    let quoted = |setting: &String| setting.replace(&attack, &format!("\"{}\"", attack.to_ascii_lowercase()));
    assert_eq!(after, before.iter().map(quoted).collect::<Vec<_>>());
    tell(&vault, &url(&vault, "postgres", "postgres"), format!("DROP DATABASE keyturn_restored_{}", &DIGEST[..12]))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_made_under_the_name_of_what_is_loaded_is_not_taken_for_it() {
    let vault = Vault::postgres_bare(TARGETS).await;
    let Place::Postgres { application, .. } = &vault.place else { panic!("of PostgreSQL") };
    let digest = DIGEST.replace("5eed", "dead");
    let Place::Postgres { cluster, database, .. } = &vault.place else { panic!("of PostgreSQL") };
    let place = RestorePlace::new(&vault.config, Some(&cluster.url("postgres", database)), &digest).unwrap();
    let superuser = url(&vault, "postgres", "postgres");
    let ready = format!("keyturn_restored_{}", &digest[..12]);
    tell(&vault, &superuser, format!("CREATE DATABASE {ready} OWNER {application}")).await;
    assert!(matches!(place.stage().await, Err(EngineError::NotLoaded(_))));
    assert!(matches!(place.put_in_place(false).await, Err(EngineError::NotLoaded(_))));
    // Not even with what is loaded for its comment.
    tell(
        &vault,
        &url(&vault, application, &ready),
        format!("COMMENT ON DATABASE {ready} IS 'loaded by keyturn from the backup of digest {digest}'"),
    )
    .await;
    assert!(matches!(place.stage().await, Err(EngineError::NotLoaded(_))));
    tell(&vault, &superuser, format!("DROP DATABASE {ready}")).await;
    assert_eq!(place.stage().await.unwrap(), RestoreStage::Untouched);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_place_has_its_owner_and_comment_and_a_locked_role_stays_locked_unless_a_rotation_locked_it() {
    for (lift_fence, can_login) in [(false, "false"), (true, "true")] {
        let vault = Vault::postgres_bare(TARGETS).await;
        let Place::Postgres { application, cluster, database, .. } = &vault.place else { panic!("of PostgreSQL") };
        let superuser = url(&vault, "postgres", "postgres");
        tell(
            &vault,
            &superuser,
            format!(
                "ALTER DATABASE {database} OWNER TO {application}; COMMENT ON DATABASE {database} IS 'it''s ours';
                 ALTER ROLE {application} NOLOGIN"
            ),
        )
        .await;
        let digest = DIGEST.replace("5eed", if lift_fence { "beef" } else { "cafe" });
        let place = RestorePlace::new(&vault.config, Some(&cluster.url("postgres", database)), &digest).unwrap();
        load(&place).await;
        assert_eq!(place.stage().await.unwrap(), RestoreStage::Loaded);
        place.put_in_place(lift_fence).await.unwrap();
        assert_eq!(place.stage().await.unwrap(), RestoreStage::InPlace);
        let found = ask(
            &vault,
            "postgres",
            format!(
                "SELECT pg_get_userbyid(datdba) || '/' || shobj_description(d.oid, 'pg_database') || '/' || rolcanlogin::text
                 FROM pg_database d, pg_roles WHERE datname = '{database}' AND rolname = '{application}'"
            ),
        )
        .await;
        assert_eq!(found, [format!("{application}/it's ours/{can_login}")]);
        assert!(place.loads_as_superuser().await.unwrap());
    }
}
