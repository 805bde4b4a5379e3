//! What holds in MySQL alone: servers, accounts and settings that MariaDB does not have. Everything else is tested together with
//! MariaDB.

use std::sync::Arc;

use reencrypt::{DatabaseConfig, Engine, EngineError, NoteKind, RestorePlace, Targets};
use rotation::{Direction, FaultCode, StrategyChoice};
use sqlx::Connection as _;

use crate::farm::{Cell, Place, Vault, request, stand_still, under};
use crate::mariadb::{Make, Server, waits_for_a_row};

/// What Preflight says against it.
async fn refusal(vault: &Vault) -> String {
    let error = vault.engine().await.check_targets().await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
    error.fault().message
}

/// A server that nobody else uses.
async fn vault_of_its_own(options: &str) -> Vault {
    Vault::mariadb_on(Arc::new(Server::start_of(Make::MySql, options))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_that_the_agents_account_lacks_is_named_with_the_statement_that_grants_it() {
    let vault = Vault::mysql().await;
    let Place::Mariadb { agent, database, .. } = &vault.place else { panic!("MySQL only") };
    let account = format!("`{agent}`@`%`");
    vault.engine().await.check_targets().await.unwrap();
    let take = format!(
        "REVOKE PROCESS, CONNECTION_ADMIN, XA_RECOVER_ADMIN, CREATE USER ON *.* FROM {agent}@'%';
         REVOKE SELECT (Host, User, account_locked, Super_priv) ON mysql.user FROM {agent}@'%';
         REVOKE SELECT ON mysql.proxies_priv FROM {agent}@'%';
         REVOKE SELECT ON mysql.global_grants FROM {agent}@'%';
         REVOKE EVENT ON {database}.* FROM {agent}@'%';
         REVOKE INSERT, CREATE ON {database}.keyturn_rotation FROM {agent}@'%';"
    );
    vault.run(&take).await;
    let message = refusal(&vault).await;
    for expected in [
        format!("GRANT PROCESS, XA_RECOVER_ADMIN ON *.* TO {account}"),
        format!("GRANT CONNECTION_ADMIN ON *.* TO {account}"),
        format!("GRANT CREATE USER ON *.* TO {account}"),
        format!("GRANT SELECT (Host, User, account_locked, Super_priv) ON mysql.user TO {account}"),
        format!("GRANT SELECT ON mysql.proxies_priv TO {account}"),
        format!("GRANT SELECT ON mysql.global_grants TO {account}"),
        format!("GRANT EVENT ON `{database}`.* TO {account}"),
        format!("GRANT INSERT, CREATE ON `{database}`.keyturn_rotation TO {account}"),
    ] {
        assert!(message.contains(&expected), "{expected}: {message}");
    }
}

/// By a role that is active as soon as the account connects; and rights that are taken away again for one database do not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_active_roles_count_and_those_that_are_taken_away_again_do_not() {
    let vault = vault_of_its_own("--partial-revokes=ON").await;
    let Place::Mariadb { agent, database, .. } = &vault.place else { panic!("MySQL only") };
    vault
        .run(&format!(
            "CREATE ROLE keyturn_agents; GRANT PROCESS, XA_RECOVER_ADMIN ON *.* TO keyturn_agents;
             REVOKE PROCESS, XA_RECOVER_ADMIN ON *.* FROM {agent}@'%';
             GRANT keyturn_agents TO {agent}@'%'; SET DEFAULT ROLE keyturn_agents TO {agent}@'%'"
        ))
        .await;
    vault.engine().await.check_targets().await.unwrap();
    vault.run(&format!("SET DEFAULT ROLE NONE TO {agent}@'%'")).await;
    assert!(refusal(&vault).await.contains("GRANT PROCESS, XA_RECOVER_ADMIN"));
    vault
        .run(&format!(
            "SET DEFAULT ROLE keyturn_agents TO {agent}@'%'; REVOKE EVENT ON {database}.* FROM {agent}@'%';
             GRANT EVENT ON *.* TO {agent}@'%'"
        ))
        .await;
    vault.engine().await.check_targets().await.unwrap();
    vault.run(&format!("REVOKE EVENT ON {database}.* FROM {agent}@'%'")).await;
    assert!(refusal(&vault).await.contains("GRANT EVENT ON `vault_"));
}

/// Neither could its account be locked nor its sessions be ended, and a rotation would be stuck in both directions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_only_its_like_may_touch_is_refused_by_name() {
    let vault = vault_of_its_own("").await;
    let Place::Mariadb { agent, application, .. } = &vault.place else { panic!("MySQL only") };
    for (give, take, named) in [
        (
            format!("GRANT SYSTEM_USER ON *.* TO {application}@localhost"),
            format!("REVOKE SYSTEM_USER ON *.* FROM {application}@localhost"),
            format!("'{application}'@'localhost' has SYSTEM_USER"),
        ),
        (
            format!(
                "CREATE ROLE inner_role, outer_role; GRANT SYSTEM_USER ON *.* TO inner_role;
                 GRANT inner_role TO outer_role; GRANT outer_role TO {application}@localhost"
            ),
            format!("REVOKE outer_role FROM {application}@localhost"),
            "'inner_role'@'%' has SYSTEM_USER".to_owned(),
        ),
    ] {
        vault.run(&give).await;
        let message = refusal(&vault).await;
        assert!(message.contains(&named) && message.contains("GRANT SYSTEM_USER ON *.* TO"), "{message}");
        // Who has it too may.
        vault.run(&format!("GRANT SYSTEM_USER ON *.* TO {agent}@'%'")).await;
        let engine = vault.engine().await;
        engine.check_targets().await.unwrap();
        let mut session = vault.user().await.unwrap();
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        assert!(session.ping().await.is_err() && vault.user().await.is_err());
        engine.lift_fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        vault.run(&format!("REVOKE SYSTEM_USER ON *.* FROM {agent}@'%'; {take}")).await;
    }
    vault.engine().await.check_targets().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_may_come_as_the_application_is_refused_by_name() {
    let vault = vault_of_its_own("").await;
    let Place::Mariadb { application, .. } = &vault.place else { panic!("MySQL only") };
    vault.run("CREATE USER stand_in@'%'").await;
    for whom in [format!("{application}@localhost"), "''@''".to_owned()] {
        vault.run(&format!("GRANT PROXY ON {whom} TO stand_in@'%'")).await;
        let fenced = vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err().fault().message;
        for message in [refusal(&vault).await, fenced] {
            assert!(message.contains("'stand_in'@'%' may come as the application"), "{message}");
        }
        vault.run(&format!("REVOKE PROXY ON {whom} FROM stand_in@'%'")).await;
        vault.engine().await.check_targets().await.unwrap();
    }
}

/// The proof would count its threads as somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_replication_group_is_refused() {
    let vault = vault_of_its_own("").await;
    vault.run("INSTALL PLUGIN group_replication SONAME 'group_replication.so'").await;
    vault.engine().await.check_targets().await.unwrap();
    vault.run("SET GLOBAL group_replication_group_name = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa'").await;
    let message = refusal(&vault).await;
    assert!(message.contains("member of a replication group"), "{message}");
}

/// The scheduler runs events whether or not the account that made them is locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_other_databases_that_may_write_here_stop_the_fence() {
    let vault = vault_of_its_own("").await;
    let Place::Mariadb { agent, application, database, .. } = &vault.place else { panic!("MySQL only") };
    vault
        .run(&format!(
            "CREATE DATABASE elsewhere; GRANT EVENT ON *.* TO {agent}@'%';
             CREATE EVENT elsewhere.others ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO SET @a = 1;
             CREATE EVENT elsewhere.named ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01'
                 DO DELETE FROM {database}.connections;
             CREATE DEFINER = {application}@localhost EVENT elsewhere.made ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01'
                 DO SET @a = 1"
        ))
        .await;
    let error = vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    let message = error.fault().message;
    assert!(message.contains("\"elsewhere.named\"") && message.contains("\"elsewhere.made\""), "{message}");
    assert!(!message.contains("elsewhere.others"), "{message}");
    vault.run("ALTER EVENT elsewhere.named DISABLE; DROP EVENT elsewhere.made").await;
    vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
}

/// Should it stop, the server ends it, and so nobody waits for the header for hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_turns_the_header_may_not_be_silent_for_long() {
    let vault = vault_of_its_own("").await;
    let Place::Mariadb { agent, .. } = &vault.place else { panic!("MySQL only") };
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let mut other = vault.root().await;
    let mut holder = other.begin().await.unwrap();
    sqlx::raw_sql("SELECT 1 FROM keyturn_rotation FOR UPDATE").fetch_all(&mut *holder).await.unwrap();
    let mark = vault.mark(2, Direction::Forward);
    let lifting = tokio::spawn(async move { engine.lift_fence(&mark).await });
    let mut watcher = vault.root().await;
    while !waits_for_a_row(&mut watcher).await {
        assert!(!lifting.is_finished(), "{:?}", lifting.await);
    }
    let limits = format!(
        "SELECT CAST(MIN(CAST(VARIABLE_VALUE AS UNSIGNED)) AS CHAR) FROM performance_schema.variables_by_thread
         JOIN performance_schema.threads USING (THREAD_ID)
         WHERE PROCESSLIST_USER = '{agent}' AND VARIABLE_NAME = 'wait_timeout'"
    );
    assert_eq!(vault.text(&limits).await, "15");
    holder.rollback().await.unwrap();
    lifting.await.unwrap().unwrap();
    watcher.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hides_sessions_or_writes_no_log_is_refused() {
    for options in [
        "--performance-schema=OFF",
        "--performance-schema-max-thread-instances=200",
        // No kind of thread is registered, or not those of plugins.
        "--performance-schema-max-thread-classes=0",
        "--performance-schema-max-thread-classes=45",
    ] {
        let vault = vault_of_its_own(options).await;
        let message = refusal(&vault).await;
        assert!(message.contains("does not list all sessions"), "{message}");
        let fenced = vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
        assert!(fenced.fault().message.contains("does not list all sessions"), "{fenced:?}");
    }
    let vault = vault_of_its_own("").await;
    vault.run("ALTER INSTANCE DISABLE INNODB REDO_LOG").await;
    assert!(refusal(&vault).await.contains("ALTER INSTANCE ENABLE INNODB REDO_LOG"));
    vault.run("ALTER INSTANCE ENABLE INNODB REDO_LOG").await;
    vault.engine().await.check_targets().await.unwrap();
}

/// `CONNECTION_ADMIN` would let the agent write there, and the new primary would never see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_made_read_only_under_way_is_written_to_no_more_until_it_is_one_again() {
    let vault = vault_of_its_own("").await;
    let read_only = async |on: u8| vault.run(&format!("SET GLOBAL read_only = {on}")).await;
    let (forward, back) = (|epoch| vault.mark(epoch, Direction::Forward), |epoch| vault.mark(epoch, Direction::Back));
    vault.seed(12_000).await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = vault.engine().await.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    let shard = survey.shards.iter().find(|shard| shard.table == "connections").unwrap();
    let engine = vault.engine().await;
    let refused = |error: EngineError| {
        assert!(matches!(error, EngineError::ReadOnly), "{error:?}");
        assert!(error.is_retryable() && error.next_step().contains("primary"), "{error:?}");
    };

    read_only(1).await;
    assert!(refusal(&vault).await.contains("read-only"));
    refused(engine.fence(&forward(1)).await.unwrap_err());
    let ledger = "SELECT CAST(count(*) AS text) FROM keyturn_rotation";
    assert_eq!(vault.text(ledger).await, "0", "nothing was written");
    read_only(0).await;
    engine.fence(&forward(1)).await.unwrap();

    // In the middle of a shard.
    let after = std::sync::Mutex::new(None);
    let demote = |_rows| {
        let mut after = after.lock().unwrap();
        if after.is_none() {
            *after = Some(stand_still(async {
                read_only(1).await;
                vault.census().await
            }));
        }
    };
    let job = vault.job(shard, 1, forward(2));
    refused(engine.reencrypt(&job, &demote).await.unwrap_err());
    let after = after.into_inner().unwrap().unwrap();
    let (old, new) = under(&after);
    assert!(old > 0 && new > 0, "{old} {new}");
    assert_eq!(vault.census().await, after, "and no row more is turned");
    let state = async || vault.rows("SELECT * FROM keyturn_rotation JOIN keyturn_shard USING (rotation)").await;
    let before = state().await;
    refused(engine.reencrypt(&vault.job(shard, 2, forward(3)), &|_| {}).await.unwrap_err());
    refused(engine.lift_fence(&forward(3)).await.unwrap_err());
    refused(engine.turn_back(&back(3)).await.unwrap_err());
    refused(engine.note(&vault.rotation, NoteKind::Offline, "here").await.unwrap_err());
    assert_eq!(state().await, before, "the ledger is as it was");
    assert!(vault.user().await.is_err());

    read_only(0).await;
    let tally = engine.reencrypt(&vault.job(shard, 2, forward(3)), &|_| {}).await.unwrap();
    assert_eq!(tally.rows, 12_000);
    engine.lift_fence(&forward(4)).await.unwrap();
    vault.user().await.unwrap().close().await.unwrap();
}

/// A list of sessions that shows statements as text would fail here, and nobody would be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_statement_is_no_text_is_seen() {
    let vault = vault_of_its_own("").await;
    let engine = vault.engine().await;
    let mut other = vault.root().await;
    let sleeping = tokio::spawn(async move {
        let odd =
            "SET NAMES binary; SET @bytes = x'fffe'; PREPARE odd FROM 'SELECT SLEEP(600), ?'; EXECUTE odd USING @bytes";
        let _ = sqlx::raw_sql(odd).execute(&mut other).await;
    });
    let sleeps = "SELECT CAST(count(*) AS text) FROM performance_schema.processlist WHERE STATE = 'User sleep'";
    while vault.text(sleeps).await == "0" {
        tokio::task::yield_now().await;
    }
    let as_text = vault.try_run("SELECT * FROM information_schema.PROCESSLIST").await;
    assert!(as_text.is_err_and(|error| error.to_string().contains("Cannot convert string")));
    let error = engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain, "{error:?}");
    assert!(error.fault().message.contains("user \"root\""), "{error:?}");
    vault.end_all_of("QUERY", "root").await;
    sleeping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_refused_table_by_table_and_auto_takes_none() {
    let vault = Vault::mysql().await;
    vault.seed(20).await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let engine = vault.engine().await;
    let survey = engine.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap();
    let in_place = |table: &rotation::PlanTable| {
        table.strategy == rotation::Strategy::InPlace && table.reason.contains("this server is MySQL")
    };
    assert!(survey.tables.iter().all(|(_, table)| in_place(table)), "{survey:?}");
    let asked = reencrypt::SurveyRequest { strategy: StrategyChoice::Shadow, ..request(&ring, &[], 8) };
    let message = engine.survey(&asked, &|_| {}).await.unwrap_err().fault().message;
    for table in ["connections", "User Entries", "documents", "attachments"] {
        assert!(message.contains(&format!("table {table}: copies are made on MariaDB only")), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_backup_is_promised() {
    let vault = Vault::mysql().await;
    let error = vault.engine().await.check_backups().await.unwrap_err();
    assert!(error.fault().message.contains("this server is MySQL: back it up with its own tools"), "{error:?}");
    let place = RestorePlace::new(&vault.config, None, "00ff").unwrap();
    let error = place.prepare().await.map(drop).unwrap_err();
    assert!(error.fault().message.contains("this server is MySQL"), "{error:?}");
}

/// Accounts have passwords by `caching_sha2_password`, which the server has not seen since it started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_travels_encrypted_or_not_at_all() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let vault = vault_of_its_own(&format!("--skip-networking=0 --bind-address=127.0.0.1 --port={port}")).await;
    let Place::Mariadb { server, database, agent, .. } = &vault.place else { panic!("MySQL only") };
    let check = async |host: &str, options: &str| {
        // Anew for each, so that the server has not seen it.
        vault.run(&format!("ALTER USER {agent}@'%' IDENTIFIED BY 'hunter2 äß'")).await;
        let url = format!("mysql://{agent}:hunter2%20%C3%A4%C3%9F@{host}/{database}?{options}");
        let config = DatabaseConfig { url, ..vault.config.clone() };
        Engine::connect(&config, vault.targets.clone()).await?.check_targets().await
    };
    let tcp = format!("127.0.0.1:{port}");
    let fault = check(&tcp, "ssl-mode=DISABLED").await.unwrap_err().fault();
    assert!(fault.message.contains("ssl-mode=VERIFY_IDENTITY") && !fault.message.contains("hunter2"), "{fault:?}");
    assert!(!fault.retryable, "{fault:?}");
    let socket = format!("socket={}", server.socket().display());
    let fault = check("localhost", &format!("{socket}&ssl-mode=DISABLED")).await.unwrap_err().fault();
    assert!(!fault.retryable && !fault.message.contains("hunter2"), "{fault:?}");
    check(&tcp, "").await.unwrap();
    check("localhost", &socket).await.unwrap();
    let (data, _) = server.folder("");
    let authority = data.join("ca.pem");
    check(&tcp, &format!("ssl-mode=VERIFY_CA&ssl-ca={}", authority.display())).await.unwrap();
    // The certificates that a server makes for itself have no name of a host.
    let verify = format!("ssl-mode=VERIFY_IDENTITY&ssl-ca={}", authority.display());
    assert!(check(&tcp, &verify).await.is_err());
    // Another's word is none.
    let stranger = data.join("client-cert.pem");
    assert!(check(&tcp, &format!("ssl-mode=VERIFY_CA&ssl-ca={}", stranger.display())).await.is_err());
}

/// With another `sql_mode` MySQL would read the index's expression otherwise than it was stored, and damage the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functional_indexes_generated_columns_and_checks_with_backslashes_stay_whole() {
    let targets =
        "version = 1\n[[table]]\nname = 't'\nkey = ['id']\n[[table.column]]\nname = 'c'\nencoding = 'base64'\n";
    let vault = Vault::bare_made_by(Make::MySql, targets).await;
    vault
        .run(
            r"CREATE TABLE t (id int PRIMARY KEY, c text, path varchar(100), j json, hidden int INVISIBLE DEFAULT 7,
                  g varchar(100) AS (REPLACE(path, '\\', '/')) STORED, v varchar(100) AS (REPLACE(path, '\\', '|')),
                  KEY by_part ((SUBSTRING_INDEX(path, '\\', -1))), KEY by_c ((LEFT(c, 20))), KEY by_v (v),
                  CHECK (path LIKE '%\\\\%'))",
        )
        .await;
    let rows: Vec<Vec<Cell>> = (0..300)
        .map(|at| {
            let path = Cell::Text(format!("a\\b{}\\c", at % 7));
            vec![Cell::Integer(at), vault.base64(&format!("s {at}")), path, Cell::Text(format!("{{\"n\": {at}}}"))]
        })
        .collect();
    for rows in rows.chunks(100) {
        let tuples: Vec<String> = rows
            .iter()
            .map(|row| format!("({})", row.iter().map(|cell| vault.literal(cell)).collect::<Vec<_>>().join(",")))
            .collect();
        vault.run(&format!("INSERT INTO t (id, c, path, j) VALUES {}", tuples.join(","))).await;
    }
    vault.grant("t", "", "c").await;
    let others = "SELECT id, path, CAST(j AS text), hidden, g, v FROM t ORDER BY id";
    let before = vault.rows(others).await;
    assert_eq!(vault.there_and_back().await, 300);
    assert_eq!(vault.rows(others).await, before);
    assert_eq!(
        vault.text("SELECT CAST(count(*) AS text) FROM t WHERE SUBSTRING_INDEX(path, '\\\\', -1) = 'c'").await,
        "300"
    );
    let checked = vault.rows("CHECK TABLE t EXTENDED").await;
    assert!(checked.iter().all(|row| row[3].as_deref() == Some(b"OK")), "{checked:?}");
}

/// It would change with every write, and nobody would know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invisible_column_that_is_hidden_from_the_agent_is_refused() {
    let targets = "version = 1\n[[table]]\nname = 't'\nkey = ['id']\n[[table.column]]\nname = 'c'\n";
    let vault = Vault::bare_made_by(Make::MySql, targets).await;
    vault
        .run("CREATE TABLE t (id int PRIMARY KEY, c blob, a timestamp NULL INVISIBLE ON UPDATE current_timestamp)")
        .await;
    vault.run(&vault.named("GRANT SELECT (id, c), UPDATE (c), TRIGGER ON vault.t TO keyturn_agent@'%'")).await;
    assert!(refusal(&vault).await.contains("may have columns that the agent's role may not SELECT: GRANT SELECT ON"));
    vault.run(&vault.named("GRANT SELECT ON vault.t TO keyturn_agent@'%'")).await;
    assert!(refusal(&vault).await.contains("GRANT UPDATE (`a`)"));
}

/// MySQL hides the key that it makes by itself, and it is a key all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_a_generated_invisible_key_turns() {
    let targets = "version = 1\n[[table]]\nname = 't'\nkey = ['my_row_id']\n[[table.column]]\nname = 'c'\n";
    let vault = Vault::bare_made_by(Make::MySql, targets).await;
    let secrets: Vec<String> =
        (0..200).map(|at| format!("({})", vault.literal(&vault.raw(&format!("s {at}"), "")))).collect();
    // Other sessions have it from the server, and ours by themselves.
    vault.run("SET GLOBAL show_gipk_in_create_table_and_information_schema = OFF").await;
    vault
        .run(&format!(
            "SET sql_generate_invisible_primary_key = ON; CREATE TABLE t (c blob); INSERT INTO t VALUES {}",
            secrets.join(",")
        ))
        .await;
    vault.grant("t", "", "c").await;
    assert_eq!(vault.there_and_back().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_on_either_side_are_seen_whatever_the_names() {
    let vault = Vault::mysql().await;
    vault
        .run(
            "CREATE TABLE \"Üser ones/2\" (id int PRIMARY KEY, c varbinary(200) NOT NULL, UNIQUE KEY (c));
             CREATE TABLE refers (id int PRIMARY KEY, c varbinary(200), CONSTRAINT \"its own\" FOREIGN KEY (c)
                 REFERENCES \"Üser ones/2\" (c))",
        )
        .await;
    vault.run(&vault.named("GRANT SELECT, UPDATE, TRIGGER ON vault.* TO keyturn_agent@'%'")).await;
    for name in ["Üser ones/2", "refers"] {
        let targets = format!("version = 1\n[[table]]\nname = '{name}'\nkey = ['id']\n[[table.column]]\nname = 'c'\n");
        let engine = Engine::connect(&vault.config, Targets::parse(&targets).unwrap()).await.unwrap();
        let message = engine.check_targets().await.unwrap_err().fault().message;
        assert!(message.contains("column \"c\" in the foreign key") && message.contains("its own"), "{message}");
    }
}

/// JSON is a type of its own, and may hold what nobody registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_looked_into_and_what_the_account_is_shown_nothing_of_may_be_there() {
    let vault = Vault::mysql().await;
    vault.seed(10).await;
    let Cell::Text(secret) = vault.base64("in a document") else { panic!("text") };
    vault.run("CREATE TABLE notes (id int PRIMARY KEY, doc json)").await;
    vault.run(&format!("INSERT INTO notes VALUES (1, '{{\"k\": \"{secret}\"}}')")).await;
    let scan = async || vault.engine().await.scan(&|_| {}).await.unwrap();
    let report = scan().await;
    let unseen: Vec<_> = report.not_looked_into.iter().map(|unseen| unseen.table.as_str()).collect();
    assert_eq!(unseen, ["any other table"]);
    vault.run(&vault.named(&vault.documented("see all"))).await;
    let report = scan().await;
    assert!(report.not_looked_into.is_empty());
    let found = format!("{report:?}");
    assert!(found.contains("notes") && found.contains("doc"), "{found}");
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let refused = vault.engine().await.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap_err();
    assert_eq!(refused.code(), FaultCode::UnregisteredColumns, "{refused:?}");
}
