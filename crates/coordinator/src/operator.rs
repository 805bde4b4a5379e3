//! The service for operators: commands become events of the log, answers are views of the state.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::Stream;
use rotation::{Event, NodeId, Retirement, Rotation, RotationId, RotationOptions, SignedRetirement, State, Statement};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, async_trait};
use wire::convert::{ConvertError, backup_choice, downtime_budget, optional_phase, strategy_choice};
use wire::pki::Role;
use wire::tls::Tls;
use wire::{status, v1};

use crate::driver::Hints;
use crate::raft::{ChangeError, Consensus, Leadership, ProposeError, now, removed};
use crate::replicas;
use crate::view::{self, View};

/// At least this much time is between two messages of one watch.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// How long a command waits for a leader to be elected: about as long as an election takes.
const LEADER_WAIT: Duration = Duration::from_secs(5);

/// Answers operators and viewers.
#[derive(Clone)]
pub(crate) struct OperatorService {
    pub(crate) consensus: Consensus,
    pub(crate) tls: Tls,
    pub(crate) farm: String,
    pub(crate) hints: watch::Receiver<Hints>,
    /// Ends the watches when the replica stops, or the server would wait for them.
    pub(crate) stop: CancellationToken,
}

impl OperatorService {
    /// Sees that a read on the leader is of now, and not of the time before it was cut off. Another replica answers what
    /// it has applied, unless it was removed and so will never apply anything again.
    async fn fresh(&self) -> Result<(), Status> {
        self.is_member()?;
        // Consensus's own view: a leader that is cut off counts as leading here, and so fails.
        let leads = self.consensus.leader() == Some(self.consensus.id());
        if leads { self.consensus.read_barrier().await.map_err(unavailable) } else { Ok(()) }
    }

    /// Refuses on a replica that was removed from the cluster.
    fn is_member(&self) -> Result<(), Status> {
        if self.consensus.is_removed() { Err(removed(self.consensus.id())) } else { Ok(()) }
    }

    /// Refuses on a replica that does not lead. While nobody does, as during an election, the answer waits for a
    /// moment, so that callers need not ask again and again.
    async fn lead(&self) -> Result<(), Status> {
        self.is_member()?;
        let mut leadership = self.consensus.leadership();
        let known = leadership.wait_for(|now| *now != Leadership::Other { address: None });
        let found = timeout(LEADER_WAIT, known).await.map(|known| known.map(|now| now.clone()));
        match found {
            Ok(Ok(Leadership::Own { .. })) => Ok(()),
            Ok(Ok(Leadership::Other { address })) => Err(status::not_leader(address.as_deref())),
            Ok(Err(_)) | Err(_) => Err(status::not_leader(None)),
        }
    }

    /// As [`Self::lead`], and what is read here afterwards holds everything that was committed before: also a leader that
    /// does not know yet that it was replaced refuses.
    async fn lead_now(&self) -> Result<(), Status> {
        self.lead().await?;
        self.consensus.read_barrier().await.map_err(unavailable)
    }

    async fn propose(&self, event: Event) -> Result<(), Status> {
        self.lead().await?;
        self.consensus.propose(event).await.map(|_| ()).map_err(unavailable)
    }

    fn view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let state = self.consensus.state();
        let state = state.borrow();
        let hints = self.hints.borrow();
        look(&View { state: &state, hints: &hints, now: now(), instant: Instant::now() })
    }

    fn rotation(&self, id: Option<RotationId>) -> Result<v1::Rotation, Status> {
        self.view(|view| find(view.state, id).map(|rotation| view.rotation(rotation)))
    }

    /// Proposes what an operator asked of one rotation and answers how it stands then.
    async fn command(
        &self,
        id: &str,
        by: String,
        event: impl FnOnce(RotationId, String) -> Event,
    ) -> Result<Response<v1::Rotation>, Status> {
        let id = rotation_id(id)?.ok_or(ConvertError::Missing { field: "id" })?;
        self.propose(event(id, by)).await?;
        Ok(Response::new(self.rotation(Some(id))?))
    }

    /// Sees that what an operator said was signed by the caller.
    fn check_signature(&self, word: &Word<'_>, by: &str) -> Result<(), Status> {
        let Word { what, domain, bytes, certificates, signature } = *word;
        let denied = |message: String| {
            let next_step = "sign with the certificate that makes the call, as the command line does";
            status::error(Code::PermissionDenied, "SIGNATURE", message, next_step)
        };
        let signer = wire::sign::verify(&self.tls, certificates, Role::Operator, domain, bytes, signature)
            .map_err(|error| denied(format!("the {what} is not signed by an operator of this farm: {error}")))?;
        if signer.name == by {
            Ok(())
        } else {
            Err(denied(format!("the {what} is signed by {}, but {by} makes the call", signer.name)))
        }
    }
}

/// What an operator signed.
struct Word<'a> {
    /// Its name, for messages.
    what: &'static str,
    /// What the signature is for.
    domain: &'static str,
    bytes: &'a [u8],
    certificates: &'a [Vec<u8>],
    signature: &'a [u8],
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Rotation, Status>> + Send>>;

#[async_trait]
impl v1::operator_server::Operator for OperatorService {
    type WatchRotationStream = WatchStream;

    async fn get_farm(&self, _: Request<v1::GetFarmRequest>) -> Result<Response<v1::Farm>, Status> {
        self.fresh().await?;
        let (addresses, id, leader) = (self.consensus.addresses(), self.consensus.id(), self.consensus.leader());
        let heartbeat_ms = self.consensus.timing().heartbeat_ms();
        Ok(Response::new(self.view(|view| view::farm(view.state, &self.farm, &addresses, id, leader, heartbeat_ms))))
    }

    async fn enroll_node(&self, request: Request<v1::EnrollNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let v1::EnrollNodeRequest { id, address } = request.into_inner();
        let node = node_id(&id)?;
        self.propose(Event::NodeEnrolled { node: node.clone(), address }).await?;
        let found = self.view(|view| view.state.nodes.get(&node).map(|found| view::node(&node, found)));
        // Somebody else may have removed it since.
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("{node} was removed again")))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let node = node_id(&request.into_inner().id)?;
        self.propose(Event::NodeRemoved { node }).await?;
        Ok(Response::new(v1::RemoveNodeResponse {}))
    }

    async fn plan_rotation(&self, request: Request<v1::PlanRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        let v1::PlanRotationRequest {
            accepted,
            hold_at,
            strategy,
            backup_shown,
            no_backup,
            max_downtime_ms,
            on_budget,
        } = request.into_inner();
        let accepted = accepted.into_iter().map(TryInto::try_into).collect::<Result<_, ConvertError>>()?;
        let (hold_at, strategy) = (optional_phase(hold_at)?, strategy_choice(strategy)?);
        let budget = downtime_budget(max_downtime_ms, on_budget)?;
        let backup = backup_choice(backup_shown, no_backup);
        let options = RotationOptions { accepted, hold_at, strategy, budget, backup };
        let rotation = RotationId::new(uuid::Uuid::now_v7());
        self.propose(Event::RotationRequested { rotation, by, options }).await?;
        Ok(Response::new(self.rotation(Some(rotation))?))
    }

    async fn start_rotation(
        &self,
        request: Request<v1::StartRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        let v1::StartRotationRequest { id, authorization } = request.into_inner();
        let authorization: rotation::Authorization =
            authorization.ok_or(ConvertError::Missing { field: "authorization" })?.try_into()?;
        self.lead().await?;
        let word = Word {
            what: "statement",
            domain: Statement::SIGNATURE_DOMAIN,
            bytes: &authorization.statement,
            certificates: &authorization.certificates,
            signature: &authorization.signature,
        };
        self.check_signature(&word, &by)?;
        let authorization = Box::new(authorization);
        self.command(&id, by, |rotation, by| Event::StartRequested { rotation, by, authorization }).await
    }

    async fn abort_rotation(
        &self,
        request: Request<v1::AbortRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        self.command(&request.into_inner().id, by, |rotation, by| Event::AbortRequested { rotation, by }).await
    }

    async fn pause_rotation(
        &self,
        request: Request<v1::PauseRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        self.command(&request.into_inner().id, by, |rotation, by| Event::PauseRequested { rotation, by }).await
    }

    async fn resume_rotation(
        &self,
        request: Request<v1::ResumeRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        self.command(&request.into_inner().id, by, |rotation, by| Event::ResumeRequested { rotation, by }).await
    }

    async fn retry_rotation(
        &self,
        request: Request<v1::RetryRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        self.command(&request.into_inner().id, by, |rotation, by| Event::RetryRequested { rotation, by }).await
    }

    async fn throttle_rotation(
        &self,
        request: Request<v1::ThrottleRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        let v1::ThrottleRotationRequest { id, rows_per_second } = request.into_inner();
        self.command(&id, by, |rotation, by| Event::ThrottleRequested { rotation, by, rows_per_second }).await
    }

    async fn retire_rotation(
        &self,
        request: Request<v1::RetireRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let by = caller(&request)?;
        let v1::RetireRotationRequest { id, retirement } = request.into_inner();
        let signed: SignedRetirement = retirement.ok_or(ConvertError::Missing { field: "retirement" })?.into();
        self.lead().await?;
        let word = Word {
            what: "retirement",
            domain: Retirement::SIGNATURE_DOMAIN,
            bytes: &signed.retirement,
            certificates: &signed.certificates,
            signature: &signed.signature,
        };
        self.check_signature(&word, &by)?;
        self.command(&id, by, |rotation, by| Event::RetireRequested { rotation, by, word: signed }).await
    }

    async fn get_rotation(&self, request: Request<v1::GetRotationRequest>) -> Result<Response<v1::Rotation>, Status> {
        let id = rotation_id(&request.into_inner().id)?;
        // An operator signs what is answered here.
        self.lead_now().await?;
        Ok(Response::new(self.rotation(id)?))
    }

    async fn list_rotations(
        &self,
        _: Request<v1::ListRotationsRequest>,
    ) -> Result<Response<v1::ListRotationsResponse>, Status> {
        self.fresh().await?;
        let rotations =
            self.view(|view| view.state.rotations.values().rev().map(|rotation| view.summary(rotation)).collect());
        Ok(Response::new(v1::ListRotationsResponse { rotations }))
    }

    async fn watch_rotation(
        &self,
        request: Request<v1::WatchRotationRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let id = rotation_id(&request.into_inner().id)?;
        self.lead_now().await?;
        // The one that is meant now is watched, whichever is the newest later.
        let id = self.view(|view| find(view.state, id).map(|rotation| rotation.id))?;
        // One message is on its way while the next is made: a slow reader gets fewer, never older ones.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = service.stop.cancelled() => {
                    let _ = sender.try_send(Err(Status::unavailable("this coordinator stops; watch another")));
                }
                () = service.watch(id, &sender) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_replicas(
        &self,
        _: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        self.lead_now().await?;
        Ok(Response::new(v1::ListReplicasResponse { replicas: replicas::view(self.consensus.members()) }))
    }

    async fn change_replicas(
        &self,
        request: Request<v1::ChangeReplicasRequest>,
    ) -> Result<Response<v1::ChangeReplicasResponse>, Status> {
        let by = caller(&request)?;
        let change = replicas::change(request.into_inner())?;
        self.lead().await?;
        tracing::debug!("{by} asks for {change:?}");
        let step = self.consensus.change_replicas(&change).await.map_err(|error| match error {
            ChangeError::Refused(refusal) => replicas::refused(&refusal),
            ChangeError::Propose(error) => unavailable(error),
        })?;
        let replicas = replicas::view(self.consensus.members());
        Ok(Response::new(v1::ChangeReplicasResponse { stage: replicas::stage(&step).into(), replicas }))
    }
}

impl OperatorService {
    /// Sends the rotation after every change, until it ends or this replica does not lead any more.
    async fn watch(&self, id: RotationId, sender: &tokio::sync::mpsc::Sender<Result<v1::Rotation, Status>>) {
        let (mut state, mut hints) = (self.consensus.state(), self.hints.clone());
        let mut leadership = self.consensus.leadership();
        loop {
            state.mark_unchanged();
            hints.mark_unchanged();
            let leads = leadership.borrow_and_update().clone();
            let message = match leads {
                Leadership::Own { .. } => self.rotation(Some(id)),
                Leadership::Other { address } => Err(status::not_leader(address.as_deref())),
            };
            let last = match &message {
                Ok(rotation) => rotation.ended_at_ms != 0,
                Err(_) => true,
            };
            if sender.send(message).await.is_err() || last {
                return;
            }
            sleep(WATCH_INTERVAL).await;
            tokio::select! {
                Ok(()) = state.changed() => {}
                Ok(()) = hints.changed() => {}
                Ok(()) = leadership.changed() => {}
                else => return,
            }
        }
    }
}

/// The name in the caller's certificate.
fn caller<T>(request: &Request<T>) -> Result<String, Status> {
    let peer = wire::access::peer(request).ok_or_else(|| Status::unauthenticated("the caller has no certificate"))?;
    Ok(peer.name.clone())
}

fn node_id(text: &str) -> Result<NodeId, Status> {
    text.parse().map_err(|error| invalid("NODE_ID", error, "give the name in the agent's certificate"))
}

/// Reads a rotation's id; empty means none.
fn rotation_id(text: &str) -> Result<Option<RotationId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let next_step = "see the ids with `keyturn rotation list`";
    text.parse().map(Some).map_err(|error| invalid("ROTATION_ID", error, next_step))
}

fn invalid(reason: &str, error: rotation::ParseIdError, next_step: &str) -> Status {
    status::error(Code::InvalidArgument, reason, error.to_string(), next_step)
}

/// The rotation of this id; without one that which is under way, else the newest.
fn find(state: &State, id: Option<RotationId>) -> Result<&Rotation, Status> {
    let found = match id.or(state.active) {
        Some(id) => state.rotations.get(&id),
        None => state.rotations.values().next_back(),
    };
    found.ok_or_else(|| {
        let message = match id {
            Some(id) => format!("there is no rotation {id}"),
            None => "there was no rotation yet".to_owned(),
        };
        let next_step = "see the rotations with `keyturn rotation list`, or plan one with `keyturn rotation plan`";
        status::error(Code::NotFound, "unknown-rotation", message, next_step)
    })
}

fn unavailable(error: ProposeError) -> Status {
    match error {
        ProposeError::Rejected(rejection) => status::rejection(&rejection),
        ProposeError::NotLeader { address } => status::not_leader(address.as_deref()),
        ProposeError::TooLarge { .. } => status::error(
            Code::InvalidArgument,
            "TOO_LARGE",
            error.to_string(),
            "accept fewer undecryptable values, or split the farm",
        ),
        ProposeError::NoQuorum | ProposeError::Stopped => status::error(
            Code::Unavailable,
            "NO_QUORUM",
            error.to_string(),
            "see that a majority of the coordinators runs and that they reach each other, then look whether the request was taken",
        ),
    }
}
