//! `keyturn demo`: builds a farm, sets clients to work, turns its keys, checks everything, and tells what came of it.

pub(crate) mod checks;
mod index;
pub(crate) mod rotate;
mod summary;

use std::io::Write as _;

use anyhow::Context as _;

use crate::DemoOptions;
use crate::farm::layout::Layout;
use crate::faults::Fault;
use crate::launch::{launch, serving, size, told_as_usage};
use crate::narrate::say;
use crate::server::VaultDatabase;
use rotate::Strike;

/// Runs the demo; answers the exit code. However it ends, nothing of it is left running.
pub(crate) async fn run(options: DemoOptions) -> anyhow::Result<u8> {
    let fault = fault(&options).map_err(told_as_usage)?;
    launch("demo", &options.database, options.keep.as_deref(), async |layout, database| {
        build_and_rotate(&options, fault, layout, database).await
    })
    .await
}

/// What is to be broken, if it can be on the farm that is asked for.
fn fault(options: &DemoOptions) -> anyhow::Result<Option<Fault>> {
    let fault: Option<Fault> = options.fail.as_deref().map(str::parse).transpose()?;
    if let Some(fault) = fault {
        fault.check(options.coordinators, matches!(options.database.as_str(), "postgres" | "mariadb"))?;
    }
    Ok(fault)
}

async fn build_and_rotate(
    options: &DemoOptions,
    fault: Option<Fault>,
    layout: Layout,
    database: VaultDatabase,
) -> anyhow::Result<u8> {
    let size = size(options.nodes, options.coordinators, options.rows);
    let separable = fault.is_some_and(Fault::needs_network);
    let (mut farm, load) = serving(layout, database, size, separable).await?;

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
