//! Looking at every registered value, and turning stragglers to the active key while the farm serves.

use keys::value::Encoding;
use keys::{KeyEntry, KeySet, KeyState};
use reencrypt::doctor::DoctorReport;
use reencrypt::{Engine, EngineError};
use rotation::Direction;

use crate::farm::{Cell, Vault, on_both, under};

/// The farm's keys with `new` active and `old` only for opening.
fn ring(vault: &Vault) -> KeySet {
    let entry = KeyEntry { state: KeyState::Active, created_at_ms: 0, secret: vault.new.clone() };
    KeySet::new("farm", vault.old.clone(), 0).promote(entry, 1)
}

/// Everything of the table but the registered columns.
async fn rest(vault: &Vault) -> Vec<Vec<Option<Vec<u8>>>> {
    vault.rows("SELECT CAST(id AS text), name, updated_at FROM connections ORDER BY id").await
}

on_both! {
    async fn it_tells_under_which_key_every_value_is_and_turns_stragglers(vault) {
        vault.seed(120).await;
        let stray = vault.encrypt(&keys::SecretKey::generate(), b"x", Encoding::Raw, "connections.password");
        vault.insert("connections", &[
            vec![Cell::Integer(9001), Cell::Null, Cell::Bytes(stray.clone()), Cell::Null, Cell::Null],
            vec![Cell::Integer(9002), Cell::Null, Cell::Bytes(vault.encrypt(&vault.new, b"y", Encoding::Raw, "connections.password")),
                 Cell::Null, Cell::Null],
        ]).await;
        let (before, census) = (rest(&vault).await, vault.census().await);
        let ring = ring(&vault);
        let engine = vault.engine().await;
        let seen = engine.doctor(&ring, &[], false, &|_| {}).await.unwrap();
        assert!(!seen.well && seen.repaired == 0);
        let passwords = seen.columns.iter().find(|column| column.column == "password").unwrap();
        let count = |id: rotation::KeyId| passwords.keys.get(&id.to_string()).copied().unwrap_or_default();
        assert_eq!((count(vault.old.id()), count(vault.new.id())), (114, 1), "{passwords:?}");
        assert_eq!((passwords.undecryptable, seen.undecryptable_total, passwords.empty), (1, 1, 6));
        assert_eq!(seen.undecryptable[0].key.0, "[\"i:9001\"]");
        assert_eq!(vault.census().await, census, "looking changes nothing");

        let repaired = engine.doctor(&ring, &[], true, &|_| {}).await.unwrap();
        let (old, _) = under(&census);
        assert_eq!(repaired.repaired, old as u64);
        assert_eq!((repaired.undecryptable_total, repaired.well), (1, false), "what opens under no key stays");
        assert_eq!(under(&vault.census().await).0, 0);
        assert_eq!(rest(&vault).await, before);
        // Accepted as a plan takes it: this value, as it stands.
        let accepted = repaired.undecryptable;
        let seen = engine.doctor(&ring, &accepted, false, &|_| {}).await.unwrap();
        assert_eq!((seen.well, seen.undecryptable_total, seen.accepted_total, seen.undecryptable.len()), (true, 0, 1, 0));
        let other = rotation::UndecryptableValue { raw_digest: rotation::Digest::new([7; 32]), ..accepted[0].clone() };
        let seen = engine.doctor(&ring, &[other], false, &|_| {}).await.unwrap();
        assert_eq!((seen.well, seen.undecryptable_total, seen.accepted_total), (false, 1, 0));
        assert!(engine.doctor(&ring, &accepted, true, &|_| {}).await.unwrap().well);
        vault.run("DELETE FROM connections WHERE id = 9001").await;
        let again = engine.doctor(&ring, &[], true, &|_| {}).await.unwrap();
        assert!(again.well && again.repaired == 0);
    }

    async fn looking_takes_the_right_to_read_alone_and_repairing_more(vault) {
        vault.seed(30).await;
        vault.run("CREATE TABLE counted (n integer)").await;
        let reader = vault.reader().await;
        // What would keep a rotation from beginning is nothing to who only reads.
        let trigger = match () {
            () if vault.is_sqlite() => "CREATE TRIGGER t AFTER UPDATE ON documents BEGIN INSERT INTO counted VALUES (1); END",
            () if vault.is_mariadb() => "CREATE TRIGGER t AFTER UPDATE ON documents FOR EACH ROW INSERT INTO counted VALUES (1)",
            () => "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                   CREATE TRIGGER t AFTER UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION f()",
        };
        vault.run(trigger).await;
        let (ring, engine) = (ring(&vault), Engine::connect(&reader, vault.targets.clone()).await.unwrap());
        let seen = engine.doctor(&ring, &[], false, &|_| {}).await.unwrap();
        let count = |report: &DoctorReport| -> u64 { report.columns.iter().flat_map(|column| column.keys.values()).sum() };
        assert_eq!((count(&seen), seen.undecryptable_total), (under(&vault.census().await).0 as u64, 0));
        let refused = engine.doctor(&ring, &[], true, &|_| {}).await.unwrap_err().fault().message;
        let said = if vault.is_sqlite() { "readonly" } else { "may not UPDATE" };
        assert!(refused.contains(said), "{refused}");
    }

    async fn it_repairs_nothing_while_a_rotation_is_under_way(vault) {
        vault.seed(20).await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let refused = engine.doctor(&ring(&vault), &[], true, &|_| {}).await.unwrap_err();
        assert!(matches!(&refused, EngineError::LedgerOpen(open) if *open == vault.rotation.to_string()), "{refused}");
        assert!(engine.doctor(&ring(&vault), &[], false, &|_| {}).await.is_ok(), "looking is harmless");
        engine.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
        engine.lift_fence(&vault.mark(3, Direction::Back)).await.unwrap();
        engine.close(&vault.mark(4, Direction::Back)).await.unwrap();
        assert!(engine.doctor(&ring(&vault), &[], true, &|_| {}).await.unwrap().well);
    }

    async fn while_the_application_writes_nothing_of_it_is_lost(vault) {
        vault.seed(2000).await;
        let ring = ring(&vault);
        let engine = vault.engine().await;
        let new = vault.encrypt(&vault.new, b"written meanwhile", Encoding::Raw, "connections.password");
        let literal = vault.literal(&Cell::Bytes(new));
        let write = async {
            for id in (0..600).step_by(20) {
                let sql = format!("UPDATE connections SET password = {literal}, updated_at = 'now' WHERE id = {id}");
                while vault.try_run(&sql).await.is_err() {}
            }
        };
        let (report, ()) = tokio::join!(engine.doctor(&ring, &[], true, &|_| {}), write);
        let report = report.unwrap();
        assert!(report.well, "{report:?}");
        let written = vault.rows("SELECT updated_at, CAST(id AS text) FROM connections WHERE updated_at = 'now' ORDER BY id").await;
        let census = vault.census().await;
        for row in &written {
            let id = String::from_utf8(row[1].clone().unwrap()).unwrap();
            let found = &census[&("connections".to_owned(), "password".to_owned(), id.clone())];
            assert_eq!(found, &crate::farm::Found::New(b"written meanwhile".to_vec()), "row {id}");
        }
        assert!(!written.is_empty());
    }

    async fn only_one_repairs_at_a_time(vault) {
        vault.seed(1000).await;
        let ring = ring(&vault);
        let (one, other) = (vault.engine().await, vault.engine().await);
        let (first, second) = tokio::join!(one.doctor(&ring, &[], true, &|_| {}), other.doctor(&ring, &[], true, &|_| {}));
        let refused = [&first, &second].into_iter().filter(|ended| matches!(ended, Err(EngineError::RepairUnderWay))).count();
        assert!(refused <= 1 && (first.is_ok() || second.is_ok()), "{first:?} {second:?}");
        assert!(one.doctor(&ring, &[], false, &|_| {}).await.unwrap().well);
    }
}
