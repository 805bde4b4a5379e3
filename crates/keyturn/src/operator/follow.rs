//! Following a rotation until something is reached, over lost connections and changes of leader.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep, timeout};
use tonic::Streaming;
use wire::v1;

use super::connection::Coordinators;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::view::Live;

/// After so long without a word it is asked whether the coordinator that streams still leads: one that is cut off from the
/// others does not know that it was replaced.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often clocks on the screen are moved on.
const TICK: Duration = Duration::from_millis(250);
/// The pause before a stream that ended is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

/// Shows the rotation on standard error until `reached` holds, and answers it as it stands then.
pub(crate) async fn follow(
    coordinators: &Coordinators,
    id: &str,
    reached: impl Fn(&v1::Rotation) -> bool,
) -> Result<v1::Rotation, Problem> {
    let mut live = Live::new();
    tokio::select! {
        rotation = watch(coordinators, id, &mut live, reached) => rotation,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(interrupted_problem(id)),
            Err(error) => Err(Problem::refused("signal", "Ctrl-C cannot be waited for", "report it").because(&error)),
        },
    }
}

async fn watch(
    coordinators: &Coordinators,
    id: &str,
    live: &mut Live,
    reached: impl Fn(&v1::Rotation) -> bool,
) -> Result<v1::Rotation, Problem> {
    let mut heard = Instant::now();
    loop {
        let request = v1::WatchRotationRequest { id: id.to_owned() };
        let open = |mut client: super::Client| {
            let request = request.clone();
            async move { client.watch_rotation(request).await }
        };
        let opened = ticking(live, coordinators.call("following the rotation", open)).await?;
        let mut stream = opened.value;
        let lost = loop {
            match next(coordinators, &opened.address, &mut stream, live).await {
                Ok(rotation) => {
                    heard = Instant::now();
                    live.update(&rotation);
                    if reached(&rotation) {
                        return Ok(rotation);
                    }
                }
                Err(why) => break why,
            }
        };
        // A leader that accepts the call and never says a word must not be asked for ever.
        if heard.elapsed() > coordinators.leader_wait() * 2 {
            return Err(Problem::unreachable(
                "no-leader",
                format!("rotation {id} was not heard of for {} s: {lost}", heard.elapsed().as_secs()),
                "look at the coordinators; `keyturn rotation watch` follows it again",
            ));
        }
        tracing::debug!(address = opened.address, lost, "the stream was lost");
        live.say(&format!("the connection to {} was lost; looking for the leader", opened.address));
        ticking(live, sleep(REOPEN_PAUSE)).await;
    }
}

/// The next message of the stream, or why there is none.
async fn next(
    coordinators: &Coordinators,
    address: &str,
    stream: &mut Streaming<v1::Rotation>,
    live: &mut Live,
) -> Result<v1::Rotation, String> {
    loop {
        match timeout(SILENCE_MAX, ticking(live, stream.message())).await {
            Ok(Ok(Some(rotation))) => return Ok(rotation),
            Ok(Ok(None)) => return Err("the stream ended".to_owned()),
            Ok(Err(status)) => return Err(wire::status::describe(&status)),
            Err(_) if coordinators.leads_no_longer(address).await => return Err("another coordinator leads".to_owned()),
            Err(_) => {}
        }
    }
}

/// Waits with the clocks on the screen going on.
async fn ticking<T>(live: &mut Live, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => live.tick(),
        }
    }
}

fn interrupted_problem(id: &str) -> Problem {
    Problem {
        code: "interrupted".to_owned(),
        message: format!("no longer following rotation {id}; it goes on by itself"),
        causes: Vec::new(),
        next_step: "`keyturn rotation watch` follows it again, `keyturn rotation abort` ends it".to_owned(),
        exit: Exit::Interrupted,
    }
}
