//! The larger faults of a run, one after the other at random times, and the healing of all of them.

use std::sync::Arc;
use std::time::Duration;

use rotation::{Course, Event, NodeId, Phase};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cluster::REPLICAS;
use crate::rates::FaultKind;
use crate::run::Replicas;
use crate::world::{COLUMNS, TABLE, World};
use crate::{instance, machine, operator};

/// How long a cut lasts, milliseconds.
const CUT_MS_MAX: u64 = 40_000;
/// How far a clock is set, milliseconds.
const CLOCK_STEP_MS: i64 = 3_600_000;
/// Commits that a failing database loses at most.
const COMMITS_LOST_MAX: u64 = 6;

/// Lets things go wrong until the run has had its share.
pub(crate) async fn rage(world: Arc<World>, replicas: Arc<Replicas>) {
    for _ in 0..world.rates.faults_max {
        sleep(world.time(50, world.rates.fault_pause_ms)).await;
        let total = world.rates.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = world.below(total);
        for (kind, weight) in &world.rates.faults {
            if at < *weight {
                world.say(format_args!("fault: {kind:?}"));
                befall(&world, &replicas, *kind).await;
                break;
            }
            at -= weight;
        }
    }
}

fn later(world: &Arc<World>, undo: impl FnOnce(&Arc<World>) + Send + 'static) -> JoinHandle<()> {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        sleep(world.time(200, CUT_MS_MAX)).await;
        undo(&world);
    })
}

async fn befall(world: &Arc<World>, replicas: &Arc<Replicas>, kind: FaultKind) {
    let names: Vec<NodeId> = world.nodes.keys().cloned().collect();
    let node = world.pick(&names).clone();
    let replica = *world.pick(&REPLICAS);
    let rotation = operator::rotation_id();
    let by = "mallory".to_owned();
    match kind {
        FaultKind::AgentDies => world.nodes[&node].kill(world),
        FaultKind::AgentStandsStill => world.nodes[&node].stop(world),
        FaultKind::InstanceDies => instance::die(world, &node),
        FaultKind::LeaderChanges => world.cluster.elect(world),
        FaultKind::ReplicaDies => {
            replicas.kill(world, replica);
            let replicas = Arc::clone(replicas);
            later(world, move |world| replicas.start(world, replica));
        }
        FaultKind::ReplicaCutOff => {
            world.cluster.set_cut_off(replica, true);
            // Half of the time it reaches no agent either.
            if world.below(2) == 0 {
                for node in &names {
                    world.links.cut_to_agent(replica, node);
                }
            }
            later(world, move |world| {
                world.cluster.set_cut_off(replica, false);
                world.links.heal();
                world.cluster.settle();
                world.cluster.follow(world, replica);
            });
        }
        FaultKind::AgentCutOff => {
            for replica in REPLICAS {
                world.links.cut_to_agent(replica, &node);
                world.links.cut_to_coordinator(replica, &node);
            }
            later(world, |world| world.links.heal());
        }
        FaultKind::OneWayCut => {
            for replica in REPLICAS {
                if world.below(3) == 0 {
                    world.links.cut_to_agent(replica, &node);
                } else {
                    world.links.cut_to_coordinator(replica, &node);
                }
            }
            later(world, |world| world.links.heal());
        }
        FaultKind::DatabaseRestarts => {
            let lost = world.database.crash(usize::try_from(world.below(COMMITS_LOST_MAX)).unwrap_or(0));
            world.happened(format_args!("database: restarted, {lost} commits that had not been flushed are lost"));
        }
        FaultKind::DatabaseFailsOver if !is_position_watched(world) => {
            world.say(format_args!("the database stays: nobody would notice any more"));
        }
        FaultKind::DatabaseFailsOver => {
            let lost = world.database.fail_over(usize::try_from(world.below(COMMITS_LOST_MAX)).unwrap_or(0));
            world.seen.history_was_lost();
            world.believe_the_database();
            world.happened(format_args!("database: a standby took over, {lost} commits are lost"));
        }
        FaultKind::RowDamaged => damage(world),
        FaultKind::ClockSteps => {
            let step = if world.below(2) == 0 { CLOCK_STEP_MS } else { -CLOCK_STEP_MS };
            machine::step_wall_clock(step);
        }
        FaultKind::OperatorAborts => operator::say(world, Event::AbortRequested { rotation, by }).await,
        FaultKind::OperatorPauses => {
            operator::say(world, Event::PauseRequested { rotation, by: by.clone() }).await;
            sleep(world.time(100, 10_000)).await;
            operator::say(world, Event::ResumeRequested { rotation, by }).await;
        }
        FaultKind::OperatorThrottles => {
            let rows_per_second = (world.below(3) > 0).then_some(1 + u32::try_from(world.below(20)).unwrap_or(0));
            operator::say(world, Event::ThrottleRequested { rotation, by, rows_per_second }).await;
        }
    }
}

/// Whether a database that lost history would be found out: by its ledger until the rows are verified, by its position
/// until the fence is lifted. Nothing looks after that, and not in an undo: docs/reliability.md names it.
fn is_position_watched(world: &World) -> bool {
    let state = world.cluster.committed();
    let course = state.rotations.get(&operator::rotation_id()).map(|rotation| &rotation.course);
    course.is_none_or(|course| matches!(course, Course::Forward { phase } if *phase < Phase::Start))
}

/// Turns a bit of one ciphertext over.
fn damage(world: &World) {
    let rows = world.database.rows(TABLE);
    let (id, values, _) = world.pick(&rows);
    let column = usize::try_from(world.below(COLUMNS as u64)).unwrap_or(0);
    let place = (*id, column);
    if world.truth().damaged.contains_key(&place) {
        return;
    }
    // In the tail, so that it stays a ciphertext by its looks.
    let Some(at) = values[column].len().checked_sub(6) else { return };
    world.truth().damaged.insert(place, at);
    turn_over(world, place, at);
    world.happened(format_args!("database: row {id} is damaged"));
}

/// Ends everything that is wrong.
pub(crate) async fn heal(world: &Arc<World>, replicas: &Replicas) {
    world.calm_down();
    world.links.heal();
    for replica in REPLICAS {
        world.cluster.set_cut_off(replica, false);
        replicas.start(world, replica);
        world.cluster.follow(world, replica);
    }
    for node in world.nodes.values() {
        node.heal(world);
    }
    repair(world);
    // Those that were cut off or replaced hear of the present leader.
    sleep(Duration::from_secs(1)).await;
    world.cluster.settle();
}

/// Turns the bits back. Nobody can have turned the row meanwhile, since it opened under no key.
fn repair(world: &World) {
    let damaged = std::mem::take(&mut world.truth().damaged);
    for (place, at) in damaged {
        turn_over(world, place, at);
        world.say(format_args!("database: row {} is repaired", place.0));
    }
}

fn turn_over(world: &World, (id, column): (i64, usize), at: usize) {
    world.database.damage(TABLE, id, column, |bytes| {
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
    });
}
