//! `keyturn rotation report`: the evidence of a rotation.

use clap::Args;

use super::{One, get};
use crate::exit::Exit;
use crate::output::Paint;
use crate::problem::Problem;
use crate::view::Report as Evidence;

/// Which rotation.
#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    one: One,
}

impl Report {
    /// Shows it. Exits with 6 when a completed rotation's evidence does not add up.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let rotation = get(&self.one.operator.coordinators()?, self.one.id).await?;
        let evidence = Evidence::from(&rotation);
        self.one.output.print(&evidence, || evidence.text(&rotation, Paint::stdout()))?;
        let failed = evidence.completed() && !evidence.adds_up();
        Ok(if failed { Exit::VerificationFailed } else { Exit::Done })
    }
}
