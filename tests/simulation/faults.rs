//! The larger faults of a run, one after the other at random times, and the healing of all of them.

use std::sync::Arc;
use std::time::Duration;

use reencrypt::simulation::Commit;
use rotation::{Course, Direction, Event, NodeId, Phase, Work};
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
/// A failing database loses fewer commits than this.
const COMMITS_LOST_MAX: u64 = 6;
/// And now and then as many as this, which reaches back over several steps.
const COMMITS_LOST_FAR_MAX: u64 = 24;

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
        FaultKind::DatabaseFailsOver => {
            let most = if world.below(3) == 0 { COMMITS_LOST_FAR_MAX } else { COMMITS_LOST_MAX };
            let lost = world.database.fail_over(usize::try_from(world.below(most)).unwrap_or(0));
            world.seen.history_was_lost();
            world.believe_the_database();
            world.betrayed.look(world);
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

/// An agent is about to do this. What was committed before it is not lost any more where nothing could bring it back: from
/// the last look before Admit on, and once a node is told to give the new key up. docs/decisions/0015 says why.
pub(crate) fn about_to(world: &World, work: &Work) {
    let state = world.cluster.committed();
    let course = state.rotations.get(&operator::rotation_id()).map(|rotation| &rotation.course);
    let starts = matches!(course, Some(Course::Forward { phase: Phase::Start }));
    if *work == Work::DiscardKey || *work == Work::RecordPosition && starts {
        world.database.replicate();
    }
}

/// An agent has committed this. A ledger that was closed stays so: nobody looks at it again. And where the application has
/// no role that can be shut out, nobody keeps it from writing among rows that a standby took back to the other key.
pub(crate) fn has_committed(world: &World, commit: &Commit) {
    let back = commit.mark.is_some_and(|mark| mark.direction == Direction::Back);
    let closes = commit.doing == "closing the ledger";
    if closes || back && commit.doing == "lifting the fence" && !world.database.has_role() {
        world.database.replicate();
    }
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
