//! `keyturn rotation retire`: the operator's word that the original tables be dropped which a completed rotation kept, and
//! the wait until they are gone.

use std::time::Duration;

use clap::Args;
use rotation::{NotLookedInto, Plan, Retirement, RotationId, SignedRetirement, Strategy};
use tokio::time::sleep;
use wire::tls::Tls;
use wire::v1;

use super::confirm::confirm;
use super::{get, named, parse_id};
use crate::exit::Exit;
use crate::operator::{CallFailed, Client, Coordinators, OperatorArgs, Proposal};
use crate::output::{OutputArgs, Paint, counted, note};
use crate::problem::Problem;
use crate::view::{RotationView, summary_text};

/// Between two looks whether they are gone. The coordinators end the waiting: they give up after a minute a node.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whose tables.
#[derive(Debug, Args)]
pub(crate) struct Retire {
    /// The rotation; without it the newest that keeps tables
    id: Option<RotationId>,
    /// Do not ask for the farm's name before they are dropped
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl Retire {
    /// Warns, signs, and waits until the tables are gone.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let coordinators = self.operator.coordinators()?;
        let id = match self.id {
            Some(id) => id,
            None => newest_that_keeps(&coordinators).await?,
        };
        let mut rotation = get(&coordinators, Some(id)).await?;
        if rotation.retired_at_ms == 0 {
            check(&rotation)?;
            let proposal = Proposal::read(&id, &rotation.plan, &rotation.plan_digest)?;
            check_farm(coordinators.tls(), &proposal.plan)?;
            self.warn(&rotation, &proposal.plan)?;
            retire(&coordinators, &rotation.id, &sign(coordinators.tls(), &proposal)).await?;
            rotation = wait(&coordinators, id).await?;
        }
        self.output.print(&RotationView::from(&rotation), || summary_text(&rotation, Paint::stdout()))?;
        Ok(Exit::Done)
    }

    /// What is deleted, and which key opens what afterwards. Without `--yes` the farm's name must be typed.
    fn warn(&self, rotation: &v1::Rotation, plan: &Plan) -> Result<(), Problem> {
        let tables: Vec<&str> = shadow_tables(plan).collect();
        note(&format!(
            "{} The originals of {} are dropped for good, with every row as it was before rotation {}: {}.",
            Paint::stderr().yellow("Warning:"),
            counted(tables.len() as u64, "table"),
            rotation.id,
            named(tables.iter()),
        ));
        note(&format!(
            "No value that the rotation turned needs the key {} then. {} The bundle that holds it still opens what was taken \
             before: backups, dumps, logs and replicas; keep it for as long as you keep any of them. What the rotation \
             turned is under the key {}, unless a later one has turned it again.",
            rotation.old_key,
            left(plan),
            rotation.new_key
        ));
        if self.yes { Ok(()) } else { confirm(&plan.farm, false, "nothing was dropped") }
    }
}

/// What the rotation did not turn, and may be under the old key for all that anybody knows. The plan names no excludes.
fn left(plan: &Plan) -> String {
    let mut left = vec!["columns that targets.toml excludes".to_owned()];
    let place = |unseen: &NotLookedInto| match &unseen.column {
        Some(column) => format!("{}.{column}", unseen.table),
        None => unseen.table.clone(),
    };
    if !plan.unseen.is_empty() {
        let mut places: Vec<String> = plan.unseen.named.iter().map(place).collect();
        let more = plan.unseen.total.saturating_sub(places.len() as u64);
        if more > 0 {
            places.push(format!("and {more} more"));
        }
        let all = counted(plan.unseen.total, "place");
        left.push(format!("{all} that could not be looked into ({})", named(places.iter())));
    }
    if !plan.accepted.is_empty() {
        left.push(format!("{} accepted as undecryptable", counted(plan.accepted.len() as u64, "value")));
    }
    format!("What it left as it was may: {}.", left.join("; "))
}

/// The tables as the plan has them that was signed, not as the coordinator says.
fn shadow_tables(plan: &Plan) -> impl Iterator<Item = &str> {
    plan.tables.iter().filter(|(_, table)| table.strategy == Strategy::Shadow).map(|(name, _)| name.as_str())
}

async fn newest_that_keeps(coordinators: &Coordinators) -> Result<RotationId, Problem> {
    let list = |mut client: Client| async move { client.list_rotations(v1::ListRotationsRequest {}).await };
    let rotations = coordinators.call("listing the rotations", list).await?.value.rotations;
    match rotations.iter().find(|rotation| !rotation.kept_tables.is_empty()) {
        Some(rotation) => parse_id(&rotation.id),
        None => Err(nothing_kept("no rotation keeps any tables".to_owned())),
    }
}

fn check(rotation: &v1::Rotation) -> Result<(), Problem> {
    if rotation.outcome() != v1::Outcome::Completed {
        let outcome = RotationView::from(rotation).outcome;
        return Err(Problem::refused(
            "wrong-phase",
            format!("rotation {} is {outcome}; only a completed one keeps tables", rotation.id),
            "`keyturn rotation list` shows which have completed",
        ));
    }
    if rotation.kept_tables.is_empty() {
        return Err(nothing_kept(format!("rotation {} keeps no tables: all were re-encrypted in place", rotation.id)));
    }
    Ok(())
}

fn nothing_kept(message: String) -> Problem {
    Problem::refused("nothing-kept", message, "nothing is to be done")
}

fn check_farm(tls: &Tls, plan: &Plan) -> Result<(), Problem> {
    let own = tls.identity().farm;
    if plan.farm == own {
        return Ok(());
    }
    Err(Problem::refused(
        "other-farm",
        format!("the plan is of the farm {}, and your certificate of {own}", plan.farm),
        "use the certificate of the farm that you mean",
    ))
}

fn sign(tls: &Tls, proposal: &Proposal) -> SignedRetirement {
    let retirement = Retirement {
        format: Retirement::FORMAT,
        farm: proposal.plan.farm.clone(),
        rotation: proposal.plan.rotation,
        plan_digest: proposal.digest,
    };
    let retirement = retirement.to_bytes();
    let signature = wire::sign::sign(tls, Retirement::SIGNATURE_DOMAIN, &retirement);
    SignedRetirement { retirement, certificates: tls.certificates(), signature }
}

/// Sends the operator's word. The same word twice is one, so an answer that was lost does no harm.
async fn retire(coordinators: &Coordinators, id: &str, word: &SignedRetirement) -> Result<(), Problem> {
    let request = v1::RetireRotationRequest { id: id.to_owned(), retirement: Some(word.into()) };
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.retire_rotation(request).await }
    };
    match coordinators.call("retiring the rotation's tables", call).await {
        Ok(_) => Ok(()),
        // Taken already by an attempt whose answer was lost, and by now failed: what follows says why.
        Err(CallFailed { problem, lost: true }) if problem.code == rotation::RejectionCode::Retiring.as_str() => Ok(()),
        Err(failed) => Err(failed.into()),
    }
}

async fn wait(coordinators: &Coordinators, id: RotationId) -> Result<v1::Rotation, Problem> {
    note("Waiting until the tables are gone.");
    loop {
        let rotation = get(coordinators, Some(id)).await?;
        if rotation.retired_at_ms != 0 {
            return Ok(rotation);
        }
        if rotation.retired_by.is_empty() {
            let (why, next_step) = match rotation.faults.last() {
                Some(fault) => (format!("on {}: {}", fault.node, fault.message), fault.next_step.clone()),
                None => ("nobody said why".to_owned(), "look at the agents' logs".to_owned()),
            };
            return Err(Problem::refused(
                "not-retired",
                format!("the tables that rotation {id} kept could not all be dropped: {why}"),
                format!("{next_step}; then run `keyturn rotation retire {id}` again"),
            ));
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(accepted: &str, unseen: &str) -> Plan {
        let text = format!(
            r#"{{"format":3,"farm":"f","rotation":"01a21d34-7efd-745b-ae17-49739ea16bcb","nodes":{{}},"tables":{{}},
                "shards":[],"writers_max":1,"accepted":[{accepted}],"downtime_forecast_ms":1{unseen}}}"#
        );
        Plan::from_bytes(text.as_bytes()).expect("a plan")
    }

    #[test]
    fn what_was_left_as_it_was_is_named_as_far_as_the_plan_knows() {
        assert_eq!(left(&plan("", "")), "What it left as it was may: columns that targets.toml excludes.");
        let accepted = r#"{"table":"t","column":"c","key":"[1]","raw_digest":"00000000000000000000000000000000000000000000000000000000000000aa","reason":"broken"}"#;
        let unseen = r#","unseen":{"total":9,"named":[{"table":"audit","column":"body","reason":"may not SELECT it"},
            {"table":"closed","column":null,"reason":"no USAGE"}]}"#;
        assert_eq!(
            left(&plan(accepted, unseen)),
            "What it left as it was may: columns that targets.toml excludes; 9 places that could not be looked into \
             (audit.body, closed, and 7 more); 1 value accepted as undecryptable."
        );
    }
}
