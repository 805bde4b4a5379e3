//! What a recovery by hand needs of the ledger when no coordinator is left: how far a rotation had come, notes that hold
//! against each other, which key opens what, and an undo under an epoch and a lease that nobody gave out.

use keys::SecretKey;
use reencrypt::{CensusRequest, EngineError, LedgerMark, NoteKind};
use rotation::{Direction, Epoch, KeyBound};

use crate::farm::{Vault, on_both, under};

on_both! {
    async fn a_rotation_that_nobody_leads_any_more_is_found_and_undone(vault) {
        vault.seed(600).await;
        let before = vault.census().await;
        let engine = vault.engine().await;
        assert_eq!(engine.history().await.unwrap(), [], "there is no ledger yet");
        let survey = vault.survey().await;
        engine.fence(&vault.mark(2, Direction::Forward)).await.unwrap();
        // One shard only, and then everybody dies.
        let first = &survey.shards[0];
        engine.reencrypt(&vault.job(first, 5, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap();
        let (old, new) = under(&vault.census().await);
        assert!(old > 0 && new > 0, "rows are under both keys");

        let history = engine.history().await.unwrap();
        let [found] = &history[..] else { panic!("one rotation: {history:?}") };
        assert_eq!((found.rotation, found.direction, found.closed), (vault.rotation, Direction::Forward, false));
        assert_eq!((found.epoch.get(), found.shards_turned, found.lease_max.get()), (3, 1, 5));
        assert_eq!((found.shards_verified, found.shards_restored), (0, 0));
        let keys = [vault.old.clone(), vault.new.clone()];
        let tried = |sample_rows| CensusRequest { keys: &keys, accepted: &[], sample_rows, shards: &survey.shards };
        let census = engine.census(&tried(None), &|_| {}).await.unwrap();
        let count = |key: &SecretKey| census.iter().filter_map(|table| table.by_key.get(&key.id())).sum::<u64>();
        assert_eq!((count(&vault.old), count(&vault.new)), (old as u64, new as u64));
        assert!(census.iter().any(|table| !table.is_under(vault.old.id())));
        let sampled = engine.census(&tried(Some(10)), &|_| {}).await.unwrap();
        assert!(sampled.iter().all(|table| table.rows_read <= table.rows.min(10 * 20)), "{sampled:?}");
        // More than either half has: every row is read, once.
        let connections = survey.shards.iter().find(|shard| shard.table.contains("connections")).unwrap();
        let (mut first, mut second) = (connections.clone(), connections.clone());
        first.range.through = Some(KeyBound("[\"i:0\"]".to_owned()));
        second.range.after = first.range.through.clone();
        let halves = CensusRequest { shards: &[first, second], ..tried(Some(599)) };
        let whole = engine.census(&halves, &|_| {}).await.unwrap();
        assert_eq!(whole, census);

        let mark = LedgerMark { epoch: Epoch::new(4), ..vault.mark(4, Direction::Back) };
        engine.turn_back(&mark).await.unwrap();
        engine.fence(&mark).await.unwrap();
        vault.reencrypt_all(&survey, 6, mark).await.unwrap();
        vault.verify_all(&survey, 6, mark).await.unwrap();
        engine.note(&vault.rotation, NoteKind::Recovered, "node-1").await.unwrap();
        engine.lift_fence(&mark).await.unwrap();
        engine.close(&mark).await.unwrap();
        assert_eq!(vault.census().await, before);
        let history = engine.history().await.unwrap();
        assert!(history[0].closed && history[0].has(NoteKind::Recovered), "{history:?}");
        // Coordinators that come back, however high their epoch, do nothing any more.
        let late = engine.turn_back(&vault.mark(90, Direction::Back)).await;
        assert!(matches!(late, Err(EngineError::Superseded(_))), "{late:?}");
    }

    async fn nobody_goes_forward_once_a_recovery_has_begun(vault) {
        vault.seed(10).await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        // Nothing runs with the new key before the application is let in.
        engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
        for _ in 0..2 {
            engine.note(&vault.rotation, NoteKind::Started, "node-1").await.unwrap();
        }
        engine.note(&vault.rotation, NoteKind::Offline, "node-2").await.unwrap();
        for kind in [NoteKind::Started, NoteKind::Admitted] {
            let refused = engine.note(&vault.rotation, kind, "node-3").await;
            assert!(matches!(refused, Err(EngineError::Superseded(_))), "{kind:?}: {refused:?}");
        }
        let history = engine.history().await.unwrap();
        assert_eq!(history[0].nodes(NoteKind::Started).collect::<Vec<_>>(), ["node-1"]);
        assert_eq!(history[0].nodes(NoteKind::Offline).collect::<Vec<_>>(), ["node-2"]);
        assert!(!history[0].has(NoteKind::Admitted));
    }

    async fn past_the_point_of_no_return_a_recovery_that_has_begun_keeps_nobody_from_going_forward(vault) {
        vault.seed(10).await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
        engine.note(&vault.rotation, NoteKind::Started, "node-1").await.unwrap();
        engine.note(&vault.rotation, NoteKind::Admitted, "node-1").await.unwrap();
        engine.note(&vault.rotation, NoteKind::Offline, "node-2").await.unwrap();
        for kind in [NoteKind::Started, NoteKind::Admitted] {
            engine.note(&vault.rotation, kind, "node-2").await.unwrap();
        }
        assert_eq!(engine.history().await.unwrap()[0].nodes(NoteKind::Admitted).count(), 2);
    }

    async fn nobody_is_admitted_once_the_ledger_was_turned_back(vault) {
        vault.seed(10).await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        engine.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
        let refused = engine.note(&vault.rotation, NoteKind::Admitted, "node-1").await;
        assert!(matches!(refused, Err(EngineError::Superseded(_))), "{refused:?}");
    }
}
