//! The engine at work on a scratch table, as the coordinators would give it out: agents with several shards each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keys::SecretKey;
use rotation::{Direction, Epoch, LeaseNumber, SHARDS_PER_AGENT_MAX, Shard, ShardTally, Strategy};
use tokio::task::JoinSet;

use crate::key::{Key, KeyValue};
use crate::ledger::{LedgerMark, plus, scratch_rotation};
use crate::split::{Marks, split};
use crate::{Engine, EngineError, ShardJob};

/// Shards per agent, as a plan has them.
const SHARDS_WANTED_PER_AGENT: u32 = 16;

/// The engines of all agents, and what they work on.
pub(crate) struct Bench {
    engines: Vec<Arc<Engine>>,
    shards: Vec<Shard>,
    old: SecretKey,
    new: SecretKey,
}

/// What is done with every shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Turned to the new key.
    Reencrypt,
    /// Read back.
    Verify,
}

impl Bench {
    /// With one engine for each agent, for a work table of rows 1 to `rows`.
    pub(crate) fn new(engines: Vec<Engine>, table: &str, rows: u64, row_bytes: u32, old: SecretKey) -> Self {
        let mut marks = Marks::new();
        for id in 1..=rows {
            marks.add(Key(vec![KeyValue::Integer(i64::try_from(id).unwrap_or(i64::MAX))]), u64::from(row_bytes));
        }
        let agents = u32::try_from(engines.len()).unwrap_or(u32::MAX);
        let shards = split(&[(table.to_owned(), marks)], agents.saturating_mul(SHARDS_WANTED_PER_AGENT));
        let engines = engines.into_iter().map(Arc::new).collect();
        Self { engines, shards, old, new: SecretKey::generate() }
    }

    /// The key that rows are under at first.
    pub(crate) const fn old(&self) -> &SecretKey {
        &self.old
    }

    /// The key that rows are turned to.
    pub(crate) const fn new_key(&self) -> &SecretKey {
        &self.new
    }

    /// The engine of the agent that does what is done once.
    pub(crate) fn lead(&self) -> &Engine {
        &self.engines[0]
    }

    /// A mark that nothing has entered under yet.
    pub(crate) fn mark() -> LedgerMark {
        // Another every time; two measurements at once on one database already met at the names of their tables.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) as u64;
        let rotation = scratch_rotation(u64::from(std::process::id()) << 20 | number);
        LedgerMark { rotation, epoch: Epoch::new(1), direction: Direction::Forward }
    }

    /// Works on every shard, each agent on as many at once as in a rotation.
    pub(crate) async fn run(
        &self,
        mark: LedgerMark,
        work: Work,
        strategy: Strategy,
    ) -> Result<ShardTally, EngineError> {
        let next = Arc::new(AtomicUsize::new(0));
        let shards: Arc<[Shard]> = self.shards.clone().into();
        // Ended with the set when it is dropped.
        let mut workers = JoinSet::new();
        for engine in &self.engines {
            for _ in 0..SHARDS_PER_AGENT_MAX {
                let (engine, next, shards) = (Arc::clone(engine), Arc::clone(&next), Arc::clone(&shards));
                let job = self.job(mark, strategy);
                workers.spawn(async move {
                    let mut sum = ShardTally::default();
                    while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let job = ShardJob { shard: shard.clone(), ..job.clone() };
                        let tally = match work {
                            Work::Reencrypt => engine.reencrypt(&job, &|_| {}).await?,
                            Work::Verify => engine.verify(&job, &|_| {}).await?,
                        };
                        sum = plus(&sum, &tally);
                    }
                    Ok::<_, EngineError>(sum)
                });
            }
        }
        let mut sum = ShardTally::default();
        while let Some(ended) = workers.join_next().await {
            let tally = ended.map_err(|error| EngineError::Internal(format!("a worker ended early: {error}")))??;
            sum = plus(&sum, &tally);
        }
        Ok(sum)
    }

    /// Turns every row into the copy and builds it up to where it is ready to be swapped in.
    pub(crate) async fn shadow(&self, mark: LedgerMark) -> Result<ShardTally, EngineError> {
        let turned = self.run(mark, Work::Reencrypt, Strategy::Shadow).await?;
        self.lead().finish_shadows(&mark, &|_| {}).await?;
        Ok(turned)
    }

    fn job(&self, mark: LedgerMark, strategy: Strategy) -> ShardJob {
        ShardJob {
            mark,
            shard: self.shards[0].clone(),
            lease: LeaseNumber::new(1),
            old: self.old.clone(),
            new: self.new.clone(),
            accepted: Vec::new(),
            strategy,
            rows_per_second: None,
        }
    }
}
