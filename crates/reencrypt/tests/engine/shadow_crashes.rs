//! Crashes between every two steps of shadows in SQLite, workers that come late, tables that change under way.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use reencrypt::EngineError;
use rotation::{Direction, FaultCode};

use crate::farm::{Vault, all_under_one_key, stand_still, turned, under};
use crate::shadow::{SCHEMA, content, copied, healthy, swapped, undo, vault, verified};

/// Polls the work so many times and then drops it, as a process that is killed there. Every statement is a poll or two.
async fn cut<T>(polls: u64, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Cuts the step off at every point in turn, twice each, until it comes to its end.
async fn cut_everywhere(vault: &Vault, step: impl AsyncFn() -> Result<(), EngineError>) -> u64 {
    for polls in 0.. {
        for _ in 0..2 {
            match cut(polls, step()).await {
                Some(done) => {
                    done.unwrap();
                    return polls;
                }
                None => all_under_one_key(vault).await,
            }
        }
        assert!(polls < 5000, "it never came to its end");
    }
    unreachable!("the numbers do not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_forward_may_be_cut_off_anywhere() {
    let vault = vault(30).await;
    let (census, schema) = (vault.census().await, vault.rows(SCHEMA).await);
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    let mark = |epoch| vault.mark(epoch, Direction::Forward);
    engine.fence(&mark(1)).await.unwrap();
    let mut steps = 0;
    for shard in &survey.shards {
        let job = vault.job(shard, 1, mark(2));
        steps += cut_everywhere(&vault, async || engine.reencrypt(&job, &|_| {}).await.map(drop)).await;
    }
    steps += cut_everywhere(&vault, async || engine.finish_shadows(&mark(3), &|_| {}).await).await;
    for shard in &survey.shards {
        let job = vault.job(shard, 2, mark(4));
        steps += cut_everywhere(&vault, async || engine.verify(&job, &|_| {}).await.map(drop)).await;
    }
    all_under_one_key(&vault).await;
    let job = vault.swap_job(&survey, mark(5));
    steps += cut_everywhere(&vault, async || engine.swap(&job, &|_| {}).await).await;
    assert_eq!(vault.census().await, turned(&census));
    engine.lift_fence(&mark(6)).await.unwrap();
    steps += cut_everywhere(&vault, async || engine.close(&mark(7)).await).await;
    steps += cut_everywhere(&vault, async || engine.retire(&vault.rotation).await).await;
    assert!(steps > 100, "it was cut off {steps} times");
    assert_eq!(vault.census().await, turned(&census));
    assert_eq!(vault.rows(SCHEMA).await, schema);
    healthy(&vault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_back_may_be_cut_off_anywhere() {
    for written in [false, true] {
        let vault = vault(30).await;
        let before = content(&vault).await;
        let survey = swapped(&vault).await;
        let engine = vault.engine().await;
        engine.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
        if written {
            vault.run("UPDATE connections SET name = 'renamed' WHERE id = 0").await;
        }
        let mark = |epoch| vault.mark(epoch, Direction::Back);
        cut_everywhere(&vault, async || engine.turn_back(&mark(10)).await).await;
        let job = vault.swap_job(&survey, mark(11));
        let step = async || engine.swap_back(&job, &|_| {}).await;
        for polls in 0.. {
            if let Some(done) = cut(polls, step()).await {
                done.unwrap();
                break;
            }
        }
        for shard in &survey.shards {
            let job = vault.job(shard, 3, mark(12));
            for polls in 0.. {
                if let Some(done) = cut(polls, engine.reencrypt(&job, &|_| {})).await {
                    done.unwrap();
                    break;
                }
            }
        }
        vault.verify_all(&survey, 4, mark(13)).await.unwrap();
        engine.lift_fence(&mark(14)).await.unwrap();
        cut_everywhere(&vault, async || engine.close(&mark(15)).await).await;
        if written {
            assert_eq!(under(&vault.census().await).1, 0);
            vault.run("UPDATE connections SET name = 'host 10' WHERE id = 0").await;
            assert_eq!(vault.rows(SCHEMA).await, before[4]);
        } else {
            assert_eq!(content(&vault).await, before);
        }
        healthy(&vault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_late_to_a_step_of_shadows_changes_nothing() {
    let vault = vault(60).await;
    let survey = verified(&vault).await;
    let engine = vault.engine().await;
    engine.turn_back(&vault.mark(9, Direction::Back)).await.unwrap();
    let before = (content(&vault).await, vault.rows("SELECT name, CAST(rootpage AS text) FROM sqlite_schema").await);
    let late = async |epoch, direction| {
        let mark = vault.mark(epoch, direction);
        let swap = vault.swap_job(&survey, mark);
        let errors = [
            engine.reencrypt(&vault.job(&survey.shards[0], 9, mark), &|_| {}).await.map(drop),
            engine.swap(&swap, &|_| {}).await,
            engine.close(&mark).await,
        ];
        for (at, error) in errors.into_iter().enumerate() {
            let error = error.unwrap_err();
            assert_eq!(error.code(), FaultCode::Superseded, "{at}: {error:?}");
        }
        // There is nothing to do for these; they say so, or that they are late, and do nothing.
        let _ = engine.finish_shadows(&mark, &|_| {}).await;
        let _ = engine.swap_back(&swap, &|_| {}).await;
    };
    late(5, Direction::Forward).await;
    late(8, Direction::Back).await;
    let after = (content(&vault).await, vault.rows("SELECT name, CAST(rootpage AS text) FROM sqlite_schema").await);
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_late_after_the_swap_changes_nothing() {
    let vault = vault(60).await;
    let survey = swapped(&vault).await;
    let engine = vault.engine().await;
    engine.lift_fence(&vault.mark(7, Direction::Forward)).await.unwrap();
    let roots = "SELECT name, CAST(rootpage AS text) FROM sqlite_schema ORDER BY 1";
    let before = (content(&vault).await, vault.rows(roots).await);
    for direction in [Direction::Forward, Direction::Back] {
        let mark = vault.mark(6, direction);
        let error = engine.swap_back(&vault.swap_job(&survey, mark), &|_| {}).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Superseded, "{error:?}");
        let error = engine.close(&mark).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Superseded, "{error:?}");
    }
    assert_eq!((content(&vault).await, vault.rows(roots).await), before);
}

/// A worker stands still with a chunk in its hands while others copy, verify and swap. When it wakes, what was the copy's
/// name is that of the retained original.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_wakes_after_the_swap_does_not_write_into_the_original() {
    let vault = vault(6000).await;
    vault.run("PRAGMA journal_mode = WAL").await;
    let (census, survey) = (vault.census().await, vault.survey().await);
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let begun = AtomicBool::new(false);
    let other = vault.engine().await;
    let meanwhile = |_rows| {
        if !begun.swap(true, Ordering::SeqCst) {
            stand_still(async {
                vault.reencrypt_all(&survey, 2, vault.mark(2, Direction::Forward)).await.unwrap();
                other.finish_shadows(&vault.mark(3, Direction::Forward), &|_| {}).await.unwrap();
                vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap();
                other.swap(&vault.swap_job(&survey, vault.mark(5, Direction::Forward)), &|_| {}).await.unwrap();
            });
        }
    };
    let shard = survey.shards.iter().find(|shard| shard.table == "connections").unwrap();
    let error =
        engine.reencrypt(&vault.job(shard, 1, vault.mark(2, Direction::Forward)), &meanwhile).await.unwrap_err();
    assert!(begun.load(Ordering::SeqCst));
    let late = [FaultCode::Superseded, FaultCode::UnexpectedKey].contains(&error.code());
    assert!(late || error.is_retryable(), "{error:?}");
    assert_eq!(vault.census().await, turned(&census));
    undo(&vault, &survey, 10).await;
    assert_eq!(vault.census().await, census);
    healthy(&vault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_altered_or_dropped_under_way_is_told_by_name_and_can_be_undone() {
    for (change, expected) in [
        ("ALTER TABLE connections ADD COLUMN later TEXT", "are not what they were"),
        ("ALTER TABLE connections RENAME COLUMN name TO title", "columns differ"),
        ("CREATE INDEX another ON connections (updated_at)", "indexes"),
        ("DROP INDEX by_name", "indexes"),
        ("DROP TABLE connections", "does not exist"),
    ] {
        let vault = vault(60).await;
        let survey = verified(&vault).await;
        vault.run(change).await;
        let schema = vault.rows(SCHEMA).await;
        let engine = vault.engine().await;
        let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
        let fault = engine.swap(&job, &|_| {}).await.unwrap_err().fault();
        assert!(fault.message.contains("connections") && fault.message.contains(expected), "{change}: {fault:?}");
        assert!(!fault.retryable, "{fault:?}");
        assert_eq!(vault.rows(SCHEMA).await, schema, "{change}");
        if !change.contains("DROP TABLE") {
            undo(&vault, &survey, 10).await;
            assert_eq!(vault.rows(SCHEMA).await, schema, "{change}");
            assert_eq!(under(&vault.census().await).1, 0);
        }
        healthy(&vault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_somebody_dropped_is_told_by_its_tables_name() {
    let vault = vault(60).await;
    let survey = copied(&vault).await;
    let name = vault.text("SELECT shadow_name FROM keyturn_shadow WHERE label = 'connections'").await;
    vault.run(&format!("DROP TABLE {name}")).await;
    let error = vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap_err();
    assert!(error.fault().message.contains("connections"), "{error:?}");
    undo(&vault, &survey, 10).await;
    assert_eq!(under(&vault.census().await).1, 0);
    healthy(&vault).await;
}
