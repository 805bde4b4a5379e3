//! A change of the coordinators' membership, asked for until it is done. Nothing is remembered here: whoever asks for the
//! same again, of whichever coordinator leads, goes on where the change stood.

use std::str::FromStr;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use wire::v1;

use super::list::ReplicaView;
use crate::exit::Exit;
use crate::operator::{Client, OperatorArgs};
use crate::output::{OutputArgs, note, thousands};
use crate::problem::Problem;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a change may stand still. A snapshot of a large state goes over within seconds; a leader is found again within
/// fifteen.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// A new replica as it is given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewReplica {
    id: u64,
    address: String,
}

impl FromStr for NewReplica {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = "write number and address: 4=https://host:port";
        let (id, address) = text.split_once('=').ok_or(error)?;
        let id = id.parse().map_err(|_| error)?;
        if address.starts_with("https://") { Ok(Self { id, address: address.to_owned() }) } else { Err(error) }
    }
}

impl From<NewReplica> for v1::ReplicaAddress {
    fn from(new: NewReplica) -> Self {
        Self { id: new.id, address: new.address }
    }
}

/// Asks until it is done, says how it goes on, and prints the members.
pub(super) async fn change(
    operator: &OperatorArgs,
    output: OutputArgs,
    what: &str,
    request: v1::ChangeReplicasRequest,
) -> Result<Exit, Problem> {
    let coordinators = operator.coordinators()?;
    let mut progress =
        Progress { said: String::new(), stage: v1::ReplicasStage::Unspecified, best: u64::MAX, moved: Instant::now() };
    let done = loop {
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.change_replicas(request).await }
        };
        let answer = coordinators.call(what, ask).await?.value;
        if answer.stage() == v1::ReplicasStage::Done {
            break answer;
        }
        progress.see(&answer, &request);
        if progress.moved.elapsed() > STANDSTILL_MAX {
            return Err(standstill(what, progress.said));
        }
        sleep(PAUSE).await;
    };
    ReplicaView::print(output, &done.replicas)?;
    note("write the coordinators' addresses into operator.toml, and stop those that were removed");
    Ok(Exit::Done)
}

/// What was seen of a change so far.
struct Progress {
    said: String,
    stage: v1::ReplicasStage,
    /// The fewest entries that were left to go. The log may grow meanwhile, which is no progress.
    best: u64,
    moved: Instant,
}

impl Progress {
    /// Takes note of an answer, and says what is new in it.
    fn see(&mut self, answer: &v1::ChangeReplicasResponse, request: &v1::ChangeReplicasRequest) {
        let added = |replica: &&v1::ReplicaState| request.add.iter().any(|new| new.id == replica.id);
        let behind = answer.replicas.iter().filter(added).map(|replica| replica.entries_behind).max().unwrap_or(0);
        if answer.stage() != self.stage || behind < self.best {
            (self.stage, self.best, self.moved) = (answer.stage(), behind.min(self.best), Instant::now());
        }
        let now = match answer.stage() {
            v1::ReplicasStage::Adding => "adding: learners first, which take the log over and do not vote".to_owned(),
            v1::ReplicasStage::CatchingUp => format!("catching up: {} entries to go", thousands(behind)),
            v1::ReplicasStage::ChangingVoters => "changing who votes".to_owned(),
            v1::ReplicasStage::Unspecified | v1::ReplicasStage::Done => "under way".to_owned(),
        };
        if now != self.said {
            note(&now);
            self.said = now;
        }
    }
}

fn standstill(what: &str, said: String) -> Problem {
    let mut problem = Problem::refused(
        "replica-slow",
        format!("{what}: nothing has moved for {} s", STANDSTILL_MAX.as_secs()),
        "look at the new coordinator's log; the same command goes on where this stands, \
         `keyturn coordinator remove` gives it up",
    );
    problem.causes.push(said);
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grows_is_no_progress() {
        let request = v1::ChangeReplicasRequest {
            add: vec![v1::ReplicaAddress { id: 4, address: String::new() }],
            remove: Vec::new(),
        };
        let begun = Instant::now().checked_sub(STANDSTILL_MAX).expect("the machine runs for a minute");
        let mut progress =
            Progress { said: String::new(), stage: v1::ReplicasStage::CatchingUp, best: 100, moved: begun };
        let mut see = |entries_behind| {
            let replica = v1::ReplicaState { id: 4, entries_behind, ..Default::default() };
            let answer =
                v1::ChangeReplicasResponse { stage: v1::ReplicasStage::CatchingUp.into(), replicas: vec![replica] };
            progress.see(&answer, &request);
            progress.moved > begun
        };
        assert!(!see(100) && !see(140) && !see(120));
        assert!(see(99));
    }

    #[test]
    fn number_and_address_are_read() {
        let new: NewReplica = "4=https://host:7001".parse().expect("valid");
        assert_eq!((new.id, new.address.as_str()), (4, "https://host:7001"));
        for wrong in
            ["4", "https://host:7001", "four=https://host:7001", "4=host:7001", "=https://host:1", "-4=https://a:1"]
        {
            wrong.parse::<NewReplica>().expect_err(wrong);
        }
    }
}
