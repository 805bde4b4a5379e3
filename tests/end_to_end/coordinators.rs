//! Coordinators that are killed (`kill -9`) while a rotation is under way, as real processes: the leader in every phase and
//! in an undo, a follower, all of them at once. The farm is watched from outside throughout ([`RealFarm::finish`]).

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
fn a_follower_or_all_coordinators_killed_at_once_lose_nothing_and_go_on() {
    let mut farm = RealFarm::new();
    let started = farm.start("reencrypt");
    let leader = farm.leader();
    let follower = COORDINATORS.into_iter().find(|machine| *machine != leader).expect("three");
    farm.resume();
    farm.kill_process(follower);
    assert_eq!(farm.leader(), leader, "it leads on");
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
