//! An account that lost its rights on the ledger: that is said by name, and is not taken for a database without a ledger, in
//! which nothing would be left to be undone.

use reencrypt::{Engine, EngineError, NoteKind};
use rotation::{Direction, Survey};

use crate::farm::{Vault, under};
use crate::makes::on_mariadb_and_mysql;
use crate::mariadb::Make;

/// What asks the ledger.
const QUESTIONS: [&str; 11] = [
    "unrestored",
    "unverified",
    "unswapped",
    "history",
    "admit",
    "fence",
    "lift_fence",
    "turn_back",
    "restore",
    "close",
    "retire",
];

fn all_but<'a>(answered: &[&str]) -> Vec<&'a str> {
    QUESTIONS.into_iter().filter(|question| !answered.contains(question)).collect()
}

async fn ask(question: &str, vault: &Vault, engine: &Engine, survey: &Survey) -> Result<(), EngineError> {
    let rotation = &vault.rotation;
    let shards = survey.shards.iter().map(|shard| shard.id);
    let (forward, back) = (vault.mark(3, Direction::Forward), vault.mark(4, Direction::Back));
    match question {
        "unrestored" => engine.unrestored(rotation, shards).await.map(drop),
        "unverified" => engine.unverified(rotation, shards).await.map(drop),
        "unswapped" => engine.unswapped(rotation, ["connections".to_owned()]).await.map(drop),
        "history" => engine.history().await.map(drop),
        "admit" => engine.note(rotation, NoteKind::Admitted, "node-1").await,
        "fence" => engine.fence(&forward).await.map(drop),
        "lift_fence" => engine.lift_fence(&forward).await,
        "turn_back" => engine.turn_back(&back).await,
        "restore" => engine.reencrypt(&vault.job(&survey.shards[0], 2, back), &|_| {}).await.map(drop),
        "close" => engine.close(&back).await,
        "retire" => engine.retire(rotation).await,
        other => panic!("{other}"),
    }
}

/// Each of these questions is refused by name while the rights are gone; once they are back all is as it was.
async fn check(vault: &Vault, survey: &Survey, take: &str, give: &str, questions: &[&str]) {
    let before = vault.census().await;
    let engine = vault.engine().await;
    vault.run(&vault.named(take)).await;
    for question in questions {
        let Err(error) = ask(question, vault, &engine, survey).await else {
            panic!("{take}: {question} is answered");
        };
        let fault = error.fault();
        assert!(fault.message.contains("denied"), "{take}, {question}: {fault}");
        assert!(fault.next_step.contains("grants of docs/database.md"), "{take}, {question}: {fault}");
        assert!(!fault.retryable, "{take}, {question}: {fault}");
    }
    vault.run(&vault.named(give)).await;
    assert_eq!(vault.census().await, before, "{take}");
    let unrestored = engine.unrestored(&vault.rotation, survey.shards.iter().map(|shard| shard.id)).await.unwrap();
    assert!(unrestored.is_some(), "{take}");
    let history = engine.history().await.unwrap();
    assert_eq!((history[0].direction, history[0].closed), (Direction::Forward, false), "{take}");
    let nodes = |kind| history[0].nodes(kind).count();
    assert_eq!((nodes(NoteKind::Started), nodes(NoteKind::Admitted)), (1, 0), "{take}");
}

/// All rows under the new key, and a note that an instance was started with it.
async fn turn(vault: &Vault) -> Survey {
    vault.seed(20).await;
    let engine = vault.engine().await;
    let survey = vault.survey().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    engine.note(&vault.rotation, NoteKind::Started, "node-1").await.unwrap();
    let (old, new) = under(&vault.census().await);
    assert!(old == 0 && new > 0);
    survey
}

async fn a_ledger_that_may_not_be_read_is_not_taken_for_none(make: Make) {
    let vault = Vault::made_by(make).await;
    let survey = turn(&vault).await;
    for (table, questions) in [
        ("rotation", all_but(&[])),
        ("shard", all_but(&["admit"])),
        ("shadow", all_but(&["admit"])),
        ("note", vec!["history", "admit"]),
    ] {
        let rights = |verb: &str, to: &str| {
            format!("{verb} SELECT, INSERT, UPDATE, DELETE, CREATE ON vault.keyturn_{table} {to} keyturn_agent@'%'")
        };
        check(&vault, &survey, &rights("REVOKE", "FROM"), &rights("GRANT", "TO"), &questions).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_may_not_be_read_is_not_taken_for_none_on_postgresql() {
    let vault = Vault::postgres().await;
    let survey = turn(&vault).await;
    for (what, questions) in [
        ("SCHEMA keyturn", all_but(&[])),
        ("keyturn.rotation", all_but(&["unrestored", "unverified", "unswapped"])),
        ("keyturn.shard", vec!["unrestored", "unverified", "history"]),
        ("keyturn.note", vec!["history", "admit"]),
    ] {
        let rights = |verb: &str, to: &str| format!("{verb} ALL ON {what} {to} keyturn_agent");
        check(&vault, &survey, &rights("REVOKE", "FROM"), &rights("GRANT", "TO"), &questions).await;
    }
}

async fn who_may_not_see_other_sessions_does_not_take_the_database_for_empty(make: Make) {
    let vault = Vault::made_by(make).await;
    let engine = vault.engine().await;
    let others = vault.root().await;
    vault.run(&vault.named("REVOKE PROCESS ON *.* FROM keyturn_agent@'%'")).await;
    let fenced = engine.fence(&vault.mark(1, Direction::Forward)).await.map(drop);
    let turned = engine.turn_back(&vault.mark(2, Direction::Back)).await;
    for refused in [fenced, turned] {
        let fault = refused.expect_err("refused").fault();
        assert!(fault.message.contains("it cannot see other sessions: GRANT PROCESS ON *.* TO"), "{fault}");
    }
    vault.run(&vault.named("GRANT PROCESS ON *.* TO keyturn_agent@'%'")).await;
    let named = engine.fence(&vault.mark(3, Direction::Forward)).await.unwrap_err();
    assert!(matches!(named, EngineError::Superseded(_)), "it was turned back: {named:?}");
    sqlx::Connection::close(others).await.unwrap();
}

on_mariadb_and_mysql! {
    a_ledger_that_may_not_be_read_is_not_taken_for_none,
    who_may_not_see_other_sessions_does_not_take_the_database_for_empty,
}
