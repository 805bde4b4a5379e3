//! Which step a change of the membership takes next: a pure decision from how the cluster stands and what is wished.
//!
//! Nobody remembers a change. Each request compares the wish with the membership, so a change whose leader or whose asker
//! died goes on where it stood, and one that is asked twice is done once.

use std::collections::{BTreeMap, BTreeSet};

/// Voters that one cluster may have. More than five make every write slower and no farm safer.
pub(crate) const VOTERS_MAX: usize = 5;

/// Entries that a learner may be behind when it is made a voter. While a rotation is under way there is always one on its
/// way; the last few go over with the change itself, which no majority confirms without having them.
const BEHIND_MAX: u64 = 16;

/// The membership that an operator wishes for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Replicas that are to vote, with their addresses.
    pub(crate) add: BTreeMap<u64, String>,
    /// Replicas that are to be no members.
    pub(crate) remove: BTreeSet<u64>,
}

/// The cluster as its leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Every member with its address: voters and learners.
    pub(crate) members: BTreeMap<u64, String>,
    /// Who votes; while voters are being changed, those who will.
    pub(crate) voters: BTreeSet<u64>,
    /// Whether voters are being changed: two majorities are needed until that is finished.
    pub(crate) joint: bool,
    /// Of the members and those to be added: what is known of who answers.
    pub(crate) answering: BTreeMap<u64, Condition>,
    /// Who was a member once.
    pub(crate) removed: BTreeSet<u64>,
}

/// What a replica that answers is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Entries that it has not confirmed.
    pub(crate) behind: u64,
    /// Whether it says itself that it votes: a replica that has just come to the cluster does not until it has caught up.
    pub(crate) votes: bool,
    /// Whether it belongs to another cluster.
    pub(crate) foreign: bool,
}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// These become learners.
    AddLearners(BTreeMap<u64, String>),
    /// Learners take over the log.
    CatchUp,
    /// These are to be all voters; who voted before and does no more is a member no more.
    ChangeVoters(BTreeSet<u64>),
    /// These learners are members no more.
    DropLearners(BTreeSet<u64>),
    /// The membership is as wished.
    Done,
}

/// A wish that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nothing is wished, or both at once for the same replica.
    #[error("replicas to add or to remove must be named, each once")]
    Contradiction,
    /// No member has the number that is to be replaced.
    #[error("no coordinator has the number {id}")]
    Unknown { id: u64 },
    /// A number that may have been used before.
    #[error("the number {id} may have been used before: the first that was not is {next}")]
    NumberUsed { id: u64, next: u64 },
    /// The number is that of a member with another address.
    #[error("coordinator {id} is a member at {address}")]
    OtherAddress { id: u64, address: String },
    /// The address is that of a member that stays.
    #[error("{address} is the address of coordinator {id}, which stays")]
    AddressTaken { id: u64, address: String },
    /// More than a cluster may have.
    #[error("there would be {count} coordinators, and there may be {VOTERS_MAX}")]
    TooMany { count: usize },
    /// None would be left.
    #[error("no coordinator would be left")]
    LastReplica,
    /// The new replica does not answer the leader.
    #[error("coordinator {id} does not answer the leader at {address}")]
    Unreachable { id: u64, address: String },
    /// The new replica holds the log of another cluster.
    #[error("coordinator {id} holds the log of another cluster")]
    Foreign { id: u64 },
    /// Those left would have no majority that is alive now.
    #[error("of the {of} coordinators there would be, {alive} answer now, and {needed} are needed")]
    QuorumLost { alive: usize, of: usize, needed: usize },
}

/// Decides the next step, or why there is none.
pub(crate) fn next_step(picture: &Picture, change: &Change) -> Result<Step, Refusal> {
    if change.add.is_empty() && change.remove.is_empty() || change.add.keys().any(|id| change.remove.contains(id)) {
        return Err(Refusal::Contradiction);
    }
    if picture.joint {
        // Whoever began it has died or still waits. It ends the same way, and only then anything else begins.
        return Ok(Step::ChangeVoters(picture.voters.clone()));
    }
    check_new(picture, change)?;
    let leaving: BTreeSet<u64> = change.remove.iter().copied().filter(|id| picture.members.contains_key(id)).collect();
    let voters: BTreeSet<u64> =
        picture.voters.iter().chain(change.add.keys()).copied().filter(|id| !leaving.contains(id)).collect();
    if voters == picture.voters {
        return Ok(if leaving.is_empty() { Step::Done } else { Step::DropLearners(leaving) });
    }
    check_voters(picture, &voters)?;

    let missing = |id: &&u64| !picture.members.contains_key(id);
    let learners: BTreeMap<u64, String> =
        change.add.iter().filter(|(id, _)| missing(id)).map(|(id, address)| (*id, address.clone())).collect();
    if !learners.is_empty() {
        return Ok(Step::AddLearners(learners));
    }
    let caught_up = |id: &u64| {
        picture.voters.contains(id)
            || picture.answering.get(id).is_some_and(|replica| replica.votes && replica.behind <= BEHIND_MAX)
    };
    Ok(if change.add.keys().all(caught_up) { Step::ChangeVoters(voters) } else { Step::CatchUp })
}

/// Checks what is to be added.
fn check_new(picture: &Picture, change: &Change) -> Result<(), Refusal> {
    let new = |id: &u64| !picture.voters.contains(id);
    let unknown = change.remove.iter().find(|id| !picture.members.contains_key(id));
    if let Some(id) = unknown
        && change.add.keys().any(new)
    {
        return Err(Refusal::Unknown { id: *id });
    }
    // Certificates of numbers that were used may still be about.
    let highest = picture.members.keys().chain(&picture.removed).max().copied().unwrap_or(0);
    // Behind the highest number that there is, none is left.
    let next = highest.checked_add(1);
    for (id, address) in &change.add {
        let refused = match picture.members.get(id) {
            Some(known) if known == address => None,
            Some(known) => Some(Refusal::OtherAddress { id: *id, address: known.clone() }),
            None if next.is_none_or(|next| *id < next) => {
                Some(Refusal::NumberUsed { id: *id, next: next.unwrap_or(highest) })
            }
            None => None,
        };
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        let others = picture.members.iter().chain(&change.add);
        let mut staying = others.filter(|(other, _)| *other != id && !change.remove.contains(other));
        if let Some((other, _)) = staying.find(|(_, known)| *known == address) {
            return Err(Refusal::AddressTaken { id: *other, address: address.clone() });
        }
    }
    for (id, address) in change.add.iter().filter(|(id, _)| new(id)) {
        match picture.answering.get(id) {
            None => return Err(Refusal::Unreachable { id: *id, address: address.clone() }),
            Some(found) if found.foreign => return Err(Refusal::Foreign { id: *id }),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Checks that the voters to be could go on at once.
fn check_voters(picture: &Picture, voters: &BTreeSet<u64>) -> Result<(), Refusal> {
    let of = voters.len();
    if of == 0 {
        return Err(Refusal::LastReplica);
    }
    if of > VOTERS_MAX {
        return Err(Refusal::TooMany { count: of });
    }
    let alive = voters.iter().filter(|id| picture.answering.contains_key(id)).count();
    let needed = of / 2 + 1;
    if alive < needed { Err(Refusal::QuorumLost { alive, of, needed }) } else { Ok(()) }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
