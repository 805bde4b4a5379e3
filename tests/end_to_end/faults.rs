//! Whatever is broken from outside, the farm ends whole: completed or rolled back, never stuck, nothing lost. A part of what
//! the demo can break; `tests/faults` runs all of it. Leaders are killed in every phase in `coordinators.rs`.

use crate::support::Demo;

/// Enough rows that work is under way when the fault strikes, few enough that a dozen farms run in minutes.
const ROWS: &str = "5000";

#[track_caller]
fn check(database: &str, fault: &str, outcomes: &[&str]) {
    let demo = Demo::run(&["--database", database, "--rows", ROWS, "--fail", fault]);
    demo.assert_whole();
    let outcome = demo.json["outcome"].as_str().expect("an outcome");
    assert!(outcomes.contains(&outcome), "{fault} ended {outcome}: {}\n{}", demo.json, demo.stderr);
}

const EITHER: &[&str] = &["completed", "rolled_back"];

#[test]
fn an_agent_killed_while_keys_are_distributed() {
    check("sqlite", "agent@distribute", EITHER);
}

#[test]
fn an_instance_that_cannot_be_stopped() {
    check("sqlite", "instance@quiesce", EITHER);
}

#[test]
fn an_agent_killed_while_rows_are_reencrypted() {
    check("sqlite", "agent@reencrypt", EITHER);
}

#[test]
fn an_agent_killed_while_rows_are_reencrypted_on_postgresql() {
    check("postgres", "agent@reencrypt", EITHER);
}

#[test]
fn a_leader_killed_while_rows_are_reencrypted_is_followed_by_another_that_completes() {
    check("sqlite", "leader@reencrypt", &["completed"]);
}

#[test]
fn a_leader_cut_off_from_everybody_steps_down_and_what_it_sent_late_changes_nothing() {
    check("sqlite", "partition-leader@reencrypt", EITHER);
}

#[test]
fn a_follower_that_lost_its_disk_is_filled_again() {
    check("sqlite", "coordinator-disk@verify", &["completed"]);
}

#[test]
fn an_agent_cut_off_from_everybody_while_rows_are_reencrypted() {
    check("postgres", "partition-agent@reencrypt", EITHER);
}

#[test]
fn an_agent_stopped_in_its_work_that_wakes_late_changes_nothing() {
    check("sqlite", "zombie@reencrypt", EITHER);
}

#[test]
fn an_agent_stopped_in_its_work_that_wakes_late_changes_nothing_on_postgresql() {
    check("postgres", "zombie@reencrypt", EITHER);
}

#[test]
fn a_database_server_restarted_while_rows_are_reencrypted() {
    check("postgres", "database@reencrypt", EITHER);
}

#[test]
fn a_mariadb_restarted_while_rows_are_reencrypted() {
    check("mariadb", "database@reencrypt", EITHER);
}

#[test]
fn an_agent_stopped_in_its_work_that_wakes_late_changes_nothing_on_mariadb() {
    check("mariadb", "zombie@reencrypt", EITHER);
}

#[test]
fn an_instance_that_cannot_start_with_the_new_key() {
    check("postgres", "instance@start", EITHER);
}

#[test]
fn a_row_corrupted_behind_our_back_is_noticed_and_everything_is_undone() {
    check("postgres", "row@verify", &["rolled_back"]);
}

#[test]
fn a_row_corrupted_behind_our_back_on_sqlite_is_noticed_and_everything_is_undone() {
    check("sqlite", "row@verify", &["rolled_back"]);
}

#[test]
fn an_agent_killed_while_keys_are_activated() {
    check("sqlite", "agent@activate", EITHER);
}

#[test]
fn an_agent_killed_after_the_point_of_no_return_completes() {
    check("sqlite", "agent@admit", &["completed"]);
}
