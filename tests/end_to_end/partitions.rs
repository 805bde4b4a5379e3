//! Machines that cannot reach each other, packets that are lost, late answers, clocks that are set: between real processes,
//! each in a network namespace of its own. The farm is watched from outside throughout ([`RealFarm::finish`]): never do
//! two instances serve with different keys, never one while rows are under another key, and every row opens at the end.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::real_farm::network::{CONTROL, DATA, Network, address};
use crate::real_farm::proxy::Proxy;
use crate::real_farm::{
    AGENT_PORT, COORDINATOR_PORT, COORDINATORS, DETOUR, DETOUR_NUMBER, NODES, OPERATOR, Options, RealFarm,
};

/// Every phase at which a rotation can be held.
const PHASES: [&str; 7] = ["distribute", "quiesce", "reencrypt", "verify", "activate", "start", "admit"];

/// Waits until the rotation waits for this node alone, or has gone on without it to another phase.
fn await_only(farm: &RealFarm, node: &str, phase: &str) {
    farm.until("it is the only one waited for", |farm| {
        let status = farm.status()?;
        let waiting = status["waiting"].as_array()?;
        let alone = !waiting.is_empty() && waiting.iter().all(|waiting| waiting["node"] == node);
        (alone || status["phase"] != phase || status["outcome"] != "running").then_some(())
    });
}

fn await_ended(farm: &RealFarm) -> String {
    farm.until("it ends", |farm| {
        let outcome = farm.status()?["outcome"].as_str()?.to_owned();
        (outcome != "running").then_some(outcome)
    })
}

#[test]
fn an_agent_that_is_cut_off_in_any_phase_is_waited_for_and_the_farm_completes() {
    let mut farm = RealFarm::new();
    for phase in PHASES {
        let started = farm.start(phase);
        farm.network.unplug("n2", CONTROL);
        farm.resume();
        await_only(&farm, "n2", phase);
        farm.network.plug("n2", CONTROL);
        assert_eq!(farm.finish(started), "completed", "{phase}");
    }

    // Its cable to the database alone: it answers, and cannot do its work.
    let started = farm.start("reencrypt");
    farm.network.unplug("n2", DATA);
    farm.resume();
    await_only(&farm, "n2", "reencrypt");
    farm.network.plug("n2", DATA);
    farm.finish(started);
}

#[test]
fn a_node_that_stays_away_is_held_and_not_admitted_before_it_has_followed() {
    let mut farm = RealFarm::new();
    let started = farm.start("activate");
    farm.network.unplug("n3", CONTROL);
    farm.resume();
    assert_eq!(await_ended(&farm), "completed", "the others go on without it");
    let held = farm.until("it is held", |farm| farm.node(2).filter(|node| !node["held_by_rotation"].is_null()));
    let because = held["held_because"].as_str().expect("a reason");
    assert!(because.contains("node-unreachable") && because.contains("n3 did not answer activate-key"), "{because}");

    // Nobody asked it to; it is not to come up by itself either.
    farm.kill_process("n3");
    farm.start_process("n3");
    let (absent, present) = (farm.times_seen(2), farm.times_seen(0));
    farm.until("the others serve", |farm| (farm.times_seen(0) > present + 20).then_some(()));
    assert_eq!(farm.times_seen(2), absent, "it serves, and nobody knows with which key");
    farm.network.plug("n3", CONTROL);
    assert_eq!(farm.finish(started), "completed");
}

#[test]
fn coordinators_without_a_majority_change_nothing_and_go_on_when_they_have_one() {
    let mut farm = RealFarm::new();

    // A minority: whoever follows.
    let started = farm.start("quiesce");
    let leader = farm.leader();
    let follower = COORDINATORS.into_iter().find(|machine| *machine != leader).expect("three");
    farm.network.unplug(follower, CONTROL);
    farm.resume();
    assert_eq!(await_ended(&farm), "completed", "a majority is left");
    farm.network.plug(follower, CONTROL);
    assert_eq!(farm.finish(started), "completed");

    // The one who leads: another takes over, and what the first still believes changes nothing.
    let started = farm.start("reencrypt");
    let leader = farm.leader();
    farm.network.unplug(leader, CONTROL);
    farm.resume();
    assert_eq!(await_ended(&farm), "completed", "a majority is left");
    assert_ne!(farm.leader(), leader);
    farm.network.plug(leader, CONTROL);
    assert_eq!(farm.finish(started), "completed");

    // A majority: nobody leads, nothing is done, and nobody is told what might be old.
    let started = farm.start("activate");
    let away = [farm.leader(), COORDINATORS.into_iter().find(|machine| *machine != farm.leader()).expect("three")];
    for machine in away {
        farm.network.unplug(machine, CONTROL);
    }
    assert_eq!(farm.operate(&["rotation", "status"]), None);
    assert_eq!(farm.operate(&["rotation", "resume"]), None);
    for machine in away {
        farm.network.plug(machine, CONTROL);
    }
    farm.resume();
    assert_eq!(farm.finish(started), "completed");
}

#[test]
fn who_hears_nothing_or_is_not_heard_or_loses_packets_leaves_the_farm_whole() {
    let mut farm = RealFarm::new();

    // An agent that hears nothing, and one that is not heard.
    for (phase, hook) in [("quiesce", "input"), ("start", "output")] {
        let started = farm.start(phase);
        farm.network.lose("n2", hook, CONTROL, 100);
        farm.resume();
        await_only(&farm, "n2", phase);
        farm.network.lose_nothing("n2");
        assert_eq!(farm.finish(started), "completed");
    }

    // A leader that hears nothing, and one that is not heard: in either case another leads, or it does again.
    for (phase, hook) in [("reencrypt", "input"), ("distribute", "output")] {
        let started = farm.start(phase);
        let leader = farm.leader();
        farm.network.lose(leader, hook, CONTROL, 100);
        farm.resume();
        await_ended(&farm);
        farm.network.lose_nothing(leader);
        assert_eq!(farm.finish(started), "completed");
    }

    // One packet in ten is lost on its way to any machine.
    let started = farm.start("distribute");
    let all: Vec<&str> = COORDINATORS.into_iter().chain(NODES).collect();
    for machine in &all {
        farm.network.lose(machine, "input", CONTROL, 10);
    }
    farm.resume();
    await_ended(&farm);
    for machine in &all {
        farm.network.lose_nothing(machine);
    }
    assert_eq!(farm.finish(started), "completed");
}

/// How long anything takes from one continent to another: half a second there, half a second back.
const LATE: Duration = Duration::from_millis(500);

/// From the next connection on, these callers reach these machines so much later.
fn far_away(network: &Network, callers: &[&str], machines: &[(u8, u16)]) -> Vec<Proxy> {
    let mut detours = Vec::new();
    let mut proxies = Vec::new();
    for (number, port) in machines {
        let target = SocketAddr::from((address(CONTROL, *number), *port));
        let listen = SocketAddr::from((address(CONTROL, DETOUR_NUMBER), 8_000 + u16::from(*number)));
        proxies.push(Proxy::new(network.door(DETOUR), listen, target, LATE));
        detours.push((target.to_string(), listen.to_string()));
    }
    for caller in callers {
        network.divert(caller, &detours);
    }
    proxies
}

#[test]
fn agents_and_a_coordinator_that_answer_half_a_second_later_leave_the_farm_whole() {
    let mut farm = RealFarm::new();
    // Every agent, and one coordinator that follows, are as if on another continent, there and back.
    let leader = farm.leader();
    let far = (1..=3).find(|number| COORDINATORS[usize::from(*number) - 1] != leader).expect("three");
    let machines = [(far, COORDINATOR_PORT), (11, AGENT_PORT), (12, AGENT_PORT), (13, AGENT_PORT)];
    let [c1, c2, c3] = COORDINATORS;
    let proxies = far_away(&farm.network, &[c1, c2, c3, OPERATOR], &machines);
    // What is connected stays connected, so everybody connects anew.
    for machine in COORDINATORS {
        farm.kill_process(machine);
        farm.start_process(machine);
    }
    let started = farm.start("distribute");
    farm.resume();
    assert_eq!(farm.finish(started), "completed");
    drop(proxies);
}

#[test]
fn coordinators_that_are_all_half_a_second_apart_lead_and_take_over_with_a_heartbeat_that_suits_them() {
    // From the first start on nobody is near anybody: the cluster is founded, nodes are enrolled and keys turned like that.
    let coordinators = [1, 2, 3].map(|number| (number, COORDINATOR_PORT));
    let agents = [11, 12, 13].map(|number| (number, AGENT_PORT));
    let mut proxies = Vec::new();
    let options = Options { heartbeat_ms: Some(1_500), ..Options::default() };
    let mut farm = RealFarm::with_network(options, |network| {
        proxies = far_away(network, &COORDINATORS, &[coordinators, agents].concat());
    });
    let started = farm.start("reencrypt");
    let leader = farm.leader();
    farm.resume();
    farm.kill_process(leader);
    assert!(["completed", "rolled_back"].contains(&await_ended(&farm).as_str()));
    assert_ne!(farm.leader(), leader);
    farm.start_process(leader);
    farm.finish(started);
    drop(proxies);
}

#[test]
fn clocks_that_are_set_an_hour_forward_and_back_leave_the_farm_whole() {
    let mut farm = RealFarm::with(Options { clocks: &["c1", "c2", "c3", "n2"], ..Options::default() });
    for (phase, offset) in [("reencrypt", "+1h"), ("activate", "-1h")] {
        let started = farm.start(phase);
        let leader = farm.leader();
        for machine in [leader, "n2"] {
            farm.set_clock(machine, offset);
        }
        farm.resume();
        assert_eq!(farm.finish(started), "completed");
        let phases = farm.status().expect("somebody leads")["phases"].clone();
        let times = |phase: &Value| [phase["started_ms"].as_u64(), phase["ended_ms"].as_u64()];
        let times: Vec<_> = phases.as_array().expect("a list").iter().flat_map(times).collect();
        assert!(times.is_sorted() && times.iter().all(Option::is_some), "the farm's time runs forward: {phases}");
    }
}
