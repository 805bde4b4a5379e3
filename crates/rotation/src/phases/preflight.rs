//! Preflight: every node is inspected, all must agree, then one of them surveys the database, what is
//! configured is backed up, and the plan is made.

use std::collections::BTreeMap;

use crate::limits::SHARDS_WANTED_PER_NODE;
use crate::phases::{backup, survey, unexpected};
use crate::run::{Run, Stand};
use crate::{Answer, Fault, FaultCode, Inspection, NodeId, NodeProgress, Work};

pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    let inspections = stand.each_until(has_answered, &Work::Inspect);
    if !inspections.is_empty() {
        return inspections;
    }
    let agents = u32::try_from(stand.rotation.nodes.len()).unwrap_or(u32::MAX);
    let survey = Work::SurveyDatabase {
        accepted: stand.rotation.options.accepted.clone(),
        shards_wanted: agents.saturating_mul(SHARDS_WANTED_PER_NODE),
        agents,
        strategy: stand.rotation.options.strategy,
    };
    let survey = stand.lead_until(stand.rotation.survey.is_some(), survey);
    if survey.is_empty() { backup::work(stand) } else { survey }
}

pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    match (work, answer) {
        (Work::Inspect, Answer::Inspected(inspection)) => {
            if let Some(known) = run.nodes.get_mut(node) {
                known.key = Some(inspection.current_key);
            }
            if let Some(progress) = run.progress(node) {
                progress.inspection = Some((**inspection).clone());
            }
            let stand = run.stand();
            match stand.present().find_map(|(_, progress)| progress.inspection_fault.clone()) {
                _ if !stand.all(has_answered) => Ok(()),
                // All of them were recorded when they came.
                Some(fault) => Err(fault),
                None => agree(stand),
            }
        }
        (Work::SurveyDatabase { .. }, Answer::DatabaseSurveyed(found)) => survey::take(run, node, found),
        (Work::BackUp { database }, Answer::BackedUp(made)) => backup::take(run, node, database.as_ref(), made),
        _ => Err(unexpected(node, work, answer)),
    }
}

/// A node could not be inspected. The others are waited for all the same, so that an operator hears of all that is wrong
/// at once. Whether that was the last.
pub(crate) fn take_fault(run: &mut Run<'_>, node: &NodeId, fault: Fault) -> bool {
    run.record(fault.clone());
    if let Some(progress) = run.progress(node)
        && progress.inspection.is_none()
    {
        progress.inspection_fault = Some(fault);
    }
    run.stand().all(has_answered)
}

const fn has_answered(progress: &NodeProgress) -> bool {
    progress.inspection.is_some() || progress.inspection_fault.is_some()
}

/// What all nodes must have in common: its name for a message, and how to read it off an inspection.
type Shared = (&'static str, fn(&Inspection) -> String);

const SHARED: [Shared; 4] = [
    ("the current key", |inspection| inspection.current_key.to_string()),
    ("targets.toml (by digest)", |inspection| inspection.targets_digest.to_string()),
    ("the database", |inspection| format!("{} {}", inspection.database.kind, inspection.database.identity)),
    ("the protocol of their release", |inspection| inspection.release.protocol.to_string()),
];

/// Whether the nodes can be turned together.
fn agree(stand: Stand<'_>) -> Result<(), Fault> {
    let inspections: Vec<(&NodeId, &Inspection)> =
        stand.present().filter_map(|(node, progress)| Some((node, progress.inspection.as_ref()?))).collect();

    let mut differences = Vec::new();
    let mut suspect = None;
    for (name, read) in SHARED {
        let mut groups: BTreeMap<String, Vec<&NodeId>> = BTreeMap::new();
        for (node, inspection) in &inspections {
            groups.entry(read(inspection)).or_default().push(node);
        }
        if groups.len() > 1 {
            suspect = suspect.or_else(|| outlier(&groups));
            let values: Vec<String> =
                groups.iter().map(|(value, nodes)| format!("{value} on {}", names(nodes))).collect();
            differences.push(format!("{name}: {}", values.join("; ")));
        }
    }
    if !differences.is_empty() {
        let fault = Fault::new(
            FaultCode::NodesDisagree,
            format!("the nodes differ in {}", differences.join(". They differ in ")),
            "make these nodes equal, then run `keyturn rotation plan` again",
        );
        return Err(match suspect {
            Some(node) => fault.on(node),
            None => fault,
        });
    }

    let not_online: Vec<&(&NodeId, &Inspection)> =
        inspections.iter().filter(|(_, inspection)| !inspection.instance_online).collect();
    let Some((first, _)) = not_online.first() else { return Ok(()) };
    let states: Vec<String> =
        not_online.iter().map(|(node, inspection)| format!("{} on {node}", inspection.instance)).collect();
    Err(Fault::new(
        FaultCode::Instance,
        format!("an instance is not online: {}", states.join(", ")),
        "bring every instance online, or remove its node with `keyturn node remove`, then plan again",
    )
    .on(first))
}

/// The one node that differs from all others, if there is one.
fn outlier<'a>(groups: &BTreeMap<String, Vec<&'a NodeId>>) -> Option<&'a NodeId> {
    let mut alone = groups.values().filter(|nodes| nodes.len() == 1);
    match (groups.len(), alone.next(), alone.next()) {
        (2, Some(nodes), None) => nodes.first().copied(),
        _ => None,
    }
}

fn names(nodes: &[&NodeId]) -> String {
    nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(", ")
}
