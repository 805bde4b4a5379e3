//! `keyturn rotation`: planning, starting and following rotations.

mod abort;
mod command;
mod confirm;
mod list;
mod pause;
mod plan;
mod report;
mod resume;
mod retire;
mod retry;
mod start;
mod status;
mod throttle;
mod watch;

use clap::{Args, Subcommand};
use rotation::RotationId;
use wire::v1;

use crate::exit::Exit;
use crate::operator::{Client, Coordinators, OperatorArgs};
use crate::output::OutputArgs;
use crate::problem::Problem;

/// What can be done with rotations.
#[derive(Debug, Subcommand)]
pub(crate) enum Rotation {
    /// Look at everything, change nothing, and make the plan of a rotation
    Plan(plan::Plan),
    /// Sign the plan and turn the keys
    Start(start::Start),
    /// Show where a rotation stands
    Status(status::Status),
    /// Follow a rotation to its end
    Watch(watch::Watch),
    /// End a rotation: withdraw it before its start, undo it up to its admission
    Abort(abort::Abort),
    /// Give out no new work until resumed
    Pause(pause::Pause),
    /// Go on with a paused rotation
    Resume(resume::Resume),
    /// Try again what a stuck rotation is stuck on
    Retry(retry::Retry),
    /// Bound the speed of the work on rows, or take the bound away
    Throttle(throttle::Throttle),
    /// Show the evidence of a rotation
    Report(report::Report),
    /// Drop the original tables that a completed rotation kept beside their copies
    Retire(retire::Retire),
    /// List all rotations that are remembered
    List(list::List),
}

impl Rotation {
    /// Does it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        match self {
            Self::Plan(verb) => verb.run().await,
            Self::Start(verb) => verb.run().await,
            Self::Status(verb) => verb.run().await,
            Self::Watch(verb) => verb.run().await,
            Self::Abort(verb) => verb.run().await,
            Self::Pause(verb) => verb.run().await,
            Self::Resume(verb) => verb.run().await,
            Self::Retry(verb) => verb.run().await,
            Self::Throttle(verb) => verb.run().await,
            Self::Report(verb) => verb.run().await,
            Self::Retire(verb) => verb.run().await,
            Self::List(verb) => verb.run().await,
        }
    }
}

/// Which rotation, how it is printed, and whom to ask.
#[derive(Debug, Args)]
struct One {
    /// The rotation; without it the one under way, else the newest
    id: Option<RotationId>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// The rotation as the leader has it.
async fn get(coordinators: &Coordinators, id: Option<RotationId>) -> Result<v1::Rotation, Problem> {
    let request = v1::GetRotationRequest { id: id.map(|id| id.to_string()).unwrap_or_default() };
    let get = |mut client: Client| {
        let request = request.clone();
        async move { client.get_rotation(request).await }
    };
    Ok(coordinators.call("asking for the rotation", get).await?.value)
}

/// Names in one line.
fn named(names: impl Iterator<Item = impl ToString>) -> String {
    names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

fn parse_id(id: &str) -> Result<RotationId, Problem> {
    id.parse().map_err(|error: rotation::ParseIdError| {
        Problem::refused("internal", "the coordinator named no valid rotation", "use the same release everywhere")
            .because(&error)
    })
}
