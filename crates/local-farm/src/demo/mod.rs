//! `keyturn demo`: builds a farm, sets clients to work, turns its keys, checks everything, and tells what came of it.

pub(crate) mod checks;
mod index;
pub(crate) mod rotate;
mod summary;

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;

use crate::farm::layout::{Layout, UnusableFolder};
use crate::farm::{Farm, Size};
use crate::faults::{Fault, UnusableFault};
use crate::load::Load;
use crate::narrate::say;
use crate::seed::content::Counts;
use crate::server::{UnusableDatabase, VaultDatabase};
use crate::signals::termination;
use crate::{DemoOptions, WrongUsage};
use rotate::Strike;

/// Ended by a signal, as shells count it: 128 and SIGINT's number.
const EXIT_INTERRUPTED: u8 = 130;

/// Requests that must be answered before the rotation begins.
pub(crate) const WARM_UP_REQUESTS: u64 = 100;

/// How long that may take.
pub(crate) const WARM_UP_LIMIT: Duration = Duration::from_secs(60);

/// Fewer rows leave a table without one that a fault may corrupt.
pub(crate) const ROWS_MIN: u64 = 40;

/// Runs the demo; answers the exit code. However it ends, nothing of it is left running.
pub(crate) async fn run(options: DemoOptions) -> anyhow::Result<u8> {
    match prepare_and_run(options).await {
        Err(error) if is_usage(&error) => Err(WrongUsage(format!("{error:#}")).into()),
        other => other,
    }
}

async fn prepare_and_run(options: DemoOptions) -> anyhow::Result<u8> {
    let fault: Option<Fault> = options.fail.as_deref().map(str::parse).transpose()?;
    if let Some(fault) = fault {
        fault.check(options.coordinators, matches!(options.database.as_str(), "postgres" | "mariadb"))?;
    }
    let layout = Layout::create(options.keep.as_deref())?;
    let interruption = termination();
    tokio::pin!(interruption);
    let database = tokio::select! {
        prepared = VaultDatabase::prepare(&options.database, layout.root()) => prepared?,
        () = interruption.as_mut() => return Ok(interrupted()),
    };
    let leftovers = database.leftovers().filter(|_| options.keep.is_none());
    // The farm belongs to the future that is dropped here, and takes its processes with it.
    let ended = tokio::select! {
        ended = build_and_rotate(&options, fault, layout, database) => ended,
        () = interruption => Ok(interrupted()),
    };
    if let Some(leftovers) = leftovers {
        leftovers.remove().await.context("removing the demo's database and roles from the server")?;
    }
    ended
}

pub(crate) fn interrupted() -> u8 {
    say("interrupted; everything is ended");
    EXIT_INTERRUPTED
}

pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<UnusableFault>() || error.is::<UnusableDatabase>() || error.is::<UnusableFolder>()
}

async fn build_and_rotate(
    options: &DemoOptions,
    fault: Option<Fault>,
    layout: Layout,
    database: VaultDatabase,
) -> anyhow::Result<u8> {
    let size = Size {
        nodes: options.nodes,
        coordinators: options.coordinators,
        counts: Counts::of(options.rows.max(ROWS_MIN)),
    };
    let separable = fault.is_some_and(Fault::needs_network);
    say(&format!("building a farm in {}", layout.root().display()));
    let mut farm = Farm::prepare(layout, database, size, separable).await?;
    say(&format!(
        "starting {} coordinators, {} agents with their instances, a balancer",
        size.coordinators, size.nodes
    ));
    farm.start().await?;

    say("setting clients to work");
    let load = Load::start(farm.balancer, size.counts);
    anyhow::ensure!(load.goes_on(WARM_UP_REQUESTS, WARM_UP_LIMIT).await, "the farm does not serve its clients");

    let rotation = rotate::rotate(&mut farm, fault.map(Strike::Held)).await?;
    let findings = checks::check(&farm, &rotation, load).await?;
    let summary = summary::Summary::new(&farm, &rotation, &findings, options.keep.is_some());
    if options.keep.is_some() {
        let report = index::fetch_report(&farm, &rotation).await?;
        farm.stop().await;
        index::write(&farm, &rotation, &report, &summary).await?;
    }
    farm.end().await?;
    let text = if options.json { summary.json()? } else { summary.text(&findings) };
    writeln!(std::io::stdout(), "{text}").context("printing the result")?;
    for failed in findings.failed() {
        say(&format!("check failed: {failed}"));
    }
    Ok(summary.exit_code(&findings))
}
