//! How long the rest of a rotation takes, forward and back: from what the plan forecast, and how much slower or faster the
//! rows turned out to go since. Pure, and whole numbers only, so that every replica estimates the same.

use serde::{Deserialize, Serialize};

use crate::phases::rows::Pass;
use crate::{Course, LeaseNumber, Millis, Phase, Plan, PlanTable, Rotation, ShardProgress, Strategy};

/// As fast as forecast, in thousandths.
const AS_FORECAST: u64 = 1_000;

/// Bounds of the measure: a pass that has just begun says little.
const SLOWNESS_MIN: u64 = 100;
const SLOWNESS_MAX: u64 = 1_000_000;

/// What is added to the rows' part of the way back, in hundredths: being back in time is worth turning back early.
const BACK_RESERVE: u64 = 125;

/// What a shard costs at the least, microseconds: its lease, two entries of the log, an empty read.
const SHARD_US_MIN: u64 = 1_000;

/// From when and where the speed of the present pass is measured: since it began, was resumed, or was throttled anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// From when.
    pub since: Millis,
    /// What had been done of the pass by then, microseconds of the forecast.
    pub done_us: u64,
    /// How slow rows had been before, in thousandths of the forecast; 1000 is as forecast.
    pub slowness: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since: Millis::new(0), done_us: 0, slowness: AS_FORECAST }
    }
}

/// Time as the plan forecasts it, and the rows in it, which a throttle bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cost {
    us: u64,
    rows: u64,
}

impl Cost {
    const fn plus(self, other: Self) -> Self {
        Self { us: self.us.saturating_add(other.us), rows: self.rows.saturating_add(other.rows) }
    }

    /// In milliseconds, at this slowness and under this throttle.
    fn ms(self, slowness: u64, throttle: Option<u32>) -> u64 {
        let free = u128::from(self.us) * u128::from(slowness) / u128::from(AS_FORECAST) / 1_000;
        let bounded = throttle.map_or(0, |limit| u128::from(self.rows) * 1_000 / u128::from(limit.max(1)));
        u64::try_from(free.max(bounded)).unwrap_or(u64::MAX)
    }
}

/// What one shard, or one table, costs in each kind of pass.
#[derive(Debug, Clone, Copy, Default)]
struct Costs {
    /// Turning it, into the table itself or into its copy.
    turn: Cost,
    /// Reading it back.
    read: Cost,
    /// Looking at the original again before a swap; nothing in place. Not throttled.
    swap: Cost,
    /// Turning it back, should that be needed; nothing for a shadow, which is dropped.
    back: Cost,
}

impl Costs {
    /// The parts of a table's forecast, by the ratios that docs/performance.md states: reading back is a quarter, and for a
    /// shadow the look before the swap is another.
    fn of(table: &PlanTable, rows: u64) -> Self {
        let whole = u128::from(table.forecast_ms) * 1_000 * u128::from(rows) / u128::from(table.rows.max(1));
        let us = u64::try_from(whole).unwrap_or(u64::MAX / 4).max(SHARD_US_MIN);
        let cost = |us| Cost { us, rows };
        let quarter = us / 4;
        match table.strategy {
            Strategy::InPlace => {
                let turn = cost(us - quarter);
                Self { turn, read: cost(quarter), swap: Cost::default(), back: turn }
            }
            Strategy::Shadow => Self {
                turn: cost(us - 2 * quarter),
                read: cost(quarter),
                swap: Cost { us: quarter, rows: 0 },
                back: Cost::default(),
            },
        }
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            turn: self.turn.plus(other.turn),
            read: self.read.plus(other.read),
            swap: self.swap.plus(other.swap),
            back: self.back.plus(other.back),
        }
    }

    const fn in_pass(self, pass: Pass) -> Cost {
        match pass {
            Pass::Reencrypt | Pass::RestoreRows => self.turn,
            Pass::Verify | Pass::VerifyRows => self.read,
        }
    }
}

impl Plan {
    /// The expected time offline when rows are bounded by this throttle; as planned without one.
    pub fn downtime_forecast_at(&self, throttle: Option<u32>) -> u64 {
        if throttle.is_none() {
            return self.downtime_forecast_ms;
        }
        let (turn, read) = self.tables.values().fold((Cost::default(), Cost::default()), |(turn, read), table| {
            let costs = Costs::of(table, table.rows);
            (turn.plus(costs.turn).plus(costs.swap), read.plus(costs.read))
        });
        let rows = turn.ms(AS_FORECAST, throttle).saturating_add(read.ms(AS_FORECAST, throttle));
        self.downtime_forecast_ms.max(rows.saturating_add(self.instances_ms()))
    }

    /// The part of the forecast that is not rows: taking instances offline and bringing them back.
    fn instances_ms(&self) -> u64 {
        let rows = self.tables.values().map(|table| table.forecast_ms).fold(0, u64::saturating_add);
        self.downtime_forecast_ms.saturating_sub(rows)
    }
}

/// A shard that somebody works on.
#[derive(Debug, Clone, Copy)]
struct Leased {
    since: Millis,
    /// Its share of the throttle, as it was when it was leased.
    rows_per_second: Option<u32>,
    costs: Costs,
}

/// What is left to do of a rotation that goes forward with its farm offline, and what a way back would have to do.
#[derive(Debug, Clone)]
pub(crate) struct Estimate {
    phase: Phase,
    throttle: Option<u32>,
    /// Taking instances offline and bringing them back, as planned.
    instances_ms: u64,
    /// When they began to be taken offline, and when that was done.
    quiesced: (Millis, Option<Millis>),
    all: Costs,
    /// Of the shards that are through the present pass.
    done: Costs,
    /// Of those that are leased.
    leased: Costs,
    /// Of those that anybody may have turned rows of.
    touched: Costs,
    leases: Vec<Leased>,
    pace: Pace,
    pass: Option<Pass>,
    is_paused: bool,
}

impl Estimate {
    pub(crate) fn of(rotation: &Rotation) -> Option<Self> {
        let Course::Forward { phase } = rotation.course else { return None };
        let plan = rotation.plan.as_ref()?;
        let quiesce = rotation.times.iter().find(|time| time.name == Phase::Quiesce.as_str())?;
        let pass = Pass::of(&rotation.course);
        let [mut all, mut done, mut leased, mut touched] = [Costs::default(); 4];
        let mut leases = Vec::new();
        for shard in &plan.shards {
            let Some(table) = plan.tables.get(&shard.table) else { continue };
            let costs = Costs::of(table, shard.rows_estimated);
            all = all.plus(costs);
            let is_through = |progress: &ShardProgress| pass.is_some_and(|pass| pass.result(progress).is_some());
            let Some(progress) = rotation.shards.get(&shard.id) else { continue };
            if progress.leases > LeaseNumber::default() {
                touched = touched.plus(costs);
            }
            if is_through(progress) {
                done = done.plus(costs);
            } else if let Some(lease) = &progress.lease {
                leased = leased.plus(costs);
                leases.push(Leased { since: lease.since, rows_per_second: lease.rows_per_second, costs });
            }
        }
        Some(Self {
            phase,
            throttle: rotation.throttle,
            instances_ms: plan.instances_ms(),
            quiesced: (quiesce.started, quiesce.ended),
            all,
            done,
            leased,
            touched,
            leases,
            pace: rotation.pace,
            pass,
            is_paused: rotation.paused,
        })
    }

    /// How slow rows are, in thousandths of the forecast: by what was done of this pass since the measure began, half of
    /// what is under way counted as done; or, as long as nothing was done, by how long it takes already.
    fn slowness(&self, now: Millis) -> u64 {
        let (Some(pass), false) = (self.pass, self.is_paused) else { return self.pace.slowness };
        let elapsed = u128::from(now.since(self.pace.since)) * 1_000;
        let fresh = self.done.in_pass(pass).us.saturating_sub(self.pace.done_us);
        let leased = self.leased.in_pass(pass).us;
        let measured = |done: u64| match done {
            0 => 0,
            done => u64::try_from(elapsed * u128::from(AS_FORECAST) / u128::from(done)).unwrap_or(SLOWNESS_MAX),
        };
        let slowness = if fresh > 0 {
            measured(fresh.saturating_add(leased / 2))
        } else {
            self.pace.slowness.max(measured(leased))
        };
        slowness.clamp(SLOWNESS_MIN, SLOWNESS_MAX)
    }

    /// How long what is left of a pass takes, when its leased shards have come as far as their time allows at this slowness and
    /// under the throttle, each going at its share of the whole speed: all of it, or the slowest of those shards by itself.
    fn left_ms(&self, pass: Pass, slowness: u64, now: Millis) -> u64 {
        let at_once = u128::try_from(self.leases.len()).unwrap_or(u128::MAX).max(1);
        let mut through = self.done.in_pass(pass);
        let mut slowest_ms = 0;
        for Leased { since, rows_per_second, costs } in &self.leases {
            let whole = costs.in_pass(pass);
            let worked_ms = u128::from(now.since(*since));
            let free = worked_ms * 1_000 * u128::from(AS_FORECAST) / (u128::from(slowness.max(1)) * at_once);
            let us = u64::try_from(free).unwrap_or(u64::MAX).min(whole.us);
            let mut rows = u128::from(whole.rows) * u128::from(us) / u128::from(whole.us.max(1));
            if let (Some(throttle), Some(share)) = (self.throttle, *rows_per_second) {
                let [together, own] = [throttle, share].map(|limit| u128::from(limit) * worked_ms / 1_000);
                rows = rows.min(own).min(together / at_once);
                let left = u128::from(whole.rows).saturating_sub(rows);
                slowest_ms = slowest_ms.max(left * 1_000 / u128::from(share.max(1)));
            }
            through = through.plus(Cost { us, rows: u64::try_from(rows).unwrap_or(whole.rows) });
        }
        let all = self.all.in_pass(pass);
        let left = Cost { us: all.us.saturating_sub(through.us), rows: all.rows.saturating_sub(through.rows) };
        left.ms(slowness, self.throttle).max(u64::try_from(slowest_ms).unwrap_or(u64::MAX))
    }

    /// Bringing the instances back: as planned, or twice as long as it took to stop them, whichever is longer.
    fn settling_ms(&self, now: Millis) -> u64 {
        let stopping = self.quiesced.1.unwrap_or(now).since(self.quiesced.0);
        self.instances_ms.max(stopping.saturating_mul(2))
    }

    /// Until every node is admitted with the new key.
    pub(crate) fn forward_ms(&self, now: Millis) -> u64 {
        let slowness = self.slowness(now);
        let ms = |cost: Cost| cost.ms(slowness, self.throttle);
        let left_ms = |pass: Pass| self.left_ms(pass, slowness, now);
        let rows = match self.phase {
            Phase::Quiesce => ms(self.all.turn).saturating_add(ms(self.all.read)).saturating_add(ms(self.all.swap)),
            Phase::Reencrypt => {
                left_ms(Pass::Reencrypt).saturating_add(ms(self.all.read)).saturating_add(ms(self.all.swap))
            }
            Phase::Verify => left_ms(Pass::Verify).saturating_add(ms(self.all.swap)),
            Phase::Activate => ms(self.all.swap),
            Phase::Preflight | Phase::Approval | Phase::Distribute | Phase::Start | Phase::Admit | Phase::Completed => {
                0
            }
        };
        rows.saturating_add(self.settling_ms(now))
    }

    /// Until every node is admitted with the old key: rows that may have been turned go back, and every row is read.
    pub(crate) fn back_ms(&self, now: Millis) -> u64 {
        self.back_rows_ms(now).saturating_add(self.back_instances_ms(now))
    }

    /// The same with a reserve for its rows.
    pub(crate) fn back_with_reserve_ms(&self, now: Millis) -> u64 {
        let rows = self.back_rows_ms(now).saturating_mul(BACK_RESERVE) / 100;
        rows.saturating_add(self.back_instances_ms(now))
    }

    fn back_rows_ms(&self, now: Millis) -> u64 {
        let slowness = self.slowness(now).max(self.pace.slowness);
        let ms = |cost: Cost| cost.ms(slowness, self.throttle);
        let read = ms(self.all.read);
        match self.phase {
            Phase::Reencrypt => ms(self.touched.back).saturating_add(read),
            Phase::Verify => ms(self.all.back).saturating_add(read),
            // Tables that were swapped are looked at once more before they are swapped back.
            Phase::Activate | Phase::Start => ms(self.all.back).saturating_add(ms(self.all.swap)).saturating_add(read),
            Phase::Preflight
            | Phase::Approval
            | Phase::Distribute
            | Phase::Quiesce
            | Phase::Admit
            | Phase::Completed => 0,
        }
    }

    fn back_instances_ms(&self, now: Millis) -> u64 {
        // Instances that may run with the new key are stopped once more.
        let is_started = self.phase == Phase::Start;
        let stopping = if is_started { self.quiesced.1.unwrap_or(now).since(self.quiesced.0) } else { 0 };
        self.settling_ms(now).saturating_add(stopping)
    }
}

/// Measures anew from now on: the pass is paused, goes on, or is throttled otherwise. What was measured of it, or before it,
/// stays the best guess, the slower of both, unless a throttle made it. To be called before the change.
pub(crate) fn measure_anew(rotation: &mut Rotation, now: Millis) {
    let Some(estimate) = Estimate::of(rotation) else { return };
    let slowness = measured(rotation, &estimate, now).max(rotation.pace.slowness);
    let done_us = estimate.pass.map_or(0, |pass| estimate.done.in_pass(pass).us);
    rotation.pace = Pace { since: now, done_us, slowness };
}

/// The same before another phase or step is entered, of which nothing is done: what was measured is the best guess for it.
pub(crate) fn measure_next(rotation: &mut Rotation, now: Millis) {
    let slowness = Estimate::of(rotation).map_or(rotation.pace.slowness, |estimate| measured(rotation, &estimate, now));
    rotation.pace = Pace { since: now, done_us: 0, slowness };
}

/// Under a throttle rows are as slow as it makes them, which says nothing of the database.
fn measured(rotation: &Rotation, estimate: &Estimate, now: Millis) -> u64 {
    if rotation.throttle.is_some() { rotation.pace.slowness } else { estimate.slowness(now) }
}
