//! The whole way: every row to the new key, proved, and every row back.

use rotation::{Direction, ShardTally};

use crate::farm::{Vault, on_both, turned, under};

on_both! {
    async fn every_row_turns_to_the_new_key_and_back_and_the_digests_agree(vault) {
        vault.seed(3000).await;
        let before = vault.census().await;
        let others = "SELECT CAST(id AS text), name, updated_at FROM connections ORDER BY id";
        let others_before = vault.rows(others).await;
        let engine = vault.engine().await;
        engine.check_targets().await.unwrap();
        let survey = vault.survey().await;
        assert!(survey.shards.len() > survey.tables.len(), "the large table is split: {:?}", survey.shards);
        assert_eq!(survey.undecryptable_total, 0);

        let forward = vault.mark(2, Direction::Forward);
        let fixed = engine.fence(&forward).await.unwrap();
        let planned: Vec<(String, u64)> = survey.tables.iter().map(|(name, table)| (name.clone(), table.rows)).collect();
        assert_eq!(fixed, planned);
        let rows: u64 = fixed.iter().map(|(_, rows)| rows).sum();

        let reencrypted = vault.reencrypt_all(&survey, 1, vault.mark(3, Direction::Forward)).await.unwrap();
        assert_eq!(vault.census().await, turned(&before));
        assert_eq!(vault.rows(others).await, others_before, "other columns are untouched");
        let values: u64 = survey.tables.iter().map(|(_, table)| table.values).sum();
        let expected = ShardTally { rows, values, undecryptable: 0, digest: reencrypted.digest, rest: reencrypted.rest };
        assert_eq!(reencrypted, expected);
        let verified = vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap();
        assert_eq!(verified, reencrypted);

        let position = engine.position().await.unwrap();
        engine.check_position(&position).await.unwrap();
        engine.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();

        let back = vault.mark(7, Direction::Back);
        engine.turn_back(&back).await.unwrap();
        let restored = vault.reencrypt_all(&survey, 3, vault.mark(8, Direction::Back)).await.unwrap();
        assert_eq!(restored, reencrypted);
        assert_eq!(vault.census().await, before);
        let verified_back = vault.verify_all(&survey, 4, vault.mark(9, Direction::Back)).await.unwrap();
        assert_eq!(verified_back, reencrypted);
        engine.lift_fence(&vault.mark(10, Direction::Back)).await.unwrap();
        engine.close(&vault.mark(11, Direction::Back)).await.unwrap();
        engine.close(&vault.mark(11, Direction::Back)).await.unwrap();
    }

    async fn asked_again_after_the_end_a_shard_answers_what_it_counted_and_does_nothing(vault) {
        vault.seed(300).await;
        let survey = vault.survey().await;
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let first = vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        let ciphertexts = vault.rows("SELECT password FROM connections ORDER BY id").await;
        assert_eq!(vault.reencrypt_all(&survey, 1, mark).await.unwrap(), first);
        assert_eq!(vault.reencrypt_all(&survey, 2, mark).await.unwrap(), first);
        assert_eq!(vault.rows("SELECT password FROM connections ORDER BY id").await, ciphertexts);
    }

    async fn shards_of_one_table_can_be_worked_on_at_once(vault) {
        vault.seed(4000).await;
        let before = vault.census().await;
        let survey = vault.survey().await;
        let mark = vault.mark(1, Direction::Forward);
        let engine = vault.engine().await;
        engine.fence(&mark).await.unwrap();
        let jobs: Vec<_> = survey.shards.iter().map(|shard| vault.job(shard, 1, mark)).collect();
        let work = jobs.iter().map(|job| engine.reencrypt(job, &|_| {}));
        let tallies: Vec<_> = futures::future::try_join_all(work).await.unwrap();
        assert_eq!(vault.census().await, turned(&before));
        let rows: u64 = survey.tables.iter().map(|(_, table)| table.rows).sum();
        assert_eq!(tallies.iter().map(|tally| tally.rows).sum::<u64>(), rows);
    }

    async fn an_empty_table_is_one_shard_of_nothing(vault) {
        let survey = vault.survey().await;
        assert_eq!(survey.shards.len(), survey.tables.len());
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        assert_eq!(vault.reencrypt_all(&survey, 1, mark).await.unwrap(), ShardTally::default());
        assert_eq!(vault.verify_all(&survey, 2, vault.mark(2, Direction::Forward)).await.unwrap(), ShardTally::default());
    }

    async fn a_value_is_stored_under_another_nonce_each_time(vault) {
        vault.seed(100).await;
        let before = vault.rows("SELECT secret FROM \"User Entries\" ORDER BY owner, \"Seq\"").await;
        let survey = vault.survey().await;
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        vault.engine().await.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
        vault.reencrypt_all(&survey, 2, vault.mark(3, Direction::Back)).await.unwrap();
        let after = vault.rows("SELECT secret FROM \"User Entries\" ORDER BY owner, \"Seq\"").await;
        assert!(before.iter().zip(&after).all(|(before, after)| before != after));
        assert_eq!(under(&vault.census().await).1, 0);
    }
}

/// A coordinator's task moves between threads, so the engine's futures must be able to.
#[tokio::test]
async fn every_call_can_be_spawned() {
    let vault = Vault::sqlite().await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    let mark = vault.mark(1, Direction::Forward);
    let job = vault.job(&survey.shards[0], 1, mark);
    let done = tokio::spawn(async move {
        engine.fence(&mark).await?;
        engine.reencrypt(&job, &|_| {}).await?;
        engine.verify(&job, &|_| {}).await
    });
    done.await.unwrap().unwrap();
}
