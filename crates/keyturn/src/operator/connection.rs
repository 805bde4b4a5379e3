//! Calls to the coordinators that find the leader and survive its change: everybody is tried, hints are followed, and
//! after a bounded wait the answer is that nobody leads.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coordinator::{HEARTBEAT_MS, HEARTBEAT_MS_MAX};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use wire::pki::Role;
use wire::tls::{ExpectedPeer, Tls};
use wire::v1;
use wire::v1::operator_client::OperatorClient;

use super::leader::Candidates;
use crate::problem::Problem;

/// How long a leader is waited for. An election takes one to three seconds; several in a row still fit. This and the
/// limit of one call are for coordinators that are near each other; where they say that they are not, it is longer.
const LEADER_WAIT: Duration = Duration::from_secs(15);
/// How long one coordinator may take over one call. Longer than a write through a slow disk, shorter than the wait for a
/// leader, so that one that hangs leaves time for the others.
const CALL_MAX: Duration = Duration::from_secs(5);
/// The pause after everybody was asked in vain.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// A client of one coordinator.
pub(crate) type Client = OperatorClient<Channel>;

/// The coordinators, as the operator reaches them.
#[derive(Debug)]
pub(crate) struct Coordinators {
    tls: Tls,
    addresses: Vec<String>,
    known: Mutex<Known>,
}

/// What has been learnt so far. Behind a lock that is held for a look-up only, never across a call.
#[derive(Debug, Default)]
struct Known {
    leader: Option<String>,
    /// Where coordinators are by their own word, beside those that we were told: one may have replaced another since.
    members: BTreeSet<String>,
    /// Their heartbeat in milliseconds, as one of them said last.
    heartbeat_ms: Option<u32>,
    clients: BTreeMap<String, Client>,
}

/// An answer, with who gave it and whether an earlier attempt ended without one.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    /// What was answered.
    pub(crate) value: T,
    /// By whom.
    pub(crate) address: String,
}

/// What a failed attempt means for the search.
enum Attempt {
    /// Another one leads.
    Elsewhere(Option<String>),
    /// Nobody can tell now; later perhaps.
    Later(String),
    /// The leader has spoken.
    Refused(Status),
}

impl Coordinators {
    /// Checks the addresses; connects to nobody yet.
    pub(crate) fn new(tls: Tls, addresses: Vec<String>) -> Result<Self, Problem> {
        let coordinators = Self { tls, addresses, known: Mutex::default() };
        for address in &coordinators.addresses {
            coordinators.client(address)?;
        }
        Ok(coordinators)
    }

    /// The operator's own identity.
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Calls the leader, looking for it for a bounded time. `what` is for the message: `planning a rotation`.
    ///
    /// The call may be carried out twice when an answer is lost, as any call may; `lost` tells the caller of those
    /// calls that are not the same twice.
    pub(crate) async fn call<T, F, R>(&self, what: &str, call: F) -> Result<Answered<T>, CallFailed>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        let mut candidates = Candidates::new(&self.everybody(), self.leader().as_deref());
        let mut last_words = BTreeMap::new();
        let mut lost = false;
        loop {
            let Some(address) = candidates.next() else {
                if began.elapsed() + ROUND_PAUSE > self.leader_wait() {
                    return Err(CallFailed { problem: nobody_leads(what, self.leader_wait(), &last_words), lost });
                }
                sleep(ROUND_PAUSE).await;
                continue;
            };
            let client = self.client(&address).map_err(|problem| CallFailed { problem, lost })?;
            match self.attempt(&address, client, &call).await {
                Ok(value) => {
                    self.learn(Some(address.clone()));
                    return Ok(Answered { value, address });
                }
                Err(Attempt::Refused(status)) => {
                    return Err(CallFailed { problem: status_problem(what, &status), lost });
                }
                Err(Attempt::Elsewhere(hint)) => {
                    last_words.insert(address.clone(), "does not lead".to_owned());
                    self.learn(None);
                    if let Some(hint) = hint.filter(|hint| *hint != address && !last_words.contains_key(hint)) {
                        candidates.hint(&hint);
                    }
                }
                Err(Attempt::Later(words)) => {
                    lost = true;
                    last_words.insert(address, words);
                    self.learn(None);
                }
            }
            if began.elapsed() > self.leader_wait() {
                return Err(CallFailed { problem: nobody_leads(what, self.leader_wait(), &last_words), lost });
            }
        }
    }

    /// One attempt at one coordinator: only the leader's word counts, so who does not lead is not asked.
    async fn attempt<T, F, R>(&self, address: &str, client: Client, call: &F) -> Result<T, Attempt>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        if self.leader().as_deref() != Some(address) {
            match self.leader_of(client.clone()).await? {
                Leader::Itself => {}
                Leader::Other(leader) => return Err(Attempt::Elsewhere(Some(leader))),
                Leader::Nobody => return Err(Attempt::Elsewhere(None)),
            }
        }
        let limit = self.scaled(CALL_MAX);
        match timeout(limit, call(client)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(judge(status)),
            Err(_) => Err(Attempt::Later(format!("did not answer within {} s", limit.as_secs()))),
        }
    }

    /// Asks everybody but `address` whether another one leads meanwhile.
    pub(crate) async fn leads_no_longer(&self, address: &str) -> bool {
        for other in self.everybody().iter().filter(|other| *other != address) {
            let Ok(client) = self.client(other) else { continue };
            let leader = match self.leader_of(client).await {
                Ok(Leader::Itself) => other.clone(),
                Ok(Leader::Other(leader)) => leader,
                Ok(Leader::Nobody) | Err(_) => continue,
            };
            if leader != address {
                self.learn(Some(leader));
                return true;
            }
        }
        false
    }

    /// Asks one coordinator who leads, and who is a member.
    async fn leader_of(&self, mut client: Client) -> Result<Leader, Attempt> {
        let limit = self.scaled(CALL_MAX);
        let farm = match timeout(limit, client.get_farm(v1::GetFarmRequest {})).await {
            Ok(Ok(farm)) => farm.into_inner(),
            Ok(Err(status)) => return Err(judge(status)),
            Err(_) => return Err(Attempt::Later(format!("did not answer within {} s", limit.as_secs()))),
        };
        let replicas = farm.replicas;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.heartbeat_ms = Some(farm.heartbeat_ms);
        known.members = replicas.iter().map(|replica| replica.address.clone()).collect();
        Ok(match replicas.into_iter().find(|replica| replica.leader) {
            Some(replica) if replica.answering => Leader::Itself,
            Some(replica) => Leader::Other(replica.address),
            None => Leader::Nobody,
        })
    }

    /// How long a leader is waited for.
    pub(crate) fn leader_wait(&self) -> Duration {
        self.scaled(LEADER_WAIT)
    }

    /// What is so long with coordinators that are near each other, for those that there are.
    fn scaled(&self, near: Duration) -> Duration {
        let heartbeat_ms = self.known.lock().unwrap_or_else(PoisonError::into_inner).heartbeat_ms;
        near * heartbeat_ms.unwrap_or(HEARTBEAT_MS).clamp(HEARTBEAT_MS, HEARTBEAT_MS_MAX) / HEARTBEAT_MS
    }

    /// Every address that may be a coordinator's: those that we were told, then what members said of each other.
    fn everybody(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let others = known.members.iter().filter(|address| !self.addresses.contains(address));
        self.addresses.iter().chain(others).cloned().collect()
    }

    fn leader(&self) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).leader.clone()
    }

    fn learn(&self, leader: Option<String>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).leader = leader;
    }

    fn client(&self, address: &str) -> Result<Client, Problem> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.clients.get(address) {
            return Ok(client.clone());
        }
        let expect = ExpectedPeer { role: Role::Coordinator, name: None };
        let channel = self.tls.channel(address, expect).map_err(|error| {
            Problem::usage("a coordinator's address cannot be used", "write it as https://host:port").because(&error)
        })?;
        let client = wire::rpc::operator_client(channel);
        known.clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

/// A call that was not answered as wished.
#[derive(Debug)]
pub(crate) struct CallFailed {
    /// What to show.
    pub(crate) problem: Problem,
    /// Whether an earlier attempt went unanswered, so that it may have been carried out.
    pub(crate) lost: bool,
}

impl From<CallFailed> for Problem {
    fn from(failed: CallFailed) -> Self {
        failed.problem
    }
}

/// Who leads, in one coordinator's view.
enum Leader {
    /// The one that answers.
    Itself,
    /// The one at this address.
    Other(String),
    /// None now.
    Nobody,
}

fn judge(status: Status) -> Attempt {
    if let Some(hint) = wire::status::leader_hint(&status) {
        return Attempt::Elsewhere(hint.leader_address);
    }
    match status.code() {
        // A lost connection shows itself as any of these, and a refused certificate as two of them at random.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Aborted => {
            Attempt::Later(wire::status::describe(&status))
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Attempt::Refused(status),
    }
}

fn nobody_leads(what: &str, waited: Duration, last_words: &BTreeMap<String, String>) -> Problem {
    let reached = last_words.values().any(|words| words == "does not lead");
    let (code, message) = if reached {
        ("no-leader", format!("{what}: no coordinator leads, and none did for {} s", waited.as_secs()))
    } else {
        ("no-connection", format!("{what}: no coordinator could be reached for {} s", waited.as_secs()))
    };
    let mut problem = Problem::unreachable(
        code,
        message,
        "look whether most of the coordinators run and reach each other; what is under way goes on when one leads again",
    );
    let causes = last_words.iter().map(|(address, words)| {
        // A connection that was not made names its address itself.
        if words.starts_with(address.as_str()) { words.clone() } else { format!("{address} {words}") }
    });
    problem.causes = causes.collect();
    problem
}

/// What a server said, as something to show.
pub(crate) fn status_problem(what: &str, status: &Status) -> Problem {
    if let Some(said) = wire::status::problem(status) {
        // The protocol writes its own reasons as gRPC does, ROLE_DENIED; on the command line all codes look alike.
        let code = said.reason.to_ascii_lowercase().replace('_', "-");
        return Problem::refused(&code, said.message, said.next_step);
    }
    let (code, next) = match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => (
            "not-allowed",
            "use a certificate of a role that may do this; `keyturn pki show FILE` names a certificate's role",
        ),
        Code::NotFound => ("not-found", "`keyturn rotation list` and `keyturn node list` show what there is"),
        Code::InvalidArgument => ("invalid", "correct what is named"),
        _ => ("internal", "the coordinator's log says more"),
    };
    let mut problem = Problem::refused(code, format!("{what} was refused"), next);
    problem.causes.push(wire::status::describe(status));
    problem
}
