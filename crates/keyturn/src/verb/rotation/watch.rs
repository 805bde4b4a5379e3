//! `keyturn rotation watch`: a rotation to its end, and its end as the exit code.

use clap::Args;

use super::{One, get};
use crate::exit::Exit;
use crate::operator::follow;
use crate::output::Paint;
use crate::problem::Problem;
use crate::view::{RotationView, outcome_exit, summary_text};

/// Which rotation.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    one: One,
}

impl Watch {
    /// Follows it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let coordinators = self.one.operator.coordinators()?;
        let found = get(&coordinators, self.one.id).await?;
        let rotation = follow(&coordinators, &found.id, |rotation| outcome_exit(rotation).is_some()).await?;
        self.one.output.print(&RotationView::from(&rotation), || summary_text(&rotation, Paint::stdout()))?;
        Ok(outcome_exit(&rotation).unwrap_or(Exit::Done))
    }
}
