//! The ledger as this release writes it, kept in `tests/compatibility/ledger-2`: one rotation that is closed, whose tables were
//! copied, swapped and retired, and one that is open. Every later release reads it and ends what is open in it.
//! Before the first release it is written anew with `KEYTURN_WRITE_FIXTURES=1` and this test; afterwards a change needs a new
//! format, and what is kept stays.

use std::path::{Path, PathBuf};
use std::process::Command;

use keys::SecretKey;
use reencrypt::{EngineError, LedgerMark, LedgerRotation, NoteKind};
use rotation::{Direction, Epoch, LeaseNumber, RotationId, Strategy};

use crate::farm::{Place, SCHEMA, TARGETS, Vault};

const TABLES: [&str; 4] = ["connections", "\"User Entries\"", "documents", "attachments"];
const ROWS: i64 = 100;
const CLOSED: &str = "01890a5d-ac96-774b-bcce-b302099a8056";
const OPEN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn id(text: &str) -> RotationId {
    text.parse().unwrap()
}

/// Digests in the ledger are of these keys. They protect nothing.
fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(vec![number; 32]).unwrap()
}

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compatibility/ledger-2").join(name)
}

fn writes() -> bool {
    std::env::var_os("KEYTURN_WRITE_FIXTURES").is_some()
}

/// What the kept ledger says.
fn said(vault: &Vault, shards: u64) -> [LedgerRotation; 2] {
    let closed = LedgerRotation {
        rotation: id(CLOSED),
        direction: Direction::Forward,
        epoch: Epoch::new(7),
        closed: true,
        role_fenced: false,
        role_saved: !vault.is_sqlite(),
        shards_turned: shards,
        shards_verified: shards,
        shards_restored: 0,
        lease_max: LeaseNumber::new(2),
        notes: vec![(NoteKind::Admitted, "node-1".to_owned()), (NoteKind::Started, "node-1".to_owned())],
    };
    let open = LedgerRotation {
        rotation: id(OPEN),
        epoch: Epoch::new(11),
        closed: false,
        role_fenced: !vault.is_sqlite(),
        shards_verified: 1,
        lease_max: LeaseNumber::new(4),
        notes: vec![(NoteKind::Offline, "node-2".to_owned())],
        ..closed.clone()
    };
    [closed, open]
}

/// Two rotations by the engine itself; answers the number of shards.
async fn write(vault: &mut Vault) -> u64 {
    grant_shadows(vault).await;
    vault.old = key(1);
    vault.seed(ROWS).await;
    (vault.rotation, vault.strategy) = (id(CLOSED), Strategy::Shadow);
    let mut shards = 0;
    for number in [1, 2] {
        (vault.old, vault.new) = (key(number), key(number + 1));
        let (engine, survey) = (vault.engine().await, vault.survey().await);
        let forward = |epoch| vault.mark(epoch, Direction::Forward);
        if vault.strategy == Strategy::Shadow {
            engine.fence(&forward(1)).await.unwrap();
            vault.reencrypt_all(&survey, 1, forward(2)).await.unwrap();
            engine.finish_shadows(&forward(3), &|_| {}).await.unwrap();
            vault.verify_all(&survey, 2, forward(4)).await.unwrap();
            engine.swap(&vault.swap_job(&survey, forward(5)), &|_| {}).await.unwrap();
            engine.lift_fence(&forward(6)).await.unwrap();
            for note in [NoteKind::Started, NoteKind::Admitted] {
                engine.note(&vault.rotation, note, "node-1").await.unwrap();
            }
            engine.close(&forward(7)).await.unwrap();
            engine.retire(&vault.rotation).await.unwrap();
            (vault.rotation, vault.strategy) = (id(OPEN), Strategy::InPlace);
        } else {
            engine.fence(&forward(9)).await.unwrap();
            vault.reencrypt_all(&survey, 3, forward(10)).await.unwrap();
            engine.verify(&vault.job(&survey.shards[0], 4, forward(11)), &|_| {}).await.unwrap();
            engine.note(&vault.rotation, NoteKind::Offline, "node-2").await.unwrap();
        }
        shards = u64::try_from(survey.shards.len()).unwrap();
    }
    shards
}

async fn grant_shadows(vault: &Vault) {
    match &vault.place {
        Place::Sqlite { .. } => {}
        Place::Postgres { application, .. } => {
            vault
                .run(&vault.named("GRANT vault_app TO keyturn_agent; GRANT CREATE ON SCHEMA public TO vault_app"))
                .await;
            for table in TABLES {
                vault.run(&format!("ALTER TABLE {table} OWNER TO {application}")).await;
            }
        }
        Place::Mariadb { .. } => vault.grant_shadows().await,
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Only what is Keyturn's, with the names that roles have in the page on databases.
async fn keep(vault: &Vault) {
    match &vault.place {
        Place::Sqlite { .. } => {
            let path = kept("sqlite.db");
            let _ = std::fs::remove_file(&path);
            vault.run(&format!("VACUUM INTO '{}'", path.display())).await;
            for table in TABLES {
                vault.run(&format!("ATTACH '{}' AS kept; DROP TABLE kept.{table}; VACUUM kept", path.display())).await;
            }
        }
        Place::Postgres { cluster, database, agent, application } => {
            let mut dump = Command::new("pg_dump");
            dump.args(["--schema=keyturn", "--inserts", "--no-owner", "--no-privileges", "--no-comments", "--dbname"]);
            let dump = output(dump.arg(cluster.url("postgres", database)));
            // What is the client's own, and what is a remark.
            let lines =
                dump.lines().filter(|line| !line.is_empty() && !line.starts_with("--") && !line.starts_with('\\'));
            let lines = lines.filter(|line| *line != "CREATE SCHEMA keyturn;");
            let sql: String = lines.map(|line| line.replace(agent, "keyturn_agent") + "\n").collect();
            std::fs::write(kept("postgres.sql"), sql.replace(application, "vault_app")).unwrap();
        }
        Place::Mariadb { server, database, agent, application } => {
            let mut dump = Command::new("mariadb-dump");
            dump.args(["--no-defaults", "--user=root", "--compact", "--skip-extended-insert", "--single-transaction"]);
            dump.arg(format!("--socket={}", server.socket().display())).arg(database);
            let dump = output(dump.args(["keyturn_rotation", "keyturn_shard", "keyturn_shadow", "keyturn_note"]));
            std::fs::write(kept("mariadb.sql"), dump.replace(agent, "keyturn_agent").replace(application, "vault_app"))
                .unwrap();
        }
    }
}

/// A vault of today's with the kept ledger beside it.
async fn with_kept_ledger(empty: Vault) -> Vault {
    let mut vault = match &empty.place {
        Place::Sqlite { .. } => {
            let vault = Vault::sqlite_bare(TARGETS);
            let Place::Sqlite { directory } = &vault.place else { panic!("of SQLite") };
            std::fs::copy(kept("sqlite.db"), directory.path().join("vault.db")).unwrap();
            vault.run(&vault.types(SCHEMA)).await;
            vault
        }
        Place::Postgres { .. } => {
            let sql = std::fs::read_to_string(kept("postgres.sql")).unwrap();
            empty.run(&empty.named(&format!("SET ROLE keyturn_agent; {sql}"))).await;
            empty
        }
        Place::Mariadb { .. } => {
            let sql = std::fs::read_to_string(kept("mariadb.sql")).unwrap();
            // Backslashes are escapes in a dump.
            empty.run(&empty.named(&format!("SET SESSION sql_mode = ''; {sql}"))).await;
            empty
        }
    };
    (vault.old, vault.new) = (key(2), key(3));
    vault.seed(ROWS).await;
    vault
}

/// The columns of the ledger's tables, each in its table's order.
async fn columns(vault: &Vault) -> Vec<Vec<Option<Vec<u8>>>> {
    let sql = if vault.is_sqlite() {
        "SELECT m.name || ' ' || p.name || ' ' || p.type || p.\"notnull\" || p.pk || COALESCE(p.dflt_value, '')
         FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.name LIKE 'keyturn%' ORDER BY m.name, p.cid"
    } else if vault.is_postgres() {
        "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) FROM information_schema.columns
         WHERE table_schema = 'keyturn' ORDER BY table_name, ordinal_position"
    } else {
        "SELECT CONCAT_WS(' ', TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_DEFAULT, COLUMN_KEY, COLLATION_NAME)
         FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'keyturn%'
         ORDER BY TABLE_NAME, ORDINAL_POSITION"
    };
    vault.rows(sql).await
}

async fn is_read_and_ended(mut made: Vault, empty: Vault) {
    let shards = write(&mut made).await;
    assert_eq!(
        made.engine().await.history().await.unwrap(),
        said(&made, shards),
        "it is written otherwise than it was"
    );
    if writes() {
        keep(&made).await;
    }
    let mut vault = with_kept_ledger(empty).await;
    assert_eq!(columns(&vault).await, columns(&made).await, "a table has changed; see the head of this file");
    let (engine, before, survey) = (vault.engine().await, vault.census().await, vault.survey().await);
    assert_eq!(engine.history().await.unwrap(), said(&vault, shards));

    // The open one keeps another from beginning, and is undone: its rows are back already, by their digests too.
    let refused = engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert!(matches!(&refused, EngineError::LedgerOpen(open) if open == OPEN), "{refused:?}");
    let next = std::mem::replace(&mut vault.rotation, id(OPEN));
    let late = LedgerMark { epoch: Epoch::new(10), ..vault.mark(10, Direction::Back) };
    assert!(matches!(engine.turn_back(&late).await, Err(EngineError::Superseded(_))));
    engine.turn_back(&vault.mark(12, Direction::Back)).await.unwrap();
    vault.reencrypt_all(&survey, 5, vault.mark(13, Direction::Back)).await.unwrap();
    vault.verify_all(&survey, 6, vault.mark(14, Direction::Back)).await.unwrap();
    engine.lift_fence(&vault.mark(15, Direction::Back)).await.unwrap();
    engine.close(&vault.mark(16, Direction::Back)).await.unwrap();
    let history = engine.history().await.unwrap();
    assert!(history[1].closed && history[1].shards_restored == shards && !history[1].role_fenced, "{history:?}");
    assert_eq!(vault.census().await, before);
    vault.rotation = next;
    engine.fence(&vault.mark(17, Direction::Forward)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_ledger_is_read_and_what_is_open_in_it_is_undone_on_sqlite() {
    is_read_and_ended(Vault::sqlite().await, Vault::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_ledger_is_read_and_what_is_open_in_it_is_undone_on_postgres() {
    is_read_and_ended(Vault::postgres().await, Vault::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_ledger_is_read_and_what_is_open_in_it_is_undone_on_mariadb() {
    is_read_and_ended(Vault::mariadb().await, Vault::mariadb().await).await;
}
