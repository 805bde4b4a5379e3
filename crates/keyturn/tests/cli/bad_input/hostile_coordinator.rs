//! A coordinator, with a certificate of the farm, that shows the operator another plan than the farm's. The command
//! line signs nothing for it; where no operator can tell the difference, the others refuse what was signed.

use std::sync::{Arc, Mutex};

use keys::sealed::RecipientKey;
use rotation::Plan;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use wire::v1;
use wire::v1::operator_client::OperatorClient;
use wire::v1::operator_server::Operator;

use super::Snapshot;
use super::by_hand::{client, identity};
use crate::vault::VaultFarm;

/// What it does to a plan.
type Alteration = fn(&mut Plan);

#[test]
fn a_plan_that_a_coordinator_altered_is_not_signed_or_not_obeyed() {
    let vault = VaultFarm::new(2);
    let planned = vault.rotation(&["plan", "-o", "json"]).json();
    let before = Snapshot::of(&vault);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let hostile = runtime.block_on(Hostile::serve(&vault));
    for (honest_digest, alteration, said) in [
        (true, shorter as Alteration, &["error[plan-altered]", "do not sign it"][..]),
        (false, shorter, &["error[plan-incomplete]", "leaves rows of table"]),
        (false, own_recipient_key, &["error[attestation]", "node-2", "do not sign the plan"]),
        (false, other_key, &["error[wrong-current-bundle]", "node-2 holds the key"]),
        (false, other_targets, &["error[attestation]", "node-2"]),
        (false, without_a_table, &["error[plan-differs]", "the statement is for a plan of digest"]),
        (false, without_a_node, &["error[plan-differs]", "the statement is for a plan of digest"]),
    ] {
        *hostile.alteration.lock().expect("not poisoned") = (honest_digest, alteration);
        let more = ["--yes", "--coordinators", &hostile.address];
        let ran = vault.start("new", "old", &more).output().expect("it runs");
        crate::support::Ran::from(ran).failed(1, &[said, &["next:"]].concat());
    }
    before.assert_unchanged(&vault);
    let standing = vault.rotation(&["status", "-o", "json"]).json();
    assert_eq!((&standing["phase"], &standing["id"]), (&"approval".into(), &planned["id"]), "nothing was started");
    vault.turn();
}

/// The operator would see fewer rows; these would stay under the old key.
fn shorter(plan: &mut Plan) {
    plan.shards.pop();
}

fn own_recipient_key(plan: &mut Plan) {
    plan.nodes.last_entry().expect("a node").get_mut().recipient_key = RecipientKey::generate().public_hex();
}

fn other_key(plan: &mut Plan) {
    plan.nodes.last_entry().expect("a node").get_mut().current_key = rotation::KeyId::new([7; 16]);
}

fn other_targets(plan: &mut Plan) {
    plan.nodes.last_entry().expect("a node").get_mut().targets_digest = rotation::Digest::new([7; 32]);
}

fn without_a_table(plan: &mut Plan) {
    plan.tables.remove("connections");
    plan.shards.retain(|shard| shard.table != "connections");
}

fn without_a_node(plan: &mut Plan) {
    plan.nodes.pop_last();
}

/// It leads, says it, and passes everything on to the farm's own coordinator; only the plan is another one.
struct Hostile {
    address: String,
    behind: OperatorClient<tonic::transport::Channel>,
    alteration: Arc<Mutex<(bool, Alteration)>>,
}

impl Hostile {
    async fn serve(vault: &VaultFarm) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("https://{}", listener.local_addr().expect("bound"));
        let behind = client(vault, &identity(vault, "operator-alice"));
        let alteration = Arc::new(Mutex::new((false, shorter as Alteration)));
        let hostile = Self { address: address.clone(), behind: behind.clone(), alteration: Arc::clone(&alteration) };
        let tls = identity(vault, "coordinator-1");
        tokio::spawn(async move {
            let routes = Routes::new(wire::rpc::operator_server(hostile));
            wire::serve::serve(listener, &tls, routes, &[], std::future::pending()).await
        });
        Self { address, behind, alteration }
    }
}

#[tonic::async_trait]
impl Operator for Hostile {
    type WatchRotationStream = BoxStream<v1::Rotation>;

    async fn get_farm(&self, _: Request<v1::GetFarmRequest>) -> Result<Response<v1::Farm>, Status> {
        let replica = v1::Replica { id: 1, address: self.address.clone(), leader: true, answering: true };
        Ok(Response::new(v1::Farm { replicas: vec![replica], ..Default::default() }))
    }

    async fn get_rotation(&self, request: Request<v1::GetRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        let mut rotation = self.behind.clone().get_rotation(request.into_inner()).await?.into_inner();
        let mut plan = Plan::from_bytes(&rotation.plan).expect("a plan");
        let (honest_digest, alter) = *self.alteration.lock().expect("not poisoned");
        alter(&mut plan);
        rotation.plan = plan.to_bytes();
        if !honest_digest {
            rotation.plan_digest = plan.digest().to_string();
        }
        Ok(Response::new(rotation))
    }

    async fn start_rotation(
        &self,
        request: Request<v1::StartRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        self.behind.clone().start_rotation(request.into_inner()).await
    }

    async fn enroll_node(&self, _: Request<v1::EnrollNodeRequest>) -> Result<Response<v1::Node>, Status> {
        unasked()
    }

    async fn remove_node(&self, _: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        unasked()
    }

    async fn plan_rotation(&self, _: Request<v1::PlanRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        unasked()
    }

    async fn abort_rotation(&self, _: Request<v1::AbortRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        unasked()
    }

    async fn pause_rotation(&self, _: Request<v1::PauseRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        unasked()
    }

    async fn resume_rotation(&self, _: Request<v1::ResumeRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        unasked()
    }

    async fn retry_rotation(&self, _: Request<v1::RetryRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        unasked()
    }

    async fn throttle_rotation(
        &self,
        _: Request<v1::ThrottleRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        unasked()
    }

    async fn retire_rotation(&self, _: Request<v1::RetireRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        unasked()
    }

    async fn list_rotations(
        &self,
        _: Request<v1::ListRotationsRequest>,
    ) -> Result<Response<v1::ListRotationsResponse>, Status> {
        unasked()
    }

    async fn watch_rotation(
        &self,
        _: Request<v1::WatchRotationRequest>,
    ) -> Result<Response<Self::WatchRotationStream>, Status> {
        unasked()
    }

    async fn list_replicas(
        &self,
        _: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        unasked()
    }

    async fn change_replicas(
        &self,
        _: Request<v1::ChangeReplicasRequest>,
    ) -> Result<Response<v1::ChangeReplicasResponse>, Status> {
        unasked()
    }
}

/// `start` asks for the plan and sends the statement; nothing else.
fn unasked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("nobody asks for this"))
}
