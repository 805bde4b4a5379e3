//! `keyturn rotation list`: all rotations that are remembered, newest first.

use clap::Args;
use serde::Serialize;
use wire::v1;

use crate::exit::Exit;
use crate::operator::{Client, OperatorArgs};
use crate::output::{OutputArgs, Table, date_time, duration};
use crate::problem::Problem;
use crate::view::RotationView;

/// No choice but the form.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// One line of the list; the fields are those of a whole rotation.
#[derive(Debug, Serialize)]
struct Line {
    id: String,
    outcome: &'static str,
    phase: &'static str,
    undo_step: Option<String>,
    paused: bool,
    requested_by: String,
    requested_at_ms: u64,
    ended_at_ms: Option<u64>,
    old_key: Option<String>,
    new_key: Option<String>,
    downtime_ms: u64,
}

impl From<RotationView> for Line {
    fn from(view: RotationView) -> Self {
        Self {
            id: view.id,
            outcome: view.outcome,
            phase: view.phase,
            undo_step: view.undo_step,
            paused: view.paused,
            requested_by: view.requested_by,
            requested_at_ms: view.requested_at_ms,
            ended_at_ms: view.ended_at_ms,
            old_key: view.old_key,
            new_key: view.new_key,
            downtime_ms: view.downtime_ms,
        }
    }
}

impl List {
    /// Lists them.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let list = |mut client: Client| async move { client.list_rotations(v1::ListRotationsRequest {}).await };
        let answer = self.operator.coordinators()?.call("listing the rotations", list).await?.value;
        let lines: Vec<Line> = answer.rotations.iter().map(|rotation| RotationView::from(rotation).into()).collect();
        self.output.print(&lines, || {
            let mut table = Table::new(&["ID", "OUTCOME", "PHASE", "REQUESTED", "BY", "DOWNTIME", "NEW-KEY"]);
            for line in &lines {
                table.row([
                    line.id.clone(),
                    line.outcome.to_owned(),
                    line.undo_step.as_ref().map_or_else(|| line.phase.to_owned(), |step| format!("undo:{step}")),
                    date_time(line.requested_at_ms),
                    line.requested_by.clone(),
                    duration(line.downtime_ms),
                    line.new_key.clone().unwrap_or_default(),
                ]);
            }
            table.render()
        })?;
        Ok(Exit::Done)
    }
}
