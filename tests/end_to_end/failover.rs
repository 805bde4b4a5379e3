//! A standby of PostgreSQL that did not hear the last of what was committed takes the server's place in the middle of a
//! rotation of a whole farm, or of its undo. Rows and ledger go back together; the rotation notices, and is undone, or goes
//! on from there; an undo is done again. The farm is watched from outside throughout ([`RealFarm::finish`]).

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::real_farm::network::{DATA, address};
use crate::real_farm::proxy::Proxy;
use crate::real_farm::server::{MACHINE, NUMBER, Server};
use crate::real_farm::{DATABASE_PORT, Options, RealFarm, Started};

/// Where agents and instances find the database; what stands there passes them on to the server that is the primary.
const PROXY_PORT: u16 = 6432;

struct Story {
    farm: RealFarm,
    proxy: Proxy,
    next_port: u16,
}

impl Story {
    fn new() -> Self {
        // The proxy is there before the farm's processes are.
        let mut proxy = None;
        let options = Options { database_port: PROXY_PORT, ..Options::default() };
        let farm = RealFarm::with_network(options, |network| {
            let listen = SocketAddr::from((address(DATA, NUMBER), PROXY_PORT));
            proxy = Some(Proxy::new(network.door(MACHINE), listen, at(DATABASE_PORT), Duration::ZERO));
        });
        Self { farm, proxy: proxy.expect("it was made"), next_port: DATABASE_PORT }
    }

    fn standby(&mut self) -> (Server, u16) {
        self.next_port += 1;
        (self.farm.server.standby(&self.farm.network, self.next_port), self.next_port)
    }

    /// The primary is gone, and the standby is what is left.
    fn fail_over(&mut self, (standby, port): (Server, u16)) -> Server {
        self.farm.server.kill();
        standby.promote();
        let lost = self.farm.database_is(standby);
        self.proxy.turn_to(at(port));
        lost
    }

    fn finish(&mut self, started: Started) -> String {
        self.farm.finish(started)
    }

    fn faults(&self) -> String {
        self.farm.status().expect("somebody leads")["faults"].to_string()
    }

    /// How often a step of the undo was begun.
    fn times_begun(&self, step: &str) -> usize {
        let status = self.farm.status().expect("somebody leads");
        let name = format!("undo:{step}");
        status["phases"].as_array().expect("a list").iter().filter(|phase| phase["phase"] == name.as_str()).count()
    }

    /// Begins an undo whose rows go back slowly enough to be met on their way.
    fn abort_slowly(&self) {
        self.farm.operate(&["rotation", "throttle", "--rows-per-second", "100"]).expect("bounded");
        self.farm.operate(&["rotation", "abort"]).expect("aborted");
    }

    fn await_rows_going_back(&self) {
        self.farm.until("some rows are back", |farm| {
            let status = farm.status()?;
            (status["undo_step"] == "restore-rows" && status["progress"]["shards_done"].as_u64()? >= 2).then_some(())
        });
    }

    /// Waits until the second node alone is still to be started.
    fn await_all_but_one_started(&self) {
        self.await_only("n2", "start-instance");
    }

    /// Waits until nothing is waited for but this node's work.
    fn await_only(&self, node: &str, work: &str) {
        self.farm.until("the others have done it", |farm| {
            let status = farm.status()?;
            let waiting = status["waiting"].as_array()?;
            let is_it = |what: &Value| what.as_str().is_some_and(|what| what.contains(work));
            let alone = waiting.iter().all(|waiting| waiting["node"] == node && is_it(&waiting["what"]));
            (alone && !waiting.is_empty()).then_some(())
        });
    }

    /// Lets instances be started, and has all but that of the third node admitted: that stands still since it was proved.
    fn await_all_but_one_admitted(&self, go_on: impl FnOnce(&Self)) {
        let blocker = self.farm.take_instance_port(1);
        go_on(self);
        self.await_all_but_one_started();
        self.farm.signal_instance(2, Signal::SIGSTOP);
        drop(blocker);
        self.await_only("n3", "admit-instance");
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from((address(DATA, NUMBER), port))
}

#[test]
fn a_standby_that_lost_the_tail_among_rows_leads_to_an_end_in_which_every_row_opens() {
    let mut story = Story::new();
    let started = story.farm.start("reencrypt");
    let standby = story.standby();
    // It knows of the fence, and of no row that was turned.
    standby.0.stop_following();
    story.farm.operate(&["rotation", "throttle", "--rows-per-second", "100"]).expect("bounded");
    story.farm.resume();
    story.farm.until("some shards are through", |farm| {
        let status = farm.status()?;
        let done = status["progress"]["shards_done"].as_u64()?;
        (done >= 2 || status["phase"] != "reencrypt").then_some(())
    });
    story.fail_over(standby);
    story.farm.operate(&["rotation", "throttle", "--off"]);
    // What the log says was turned was not: Verify sees it, and everything is undone.
    assert_eq!(story.finish(started), "rolled_back");
}

#[test]
fn a_standby_that_lost_the_tail_after_verify_is_noticed_before_anybody_is_admitted() {
    let mut story = Story::new();
    for (phase, lost) in [("activate", "everything"), ("start", "the rows")] {
        let early = (lost == "everything").then(|| story.standby());
        if let Some((standby, _)) = &early {
            standby.stop_following();
        }
        let started = story.farm.start(phase);
        let standby = early.unwrap_or_else(|| story.standby());
        if lost == "the rows" {
            // All but the very last commit; the timeline alone tells.
            standby.0.stop_following();
        }
        story.fail_over(standby);
        story.farm.resume();
        assert_eq!(story.finish(started), "rolled_back", "{lost}");
        assert!(story.faults().contains("database-position"), "{}", story.faults());
    }
}

#[test]
fn a_standby_that_lost_the_tail_while_instances_come_up_is_noticed_before_anybody_is_admitted() {
    let mut story = Story::new();
    let standby = story.standby();
    standby.0.stop_following();
    let started = story.farm.start("start");
    // One instance cannot come up yet, so that there is a moment between the last look and the decision.
    let blocker = story.farm.take_instance_port(1);
    story.farm.resume();
    story.await_all_but_one_started();
    story.fail_over(standby);
    drop(blocker);
    assert_eq!(story.finish(started), "rolled_back");
    assert!(story.faults().contains("database-position"), "{}", story.faults());
}

#[test]
fn a_standby_that_lost_an_undo_among_rows_leads_to_an_end_in_which_every_row_opens() {
    let mut story = Story::new();
    // Tables are as they were when every row was under the new key.
    let started = story.farm.start("activate");
    let standby = story.standby();
    standby.0.stop_following();
    story.abort_slowly();
    story.await_rows_going_back();
    story.fail_over(standby);
    story.farm.operate(&["rotation", "throttle", "--off"]);
    assert_eq!(story.finish(started), "rolled_back");
}

#[test]
fn a_standby_that_lost_an_undo_while_instances_come_up_is_noticed_before_anybody_is_admitted() {
    let mut story = Story::new();
    for lost in ["the undo", "half of the undo"] {
        let started = story.farm.start("start");
        let standby = story.standby();
        if lost == "the undo" {
            standby.0.stop_following();
        }
        // One instance cannot come up yet: the others wait for it with the old key, and are not admitted.
        let blocker = story.farm.take_instance_port(1);
        story.abort_slowly();
        if lost == "half of the undo" {
            story.await_rows_going_back();
            standby.0.stop_following();
        }
        story.farm.operate(&["rotation", "throttle", "--off"]).expect("no longer bounded");
        story.await_all_but_one_started();
        assert_eq!(story.times_begun("turn-back"), 1);
        story.fail_over(standby);
        drop(blocker);
        assert_eq!(story.finish(started), "rolled_back", "{lost}");
        assert!(story.faults().contains("database-position"), "{lost}: {}", story.faults());
        let begun = ["turn-back", "start-instances", "admit-instances"].map(|step| story.times_begun(step));
        assert_eq!(begun, [2, 2, 1], "{lost}");
    }
}

#[test]
fn a_standby_that_lost_an_undo_after_instances_were_admitted_again_is_noticed_and_the_undo_is_done_again() {
    let mut story = Story::new();
    // Every row is under the new key there.
    let started = story.farm.start("start");
    let standby = story.standby();
    standby.0.stop_following();
    story.await_all_but_one_admitted(|story| {
        story.farm.operate(&["rotation", "abort"]).expect("aborted");
    });
    // Two instances serve with the old key, and from here on the rows are not under it.
    story.farm.database_lost(true);
    story.fail_over(standby);
    story.farm.signal_instance(2, Signal::SIGCONT);
    story.farm.until("every instance was stopped again", |farm| {
        let status = farm.status()?;
        let name = |phase: &Value| phase["phase"].as_str().map(ToOwned::to_owned);
        let phases: Vec<String> = status["phases"].as_array()?.iter().filter_map(name).collect();
        (phases.iter().filter(|phase| *phase == "undo:restore-rows").count() == 2).then_some(())
    });
    story.farm.database_lost(false);
    assert_eq!(story.finish(started), "rolled_back");
    assert!(story.faults().contains("database-position"), "{}", story.faults());
    let begun = ["turn-back", "stop-instances", "admit-instances"].map(|step| story.times_begun(step));
    assert_eq!(begun, [2, 2, 2]);
}

#[test]
fn a_standby_that_lost_that_instances_were_let_in_admits_no_more_of_them_until_the_server_with_the_rest_is_back() {
    let mut story = Story::new();
    let started = story.farm.start("start");
    let standby = story.standby();
    standby.0.stop_following();
    story.await_all_but_one_admitted(|story| story.farm.resume());
    let mut first = story.fail_over(standby);
    story.farm.signal_instance(2, Signal::SIGCONT);
    let fault = story.farm.until("it is named", |farm| {
        let status = farm.status()?;
        status["faults"].as_array()?.iter().find(|fault| fault["code"] == "database-position").cloned()
    });
    assert_eq!(fault["node"], "n3", "{fault}");
    assert!(fault["next_step"].as_str().is_some_and(|next| next.contains("no other server")), "{fault}");
    let absent = story.farm.times_seen(2);
    let present = story.farm.times_seen(0);
    story.farm.until("the others serve", |farm| (farm.times_seen(0) > present + 20).then_some(()));
    assert_eq!(story.farm.times_seen(2), absent, "it serves, and its database has lost rows");
    first.run(&story.farm.network);
    story.farm.database_is(first);
    story.proxy.turn_to(at(DATABASE_PORT));
    assert_eq!(story.finish(started), "completed");
}
