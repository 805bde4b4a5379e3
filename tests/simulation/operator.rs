//! The operator: enrolls nodes, plans, checks and signs, and afterwards looks after what is stuck or paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coordinator::simulation::{Consensus as _, ProposeError};
use keys::sealed::{self, SealContext};
use keys::{KeySet, attestation, possession};
use rotation::{
    Attestation, Authorization, Course, Digest, Event, NodeGrant, Outcome, Phase, Plan, Rotation, RotationId,
    RotationOptions, Statement, StrategyChoice,
};
use tokio::time::sleep;
use uuid::Uuid;
use wire::access::Role;
use wire::v1;

use crate::cluster::Handle;
use crate::world::{FARM, World};

/// Who says it all.
const NAME: &str = "alice";

/// The rotation of a run.
pub(crate) fn rotation_id() -> RotationId {
    RotationId::new(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001))
}

/// Has something logged, however often it takes.
async fn insist(world: &Arc<World>, event: Event) -> Result<Outcome, ProposeError> {
    loop {
        if let Some(leader) = world.cluster.leader() {
            match Handle::new(world, leader).propose(event.clone()).await {
                Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum | ProposeError::Stopped) => {}
                settled => return settled,
            }
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// Says it once, as an operator does who does not care much.
pub(crate) async fn say(world: &Arc<World>, event: Event) {
    if let Some(leader) = world.cluster.leader() {
        let _ = Handle::new(world, leader).propose(event).await;
    }
}

/// Founds the farm, has every agent obey it, and enrolls it.
pub(crate) async fn enroll(world: &Arc<World>) {
    let cluster = rotation::ClusterId::new(Uuid::from_u128(1));
    let _ = insist(world, Event::FarmFounded { cluster, farm: FARM.to_owned() }).await;
    for (node, machine) in &world.nodes {
        let request = v1::AdoptRequest { cluster: cluster.to_string(), farm: FARM.to_owned() };
        loop {
            if let Some((_, agent)) = machine.running()
                && agent.adopt(request.clone()).await.is_ok()
                && machine.running().is_some()
            {
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        let address = format!("https://{node}:1");
        let _ = insist(world, Event::NodeEnrolled { node: node.clone(), address }).await;
    }
}

/// Plans the rotation, and signs it once its plan is there.
pub(crate) async fn rotate(world: &Arc<World>, strategy: StrategyChoice) {
    let rotation = rotation_id();
    let options = RotationOptions { strategy, ..RotationOptions::default() };
    let _ = insist(world, Event::RotationRequested { rotation, by: NAME.to_owned(), options }).await;
    loop {
        sleep(Duration::from_millis(200)).await;
        let state = world.cluster.committed();
        let Some(found) = state.rotations.get(&rotation) else { continue };
        match &found.course {
            Course::Forward { phase: Phase::Preflight } => {}
            Course::Forward { phase: Phase::Approval } => {
                let authorization = Box::new(sign(world, found));
                let _ = insist(world, Event::StartRequested { rotation, by: NAME.to_owned(), authorization }).await;
            }
            Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } | Course::Ended(_) => return,
        }
    }
}

/// Checks what the plan says of every node, seals the new key for each, and signs.
fn sign(world: &World, rotation: &Rotation) -> Authorization {
    let plan = rotation.plan.as_ref().expect("a plan is what is approved");
    let plan_bytes = plan.to_bytes();
    let plan_digest = Plan::digest_of(&plan_bytes);
    let (old_key, new_key) = (world.old.id(), world.new.id());
    let mut sealed = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    for (node, planned) in &plan.nodes {
        let context = attestation::Context {
            farm: FARM.to_owned(),
            rotation: rotation.id,
            node: node.clone(),
            recipient_key: planned.recipient_key.clone(),
            current_key: planned.current_key,
            targets_digest: planned.targets_digest,
            database_identity: planned.database.identity.clone(),
        };
        let bytes = |text: &str| hex::decode(text).expect("attestations are hexadecimal");
        let attested = &planned.attestation;
        attestation::check(&world.old, &context, &bytes(&attested.mac)).expect("the node holds the farm's key");
        let chain: Vec<Vec<u8>> = attested.certificates.iter().map(|text| bytes(text)).collect();
        let domain = Attestation::SIGNATURE_DOMAIN;
        let signature = bytes(&attested.signature);
        wire::sign::verify(&world.operator, &chain, Role::Agent, domain, &context.to_bytes(), &signature)
            .expect("the node signed it");
        let context = SealContext {
            farm: FARM.to_owned(),
            rotation: rotation.id,
            node: node.clone(),
            plan_digest,
            old_key,
            new_key,
        };
        let set = KeySet::new(FARM, world.new.clone(), 2);
        let bundle = sealed::seal(&planned.recipient_key, &set, &world.old, &context).expect("its key is a key");
        let proof = possession::proof(&world.new, &rotation.id, node);
        nodes.insert(
            node.clone(),
            NodeGrant {
                recipient_key: planned.recipient_key.clone(),
                sealed_digest: Digest::new(*blake3::hash(&bundle).as_bytes()),
                possession_digest: possession::digest(&proof),
            },
        );
        sealed.insert(node.clone(), bundle);
    }
    let statement = Statement {
        format: Statement::FORMAT,
        farm: FARM.to_owned(),
        rotation: rotation.id,
        plan_digest,
        old_key,
        new_key,
        nodes,
    }
    .to_bytes();
    Authorization {
        certificates: world.operator.certificates(),
        signature: wire::sign::sign(&world.operator, Statement::SIGNATURE_DOMAIN, &statement),
        statement,
        sealed,
    }
}

/// Resumes what is paused and tries again what is stuck.
pub(crate) async fn look_after(world: &Arc<World>) {
    let state = world.cluster.committed();
    let rotation = rotation_id();
    let Some(found) = state.rotations.get(&rotation) else { return };
    let by = NAME.to_owned();
    if found.paused {
        let _ = insist(world, Event::ResumeRequested { rotation, by }).await;
    } else if let Course::Stuck { step, reason, .. } = &found.course {
        world.say(format_args!("operator: stuck in {} by {}: retrying", step.as_str(), reason.code));
        let _ = insist(world, Event::RetryRequested { rotation, by }).await;
    }
}
