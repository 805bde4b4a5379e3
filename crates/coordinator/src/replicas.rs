//! The membership of the coordinators as operators see and change it: requests, views, and refusals with a next step.

use std::collections::{BTreeMap, BTreeSet};

use tonic::{Code, Status};
use wire::{status, v1};

use crate::config::is_https_address;
use crate::raft::{Change, Member, Refusal, Step};

/// Reads what an operator wishes for.
pub(crate) fn change(request: v1::ChangeReplicasRequest) -> Result<Change, Status> {
    let v1::ChangeReplicasRequest { add, remove } = request;
    let (added, removed) = (add.len(), remove.len());
    let add: BTreeMap<u64, String> = add.into_iter().map(|replica| (replica.id, replica.address)).collect();
    let remove: BTreeSet<u64> = remove.into_iter().collect();
    if (add.len(), remove.len()) != (added, removed) {
        return Err(refused(&Refusal::Contradiction));
    }
    if let Some((id, address)) = add.iter().find(|(_, address)| !is_https_address(address)) {
        let message = format!("coordinator {id} has the address {address:?}");
        return Err(status::error(Code::InvalidArgument, "ADDRESS", message, "write it as https://host:port"));
    }
    Ok(Change { add, remove })
}

/// The members, for operators.
pub(crate) fn view(members: Vec<Member>) -> Vec<v1::ReplicaState> {
    let view = |member: Member| v1::ReplicaState {
        id: member.id,
        address: member.address,
        leader: member.leader,
        voter: member.voter,
        reachable: member.reachable,
        entries_behind: member.behind,
    };
    members.into_iter().map(view).collect()
}

/// How far a change is when this step is taken.
pub(crate) fn stage(step: &Step) -> v1::ReplicasStage {
    match step {
        Step::AddLearners(_) => v1::ReplicasStage::Adding,
        Step::CatchUp => v1::ReplicasStage::CatchingUp,
        Step::ChangeVoters(_) | Step::DropLearners(_) => v1::ReplicasStage::ChangingVoters,
        Step::Done => v1::ReplicasStage::Done,
    }
}

/// A refusal with its code and what to do.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    let (reason, next_step) = match refusal {
        Refusal::Contradiction => ("REPLICAS", "name replicas to add or to remove, each once"),
        Refusal::Unknown { .. } => ("UNKNOWN_REPLICA", "see the numbers with `keyturn coordinator list`"),
        Refusal::NumberUsed { .. } => (
            "REPLICA_NUMBER",
            "give it that number or a higher one, in its configuration and its certificate, and an empty data_dir",
        ),
        Refusal::OtherAddress { .. } => (
            "REPLICA_NUMBER",
            "give the new one a number of its own; to move a coordinator, replace it by one of another number",
        ),
        Refusal::AddressTaken { .. } => ("REPLICA_ADDRESS", "correct the address, or replace that coordinator"),
        Refusal::TooMany { .. } => ("REPLICA_COUNT", "remove or replace others; more would make nothing safer"),
        Refusal::LastReplica => ("REPLICA_COUNT", "leave one; a cluster ends when its processes are stopped"),
        Refusal::Unreachable { .. } => (
            "REPLICA_UNREACHABLE",
            "start it with `join = true`, a certificate of this number and this farm, and an address that the others \
             reach; the leader's log says why it was not reached",
        ),
        Refusal::Foreign { .. } => {
            ("REPLICA_FOREIGN", "stop it, empty its data_dir, and start it again with `join = true`")
        }
        Refusal::QuorumLost { .. } => (
            "REPLICA_QUORUM",
            "start the coordinators that do not answer, or replace them first; `keyturn coordinator list` names them",
        ),
    };
    status::refused(reason, refusal.to_string(), next_step)
}
