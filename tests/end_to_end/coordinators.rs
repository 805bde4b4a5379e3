//! Coordinators that are killed (`kill -9`) while a rotation is under way, as real processes: the leader in every phase and
//! in an undo, a follower, all of them at once. The farm is watched from outside throughout ([`RealFarm::finish`]).

use std::cell::RefCell;

use crate::real_farm::network::CONTROL;
use crate::real_farm::{COORDINATORS, RealFarm};

#[test]
fn a_leader_killed_in_any_phase_or_in_an_undo_is_followed_by_another_that_ends_it() {
    let mut farm = RealFarm::new();
    for phase in ["distribute", "quiesce", "reencrypt", "verify", "activate", "start", "admit"] {
        let started = farm.start(phase);
        let leader = farm.leader();
        farm.resume();
        farm.kill_process(leader);
        assert_ne!(farm.leader(), leader);
        farm.start_process(leader);
        assert_eq!(farm.finish(started), "completed", "{phase}");
    }
    for phase in ["distribute", "verify", "start"] {
        let started = farm.start(phase);
        let leader = farm.leader();
        farm.operate(&["rotation", "abort"]).expect("aborted");
        farm.kill_process(leader);
        assert_ne!(farm.leader(), leader);
        farm.start_process(leader);
        assert_eq!(farm.finish(started), "rolled_back", "{phase}");
    }
}

#[test]
fn a_leader_killed_before_anything_is_changed_is_followed_by_another_that_plans_and_starts() {
    let mut farm = RealFarm::new();
    // Preflight waits for a node that is not there.
    farm.network.unplug("n3", CONTROL);
    let planning = RefCell::new(farm.begin_plan("distribute"));
    farm.until("the others are inspected", |farm| {
        let status = farm.status().filter(|status| status["phase"] == "preflight")?;
        let waiting = status["waiting"].as_array()?;
        (!waiting.is_empty() && waiting.iter().all(|waiting| waiting["node"] == "n3")).then_some(())
    });
    let leader = farm.leader();
    farm.kill_process(leader);
    assert_ne!(farm.leader(), leader);
    farm.network.plug("n3", CONTROL);
    let planned = farm.until("who plans hears of the plan", |_| planning.borrow_mut().try_wait().expect("it is ours"));
    assert!(planned.success(), "{:?}", farm.status());
    farm.start_process(leader);

    // It waits for the operator.
    let leader = farm.leader();
    farm.kill_process(leader);
    assert_ne!(farm.leader(), leader);
    farm.start_process(leader);
    let started = farm.start_planned();
    farm.resume();
    assert_eq!(farm.finish(started), "completed");
}

#[test]
fn a_follower_or_all_coordinators_killed_at_once_lose_nothing_and_go_on() {
    let mut farm = RealFarm::new();
    let started = farm.start("reencrypt");
    let leader = farm.leader();
    let follower = COORDINATORS.into_iter().find(|machine| *machine != leader).expect("three");
    farm.resume();
    farm.kill_process(follower);
    // Who leads may change under load; who was killed does not lead.
    assert_ne!(farm.leader(), follower, "a killed coordinator leads");
    farm.start_process(follower);
    assert_eq!(farm.finish(started), "completed");

    for phase in ["distribute", "reencrypt", "activate", "admit"] {
        let started = farm.start(phase);
        farm.resume();
        for machine in COORDINATORS {
            farm.kill_process(machine);
        }
        for machine in COORDINATORS {
            farm.start_process(machine);
        }
        assert_eq!(farm.finish(started), "completed", "{phase}");
    }
    let started = farm.start("start");
    farm.operate(&["rotation", "abort"]).expect("aborted");
    for machine in COORDINATORS {
        farm.kill_process(machine);
    }
    for machine in COORDINATORS {
        farm.start_process(machine);
    }
    assert_eq!(farm.finish(started), "rolled_back");
}
