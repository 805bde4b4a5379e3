//! What abort, pause, resume, retry and throttle have in common: find the rotation, tell the leader, show what it answered.

use wire::v1;

use super::{One, get};
use crate::exit::Exit;
use crate::operator::{Client, Coordinators, follow};
use crate::output::Paint;
use crate::problem::Problem;
use crate::view::{RotationView, outcome_exit, summary_text};

/// What the leader is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// End it.
    Abort,
    /// Give out no new work.
    Pause,
    /// Go on.
    Resume,
    /// Try again what it is stuck on.
    Retry,
    /// Bound the rows per second of the whole farm, or take the bound away.
    Throttle(Option<u32>),
}

impl Command {
    const fn doing(self) -> &'static str {
        match self {
            Self::Abort => "ending the rotation",
            Self::Pause => "pausing the rotation",
            Self::Resume => "resuming the rotation",
            Self::Retry => "retrying the rotation",
            Self::Throttle(_) => "throttling the rotation",
        }
    }

    async fn send(self, coordinators: &Coordinators, id: &str) -> Result<v1::Rotation, Problem> {
        let call = |mut client: Client| {
            let id = id.to_owned();
            async move {
                match self {
                    Self::Abort => client.abort_rotation(v1::AbortRotationRequest { id }).await,
                    Self::Pause => client.pause_rotation(v1::PauseRotationRequest { id }).await,
                    Self::Resume => client.resume_rotation(v1::ResumeRotationRequest { id }).await,
                    Self::Retry => client.retry_rotation(v1::RetryRotationRequest { id }).await,
                    Self::Throttle(rows_per_second) => {
                        client.throttle_rotation(v1::ThrottleRotationRequest { id, rows_per_second }).await
                    }
                }
            }
        };
        Ok(coordinators.call(self.doing(), call).await?.value)
    }

    /// Tells the leader. With `wait` the rotation is followed to its end, which then is the exit code.
    pub(super) async fn run(self, one: One, wait: bool) -> Result<Exit, Problem> {
        let coordinators = one.operator.coordinators()?;
        let id = match one.id {
            Some(id) => id.to_string(),
            None => under_way(&coordinators).await?,
        };
        let mut rotation = self.send(&coordinators, &id).await?;
        if wait {
            rotation = follow(&coordinators, &id, |rotation| outcome_exit(rotation).is_some()).await?;
        }
        one.output.print(&RotationView::from(&rotation), || summary_text(&rotation, Paint::stdout()))?;
        Ok(match outcome_exit(&rotation).filter(|_| wait) {
            // Withdrawn is what an abort asks for.
            Some(Exit::Refused) if self == Self::Abort => Exit::Done,
            Some(exit) => exit,
            None => Exit::Done,
        })
    }
}

/// The rotation that a command without an id means: only one that has not ended.
async fn under_way(coordinators: &Coordinators) -> Result<String, Problem> {
    let rotation = get(coordinators, None).await?;
    match rotation.outcome() {
        v1::Outcome::Running | v1::Outcome::Stuck | v1::Outcome::Unspecified => Ok(rotation.id),
        v1::Outcome::Completed | v1::Outcome::RolledBack | v1::Outcome::Refused | v1::Outcome::Withdrawn => {
            Err(Problem::refused(
                "no-rotation",
                format!("no rotation is under way; the newest, {}, has ended", rotation.id),
                "`keyturn rotation list` shows all of them",
            ))
        }
    }
}
