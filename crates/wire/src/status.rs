//! How refusals and failures travel: a gRPC status with an ErrorInfo, and back into something to show or act on.

use std::collections::HashMap;
use std::error::Error;

use rotation::Rejection;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::channel::ConnectError;

/// The domain of every reason that Keyturn gives.
pub const DOMAIN: &str = "keyturn.v1";
/// The reason of a call that another replica must answer.
pub const NOT_LEADER: &str = "NOT_LEADER";

const NEXT_STEP: &str = "next_step";
const LEADER_ADDRESS: &str = "leader_address";

/// What a server said of why it refused or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable code: a rejection's (`ROTATION_UNDER_WAY`) or one of the protocol's (`NOT_LEADER`).
    pub reason: String,
    /// What happened, naming the thing.
    pub message: String,
    /// What to do now; empty when the server named nothing.
    pub next_step: String,
}

/// Where the leader is, said by a replica that is not it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader's address; `None` while there is none.
    pub leader_address: Option<String>,
}

/// A status with a reason and a next step. The reason travels in ErrorInfo's own form, `UPPER_SNAKE_CASE`.
pub fn error(code: Code, reason: &str, message: impl Into<String>, next_step: &str) -> Status {
    let metadata = [(NEXT_STEP.to_owned(), next_step.to_owned())];
    let reason = reason.to_ascii_uppercase().replace('-', "_");
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

/// The state does not allow the request: FAILED_PRECONDITION.
pub fn refused(reason: &str, message: impl Into<String>, next_step: &str) -> Status {
    error(Code::FailedPrecondition, reason, message, next_step)
}

/// The domain's refusal, as a status.
pub fn rejection(rejection: &Rejection) -> Status {
    refused(rejection.code.as_str(), rejection.message.clone(), &rejection.next_step)
}

/// This replica does not lead; the caller goes on to `leader_address`, or waits when there is none.
pub fn not_leader(leader_address: Option<&str>) -> Status {
    let message = match leader_address {
        Some(address) => format!("this coordinator does not lead; the leader is at {address}"),
        None => "this coordinator does not lead, and there is no leader now".to_owned(),
    };
    let metadata: HashMap<String, String> =
        leader_address.map(|address| (LEADER_ADDRESS.to_owned(), address.to_owned())).into_iter().collect();
    Status::with_error_details(Code::Unavailable, message, ErrorDetails::with_error_info(NOT_LEADER, DOMAIN, metadata))
}

/// Where to go instead, if the status says that the callee does not lead.
pub fn leader_hint(status: &Status) -> Option<LeaderHint> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN && info.reason == NOT_LEADER)?;
    Some(LeaderHint { leader_address: info.metadata.get(LEADER_ADDRESS).cloned() })
}

/// What the server said of why, if it was a Keyturn server that answered.
pub fn problem(status: &Status) -> Option<Problem> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let next_step = info.metadata.get(NEXT_STEP).cloned().unwrap_or_default();
    Some(Problem { reason: info.reason, message: status.message().to_owned(), next_step })
}

/// Whether the call failed on the way, and nobody answered it: no connection, a lost one, a refused handshake. tonic
/// gives such a failure one of several codes, but only what arose here has a source; an answer never has.
pub fn is_connection_failure(status: &Status) -> bool {
    status.source().is_some()
}

/// The status in words, with everything that its sources add: of a lost connection the status itself says no more
/// than `transport error`. For a connection that was not made the text names the address.
pub fn describe(status: &Status) -> String {
    let was_made =
        !std::iter::successors(status.source(), |&error| error.source()).any(|error| error.is::<ConnectError>());
    let prefix = (is_connection_failure(status) && was_made).then(|| LOST.to_owned());
    let text = join(prefix.into_iter().chain([status.message().to_owned()]).chain(sources(status)));
    if text.is_empty() { status.code().description().to_owned() } else { text }
}

const LOST: &str = "the connection was lost or refused";

/// An error with its sources, outermost first.
pub fn chain(error: &dyn Error) -> String {
    join([error.to_string()].into_iter().chain(sources(error)))
}

fn sources(error: &dyn Error) -> impl Iterator<Item = String> {
    std::iter::successors(error.source(), |&error| error.source()).map(ToString::to_string)
}

/// Puts texts behind each other, without those that say nothing or what was just said: libraries like to repeat
/// their sources.
fn join(texts: impl Iterator<Item = String>) -> String {
    let mut joined = String::new();
    for text in texts {
        if text == SAYS_NOTHING || joined.contains(&text) {
            continue;
        }
        if !joined.is_empty() {
            joined.push_str(": ");
        }
        joined.push_str(&text);
    }
    joined
}

/// What tonic calls every failure of a connection.
const SAYS_NOTHING: &str = "transport error";
