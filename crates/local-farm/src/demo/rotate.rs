//! One rotation as an operator carries it out: export, generate, plan, start; and, if asked, a fault in the middle.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use wire::v1;

use crate::farm::{Farm, path_text};
use crate::faults::{Fault, HEALS_AFTER};
use crate::narrate::say;

/// How often the rotation is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A rotation that takes longer than this waits for something that will not come.
const ROTATION_LIMIT: Duration = Duration::from_secs(1_800);

/// How often a verb is tried again while the coordinators find a new leader.
const TRIES_MAX: u32 = 5;

/// When something is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The rotation is held at the fault's phase until it is.
    Held(Fault),
    /// So long after its start, wherever it has come by then.
    After(Fault, Duration),
}

/// Turns the farm's keys; answers the rotation as it ended.
pub(crate) async fn rotate(farm: &mut Farm, strike: Option<Strike>) -> anyhow::Result<v1::Rotation> {
    prepare_bundles(farm).await?;
    say("planning the rotation");
    let mut plan = vec!["rotation", "plan", "-o", "json"];
    if let Some(Strike::Held(fault)) = strike {
        plan.extend(["--hold-at", fault.phase.as_str()]);
    }
    farm.verbs.operate(plan).await?;
    let id = farm.operator()?.rotation("").await?.id;

    let (new, current) = (path_text(farm.layout.new_bundle())?, path_text(farm.layout.current_bundle())?);
    let password = path_text(farm.layout.password_file())?;
    let start = [
        "rotation",
        "start",
        &id,
        "--bundle",
        &new,
        "--current-bundle",
        &current,
        "--password-file",
        &password,
        "--current-password-file",
        &password,
        "--yes",
        "--wait",
        "-o",
        "json",
    ];
    let mut starting = farm.verbs.begin(start, &farm.layout.logs().join("rotation-start.log"))?;
    match strike {
        Some(Strike::Held(fault)) => break_and_heal(farm, fault, &id, &mut starting).await?,
        Some(Strike::After(fault, delay)) => {
            tokio::time::sleep(delay).await;
            let injury = fault.act(farm).await?;
            tokio::time::sleep(HEALS_AFTER).await;
            injury.heal(farm).await?;
        }
        None => {}
    }
    let status = tokio::time::timeout(ROTATION_LIMIT, starting.wait())
        .await
        .with_context(|| format!("the rotation did not end within {} s", ROTATION_LIMIT.as_secs()))?
        .context("waiting for keyturn rotation start")?;
    let rotation = farm.operator()?.rotation(&id).await?;
    if matches!(rotation.phase(), v1::Phase::Preflight | v1::Phase::Approval) && !is_over(&rotation) {
        bail!("keyturn rotation start ended with {status}, and nothing was started");
    }
    let rotation = until_ended(farm, &id).await?;
    match rotation.outcome() {
        v1::Outcome::Completed | v1::Outcome::RolledBack | v1::Outcome::Stuck => Ok(rotation),
        v1::Outcome::Unspecified | v1::Outcome::Running | v1::Outcome::Refused | v1::Outcome::Withdrawn => {
            let faults: Vec<String> = rotation.faults.iter().map(describe).collect();
            bail!(
                "the rotation was not carried out (keyturn rotation start ended with {status}): {}",
                faults.join("; ")
            )
        }
    }
}

/// The escrow of the present keys, and the new key.
async fn prepare_bundles(farm: &Farm) -> anyhow::Result<()> {
    say("exporting the present keys, making a new one");
    // Of the rotation before, if there was one.
    remove_if_there(&farm.layout.current_bundle())?;
    remove_if_there(&farm.layout.new_bundle())?;
    let password = path_text(farm.layout.password_file())?;
    let (config, current) = (path_text(farm.node(0)?.config())?, path_text(farm.layout.current_bundle())?);
    farm.verbs.run(["key", "export", "--config", &config, "--out", &current, "--password-file", &password]).await?;
    let new = path_text(farm.layout.new_bundle())?;
    let farm_name = crate::farm::layout::FARM;
    farm.verbs.run(["key", "generate", "--farm", farm_name, "--out", &new, "--password-file", &password]).await?;
    remove_if_there(&farm.layout.first_bundle())
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("deleting {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits until the rotation is held at the fault's phase, breaks, lets it go on, and heals.
async fn break_and_heal(
    farm: &mut Farm,
    fault: Fault,
    id: &str,
    starting: &mut tokio::process::Child,
) -> anyhow::Result<()> {
    loop {
        let rotation = farm.operator()?.rotation(id).await?;
        if rotation.paused {
            break;
        }
        if is_over(&rotation) {
            say(&format!("the rotation ended before {}; nothing was broken", fault.phase.as_str()));
            return Ok(());
        }
        if let Some(status) = starting.try_wait().context("looking at keyturn rotation start")? {
            bail!("keyturn rotation start ended with {status} before the rotation did");
        }
        tokio::time::sleep(POLL).await;
    }
    let (injury, resumed) = if fault.strikes_after_resume() {
        resume(farm, id).await?;
        (fault.act(farm).await?, Ok(()))
    } else {
        let injury = fault.act(farm).await?;
        (injury, resume(farm, id).await)
    };
    tokio::time::sleep(HEALS_AFTER).await;
    // Whatever else went wrong, nothing is left broken.
    injury.heal(farm).await?;
    resumed
}

/// Lets the rotation go on, also when that needs a new leader first.
async fn resume(farm: &Farm, id: &str) -> anyhow::Result<()> {
    let mut tries = 0;
    loop {
        match farm.verbs.operate(["rotation", "resume", id]).await {
            Ok(_) => return Ok(()),
            Err(error) => {
                tries += 1;
                let rotation = farm.operator()?.rotation(id).await?;
                // The answer was lost, and the word was heard.
                if !rotation.paused {
                    return Ok(());
                }
                if tries == TRIES_MAX {
                    return Err(error);
                }
            }
        }
    }
}

async fn until_ended(farm: &Farm, id: &str) -> anyhow::Result<v1::Rotation> {
    let deadline = tokio::time::Instant::now() + ROTATION_LIMIT;
    loop {
        let rotation = farm.operator()?.rotation(id).await?;
        if is_over(&rotation) || tokio::time::Instant::now() >= deadline {
            return Ok(rotation);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether nothing happens any more without an operator.
fn is_over(rotation: &v1::Rotation) -> bool {
    !matches!(rotation.outcome(), v1::Outcome::Running | v1::Outcome::Unspecified)
}

/// A fault in one line.
pub(super) fn describe(fault: &v1::Fault) -> String {
    let node = if fault.node.is_empty() { String::new() } else { format!(" on {}", fault.node) };
    format!("{}{node}: {}", fault.code, fault.message)
}
