//! What a demo and a soak have in common: a folder and a database of their own, a farm that serves its clients, and nothing
//! that is left running however they end.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::WrongUsage;
use crate::farm::layout::{Layout, UnusableFolder};
use crate::farm::{Farm, Size};
use crate::faults::UnusableFault;
use crate::load::Load;
use crate::narrate::{say, tell_as};
use crate::seed::content::Counts;
use crate::server::{UnusableDatabase, VaultDatabase};
use crate::signals::termination;

/// Ended by a signal, as shells count it: 128 and SIGINT's number.
const EXIT_INTERRUPTED: u8 = 130;

/// Requests that must be answered before anything is rotated.
const WARM_UP_REQUESTS: u64 = 100;

/// How long that may take.
const WARM_UP_LIMIT: Duration = Duration::from_secs(60);

/// Fewer rows leave a table without one that a fault may corrupt.
const ROWS_MIN: u64 = 40;

/// Prepares folder and database, has it `carried_out` unless somebody interrupts, and answers the exit code.
pub(crate) async fn launch(
    name: &'static str,
    database: &str,
    keep: Option<&Path>,
    carried_out: impl AsyncFnOnce(Layout, VaultDatabase) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    tell_as(name);
    prepare(name, database, keep, carried_out).await.map_err(told_as_usage)
}

async fn prepare(
    name: &str,
    database: &str,
    keep: Option<&Path>,
    carried_out: impl AsyncFnOnce(Layout, VaultDatabase) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let layout = Layout::create(keep)?;
    let interruption = termination();
    tokio::pin!(interruption);
    let database = tokio::select! {
        prepared = VaultDatabase::prepare(database, layout.root()) => prepared?,
        () = interruption.as_mut() => return Ok(interrupted()),
    };
    let leftovers = database.leftovers().filter(|_| keep.is_none());
    // The farm belongs to the future that is dropped here, and takes its processes with it.
    let ended = tokio::select! {
        ended = carried_out(layout, database) => ended,
        () = interruption => Ok(interrupted()),
    };
    if let Some(leftovers) = leftovers {
        let removing = || format!("removing the {name}'s database and roles from the server");
        leftovers.remove().await.with_context(removing)?;
    }
    ended
}

fn interrupted() -> u8 {
    say("interrupted; everything is ended");
    EXIT_INTERRUPTED
}

/// What whoever asked can put right is said to be that.
pub(crate) fn told_as_usage(error: anyhow::Error) -> anyhow::Error {
    let is_usage = error.is::<UnusableFault>() || error.is::<UnusableDatabase>() || error.is::<UnusableFolder>();
    if is_usage { WrongUsage(format!("{error:#}")).into() } else { error }
}

/// How large a farm is that was asked for with this many rows.
pub(crate) fn size(nodes: u32, coordinators: u32, rows: u64) -> Size {
    Size { nodes, coordinators, counts: Counts::of(rows.max(ROWS_MIN)) }
}

/// Starts everything and sets clients to work; answers once they are served.
pub(crate) async fn serving(
    layout: Layout,
    database: VaultDatabase,
    size: Size,
    separable: bool,
) -> anyhow::Result<(Farm, Load)> {
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
    Ok((farm, load))
}
