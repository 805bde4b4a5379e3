//! `keyturn soak`: one farm, rotation after rotation under load, random faults at random moments, every check after each.

mod chance;
mod tally;

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use rand::Rng as _;
use tokio::time::Instant;
use wire::v1;

use crate::SoakOptions;
use crate::demo::checks::check_and_rest;
use crate::demo::rotate::{Strike, rotate};
use crate::farm::Farm;
use crate::farm::layout::Layout;
use crate::launch::{launch, serving, size};
use crate::load::Load;
use crate::narrate::say;
use crate::server::VaultDatabase;
use chance::Chance;
use tally::Tally;

/// Rotations in a row that could not be begun before the farm is given up.
const REFUSED_MAX: u32 = 5;

/// The pause after one.
const REST: Duration = Duration::from_secs(2);

/// Runs the soak; answers the exit code. However it ends, nothing of it is left running.
pub(crate) async fn run(options: SoakOptions) -> anyhow::Result<u8> {
    launch("soak", &options.database, options.keep.as_deref(), async |layout, database| {
        build_and_soak(&options, layout, database).await
    })
    .await
}

async fn build_and_soak(options: &SoakOptions, layout: Layout, database: VaultDatabase) -> anyhow::Result<u8> {
    let size = size(options.nodes, options.coordinators, options.rows);
    let seed = options.seed.unwrap_or_else(|| rand::rng().random());
    say(&format!("seed {seed}"));
    let (mut farm, load) = serving(layout, database, size, true).await?;

    let can_restart = matches!(options.database.as_str(), "postgres" | "mariadb");
    let chance = Chance::new(seed, options.coordinators, can_restart);
    let mut tally =
        Tally { database: farm.database.kind().to_owned(), seed, rows: size.counts.total(), ..Tally::default() };
    let ended = soak(&mut farm, load, chance, options.duration, &mut tally).await;
    farm.end().await?;
    if let Err(error) = ended {
        tally.checks_failed += 1;
        tally.problem(format!("the soak broke off: {error:#}"));
    }
    let text = if options.json { tally.json()? } else { tally.text() };
    writeln!(std::io::stdout(), "{text}").context("printing the result")?;
    Ok(tally.exit_code())
}

/// Round after round until the time is over, or somebody is needed.
async fn soak(
    farm: &mut Farm,
    mut load: Load,
    mut chance: Chance,
    duration: Duration,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut refused_in_a_row = 0;
    let mut round = 0;
    while began.elapsed() < duration {
        round += 1;
        let strike = chance.round();
        say(&format!("round {round}, after {} s: {}", began.elapsed().as_secs(), describe(strike)));
        let rotation = match rotate(farm, strike).await {
            Ok(rotation) => rotation,
            Err(error) => {
                say(&format!("round {round}: not carried out: {error:#}"));
                tally.rotations_refused += 1;
                refused_in_a_row += 1;
                anyhow::ensure!(
                    refused_in_a_row < REFUSED_MAX,
                    "{refused_in_a_row} rotations in a row were not: {error:#}"
                );
                recover(farm).await?;
                continue;
            }
        };
        refused_in_a_row = 0;
        if let Some(Strike::Held(fault) | Strike::After(fault, _)) = strike {
            *tally.faults_injected.entry(fault.kind.to_string()).or_default() += 1;
        }
        count(tally, &rotation);
        let (findings, resting) = check_and_rest(farm, &rotation, load).await?;
        tally.load(findings.load);
        tally.rows_lost += findings.rows_lost;
        tally.checks += findings.count() as u64;
        tally.seconds = began.elapsed().as_secs();
        for failed in findings.failed() {
            say(&format!("check failed: {failed}"));
            tally.checks_failed += 1;
            tally.problem(format!("round {round}, {}: {failed}", describe(strike)));
        }
        if rotation.outcome() == v1::Outcome::Stuck {
            for step in &rotation.next_steps {
                say(&format!("next: {step}"));
            }
            return Ok(());
        }
        if !rotation.kept_tables.is_empty() && rotation.outcome() == v1::Outcome::Completed {
            farm.verbs.operate(["rotation", "retire", &rotation.id, "--yes"]).await?;
        }
        load = resting.go_on();
    }
    let outcome = load.finish().await;
    tally.load(outcome.counts);
    for problem in outcome.problems {
        say(&format!("wrong: {problem}"));
        tally.problem(problem);
    }
    Ok(())
}

fn count(tally: &mut Tally, rotation: &v1::Rotation) {
    tally.leader_changes += u64::from(rotation.leader_changes);
    match rotation.outcome() {
        v1::Outcome::Completed => tally.rotations_completed += 1,
        v1::Outcome::RolledBack => tally.rotations_rolled_back += 1,
        v1::Outcome::Refused | v1::Outcome::Withdrawn => tally.rotations_refused += 1,
        v1::Outcome::Stuck | v1::Outcome::Running | v1::Outcome::Unspecified => tally.rotations_stuck += 1,
    }
}

/// After a rotation that was not carried out: what was broken is whole again, and nothing is left that waits.
async fn recover(farm: &mut Farm) -> anyhow::Result<()> {
    farm.heal_all()?;
    let rotation = farm.operator()?.rotation("").await;
    if rotation.is_ok_and(|rotation| rotation.outcome() == v1::Outcome::Running) {
        // Ended by itself meanwhile is as good.
        let _ = farm.verbs.operate(["rotation", "abort", "--wait"]).await;
    }
    tokio::time::sleep(REST).await;
    Ok(())
}

fn describe(strike: Option<Strike>) -> String {
    match strike {
        None => "nothing is broken".to_owned(),
        Some(Strike::Held(fault)) => fault.to_string(),
        Some(Strike::After(fault, delay)) => format!("{} {} ms after the start", fault.kind, delay.as_millis()),
    }
}
