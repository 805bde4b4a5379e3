//! What must hold after a rotation, looked at from outside: the nodes, every row, and what clients were promised.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use keys::value::Cipher;
use keys::{SecretKey, canary};
use rotation::KeyId;
use wire::v1;

use crate::farm::Farm;
use crate::http::{request, send};
use crate::load::{Load, LoadCounts, LoadOutcome, Resting, is_seeded};
use crate::narrate::say;
use crate::seed::content;
use crate::tables::{RowKey, TABLES};

/// How long nodes may take to follow after the rotation's end: one that was held catches up by itself.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// How often they are looked at.
const POLL: Duration = Duration::from_millis(200);

/// Requests that must be answered under the key that is now the farm's.
const REQUESTS_AFTER: u64 = 100;

/// How long that may take.
const REQUESTS_LIMIT: Duration = Duration::from_secs(60);

/// How long an instance may take to open a canary.
const CANARY_LIMIT: Duration = Duration::from_secs(5);

/// How long a node is asked again whose answer does not come: a busy machine may be too slow for one question.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Rows that are named when they are wrong; the rest is counted.
const NAMED_MAX: usize = 5;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    checks: Vec<(String, Result<(), String>)>,
    /// Every node as it is now.
    pub(super) nodes: Vec<NodeNow>,
    /// What the client load came to.
    pub(crate) load: LoadCounts,
    /// Rows that are not there any more.
    pub(crate) rows_lost: u64,
}

/// One node, asked directly.
#[derive(Debug)]
pub(crate) struct NodeNow {
    pub(super) id: String,
    /// The key that its agent says it holds; empty when it does not answer.
    pub(super) key: String,
    /// Whether its running instance opened a canary under the farm's key.
    pub(super) canary_ok: bool,
}

impl Findings {
    /// Whether everything held.
    pub(super) fn all_held(&self) -> bool {
        self.checks.iter().all(|(_, held)| held.is_ok())
    }

    /// How many checks there were.
    pub(crate) fn count(&self) -> usize {
        self.checks.len()
    }

    /// What did not hold, and why.
    pub(crate) fn failed(&self) -> impl Iterator<Item = String> {
        self.checks.iter().filter_map(|(what, held)| Some(format!("{what}: {}", held.as_ref().err()?)))
    }

    fn add(&mut self, what: impl Into<String>, held: Result<(), String>) {
        self.checks.push((what.into(), held));
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        let held = if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) };
        self.add(what, held);
    }
}

/// Looks at everything. The load goes on for a while under the present key, and ends here.
pub(super) async fn check(farm: &Farm, rotation: &v1::Rotation, load: Load) -> anyhow::Result<Findings> {
    Ok(check_and_rest(farm, rotation, load).await?.0)
}

/// The same; the clients rest meanwhile, and can go on.
pub(crate) async fn check_and_rest(
    farm: &Farm,
    rotation: &v1::Rotation,
    load: Load,
) -> anyhow::Result<(Findings, Resting)> {
    say("checking everything");
    let old = farm.open_bundle(farm.layout.current_bundle())?.active().secret.clone();
    let new = farm.open_bundle(farm.layout.new_bundle())?.active().secret.clone();
    let completed = rotation.outcome() == v1::Outcome::Completed;
    let (expected, other) = if completed { (new, old) } else { (old, new) };

    let mut findings = Findings::default();
    let stuck = rotation.outcome() == v1::Outcome::Stuck;
    findings.add("the rotation is over", if stuck { Err("it is stuck".to_owned()) } else { Ok(()) });
    if stuck {
        let (outcome, resting) = load.rest().await;
        findings.load = outcome.counts;
        findings.nodes = nodes_now(farm, &expected).await;
        return Ok((findings, resting));
    }
    check_nodes(farm, &expected, &mut findings).await;
    let goes_on = load.goes_on(REQUESTS_AFTER, REQUESTS_LIMIT).await;
    let goes_on = if goes_on { Ok(()) } else { Err("the farm does not serve its clients".to_owned()) };
    findings.add("clients are served under the farm's key", goes_on);
    let (outcome, resting) = load.rest().await;
    check_load(&outcome, &mut findings);
    check_rows(farm, &Cipher::new(&expected), &Cipher::new(&other), &outcome, &mut findings).await?;
    if completed {
        check_report(farm, rotation, &mut findings);
    }
    Ok((findings, resting))
}

async fn nodes_now(farm: &Farm, expected: &SecretKey) -> Vec<NodeNow> {
    let mut nodes = Vec::new();
    for node in &farm.nodes {
        let described = answered(|| async { farm.operator()?.describe(node).await }).await;
        let key = described.map(|answer| answer.current_key).unwrap_or_default();
        let challenge = canary::challenge(expected);
        let answer = answered(|| {
            let question = request(Method::POST, node.instance, "/canary", challenge.ciphertext_base64.clone().into());
            send(node.instance, question, CANARY_LIMIT)
        })
        .await;
        let canary_ok = answer.is_ok_and(|answer| challenge.is_answered_by(answer.body()));
        nodes.push(NodeNow { id: node.id.to_string(), key, canary_ok });
    }
    nodes
}

/// Asks until an answer comes, whatever it says.
async fn answered<T, E, F>(ask: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
    loop {
        match ask().await {
            Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(POLL).await,
            answer => return answer,
        }
    }
}

/// Waits until every node is back with that key, and says what is wrong with those that are not.
async fn check_nodes(farm: &Farm, expected: &SecretKey, findings: &mut Findings) {
    let deadline = tokio::time::Instant::now() + SETTLE_LIMIT;
    for node in &farm.nodes {
        let held = loop {
            let problem = match node_problem(farm, node, expected.id()).await {
                None => break Ok(()),
                Some(problem) => problem,
            };
            if tokio::time::Instant::now() >= deadline {
                break Err(problem);
            }
            tokio::time::sleep(POLL).await;
        };
        findings.add(format!("{} is online with the farm's key and no other pending", node.id), held);
    }
    findings.nodes = nodes_now(farm, expected).await;
    for number in 0..findings.nodes.len() {
        let NodeNow { id, canary_ok, .. } = &findings.nodes[number];
        let held = if *canary_ok { Ok(()) } else { Err("it did not".to_owned()) };
        findings.add(format!("the running instance of {id} opens a canary under the farm's key"), held);
    }
}

async fn node_problem(farm: &Farm, node: &crate::farm::layout::NodePlace, expected: KeyId) -> Option<String> {
    let operator = match farm.operator() {
        Ok(operator) => operator,
        Err(error) => return Some(error.to_string()),
    };
    let said = match operator.describe(node).await {
        Ok(said) => said,
        Err(error) => return Some(format!("{error:#}")),
    };
    if said.current_key != expected.to_string() {
        return Some(format!("it holds key {} instead of {expected}", said.current_key));
    }
    if said.held_offline || !said.instance_online {
        return Some(format!(
            "its instance is {}{}",
            said.instance,
            if said.held_offline { ", held offline" } else { "" }
        ));
    }
    if !said.pending_key.is_empty() {
        return Some(format!("key {} is still pending", said.pending_key));
    }
    let farm_view = match operator.farm().await {
        Ok(view) => view,
        Err(error) => return Some(format!("{error:#}")),
    };
    let entry = farm_view.nodes.into_iter().find(|entry| entry.id == node.id.as_str());
    match entry.map(|entry| entry.held_because) {
        None => Some("the coordinators do not know it".to_owned()),
        Some(Some(fault)) => Some(format!("it is held: {}", fault.message)),
        Some(None) => None,
    }
}

fn check_load(outcome: &LoadOutcome, findings: &mut Findings) {
    findings.load = outcome.counts;
    let wrong = outcome.counts.wrong;
    let held = if wrong == 0 { Ok(()) } else { Err(format!("{wrong} were not: {}", outcome.problems.join("; "))) };
    findings.add("every answer was right and every acknowledged write is there", held);
}

/// Reads the whole database past the application: every value opens under the one key and not under the other, and
/// says what it must.
async fn check_rows(
    farm: &Farm,
    expected: &Cipher,
    other: &Cipher,
    outcome: &LoadOutcome,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let connection = farm.database.connect()?;
    for (number, table) in TABLES.iter().enumerate() {
        let count = farm.size.counts.0[number];
        let rows: BTreeMap<RowKey, u64> = (0..count).map(|row| (content::key(number, row), row)).collect();
        let (mut seen, mut wrong, mut problems) = (0, 0_u64, Vec::new());
        let read = connection
            .for_each_row(table, |row| {
                seen += 1;
                for (column, stored) in table.columns.iter().zip(&row.values) {
                    let problem = match rows.get(&row.key) {
                        None => Some("nobody wrote this row"),
                        Some(row_number) => {
                            let allowed = |plaintext: Option<&[u8]>| {
                                let at = (number, *row_number);
                                if column.name == table.served().name {
                                    outcome.memory.allows(at, column, plaintext)
                                } else {
                                    is_seeded(at, column, plaintext)
                                }
                            };
                            value_problem(stored.as_deref(), column, expected, other, allowed)
                        }
                    };
                    if let Some(problem) = problem {
                        wrong += 1;
                        if problems.len() < NAMED_MAX {
                            problems.push(format!("{} of {}: {problem}", column.name, row.key));
                        }
                    }
                }
                Ok(())
            })
            .await;
        read.with_context(|| format!("checking table {}", table.name))?;
        findings.rows_lost += count.saturating_sub(seen);
        findings.equal(&format!("{} has all its rows", table.name), seen, count);
        let held = if wrong == 0 { Ok(()) } else { Err(format!("{wrong} do not, among them {}", problems.join("; "))) };
        findings
            .add(format!("every value of {} opens under the farm's key alone and says what it must", table.name), held);
    }
    connection.close().await;
    Ok(())
}

fn value_problem(
    stored: Option<&[u8]>,
    column: &crate::tables::SecretColumn,
    expected: &Cipher,
    other: &Cipher,
    allowed: impl Fn(Option<&[u8]>) -> bool,
) -> Option<&'static str> {
    let aad = column.aad.as_bytes();
    let opened;
    let plaintext = match stored {
        None => None,
        Some([]) => Some([].as_slice()),
        Some(stored) => {
            if other.open(stored, column.encoding, aad).is_ok() {
                return Some("it opens under the other key");
            }
            match expected.open(stored, column.encoding, aad) {
                Ok(found) => opened = found,
                Err(_) => return Some("it does not open under the farm's key"),
            }
            Some(opened.plaintext.as_slice())
        }
    };
    if allowed(plaintext) { None } else { Some("it says something else than was written") }
}

/// What the report says of itself, against what was seeded.
fn check_report(farm: &Farm, rotation: &v1::Rotation, findings: &mut Findings) {
    let progress = rotation.progress.clone().unwrap_or_default();
    let total = farm.size.counts.total();
    findings.equal("the report counts every row", progress.rows_total, total);
    findings.equal("every row was re-encrypted", progress.rows_reencrypted, total);
    findings.equal("every row was verified", progress.rows_verified, total);
    findings.equal("no value was undecryptable", progress.undecryptable, 0);
    let digests = (progress.content_digest_before.clone(), progress.content_digest_after.clone());
    let held = match digests {
        (before, after) if before.is_empty() || after.is_empty() => Err("a digest is missing".to_owned()),
        (before, after) if before == after => Ok(()),
        (before, after) => Err(format!("{before} before, {after} after")),
    };
    findings.add("the content digests are equal", held);
}

#[cfg(test)]
mod tests {
    use keys::value::CipherVersion;

    use super::*;
    use crate::tables::{CONNECTIONS, USER_VAULT_ENTRIES};

    fn problem(table: usize, aad: &str, key: &SecretKey, farms: &SecretKey, other: &SecretKey) -> Option<&'static str> {
        let column = TABLES[table].served();
        let stored = Cipher::new(key).encrypt(b"said", column.encoding, aad.as_bytes(), CipherVersion::V2).unwrap();
        let allowed = |plaintext: Option<&[u8]>| plaintext == Some(b"said".as_slice());
        value_problem(Some(&stored), column, &Cipher::new(farms), &Cipher::new(other), allowed)
    }

    #[test]
    fn a_value_is_right_under_the_farms_key_alone() {
        let (farms, other, foreign) = (SecretKey::generate(), SecretKey::generate(), SecretKey::generate());
        assert_eq!(problem(CONNECTIONS, "", &farms, &farms, &other), None);
        assert_eq!(problem(CONNECTIONS, "", &other, &farms, &other), Some("it opens under the other key"));
        let unreadable = Some("it does not open under the farm's key");
        assert_eq!(problem(CONNECTIONS, "", &foreign, &farms, &other), unreadable);
        let aad = TABLES[USER_VAULT_ENTRIES].served().aad;
        assert_eq!(problem(USER_VAULT_ENTRIES, aad, &farms, &farms, &other), None);
        assert_eq!(problem(USER_VAULT_ENTRIES, "", &farms, &farms, &other), unreadable, "the AAD must be kept");
    }

    #[test]
    fn a_value_that_vanished_or_was_emptied_is_wrong() {
        let cipher = Cipher::new(&SecretKey::generate());
        let other = Cipher::new(&SecretKey::generate());
        let column = TABLES[CONNECTIONS].served();
        let allowed = |plaintext: Option<&[u8]>| plaintext == Some(b"said".as_slice());
        assert!(value_problem(None, column, &cipher, &other, allowed).is_some());
        assert!(value_problem(Some(&[]), column, &cipher, &other, allowed).is_some());
        assert!(value_problem(None, column, &cipher, &other, |plaintext| plaintext.is_none()).is_none());
    }

    #[test]
    fn one_check_that_fails_is_told_and_counts() {
        let mut findings = Findings::default();
        findings.equal("rows", 3, 3);
        assert!(findings.all_held());
        findings.equal("digests", 1, 2);
        assert!(!findings.all_held());
        assert_eq!(findings.failed().collect::<Vec<_>>(), ["digests: 1 instead of 2"]);
        assert_eq!(findings.count(), 2);
    }
}
