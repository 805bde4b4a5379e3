//! Preflight: agreement, the survey, the plan; every refusal names the thing and changes nothing.

use rotation::{
    Answer, BackupChoice, BackupOffer, BackupSource, DatabaseKind, FaultCode, Inspection, KeyBound, Survey,
    UndecryptableValue, Work,
};

use crate::support::{Farm, NEW, OLD, check, hash, inspection, node, survey};

/// Two nodes inspect well, the third as `change` has it.
fn third_node(change: impl FnOnce(&mut Inspection)) -> Farm {
    let mut farm = Farm::requested(3);
    farm.answer("node-1 inspect");
    farm.answer("node-2 inspect");
    let mut found = inspection(&node(3), OLD);
    change(&mut found);
    farm.answer_with("node-3 inspect", Answer::Inspected(Box::new(found)));
    farm
}

/// All inspect well, the survey is as `change` has it.
fn surveyed(change: impl FnOnce(&mut Survey)) -> Farm {
    let mut farm = third_node(|_| {});
    let mut found = survey();
    change(&mut found);
    farm.answer_with("node-1 survey-database", Answer::DatabaseSurveyed(Box::new(found)));
    farm
}

#[track_caller]
fn check_refused(farm: &Farm, code: FaultCode, mentions: &[&str]) {
    check(farm, "ended:refused", &[]);
    let fault = farm.rotation().faults.last().expect("a refusal has a reason");
    assert_eq!(fault.code, code);
    for text in mentions {
        assert!(fault.message.contains(text), "{text:?} is not in {:?}", fault.message);
    }
    assert!(!fault.next_step.is_empty());
    assert_eq!(farm.state.active, None);
    assert!(farm.rotation().plan.is_none());
}

#[test]
fn every_node_is_inspected_at_once() {
    check(&Farm::requested(3), "forward:preflight", &["node-1 inspect", "node-2 inspect", "node-3 inspect"]);
}

#[test]
fn the_survey_waits_for_every_inspection() {
    let mut farm = Farm::requested(2);
    farm.answer("node-2 inspect");
    check(&farm, "forward:preflight", &["node-1 inspect"]);
    farm.answer("node-1 inspect");
    check(&farm, "forward:preflight", &["node-1 survey-database"]);
    assert_eq!(farm.state.nodes[&node(2)].key, Some(OLD));
}

#[test]
fn a_good_survey_gives_a_plan_and_waits_for_approval() {
    let farm = surveyed(|_| {});
    check(&farm, "forward:approval", &[]);
    let plan = farm.plan();
    assert_eq!(plan.nodes.len(), 3);
    assert_eq!(plan.tables.len(), 3);
    assert_eq!(plan.shards.len(), 6);
    assert_eq!(farm.rotation().plan_digest, Some(plan.digest()));
    assert_eq!(farm.rotation().shards.len(), 6);
    assert!(farm.rotation().survey.as_ref().expect("kept").shards.is_empty(), "the plan has them, once is enough");
}

#[test]
fn nodes_with_different_keys_are_refused_and_named() {
    let farm = third_node(|found| found.current_key = NEW);
    check_refused(&farm, FaultCode::NodesDisagree, &["current key", "node-1, node-2", "node-3", &NEW.to_string()]);
    assert_eq!(farm.rotation().faults[0].node, Some(node(3)));
}

#[test]
fn nodes_with_different_targets_are_refused_and_named() {
    let farm = third_node(|found| found.targets_digest = hash("other"));
    check_refused(&farm, FaultCode::NodesDisagree, &["targets.toml", "node-3"]);
}

#[test]
fn nodes_at_different_databases_are_refused_and_named() {
    let farm = third_node(|found| found.database.identity = "another".to_owned());
    check_refused(&farm, FaultCode::NodesDisagree, &["database", "another", "node-3"]);
}

#[test]
fn nodes_of_different_protocols_are_refused_and_named() {
    let farm = third_node(|found| found.release.protocol = 2);
    check_refused(&farm, FaultCode::NodesDisagree, &["protocol", "node-3"]);
}

#[test]
fn nodes_of_different_releases_and_one_protocol_go_together() {
    let farm = third_node(|found| found.release.version = "0.1.1".to_owned());
    check(&farm, "forward:preflight", &["node-1 survey-database"]);
}

#[test]
fn all_differences_are_told_at_once() {
    let farm = third_node(|found| {
        found.current_key = NEW;
        found.targets_digest = hash("other");
    });
    check_refused(&farm, FaultCode::NodesDisagree, &["current key", "targets.toml"]);
}

#[test]
fn an_instance_that_is_not_online_is_refused_and_named() {
    let farm = third_node(|found| {
        found.instance = "drained".to_owned();
        found.instance_online = false;
    });
    check_refused(&farm, FaultCode::Instance, &["drained", "node-3"]);
}

#[test]
fn a_node_that_cannot_be_inspected_is_refused() {
    let mut farm = Farm::requested(2);
    farm.fail("node-2 inspect", FaultCode::KeyStore);
    check(&farm, "forward:preflight", &["node-1 inspect"]);
    farm.answer("node-1 inspect");
    check_refused(&farm, FaultCode::KeyStore, &[]);
    assert_eq!(farm.rotation().faults[0].node, Some(node(2)));
}

#[test]
fn a_node_that_cannot_be_reached_is_refused() {
    let mut farm = Farm::requested(2);
    farm.answer("node-2 inspect");
    farm.miss("node-1 inspect");
    check_refused(&farm, FaultCode::NodeUnreachable, &[]);
}

#[test]
fn all_nodes_that_cannot_be_inspected_are_named() {
    let mut farm = Farm::requested(4);
    farm.fail("node-3 inspect", FaultCode::KeyStore);
    farm.miss("node-1 inspect");
    farm.answer("node-2 inspect");
    check(&farm, "forward:preflight", &["node-4 inspect"]);
    farm.fail("node-4 inspect", FaultCode::Targets);
    check_refused(&farm, FaultCode::Targets, &[]);
    let named: Vec<_> = farm.rotation().faults.iter().filter_map(|fault| fault.node.clone()).collect();
    assert_eq!(named, [node(3), node(1), node(4)]);

    // One that answers last changes nothing about that.
    let mut farm = Farm::requested(2);
    farm.fail("node-2 inspect", FaultCode::Targets);
    farm.answer_with("node-1 inspect", Answer::WentOffline);
    check(&farm, "ended:refused", &[]);
    assert_eq!(farm.fault_codes(), [FaultCode::Targets, FaultCode::Internal]);
}

#[test]
fn a_survey_that_fails_or_is_never_answered_is_refused() {
    let mut farm = third_node(|_| {});
    farm.fail("node-1 survey-database", FaultCode::Targets);
    check_refused(&farm, FaultCode::Targets, &[]);
    let mut farm = third_node(|_| {});
    farm.miss("node-1 survey-database");
    check_refused(&farm, FaultCode::NodeUnreachable, &[]);
}

#[test]
fn no_table_at_all_is_refused() {
    let farm = surveyed(|found| {
        found.tables.clear();
        found.shards.clear();
    });
    check_refused(&farm, FaultCode::Targets, &["no table"]);
}

#[test]
fn a_table_without_a_shard_is_refused() {
    let farm = surveyed(|found| {
        found.shards.pop();
    });
    check_refused(&farm, FaultCode::Internal, &["notes", "no shard"]);
}

#[test]
fn an_empty_table_is_no_reason_to_refuse() {
    let farm = surveyed(|_| {});
    assert_eq!(farm.plan().tables["notes"].rows, 0);
}

#[test]
fn shards_with_a_gap_are_refused() {
    let farm = surveyed(|found| found.shards[1].range.after = Some(KeyBound("[7]".to_owned())));
    check_refused(&farm, FaultCode::Internal, &["gap", "connections"]);
}

#[test]
fn shards_that_do_not_begin_at_the_beginning_are_refused() {
    let farm = surveyed(|found| found.shards[0].range.after = Some(KeyBound("[0]".to_owned())));
    check_refused(&farm, FaultCode::Internal, &["gap", "connections"]);
}

#[test]
fn shards_that_stop_before_the_end_are_refused() {
    let farm = surveyed(|found| found.shards[4].range.through = Some(KeyBound("[9]".to_owned())));
    check_refused(&farm, FaultCode::Internal, &["entries", "before its end"]);
}

#[test]
fn a_shard_after_the_end_of_its_table_is_refused() {
    let farm = surveyed(|found| {
        found.shards[1].range.through = None;
    });
    check_refused(&farm, FaultCode::Internal, &["gap", "connections"]);
}

#[test]
fn shards_out_of_order_or_of_unknown_tables_are_refused() {
    let farm = surveyed(|found| found.shards.swap(0, 1));
    check_refused(&farm, FaultCode::Internal, &["place 0"]);
    let farm = surveyed(|found| found.shards[5].table = "elsewhere".to_owned());
    check_refused(&farm, FaultCode::Internal, &["elsewhere"]);
}

#[test]
fn a_table_named_twice_is_refused() {
    let farm = surveyed(|found| found.tables.push(found.tables[0].clone()));
    check_refused(&farm, FaultCode::Internal, &["twice"]);
}

#[test]
fn a_table_without_columns_is_refused() {
    let farm = surveyed(|found| found.tables[1].1.columns.clear());
    check_refused(&farm, FaultCode::Targets, &["entries"]);
}

#[test]
fn a_survey_of_another_kind_of_database_is_refused() {
    let farm = surveyed(|found| found.kind = DatabaseKind::Sqlite);
    check_refused(&farm, FaultCode::Internal, &["postgres", "sqlite"]);
}

#[test]
fn a_survey_that_lets_nobody_write_is_refused() {
    let farm = surveyed(|found| found.writers_max = 0);
    check_refused(&farm, FaultCode::Internal, &["write"]);
}

#[test]
fn an_answer_of_the_wrong_kind_is_a_fault() {
    let mut farm = Farm::requested(1);
    farm.answer_with("node-1 inspect", Answer::WentOffline);
    check_refused(&farm, FaultCode::Internal, &["inspect", "take-offline"]);
}

fn corrupt(key: &str) -> UndecryptableValue {
    UndecryptableValue {
        table: "entries".to_owned(),
        column: "secret".to_owned(),
        key: KeyBound(key.to_owned()),
        raw_digest: hash(key),
        reason: "its tag does not match".to_owned(),
    }
}

/// With `accepted` named by the operator, `found` by the survey, of `total`.
fn undecryptable(accepted: &[UndecryptableValue], found: &[UndecryptableValue], total: u64) -> Farm {
    let mut farm = Farm::new(1);
    farm.request(rotation::RotationOptions { accepted: accepted.to_vec(), ..Default::default() });
    farm.answer("node-1 inspect");
    let mut answer = survey();
    answer.undecryptable = found.to_vec();
    answer.undecryptable_total = total;
    farm.answer_with("node-1 survey-database", Answer::DatabaseSurveyed(Box::new(answer)));
    farm
}

#[test]
fn an_undecryptable_value_is_refused_and_named() {
    let farm = undecryptable(&[], &[corrupt("[7]")], 1);
    check_refused(&farm, FaultCode::Undecryptable, &["entries.secret", "[7]", "tag does not match"]);
    assert_eq!(farm.rotation().survey.as_ref().expect("kept for the operator").undecryptable.len(), 1);
}

#[test]
fn an_accepted_value_stands_in_the_plan() {
    let farm = undecryptable(&[corrupt("[7]"), corrupt("[8]")], &[corrupt("[7]")], 1);
    check(&farm, "forward:approval", &[]);
    assert_eq!(farm.plan().accepted, vec![corrupt("[7]")]);
}

#[test]
fn acceptance_ends_when_the_bytes_change() {
    let mut changed = corrupt("[7]");
    changed.raw_digest = hash("other bytes");
    let farm = undecryptable(&[corrupt("[7]")], &[changed], 1);
    check_refused(&farm, FaultCode::Undecryptable, &["[7]"]);
}

#[test]
fn values_that_were_counted_but_not_named_are_refused() {
    let farm = undecryptable(&[corrupt("[7]")], &[corrupt("[7]")], 3);
    check_refused(&farm, FaultCode::Undecryptable, &["2 values", "and 2 more"]);
}

/// Three nodes of which two back up: the second its folder, the third the database too.
fn backing_up(choice: BackupChoice) -> Farm {
    let mut farm = Farm::new(3);
    farm.request(rotation::RotationOptions { backup: choice, ..Default::default() });
    for (number, backup) in [(1, BackupOffer::Nothing), (2, BackupOffer::Folder), (3, BackupOffer::Database)] {
        let found = Inspection { backup, ..inspection(&node(number), OLD) };
        farm.answer_with(&format!("node-{number} inspect"), Answer::Inspected(Box::new(found)));
    }
    farm.answer("node-1 survey-database");
    farm
}

fn asked(farm: &Farm, wanted: &str) -> Option<BackupSource> {
    match farm.find(wanted).work {
        Work::BackUp { database } => database,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_configured_is_backed_up_before_there_is_a_plan_and_stands_in_it() {
    let mut farm = backing_up(BackupChoice::AsConfigured);
    check(&farm, "forward:preflight", &["node-2 back-up", "node-3 back-up"]);
    assert_eq!((asked(&farm, "node-2 back-up"), asked(&farm, "node-3 back-up")), (None, Some(BackupSource::Made)));
    farm.answer("node-3 back-up");
    check(&farm, "forward:preflight", &["node-2 back-up"]);
    assert!(farm.rotation().plan.is_none());
    farm.answer("node-2 back-up");
    check(&farm, "forward:approval", &[]);
    let plan = farm.plan();
    assert_eq!(plan.backup.as_ref().expect("made").node, node(3));
    assert_eq!(plan.folders.keys().collect::<Vec<_>>(), [&node(2), &node(3)]);
    assert_eq!(plan.format, rotation::Plan::FORMAT);
    let mut without = plan.clone();
    without.backup = None;
    assert_ne!(plan.digest(), without.digest(), "the operator signs it");
}

#[test]
fn a_backup_that_is_shown_is_proved_by_the_first_node_that_has_a_folder_for_them() {
    let mut farm = backing_up(BackupChoice::Shown("/b/vault.dump".to_owned()));
    let shown = BackupSource::Shown("/b/vault.dump".to_owned());
    assert_eq!((asked(&farm, "node-2 back-up"), asked(&farm, "node-3 back-up")), (Some(shown), None));
    farm.answer("node-2 back-up");
    farm.answer("node-3 back-up");
    assert!(farm.plan().backup.as_ref().expect("proved").shown);
}

#[test]
fn a_backup_cannot_be_shown_to_a_farm_that_has_no_place_for_any() {
    let mut farm = Farm::new(1);
    let backup = BackupChoice::Shown("/b/vault.dump".to_owned());
    farm.request(rotation::RotationOptions { backup, ..Default::default() });
    farm.answer("node-1 inspect");
    farm.answer("node-1 survey-database");
    check_refused(&farm, FaultCode::Backup, &["/b/vault.dump"]);
}

#[test]
fn without_a_word_in_a_configuration_or_against_an_operator_s_nothing_is_backed_up() {
    let farm = backing_up(BackupChoice::None);
    check(&farm, "forward:approval", &[]);
    assert!(farm.plan().backup.is_none());
    let plan = surveyed(|_| {}).plan().clone();
    assert!(plan.backup.is_none());
    assert_eq!(plan.format, rotation::Plan::format_with(None), "the bytes that it always had");
}

#[test]
fn a_backup_that_fails_refuses_the_rotation() {
    let mut farm = backing_up(BackupChoice::AsConfigured);
    farm.fail("node-2 back-up", FaultCode::Backup);
    check(&farm, "ended:refused", &[]);
    let mut farm = backing_up(BackupChoice::AsConfigured);
    farm.miss("node-3 back-up");
    check(&farm, "ended:refused", &[]);
}

#[test]
fn an_answer_to_another_question_is_no_backup() {
    let mut farm = backing_up(BackupChoice::AsConfigured);
    let without = crate::support::backed_up(&node(3), None);
    farm.answer_with("node-3 back-up", Answer::BackedUp(Box::new(without)));
    check(&farm, "ended:refused", &[]);
    assert_eq!(farm.fault_codes(), [FaultCode::Internal]);
}

#[test]
fn a_backup_of_another_node_or_under_another_key_is_none() {
    let spoilers: [fn(&mut rotation::DatabaseBackup); 2] =
        [|backup| backup.node = node(2), |backup| backup.key = crate::support::NEW];
    for spoil in spoilers {
        let mut farm = backing_up(BackupChoice::AsConfigured);
        let mut made = crate::support::backed_up(&node(3), Some(&BackupSource::Made));
        spoil(made.database.as_mut().expect("asked for"));
        farm.answer_with("node-3 back-up", Answer::BackedUp(Box::new(made)));
        check(&farm, "ended:refused", &[]);
        assert_eq!(farm.fault_codes(), [FaultCode::Internal]);
    }
}
