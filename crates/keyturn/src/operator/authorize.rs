//! What gives a rotation its power: the plan is held against the escrowed keys, every node's attestation is checked,
//! the new key is sealed to each node, and the operator signs all of it.

use std::collections::BTreeMap;

use keys::{KEY_BYTES, KeySet, SecretKey, attestation, possession, sealed};
use rotation::{Attestation, Authorization, Digest, KeyId, NodeGrant, NodeId, Plan, PlanNode, RotationId, Statement};
use wire::pki::Role;
use wire::sign;
use wire::tls::Tls;

use crate::problem::Problem;

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
    check_strength(new)?;
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
    let signature = sign::sign(tls, Statement::SIGNATURE_DOMAIN, &statement);
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

/// An old key of any length can be rotated away; nobody rotates to one that is not a key of the cipher.
fn check_strength(new: &KeySet) -> Result<(), Problem> {
    match new.active().secret.length_bytes() {
        KEY_BYTES => Ok(()),
        bytes => Err(Problem::refused(
            "weak-key",
            format!("the new bundle's key has {bytes} bytes, and a new key must have {KEY_BYTES}"),
            "make a bundle with a new key: `keyturn key generate`",
        )),
    }
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
    let peer = sign::verify(tls, &chain, Role::Agent, Attestation::SIGNATURE_DOMAIN, &context.to_bytes(), &signature)
        .map_err(|error| {
        refused(
            format!("the recipient key in the plan is not signed by {node}'s agent"),
            "do not sign the plan; look whether that node's certificate is the farm's, and at the coordinators",
        )
        .because(&error)
    })?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rotation::{AgentRelease, Attestation, DatabaseIdentity, DatabaseKind};
    use wire::pki::Authority;
    use wire::tls::TlsFiles;

    use super::*;

    const FARM: &str = "demo";

    fn tls(folder: &Path, authority: &Authority, role: Role, name: &str) -> Tls {
        let issued = authority.issue(role, name, &["localhost".to_owned()], 1).expect("issued");
        let file = |kind: &str| folder.join(format!("{name}.{kind}"));
        let files = TlsFiles { ca: file("ca"), certificate: file("pem"), key: file("key") };
        std::fs::write(&files.ca, authority.certificate_pem()).expect("written");
        std::fs::write(&files.certificate, issued.certificate_pem).expect("written");
        std::fs::write(&files.key, issued.key_pem.as_bytes()).expect("written");
        Tls::load(&files).expect("loaded")
    }

    fn set(byte: u8) -> KeySet {
        KeySet::new(FARM, SecretKey::from_bytes(vec![byte; 32]).expect("not empty"), 1)
    }

    /// A plan with `node-1` as somebody with this certificate attests it, who takes `key` for the farm's.
    fn attested(tls: &Tls, key: &SecretKey) -> Plan {
        let rotation = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid");
        let database = DatabaseIdentity { kind: DatabaseKind::Sqlite, identity: "1/2".to_owned() };
        let recipient_key = sealed::RecipientKey::generate().public_hex();
        let context = attestation::Context {
            farm: FARM.to_owned(),
            rotation,
            node: "node-1".parse().expect("valid"),
            recipient_key: recipient_key.clone(),
            current_key: set(1).active().secret.id(),
            targets_digest: Digest::new([3; 32]),
            database_identity: database.identity.clone(),
        };
        let attestation = Attestation {
            certificates: tls.certificates().iter().map(hex::encode).collect(),
            signature: hex::encode(sign::sign(tls, Attestation::SIGNATURE_DOMAIN, &context.to_bytes())),
            mac: hex::encode(attestation::mac(key, &context)),
        };
        let node = PlanNode {
            release: AgentRelease { version: "0.1.0".to_owned(), protocol: 1 },
            current_key: context.current_key,
            recipient_key,
            targets_digest: context.targets_digest,
            database,
            protector: "hostkey".to_owned(),
            attestation,
        };
        Plan {
            format: Plan::FORMAT,
            farm: FARM.to_owned(),
            rotation,
            nodes: BTreeMap::from([(context.node, node)]),
            tables: BTreeMap::new(),
            shards: Vec::new(),
            writers_max: 1,
            accepted: Vec::new(),
            downtime_forecast_ms: 1,
            budget: None,
            backup: None,
            folders: BTreeMap::new(),
            unseen: rotation::Unseen::default(),
        }
    }

    #[test]
    fn a_bundle_is_sealed_only_to_a_node_that_proves_certificate_and_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let (authority, foreign) =
            (Authority::create(FARM).expect("a CA"), Authority::create(FARM).expect("another CA"));
        let operator = tls(folder.path(), &authority, Role::Operator, "alice");
        let agent = |role, name| tls(folder.path(), &authority, role, name);
        let node = agent(Role::Agent, "node-1");
        let (current, thief) = (set(1), set(9));
        let sign = |plan: Plan| {
            let digest = plan.digest();
            authorize(&operator, &Proposal { plan, digest }, &current, &set(2))
        };
        let held = &current.active().secret;
        assert!(sign(attested(&node, held)).is_ok());

        let mut swapped = attested(&node, held);
        let own = sealed::RecipientKey::generate().public_hex();
        swapped.nodes.values_mut().for_each(|node| node.recipient_key.clone_from(&own));
        let mut moved = attested(&node, held);
        moved.rotation = "01890a5d-ac96-774b-bcce-b302099a8058".parse().expect("valid");
        for bytes in [1, 31, 33, 44] {
            let key = SecretKey::from_bytes(vec![2; bytes]).expect("not empty");
            let (plan, new) = (attested(&node, held), KeySet::new(FARM, key, 1));
            let digest = plan.digest();
            let refused = authorize(&operator, &Proposal { plan, digest }, &current, &new);
            assert_eq!(refused.err().map(|problem| problem.code).as_deref(), Some("weak-key"), "{bytes} bytes");
        }

        let forgeries = [
            ("a stolen certificate without the farm's key", attested(&node, &thief.active().secret)),
            ("another node", attested(&agent(Role::Agent, "node-2"), held)),
            ("a coordinator", attested(&agent(Role::Coordinator, "node-1"), held)),
            ("a foreign CA", attested(&tls(folder.path(), &foreign, Role::Agent, "node-1"), held)),
            ("a recipient key of the coordinator's", swapped),
            ("an attestation of another rotation", moved),
        ];
        for (what, plan) in forgeries {
            let code = sign(plan).err().map(|problem| problem.code);
            assert_eq!(code.as_deref(), Some("attestation"), "{what}");
        }
    }

    #[test]
    fn a_plan_that_is_not_what_it_is_said_to_be_is_not_signed() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let rotation: RotationId = id.parse().expect("valid");
        let plan = |shards: &str| {
            format!(
                r#"{{"format":2,"farm":"demo","rotation":"{id}","nodes":{{}},"tables":{{"a":{{"columns":["c"],
                "strategy":"in-place","reason":"chosen","forecast_ms":1,"rows":1,"values":1,"bytes":1}}}},"shards":[{shards}],"writers_max":1,
                "accepted":[],"downtime_forecast_ms":1}}"#
            )
        };
        let whole = plan(r#"{"id":0,"table":"a","range":{"after":null,"through":null},"rows_estimated":1}"#);
        let digest = Plan::digest_of(whole.as_bytes()).to_string();
        assert!(Proposal::read(&rotation, whole.as_bytes(), &digest).is_ok());
        let code = |rotation: &RotationId, bytes: &str, digest: &str| {
            Proposal::read(rotation, bytes.as_bytes(), digest).err().map(|problem| problem.code)
        };
        let gap = plan("");
        let gap_digest = Plan::digest_of(gap.as_bytes()).to_string();
        assert_eq!(code(&rotation, &gap, &digest).as_deref(), Some("plan-altered"));
        assert_eq!(code(&rotation, &gap, &gap_digest).as_deref(), Some("plan-incomplete"));
        let other = "01890a5d-ac96-774b-bcce-b302099a8058".parse().expect("valid");
        assert_eq!(code(&other, &whole, &digest).as_deref(), Some("plan-altered"));
    }
}
