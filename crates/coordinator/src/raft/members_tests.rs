//! Every step of a change of the membership, and every wish that is refused.

use super::*;

const WELL: Condition = Condition { behind: 0, votes: true, foreign: false };
const NEW: Condition = Condition { behind: 900, votes: false, foreign: false };

fn address(id: u64) -> String {
    format!("https://host-{id}:7000")
}

fn addresses(ids: &[u64]) -> BTreeMap<u64, String> {
    ids.iter().map(|id| (*id, address(*id))).collect()
}

/// A cluster of these voters, of whom these answer.
fn cluster(voters: &[u64], alive: &[u64]) -> Picture {
    Picture {
        members: addresses(voters),
        voters: voters.iter().copied().collect(),
        joint: false,
        answering: alive.iter().map(|id| (*id, WELL)).collect(),
        removed: BTreeSet::new(),
    }
}

fn change(add: &[u64], remove: &[u64]) -> Change {
    Change { add: addresses(add), remove: remove.iter().copied().collect() }
}

#[track_caller]
fn check(picture: &Picture, wish: &Change, expected: Result<Step, Refusal>) {
    assert_eq!(next_step(picture, wish), expected, "{picture:#?}\n{wish:#?}");
}

fn voters(ids: &[u64]) -> Result<Step, Refusal> {
    Ok(Step::ChangeVoters(ids.iter().copied().collect()))
}

#[test]
fn a_number_that_was_removed_is_never_given_out_again() {
    let mut now = cluster(&[1, 2], &[1, 2, 3, 4]);
    check(&now, &change(&[3], &[]), Ok(Step::AddLearners(addresses(&[3]))));
    now.removed.insert(3);
    check(&now, &change(&[3], &[]), Err(Refusal::NumberUsed { id: 3, next: 4 }));
    check(&now, &change(&[4], &[]), Ok(Step::AddLearners(addresses(&[4]))));
    // With the last number there is, they are used up, and none begins anew.
    now.removed.insert(u64::MAX);
    check(&now, &change(&[4], &[]), Err(Refusal::NumberUsed { id: 4, next: u64::MAX }));
}

#[test]
fn a_replacement_goes_learner_first_and_ends() {
    let wish = change(&[4], &[3]);
    // The replica 3 is dead.
    let mut now = cluster(&[1, 2, 3], &[1, 2]);
    check(&now, &wish, Err(Refusal::Unreachable { id: 4, address: address(4) }));
    now.answering.insert(4, NEW);
    check(&now, &wish, Ok(Step::AddLearners(addresses(&[4]))));
    now.members.insert(4, address(4));
    check(&now, &wish, Ok(Step::CatchUp));
    now.answering.insert(4, Condition { votes: true, ..NEW });
    check(&now, &wish, Ok(Step::CatchUp));
    now.answering.insert(4, Condition { behind: BEHIND_MAX, ..NEW });
    check(&now, &wish, Ok(Step::CatchUp));
    now.answering.insert(4, Condition { behind: BEHIND_MAX, ..WELL });
    check(&now, &wish, voters(&[1, 2, 4]));
    let joint = Picture { joint: true, voters: [1, 2, 4].into(), ..now };
    check(&joint, &wish, voters(&[1, 2, 4]));
    check(&joint, &change(&[], &[1]), voters(&[1, 2, 4]));
    check(&cluster(&[1, 2, 4], &[1, 2, 4]), &wish, Ok(Step::Done));
    check(&cluster(&[1, 2, 4], &[1, 2]), &wish, Ok(Step::Done));
}

#[test]
fn clusters_grow_and_shrink_by_any_number_at_once() {
    let mut one = cluster(&[1], &[1]);
    one.answering.extend([(2, NEW), (3, NEW)]);
    check(&one, &change(&[2, 3], &[]), Ok(Step::AddLearners(addresses(&[2, 3]))));
    one.members = addresses(&[1, 2, 3]);
    one.answering.insert(2, WELL);
    check(&one, &change(&[2, 3], &[]), Ok(Step::CatchUp));
    one.answering.insert(3, WELL);
    check(&one, &change(&[2, 3], &[]), voters(&[1, 2, 3]));
    let five = cluster(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]);
    check(&five, &change(&[], &[4, 5]), voters(&[1, 2, 3]));
    check(&five, &change(&[], &[2, 3, 4, 5]), voters(&[1]));
    check(&cluster(&[1, 2, 3], &[1, 2, 3]), &change(&[], &[9]), Ok(Step::Done));
}

#[test]
fn a_learner_that_was_left_over_can_be_dropped() {
    let mut now = cluster(&[1, 2, 3], &[1, 2, 3]);
    now.members.insert(4, address(4));
    check(&now, &change(&[], &[4]), Ok(Step::DropLearners([4].into())));
}

#[test]
fn nothing_is_removed_that_the_quorum_alive_now_needs() {
    let lost = |alive, of, needed| Err(Refusal::QuorumLost { alive, of, needed });
    check(&cluster(&[1, 2, 3], &[1, 2]), &change(&[], &[2]), lost(1, 2, 2));
    check(&cluster(&[1, 2, 3], &[1, 2]), &change(&[], &[3]), voters(&[1, 2]));
    check(&cluster(&[1, 2, 3, 4, 5], &[1, 2, 3]), &change(&[], &[1, 2]), lost(1, 3, 2));
    check(&cluster(&[1, 2, 3], &[1, 2, 3]), &change(&[], &[1, 2, 3]), Err(Refusal::LastReplica));
    check(&cluster(&[1], &[1]), &change(&[], &[1]), Err(Refusal::LastReplica));
}

#[test]
fn wishes_that_make_no_sense_are_refused() {
    let mut now = cluster(&[1, 2, 3], &[1, 2, 3]);
    now.answering.extend([(4, NEW), (5, NEW), (6, NEW)]);
    check(&now, &change(&[], &[]), Err(Refusal::Contradiction));
    check(&now, &change(&[4], &[4]), Err(Refusal::Contradiction));
    check(&now, &change(&[4], &[7]), Err(Refusal::Unknown { id: 7 }));
    check(&now, &change(&[4, 5, 6], &[]), Err(Refusal::TooMany { count: 6 }));
    now.answering.insert(4, Condition { foreign: true, ..WELL });
    check(&now, &change(&[4], &[3]), Err(Refusal::Foreign { id: 4 }));

    let elsewhere = |id, at: u64| Change { add: [(id, address(at))].into(), remove: [3].into() };
    check(&now, &elsewhere(2, 9), Err(Refusal::OtherAddress { id: 2, address: address(2) }));
    check(&now, &elsewhere(5, 2), Err(Refusal::AddressTaken { id: 2, address: address(2) }));
    // On the machine of the one that it replaces.
    check(&now, &elsewhere(5, 3), Ok(Step::AddLearners([(5, address(3))].into())));
    let mut gap = cluster(&[1, 3, 5], &[1, 3, 5]);
    gap.answering.insert(4, NEW);
    check(&gap, &change(&[4], &[5]), Err(Refusal::NumberUsed { id: 4, next: 6 }));
}
