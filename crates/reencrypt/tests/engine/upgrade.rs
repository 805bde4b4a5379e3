//! A ledger that the release before wrote: brought to the present form if all of it is closed, else left alone.
//! In MariaDB no release wrote an earlier form.

use rotation::{Direction, FaultCode};

use crate::farm::{Vault, turned};

const SQLITE: &str = "
    CREATE TABLE keyturn_rotation (
        rotation TEXT NOT NULL PRIMARY KEY, format INTEGER NOT NULL,
        direction TEXT NOT NULL CHECK (direction IN ('forward', 'back')), epoch INTEGER NOT NULL,
        closed INTEGER NOT NULL DEFAULT 0, opened_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, closed_at TEXT
    ) WITHOUT ROWID;
    CREATE TABLE keyturn_shard (
        rotation TEXT NOT NULL, shard INTEGER NOT NULL, pass TEXT NOT NULL, epoch INTEGER NOT NULL, lease INTEGER NOT NULL,
        cursor_key TEXT, rows_done INTEGER NOT NULL DEFAULT 0, values_opened INTEGER NOT NULL DEFAULT 0,
        values_undecryptable INTEGER NOT NULL DEFAULT 0,
        content_digest TEXT NOT NULL DEFAULT '00000000000000000000000000000000', done INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (rotation, shard, pass)
    ) WITHOUT ROWID;
    INSERT INTO keyturn_rotation (rotation, format, direction, epoch, closed) VALUES ('EARLIER', 1, 'forward', 9, 1);
    INSERT INTO keyturn_shard (rotation, shard, pass, epoch, lease) VALUES ('EARLIER', 0, 'verify', 9, 1);";

const POSTGRES: &str = "
    SET ROLE keyturn_agent;
    CREATE TABLE keyturn.rotation (
        rotation text PRIMARY KEY, format bigint NOT NULL,
        direction text NOT NULL CHECK (direction IN ('forward', 'back')), epoch bigint NOT NULL,
        closed boolean NOT NULL DEFAULT false, role_saved text, role_fenced boolean NOT NULL DEFAULT false,
        opened_at timestamptz NOT NULL DEFAULT now(), closed_at timestamptz);
    CREATE TABLE keyturn.shard (
        rotation text NOT NULL REFERENCES keyturn.rotation ON DELETE CASCADE, shard bigint NOT NULL, pass text NOT NULL,
        epoch bigint NOT NULL, lease bigint NOT NULL, cursor_key text, rows_done bigint NOT NULL DEFAULT 0,
        values_opened bigint NOT NULL DEFAULT 0, values_undecryptable bigint NOT NULL DEFAULT 0,
        content_digest text NOT NULL DEFAULT '00000000000000000000000000000000', done boolean NOT NULL DEFAULT false,
        holder_pid integer NOT NULL, holder_start timestamptz NOT NULL, PRIMARY KEY (rotation, shard, pass));
    INSERT INTO keyturn.rotation (rotation, format, direction, epoch, closed) VALUES ('EARLIER', 1, 'forward', 9, true);
    INSERT INTO keyturn.shard (rotation, shard, pass, epoch, lease, holder_pid, holder_start)
        VALUES ('EARLIER', 0, 'verify', 9, 1, 1, now());";

const EARLIER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

async fn earlier(vault: &Vault) {
    let sql = if vault.is_sqlite() { SQLITE } else { POSTGRES };
    vault.run(&vault.named(sql).replace("EARLIER", EARLIER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_whose_rotations_are_closed_is_brought_to_the_present_form_on_sqlite() {
    closed(Vault::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_whose_rotations_are_closed_is_brought_to_the_present_form_on_postgres() {
    closed(Vault::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_an_open_rotation_is_refused_by_its_name_and_left_alone_on_sqlite() {
    open(Vault::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_an_open_rotation_is_refused_by_its_name_and_left_alone_on_postgres() {
    open(Vault::postgres().await).await;
}

async fn closed(vault: Vault) {
    vault.seed(100).await;
    earlier(&vault).await;
    let before = vault.census().await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    // Nothing of this rotation is known yet.
    let error = engine.lift_fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::DatabasePosition, "{error:?}");
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
    assert_eq!(vault.census().await, turned(&before));
    let header = if vault.is_sqlite() { "keyturn_rotation" } else { "keyturn.rotation" };
    let formats = vault.rows(&format!("SELECT DISTINCT CAST(format AS text) FROM {header}")).await;
    assert_eq!(formats, [[Some(b"2".to_vec())]]);
    engine.close(&vault.mark(4, Direction::Forward)).await.unwrap();
}

async fn open(vault: Vault) {
    vault.seed(100).await;
    earlier(&vault).await;
    let header = if vault.is_sqlite() { "keyturn_rotation" } else { "keyturn.rotation" };
    let open = if vault.is_sqlite() { "0" } else { "false" };
    vault.run(&format!("UPDATE {header} SET closed = {open}")).await;
    let engine = vault.engine().await;
    for error in [
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err(),
        engine.turn_back(&vault.mark(2, Direction::Back)).await.unwrap_err(),
        engine.lift_fence(&vault.mark(2, Direction::Back)).await.unwrap_err(),
    ] {
        assert!(error.fault().message.contains(EARLIER) && !error.is_retryable(), "{error:?}");
    }
    assert_eq!(vault.text(&format!("SELECT CAST(format AS text) FROM {header}")).await, "1");
    if !vault.is_sqlite() {
        vault.application().await.unwrap();
    }
}
