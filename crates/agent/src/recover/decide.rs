//! Decides what a recovery does, from what was found alone. The rule: what the database is under decides the key, the
//! ledger decides the direction, and names and dates of files decide nothing.

use rotation::{Direction, Epoch, KeyId, LeaseNumber, RotationId, Strategy};

use super::findings::{FileFound, Findings, PlanFound};
use super::steps::Step;
use reencrypt::{LedgerRotation, NoteKind};

/// What the administrator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice {
    /// The key that the data is said to be under, after an older backup was restored.
    pub key: Option<KeyId>,
    /// The administrator has seen that the instances of all other nodes are offline.
    pub others_offline: bool,
    /// The database was just put back from a backup: nobody else may be in it until it is recovered.
    pub restored: bool,
}

/// Where a recovery leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is left to be done on this node.
    Whole,
    /// Back under the key from before the rotation.
    Back,
    /// The rotation had passed the point of no return: on with the new key.
    Forward,
    /// No rotation is to be undone: the instance comes up with the key that the data is under.
    Key,
    /// A backup of the database is put back, and then recovered.
    Restore,
    /// Other nodes come first.
    Wait,
    /// Nothing can be done from here.
    Impossible,
}

/// What is to be done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Where it leads.
    pub verdict: Verdict,
    /// Why, in a sentence or two.
    pub why: String,
    /// The key that the node serves with afterwards.
    pub key: Option<KeyId>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What is left for a person to do afterwards.
    pub next_steps: Vec<String>,
}

impl Decision {
    fn impossible(why: impl Into<String>, next_step: impl Into<String>) -> Self {
        let next_steps = vec![next_step.into()];
        Self { verdict: Verdict::Impossible, why: why.into(), key: None, steps: Vec::new(), next_steps }
    }
}

const RESTORE_BACKUP: &str = "restore a backup of the database from before the rotation, and then run `keyturn recover \
                              --key ID` with the key that it is under, on every node";

/// Decides.
pub fn decide(found: &Findings, choice: &Choice) -> Decision {
    match found.open() {
        Some(open) if is_past_return(found, open) => forward(found, choice, open),
        Some(open) => back(found, choice, open),
        None => match found.followed.and_then(|rotation| found.in_ledger(rotation)) {
            Some(closed) if closed.direction == Direction::Forward && choice.key.is_none() => {
                forward(found, choice, closed)
            }
            Some(_) | None => settle(found, choice),
        },
    }
}

/// Whether an instance was let to clients with the new key: then new data may exist under it.
fn is_past_return(found: &Findings, open: &LedgerRotation) -> bool {
    let here = found.no_return && found.followed == Some(open.rotation);
    open.direction == Direction::Forward && (open.has(NoteKind::Admitted) || here)
}

/// Undoes the rotation that the ledger holds open.
fn back(found: &Findings, choice: &Choice, open: &LedgerRotation) -> Decision {
    let id = open.rotation;
    let turned = open.shards_turned > 0;
    let plan = match &found.plan {
        Some(PlanFound { misfit: Some(misfit), .. }) if turned => {
            return Decision::impossible(
                format!("rows of rotation {id} were turned, and the plan that this node keeps does not fit: {misfit}"),
                format!(
                    "correct the agent's configuration, or run this on a node where it fits; else {RESTORE_BACKUP}"
                ),
            );
        }
        None if turned => {
            return Decision::impossible(
                format!("rows of rotation {id} were turned, and this node keeps no plan of it to undo it by"),
                format!("run `keyturn recover` on a node that took part in the rotation first; else {RESTORE_BACKUP}"),
            );
        }
        found => found.as_ref(),
    };
    let key = match plan {
        Some(plan) => plan.statement.old_key,
        None => match key_of_data(found, choice) {
            Ok(key) => key,
            Err(impossible) => return impossible,
        },
    };
    if let Some(chosen) = choice.key.filter(|chosen| *chosen != key) {
        return Decision::impossible(
            format!(
                "the ledger holds rotation {id} open, whose way back leads to key {key}, and key {chosen} was asked for"
            ),
            "leave --key out; it is for a database that was restored from an older backup",
        );
    }
    if let Some(missing) = plan.filter(|_| turned).and_then(|plan| missing_key(found, plan)) {
        return Decision::impossible(
            format!("rows are to be turned back to key {key}, and no file on this node holds key {missing}"),
            format!("run `keyturn recover` on a node that has it first, or import its bundle; else {RESTORE_BACKUP}"),
        );
    }
    // Noted before the ledger is turned: from then on no other node is started or let in, so that what is seen of them
    // right after stays as it is.
    let mut steps = vec![Step::TakeOffline { rotation: Some(id) }, Step::NoteOffline { rotation: id }];
    if let Some(waiting) = waits_for(found, choice, open) {
        return waiting_decision(id, key, steps, &waiting);
    }
    let epoch = open.epoch.next();
    let lease = LeaseNumber::new(open.lease_max.get() + 1);
    steps.push(Step::TurnBack { rotation: id, epoch, alone: turned });
    if turned {
        steps.push(Step::RestoreRows { rotation: id, epoch, lease });
        steps.push(Step::VerifyRows { rotation: id, epoch, lease });
    } else {
        steps.push(Step::ProveKey { key, whole: true });
    }
    steps.push(Step::EndLedger { rotation: id, epoch });
    let rows =
        match (turned, plan.is_some_and(|plan| plan.plan.tables.values().any(|t| t.strategy == Strategy::Shadow))) {
            (false, _) => "no row was turned",
            (true, false) => "rows were turned, and are turned back",
            (true, true) => "rows were turned, and the original tables or their rows come back",
        };
    let why = format!("rotation {id} is open in the ledger, no node was admitted with the new key, and {rows}");
    finish_back(found, Verdict::Back, why, Some(id), key, steps)
}

/// No rotation is open: the instance comes up with the key that the data is under.
fn settle(found: &Findings, choice: &Choice) -> Decision {
    let key = match key_of_data(found, choice) {
        Ok(key) => key,
        Err(impossible) => return impossible,
    };
    let rotation = found.followed;
    let in_ledger = rotation.and_then(|rotation| found.in_ledger(rotation));
    let undone_by_hand = in_ledger.is_some_and(|found| found.has(NoteKind::Recovered));
    // Neither is in the ledger: the rotation died before it touched the database, or an older database was restored.
    let gone = rotation.filter(|_| in_ledger.is_none() && !found.marked && is_unfinished(found));
    let mut steps = Vec::new();
    if !is_serving(found, key) {
        if found.instance.as_deref() != Ok("offline") {
            steps.push(Step::TakeOffline { rotation: rotation.filter(|_| undone_by_hand || gone.is_some()) });
        }
        steps.push(Step::ProveKey { key, whole: !undone_by_hand });
    }
    if let Some(rotation) = gone {
        let epoch = Epoch::new(1);
        steps.push(Step::TurnBack { rotation, epoch, alone: choice.restored });
        steps.push(Step::EndLedger { rotation, epoch });
    }
    let marks = rotation.filter(|_| undone_by_hand && !found.marked || gone.is_some());
    let why = match (rotation, undone_by_hand) {
        (Some(rotation), true) => format!("rotation {rotation} was undone by hand; the data is under key {key}"),
        (Some(rotation), false) if gone.is_some() => {
            format!("rotation {rotation} left no trace in this database; the data is under key {key}")
        }
        _ => format!("no rotation is open in the ledger; the data is under key {key}"),
    };
    let verdict = if marks.is_some() { Verdict::Back } else { Verdict::Key };
    finish_back(found, verdict, why, marks, key, steps)
}

/// From the database to an instance that serves with `key`.
fn finish_back(
    found: &Findings,
    verdict: Verdict,
    why: String,
    marks: Option<RotationId>,
    key: KeyId,
    mut steps: Vec<Step>,
) -> Decision {
    let Some(FileFound { name, .. }) = found.file_with(key) else {
        return Decision::impossible(
            format!("the data is under key {key}, and no file of this node has it as its active key"),
            "import the bundle with that key: move encryption.config away, `keyturn key import`, and run this again",
        );
    };
    let stopped = steps.iter().any(|step| matches!(step, Step::TakeOffline { .. }));
    if found.current() != Some(key) {
        steps.push(Step::PutFileBack { name: name.clone(), key });
    }
    if stopped || !is_serving(found, key) {
        steps.push(Step::StartInstance { key });
        steps.push(Step::AdmitInstance { rotation: marks.map(|rotation| (rotation, Direction::Back)) });
    }
    if let Some(rotation) = marks {
        steps.push(Step::LeaveMark { rotation, key });
        if found.files.iter().any(|file| file.role == keys::FileRole::Pending) {
            steps.push(Step::DiscardPending { rotation });
        }
    }
    let next_steps = match marks {
        Some(rotation) => after_back(found, rotation),
        None => Vec::new(),
    };
    let verdict = if steps.is_empty() { Verdict::Whole } else { verdict };
    Decision { verdict, why, key: Some(key), steps, next_steps }
}

/// Goes on to the new key: data may exist under it that the old one never saw.
fn forward(found: &Findings, choice: &Choice, rotation: &LedgerRotation) -> Decision {
    let id = rotation.rotation;
    let key = match (&found.plan, key_of_data(found, choice)) {
        (Some(plan), Ok(key)) if plan.statement.rotation == id && plan.statement.new_key != key => {
            return Decision::impossible(
                format!("rotation {id} had passed the point of no return, and yet the data is under key {key}"),
                "find out whether an older database was restored; if so, `keyturn recover --key ID` is for that",
            );
        }
        (_, Ok(key)) => key,
        (_, Err(impossible)) => return impossible,
    };
    let mut steps = Vec::new();
    if !is_serving(found, key) {
        if found.instance.as_deref() != Ok("offline") {
            steps.push(Step::TakeOffline { rotation: Some(id) });
        }
        steps.push(Step::ProveKey { key, whole: true });
        if found.current() != Some(key) {
            match found.file_with(key) {
                Some(file) if file.role == keys::FileRole::Pending => {
                    steps.push(Step::ActivatePending { rotation: id, key });
                }
                Some(file) => steps.push(Step::PutFileBack { name: file.name.clone(), key }),
                None => {
                    return Decision::impossible(
                        format!("the data is under key {key}, and no file of this node has it as its active key"),
                        "import the bundle with the new key: move encryption.config away, `keyturn key import`, and run \
                         this again",
                    );
                }
            }
        }
        steps.push(Step::StartInstance { key });
    }
    let noted = rotation.nodes(NoteKind::Admitted).any(|node| node == found.node.as_str());
    if !steps.is_empty() || !rotation.closed && !noted {
        steps.push(Step::AdmitInstance { rotation: Some((id, Direction::Forward)) });
    }
    let verdict = if steps.is_empty() { Verdict::Whole } else { Verdict::Forward };
    let why = format!("rotation {id} had passed the point of no return; the data is under its new key {key}");
    let next_steps = if verdict == Verdict::Whole {
        Vec::new()
    } else {
        vec!["run `keyturn recover` on every other node: none may serve with the old key any more".to_owned()]
    };
    Decision { verdict, why, key: Some(key), steps, next_steps }
}

/// The one key that opens every value that was tried.
fn key_of_data(found: &Findings, choice: &Choice) -> Result<KeyId, Decision> {
    let mut ids: Vec<KeyId> = Vec::new();
    for file in &found.files {
        ids.extend(
            file.active.iter().chain(&file.decrypt_only).filter(|id| !ids.contains(id)).copied().collect::<Vec<_>>(),
        );
    }
    let empty = found.values_tried() == 0;
    if let Some(chosen) = choice.key {
        if !found.holds(chosen) {
            return Err(Decision::impossible(
                format!("no file of this node holds key {chosen}"),
                "name a key of the list above, or import the bundle with it first",
            ));
        }
        return if empty || found.is_under(chosen) {
            Ok(chosen)
        } else {
            Err(Decision::impossible(
                format!("the data does not open under key {chosen}"),
                "see the counts above: name the key that the restored database is under",
            ))
        };
    }
    let opening: Vec<KeyId> = ids.into_iter().filter(|id| found.is_under(*id)).collect();
    match opening[..] {
        _ if empty => found.current().ok_or_else(|| {
            Decision::impossible("the database holds no value, and encryption.config cannot be read", "use --key ID")
        }),
        [key] => Ok(key),
        _ => Err(Decision::impossible(
            "the values of the database do not all open under one of this node's keys",
            format!("if no rotation is open in the ledger, {RESTORE_BACKUP}"),
        )),
    }
}

/// Which of the two keys that rows are turned with is on no file of this node.
fn missing_key(found: &Findings, plan: &PlanFound) -> Option<KeyId> {
    [plan.statement.old_key, plan.statement.new_key].into_iter().find(|key| !found.holds(*key))
}

/// The other nodes whose instances may still run with the new key: rows must not go back under them.
fn waits_for(found: &Findings, choice: &Choice, open: &LedgerRotation) -> Option<Vec<String>> {
    if choice.others_offline {
        return None;
    }
    let offline: Vec<&str> = open.nodes(NoteKind::Offline).chain([found.node.as_str()]).collect();
    let others = open.nodes(NoteKind::Started).filter(|node| !offline.contains(node));
    let others: Vec<String> = others.map(ToString::to_string).collect();
    (!others.is_empty()).then_some(others)
}

fn waiting_decision(id: RotationId, key: KeyId, steps: Vec<Step>, others: &[String]) -> Decision {
    let names = others.join(", ");
    Decision {
        verdict: Verdict::Wait,
        why: format!(
            "rotation {id} had begun to start instances with the new key, and rows must not go back while one runs: \
             {names} must be offline first"
        ),
        key: Some(key),
        steps,
        next_steps: vec![
            format!("run `keyturn recover` on {names}: it takes the instance offline, and on the last node it goes on"),
            "then run it here again; --others-offline, if those nodes are gone and you saw to it yourself".to_owned(),
        ],
    }
}

/// A rotation of which the ledger knows nothing, and which this node has not put behind itself.
fn is_unfinished(found: &Findings) -> bool {
    let new = found.plan.as_ref().map(|plan| plan.statement.new_key);
    found.held.is_some()
        || found.files.iter().any(|file| file.role == keys::FileRole::Pending)
        || new.is_some() && found.current() == new
}

/// Whether the instance serves, as far as can be seen, with this key.
fn is_serving(found: &Findings, key: KeyId) -> bool {
    found.instance.as_deref() == Ok("online") && is_settled(found, key)
}

fn is_settled(found: &Findings, key: KeyId) -> bool {
    found.current() == Some(key) && found.held.is_none()
}

fn after_back(found: &Findings, rotation: RotationId) -> Vec<String> {
    let others: Vec<String> = found
        .plan
        .iter()
        .flat_map(|plan| plan.plan.nodes.keys())
        .filter(|id| **id != found.node)
        .map(ToString::to_string)
        .collect();
    let mut steps = Vec::new();
    if !others.is_empty() {
        steps.push(format!("run `keyturn recover` on {} too, unless it was run there already", others.join(", ")));
    }
    steps.push(format!(
        "start the agents; coordinators that come back end rotation {rotation} as rolled back (after `keyturn rotation \
         retry`, if it was stuck, or `abort`, if it was held)"
    ));
    steps
}
