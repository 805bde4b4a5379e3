//! The operator's client without its checks: takes the plan, seals, signs and sends what it is told to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keys::{KeySet, Password, bundle, possession, sealed};
use rotation::{Authorization, Digest, NodeGrant, Plan, Statement};
use tonic::Status;
use wire::pki::Role;
use wire::tls::{ExpectedPeer, Tls, TlsFiles};
use wire::v1;

use crate::vault::VaultFarm;

/// The certificate of that name.
pub(super) fn identity(vault: &VaultFarm, name: &str) -> Tls {
    let file = |name: &str| PathBuf::from(vault.farm.path(name));
    let (certificate, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
    Tls::load(&TlsFiles { ca: file("ca.pem"), certificate, key }).expect("issued for this farm")
}

/// A client of the farm's coordinator.
pub(super) fn client(vault: &VaultFarm, tls: &Tls) -> v1::operator_client::OperatorClient<tonic::transport::Channel> {
    let address = format!("https://127.0.0.1:{}", vault.farm.port);
    let expect = ExpectedPeer { role: Role::Coordinator, name: None };
    wire::rpc::operator_client(tls.channel(&address, expect).expect("a valid address"))
}

/// Signs this plan with everything that belongs to it, after `change` has changed the statement.
pub(super) fn sign(vault: &VaultFarm, tls: &Tls, plan: &Plan, change: impl FnOnce(&mut Statement)) -> Authorization {
    let (old, new) = (open(vault, "old"), open(vault, "new"));
    let (old, new_key) = (&old.active().secret, &new.active().secret);
    let mut statement = Statement {
        format: Statement::FORMAT,
        farm: plan.farm.clone(),
        rotation: plan.rotation,
        plan_digest: plan.digest(),
        old_key: old.id(),
        new_key: new_key.id(),
        nodes: BTreeMap::new(),
    };
    let mut bundles = BTreeMap::new();
    for (node, planned) in &plan.nodes {
        let context = sealed::SealContext {
            farm: plan.farm.clone(),
            rotation: plan.rotation,
            node: node.clone(),
            plan_digest: statement.plan_digest,
            old_key: statement.old_key,
            new_key: statement.new_key,
        };
        let bundle = sealed::seal(&planned.recipient_key, &new, old, &context).expect("sealed");
        let grant = NodeGrant {
            recipient_key: planned.recipient_key.clone(),
            sealed_digest: Digest::new(*blake3::hash(&bundle).as_bytes()),
            possession_digest: possession::digest(&possession::proof(new_key, &plan.rotation, node)),
        };
        statement.nodes.insert(node.clone(), grant);
        bundles.insert(node.clone(), bundle);
    }
    change(&mut statement);
    let statement = statement.to_bytes();
    let signature = wire::sign::sign(tls, Statement::SIGNATURE_DOMAIN, &statement);
    Authorization { statement, certificates: tls.certificates(), signature, sealed: bundles }
}

/// Asks for the start, as who holds this certificate.
pub(super) async fn start(
    vault: &VaultFarm,
    tls: &Tls,
    plan: &Plan,
    authorization: &Authorization,
) -> Result<v1::Rotation, Status> {
    let request = v1::StartRotationRequest { id: plan.rotation.to_string(), authorization: Some(authorization.into()) };
    client(vault, tls).start_rotation(request).await.map(tonic::Response::into_inner)
}

/// The plan that waits for approval.
pub(super) async fn plan(vault: &VaultFarm, tls: &Tls) -> Plan {
    let answer = client(vault, tls).get_rotation(v1::GetRotationRequest::default()).await.expect("it answers");
    Plan::from_bytes(&answer.into_inner().plan).expect("a plan")
}

fn open(vault: &VaultFarm, name: &str) -> KeySet {
    let read = |name: &str| std::fs::read(vault.farm.path(name)).expect("readable");
    let password = Password::from_file_bytes(read("password")).expect("not empty");
    bundle::open(&read(name), &password).expect("it opens")
}
