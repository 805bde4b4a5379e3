//! `keyturn rotation status`: where a rotation stands.

use clap::Args;

use super::{One, get};
use crate::exit::Exit;
use crate::output::Paint;
use crate::problem::Problem;
use crate::view::{RotationView, status_text};

/// Which rotation.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    one: One,
}

impl Status {
    /// Shows it. Exits with 0 however the rotation stands: that is the answer, not a failure.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let rotation = get(&self.one.operator.coordinators()?, self.one.id).await?;
        self.one.output.print(&RotationView::from(&rotation), || status_text(&rotation, Paint::stdout()))?;
        Ok(Exit::Done)
    }
}
