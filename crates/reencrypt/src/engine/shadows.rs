//! What happens to whole shadows: they are finished, swapped in, and swapped out again. Each call finds in the ledger what
//! is done, so that it may be asked again after a crash at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use keys::content::ContentDigester;
use rotation::{ContentDigest, Shard};
use tokio::sync::Mutex;

use super::shard::{missing, unfit};
use super::{Engine, Open, Progress, SwapJob, range};
use crate::EngineError;
use crate::dialect::Session;
use crate::ledger::{LedgerMark, Pass};
use crate::pass;
use crate::shadow::{BuildStep, HeldReaders, Pair, Shadow, ShadowState};
use crate::table::{Row, Table};

/// How often it is said that a step that takes long is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn finish(engine: &Engine, mark: &LedgerMark, progress: Progress<'_>) -> Result<(), EngineError> {
    let mut first = engine.open().await?;
    let shadows = first.session.shadows(&mark.rotation).await?;
    let pairs = pairs(engine, first.session.as_mut(), shadows, |shadow| shadow.state == ShadowState::Building).await?;
    let mut stages: BTreeMap<u32, Vec<(Pair, BuildStep)>> = BTreeMap::new();
    for pair in &pairs {
        for step in first.session.build_steps(mark, pair).await? {
            stages.entry(step.stage).or_default().push((pair.clone(), step));
        }
    }
    let builders = stages.values().map(Vec::len).max().unwrap_or(0);
    let mut others = engine.more(builders.saturating_sub(1)).await?;
    let built = AtomicU64::new(0);
    let work = async {
        for steps in stages.into_values() {
            // Each session takes the next step that nobody has taken.
            let steps = Mutex::new(steps.into_iter());
            let sessions = std::iter::once(&mut first.session).chain(others.iter_mut().map(|other| &mut other.session));
            let builders: FuturesUnordered<_> = sessions
                .map(|session| async {
                    loop {
                        let next = steps.lock().await.next();
                        let Some((pair, step)) = next else { return Ok::<_, EngineError>(()) };
                        session.build(mark, &pair, &step).await?;
                        tracing::info!(table = pair.original.label, step = step.what, "built");
                        progress(built.fetch_add(1, Ordering::Relaxed) + 1);
                    }
                })
                .collect();
            all(builders).await?;
        }
        for pair in &pairs {
            first.session.built(mark, pair).await?;
        }
        Ok(())
    };
    alive(work, || progress(built.load(Ordering::Relaxed))).await?;
    first.end().await;
    for other in others {
        other.end().await;
    }
    Ok(())
}

pub(super) async fn swap(engine: &Engine, job: &SwapJob, progress: Progress<'_>) -> Result<(), EngineError> {
    let rotation = &job.mark.rotation;
    let mut holder = engine.open().await?;
    let labels: BTreeSet<&str> = job.shards.iter().map(|shard| shard.table.as_str()).collect();
    let shadows = holder.session.shadows(rotation).await?;
    if shadows.len() == labels.len() && shadows.iter().all(|shadow| shadow.state == ShadowState::Swapped) {
        holder.end().await;
        return Ok(());
    }
    let are = |state: ShadowState| shadows.iter().filter(|shadow| shadow.state == state).count();
    let (swapped, built) = (are(ShadowState::Swapped), are(ShadowState::Built));
    if swapped > 0 && built > 0 && swapped + built == shadows.len() {
        // All of them go at once, so an earlier worker's swap came about while we looked.
        return Err(EngineError::Overtaken("swapping tables".to_owned()));
    }
    for shadow in &shadows {
        if !labels.contains(shadow.label.as_str()) {
            return Err(unfit(shadow, "is not in the plan"));
        }
        if shadow.state != ShadowState::Built {
            return Err(unfit(shadow, "cannot be swapped in"));
        }
    }
    let pairs = pairs(engine, holder.session.as_mut(), shadows, |_| true).await?;
    if let Some(label) = labels.iter().find(|label| !pairs.iter().any(|pair| pair.original.label == **label)) {
        let problem = "is not known to the ledger".to_owned();
        return Err(EngineError::ShadowState { table: (*label).to_owned(), problem });
    }
    let mut copied = BTreeMap::new();
    for shard in &job.shards {
        let record = holder.session.record(rotation, shard.id, Pass::Verify).await?;
        if !record.is_some_and(|record| record.done) {
            let problem = format!("cannot be swapped in: its shard {} is not verified", shard.id);
            return Err(EngineError::ShadowState { table: shard.table.clone(), problem });
        }
        let record = holder.session.record(rotation, shard.id, Pass::Reencrypt).await?.unwrap_or_default();
        copied.insert(shard.id, record.raw);
    }

    let readers = holder.session.hold_for_swap(&job.mark, &pairs).await?;
    still_as(&mut holder, job, &pairs).await?;
    let found = raw_digests(engine, &mut holder, readers, job, &pairs, progress).await?;
    for (shard, digest) in found {
        if copied.get(&shard.id) != Some(&digest) {
            holder.session.release().await?;
            holder.end().await;
            let what = format!("rows of shard {} are not what they were when they were copied", shard.id);
            return Err(EngineError::RowsChanged { table: shard.table.clone(), what });
        }
    }
    holder.session.swap(&job.mark, &pairs).await?;
    holder.end().await;
    Ok(())
}

pub(super) async fn swap_back(engine: &Engine, job: &SwapJob, progress: Progress<'_>) -> Result<(), EngineError> {
    let rotation = &job.mark.rotation;
    let mut holder = engine.open().await?;
    let shadows = holder.session.shadows(rotation).await?;
    let pairs = pairs(engine, holder.session.as_mut(), shadows, |shadow| shadow.state == ShadowState::Swapped).await?;
    if pairs.is_empty() {
        holder.end().await;
        return Ok(());
    }
    let readers = holder.session.hold_for_swap(&job.mark, &pairs).await?;
    still_as(&mut holder, job, &pairs).await?;
    let found = raw_digests(engine, &mut holder, readers, job, &pairs, progress).await?;
    let mut changed = BTreeSet::new();
    let mut read = BTreeSet::new();
    for (shard, digest) in found {
        read.insert(shard.table.as_str());
        let verified = holder.session.record(rotation, shard.id, Pass::Verify).await?;
        // What was never verified whole cannot be known to be unchanged.
        if !verified.is_some_and(|record| record.done && record.raw == digest) {
            changed.insert(shard.table.as_str());
        }
    }
    let is_unchanged = |pair: &Pair| {
        let label = pair.original.label.as_str();
        read.contains(label) && !changed.contains(label)
    };
    let (back, kept): (Vec<Pair>, Vec<Pair>) = pairs.into_iter().partition(is_unchanged);
    for pair in &kept {
        tracing::warn!(table = pair.original.label, "it was written to since it was verified; it goes back in place");
    }
    holder.session.swap_back(&job.mark, &back, &kept).await?;
    holder.end().await;
    Ok(())
}

/// The tables of these shadows as they are in the database now.
async fn pairs(
    engine: &Engine,
    session: &mut dyn Session,
    shadows: Vec<Shadow>,
    wanted: impl Fn(&Shadow) -> bool,
) -> Result<Vec<Pair>, EngineError> {
    let wanted: Vec<Shadow> = shadows.into_iter().filter(wanted).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    for table in session.tables(&engine.targets).await? {
        tables.insert(table.label.clone(), table);
    }
    let pair = |shadow: Shadow| match tables.remove(&shadow.label) {
        Some(original) => Ok(Pair { original, shadow }),
        None => Err(EngineError::UnknownTable(shadow.label)),
    };
    wanted.into_iter().map(pair).collect()
}

/// Under the hold the ledger must say what it said before it.
async fn still_as(holder: &mut Open<'_>, job: &SwapJob, pairs: &[Pair]) -> Result<(), EngineError> {
    let now = holder.session.shadows(&job.mark.rotation).await?;
    for pair in pairs {
        match now.iter().find(|shadow| shadow.label == pair.shadow.label) {
            Some(shadow) if shadow.state == pair.shadow.state && shadow.name == pair.shadow.name => {}
            Some(shadow) => return Err(EngineError::Superseded(unfit(shadow, "has moved on").to_string())),
            None => return Err(missing(&pair.original)),
        }
    }
    Ok(())
}

/// The raw digests of the held tables as they stand under their own names, shard by shard.
async fn raw_digests<'j>(
    engine: &Engine,
    holder: &mut Open<'_>,
    readers: HeldReaders,
    job: &'j SwapJob,
    pairs: &[Pair],
    progress: Progress<'_>,
) -> Result<Vec<(&'j Shard, ContentDigest)>, EngineError> {
    let digester = Arc::new(ContentDigester::new(&job.old, &job.new, &job.mark.rotation));
    let shards: Vec<(&Shard, &Table)> = job
        .shards
        .iter()
        .filter_map(|shard| {
            let pair = pairs.iter().find(|pair| pair.original.label == shard.table)?;
            Some((shard, &pair.original))
        })
        .collect();
    let mut others = match readers {
        HeldReaders::Everybody => engine.more(shards.len().saturating_sub(1)).await?,
        HeldReaders::HolderOnly => Vec::new(),
    };
    let rows = AtomicU64::new(0);
    let queue = Mutex::new(shards.into_iter());
    let found = Mutex::new(Vec::new());
    let sessions = std::iter::once(&mut holder.session).chain(others.iter_mut().map(|other| &mut other.session));
    let readers: FuturesUnordered<_> = sessions
        .map(|session| async {
            loop {
                let next = queue.lock().await.next();
                let Some((shard, table)) = next else { return Ok::<_, EngineError>(()) };
                let (label, digester) = (table.label.clone(), Arc::clone(&digester));
                let digest = move |page: &[Row]| {
                    let mut hasher = digester.hasher();
                    let mut key = String::new();
                    page.iter().fold(ContentDigest::default(), |sum, row| {
                        key.clear();
                        row.key.write_to(&mut key);
                        sum.plus(row.raw(&mut hasher, &label, &key))
                    })
                };
                let count = |read| progress(rows.fetch_add(read, Ordering::Relaxed) + read);
                let range = range(shard, table)?;
                let sum =
                    pass::raw_digest(session.as_mut(), (table, &range), &engine.rooms, Arc::new(digest), count).await?;
                found.lock().await.push((shard, sum));
            }
        })
        .collect();
    alive(all(readers), || progress(rows.load(Ordering::Relaxed))).await?;
    for other in others {
        other.end().await;
    }
    Ok(found.into_inner())
}

/// Waits for all; the first error ends the others.
async fn all<F: Future<Output = Result<(), EngineError>>>(mut work: FuturesUnordered<F>) -> Result<(), EngineError> {
    while let Some(done) = work.next().await {
        done?;
    }
    Ok(())
}

/// Says now and then that the work is alive.
async fn alive<T>(work: impl Future<Output = T>, say: impl Fn()) -> T {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(ALIVE_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => say(),
        }
    }
}
