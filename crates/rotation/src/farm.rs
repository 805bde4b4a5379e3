//! Entries about the cluster and the farm: founding, leaders, enrolled nodes.

use crate::limits::NODES_MAX;
use crate::retire::refuse_while_retiring;
use crate::{ClusterId, Millis, Node, NodeId, Outcome, Rejection, RejectionCode, State, Term};

pub(crate) fn found(state: &mut State, cluster: ClusterId, farm: &str) -> Result<Outcome, Rejection> {
    match state.cluster {
        None => {
            state.cluster = Some(cluster);
            farm.clone_into(&mut state.farm);
            Ok(Outcome::Changed)
        }
        Some(known) if known == cluster && state.farm == farm => Ok(Outcome::Unchanged),
        Some(known) => Err(Rejection::new(
            RejectionCode::AlreadyFounded,
            format!("this is cluster {known} of farm {:?} already", state.farm),
            "give the coordinators empty data directories to form another cluster",
        )),
    }
}

pub(crate) fn elect_leader(state: &mut State, term: Term) -> Outcome {
    if term <= state.term {
        return Outcome::Unchanged;
    }
    state.term = term;
    if let Some(rotation) = state.active.and_then(|id| state.rotations.get_mut(&id)) {
        rotation.leader_changes = rotation.leader_changes.saturating_add(1);
    }
    Outcome::Changed
}

pub(crate) fn enroll(state: &mut State, now: Millis, id: &NodeId, address: &str) -> Result<Outcome, Rejection> {
    if state.cluster.is_none() {
        return Err(not_founded());
    }
    if state.nodes.get(id).is_some_and(|node| node.address == address) {
        return Ok(Outcome::Unchanged);
    }
    check_address(id, address)?;
    refuse_while_under_way(state, &format!("node {id} cannot be enrolled"))?;
    if let Some(node) = state.nodes.get_mut(id) {
        address.clone_into(&mut node.address);
        return Ok(Outcome::Changed);
    }
    if state.nodes.len() >= NODES_MAX {
        return Err(Rejection::new(
            RejectionCode::TooManyNodes,
            format!("the farm has {NODES_MAX} nodes, and cannot have more"),
            "remove a node with `keyturn node remove` first",
        ));
    }
    let node = Node { address: address.to_owned(), enrolled_at: now, key: None, quarantine: None };
    state.nodes.insert(id.clone(), node);
    Ok(Outcome::Changed)
}

pub(crate) fn remove(state: &mut State, id: &NodeId) -> Result<Outcome, Rejection> {
    if !state.nodes.contains_key(id) {
        return Err(Rejection::new(
            RejectionCode::UnknownNode,
            format!("there is no node {id}"),
            "see `keyturn node list` for the enrolled nodes",
        ));
    }
    refuse_while_under_way(state, &format!("node {id} cannot be removed"))?;
    refuse_while_retiring(state, None, &format!("node {id} cannot be removed"))?;
    state.nodes.remove(id);
    Ok(Outcome::Changed)
}

pub(crate) fn not_founded() -> Rejection {
    Rejection::new(
        RejectionCode::NotFounded,
        "the coordinators have not formed a cluster yet",
        "start all configured coordinators and try again",
    )
}

pub(crate) fn refuse_while_under_way(state: &State, what: &str) -> Result<(), Rejection> {
    match state.active {
        None => Ok(()),
        Some(active) => Err(Rejection::new(
            RejectionCode::RotationUnderWay,
            format!("{what} while rotation {active} is under way"),
            "wait for its end with `keyturn rotation watch`, or end it with `keyturn rotation abort`",
        )),
    }
}

/// Only the form is checked here: `https://`, a host, a port. Whether somebody is there shows in Preflight.
fn check_address(id: &NodeId, address: &str) -> Result<(), Rejection> {
    let host_and_port = address.strip_prefix("https://").and_then(|rest| rest.rsplit_once(':'));
    let valid = host_and_port.is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c == '/' || c == '@' || c.is_whitespace())
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if valid {
        Ok(())
    } else {
        Err(Rejection::new(
            RejectionCode::Address,
            format!("{address:?} is not the address of an agent of node {id}"),
            "give it as https://host:port, where the agent listens",
        ))
    }
}
