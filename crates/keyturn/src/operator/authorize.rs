//! What gives a rotation its power: the plan is held against the escrowed keys, every node's attestation is checked,
//! the new key is sealed to each node, and the operator signs all of it.

use std::collections::BTreeMap;

use keys::{KeySet, SecretKey, attestation, possession, sealed};
use rotation::{Authorization, Digest, KeyId, NodeGrant, NodeId, Plan, PlanNode, RotationId, Statement};
use wire::pki::Role;
use wire::sign;
use wire::tls::Tls;

use crate::problem::Problem;

/// Domain of an operator's signature over a statement.
const STATEMENT_DOMAIN: &str = "keyturn statement v1";
/// Domain of an agent's signature over its attestation.
const ATTESTATION_DOMAIN: &str = "keyturn attestation v1";
const WITHDRAW: &str = "withdraw the rotation with `keyturn rotation abort` and plan again";

/// A plan that came from a coordinator and was found to be the one whose digest it named.
pub(crate) struct Proposal {
    /// What is to be done.
    pub(crate) plan: Plan,
    /// The digest of its bytes, recomputed here.
    pub(crate) digest: Digest,
}

impl Proposal {
    /// Reads the plan of `rotation` and recomputes its digest: the coordinator's word is not enough.
    pub(crate) fn read(rotation: &RotationId, bytes: &[u8], digest_named: &str) -> Result<Self, Problem> {
        let digest = Plan::digest_of(bytes);
        if digest.to_string() != digest_named {
            return Err(Problem::refused(
                "plan-altered",
                format!("the plan's digest is {digest}, and the coordinator named {digest_named}"),
                "do not sign it; look at the coordinators: one of them does not say what it holds",
            ));
        }
        let plan = Plan::from_bytes(bytes).map_err(|error| {
            Problem::refused("plan-unreadable", "the plan cannot be read", "use the same release everywhere")
                .because(&error)
        })?;
        if plan.rotation != *rotation {
            return Err(Problem::refused(
                "plan-altered",
                format!("the plan is of rotation {}, not of {rotation}", plan.rotation),
                WITHDRAW,
            ));
        }
        if let Some(table) = plan.table_with_gap() {
            return Err(Problem::refused(
                "plan-incomplete",
                format!("the plan leaves rows of table {table} out: they would stay under the old key"),
                "do not sign it; look at the coordinators, which refuse such a plan themselves",
            ));
        }
        Ok(Self { plan, digest })
    }
}

/// Checks everything and signs. `current` and `new` are the opened bundles.
pub(crate) fn authorize(
    tls: &Tls,
    proposal: &Proposal,
    current: &KeySet,
    new: &KeySet,
) -> Result<Authorization, Problem> {
    let Proposal { plan, digest } = proposal;
    check_farm(tls, plan, current, new)?;
    let (old_key, new_key) = (current.active().secret.id(), new.active().secret.id());
    check_keys(plan, current, old_key, new_key)?;
    let mut nodes = BTreeMap::new();
    let mut sealed_bundles = BTreeMap::new();
    for (node, facts) in &plan.nodes {
        check_attestation(tls, plan, node, facts, &current.active().secret)?;
        let context = sealed::SealContext {
            farm: plan.farm.clone(),
            rotation: plan.rotation,
            node: node.clone(),
            plan_digest: *digest,
            old_key,
            new_key,
        };
        let bundle = sealed::seal(&facts.recipient_key, new, &current.active().secret, &context).map_err(|error| {
            Problem::refused("bundle", format!("the new key could not be sealed for {node}"), error.next_step())
                .because(&error)
        })?;
        let grant = NodeGrant {
            recipient_key: facts.recipient_key.clone(),
            sealed_digest: Digest::new(*blake3::hash(&bundle).as_bytes()),
            possession_digest: possession::digest(&possession::proof(&new.active().secret, &plan.rotation, node)),
        };
        nodes.insert(node.clone(), grant);
        sealed_bundles.insert(node.clone(), bundle);
    }
    let statement = Statement {
        format: Statement::FORMAT,
        farm: plan.farm.clone(),
        rotation: plan.rotation,
        plan_digest: *digest,
        old_key,
        new_key,
        nodes,
    };
    let statement = statement.to_bytes();
    let signature = sign::sign(tls, STATEMENT_DOMAIN, &statement);
    Ok(Authorization { statement, certificates: tls.certificates(), signature, sealed: sealed_bundles })
}

/// Certificate, plan and both bundles must be of one farm.
fn check_farm(tls: &Tls, plan: &Plan, current: &KeySet, new: &KeySet) -> Result<(), Problem> {
    let own = tls.identity().farm;
    for (what, farm) in
        [("the plan", plan.farm.as_str()), ("the current bundle", current.farm()), ("the new bundle", new.farm())]
    {
        if farm != own {
            return Err(Problem::refused(
                "other-farm",
                format!("{what} is of the farm {farm}, and your certificate of {own}"),
                "use the bundles and the certificate of the farm that you mean",
            ));
        }
    }
    Ok(())
}

/// The farm must hold the escrowed key, on every node, and be given another one.
fn check_keys(plan: &Plan, current: &KeySet, old_key: KeyId, new_key: KeyId) -> Result<(), Problem> {
    for (node, facts) in &plan.nodes {
        if facts.current_key != old_key {
            return Err(Problem::refused(
                "wrong-current-bundle",
                format!("{node} holds the key {}, and the current bundle's active key is {old_key}", facts.current_key),
                "give the bundle of the farm's present key with --current-bundle; `keyturn key export` on a node makes one",
            ));
        }
    }
    if current.find(new_key).is_some() {
        return Err(Problem::refused(
            "same-key",
            format!("the new bundle's key {new_key} is not new: the current bundle holds it already"),
            "make a bundle with a new key: `keyturn key generate`",
        ));
    }
    Ok(())
}

/// A recipient key is taken only from a holder of both the node's certificate and the farm's current key, so that neither
/// a hostile coordinator nor a stolen certificate gets the new one.
fn check_attestation(
    tls: &Tls,
    plan: &Plan,
    node: &NodeId,
    facts: &PlanNode,
    current: &SecretKey,
) -> Result<(), Problem> {
    let context = attestation::Context {
        farm: plan.farm.clone(),
        rotation: plan.rotation,
        node: node.clone(),
        recipient_key: facts.recipient_key.clone(),
        current_key: facts.current_key,
        targets_digest: facts.targets_digest,
        database_identity: facts.database.identity.clone(),
    };
    let refused = |message: String, next: &str| Problem::refused("attestation", message, next);
    let bytes = |text: &str| {
        hex::decode(text)
            .map_err(|error| refused(format!("{node}'s attestation cannot be read"), WITHDRAW).because(&error))
    };
    let chain = facts.attestation.certificates.iter().map(|text| bytes(text)).collect::<Result<Vec<_>, _>>()?;
    let signature = bytes(&facts.attestation.signature)?;
    let peer = sign::verify(tls, &chain, Role::Agent, ATTESTATION_DOMAIN, &context.to_bytes(), &signature).map_err(
        |error| {
            refused(
                format!("the recipient key in the plan is not signed by {node}'s agent"),
                "do not sign the plan; look whether that node's certificate is the farm's, and at the coordinators",
            )
            .because(&error)
        },
    )?;
    if peer.name != node.as_str() {
        return Err(refused(
            format!("the recipient key of {node} is signed by {peer}"),
            "do not sign the plan; somebody put one node's key in another's place",
        ));
    }
    attestation::check(current, &context, &bytes(&facts.attestation.mac)?).map_err(|error| {
        refused(format!("{node} did not prove that it holds the farm's current key"), error.next_step()).because(&error)
    })
}
