//! `keyturn recover`: what an administrator would do by hand after a failure, on one node, without any coordinator: look,
//! decide, show, and, once confirmed, do it step by step.

mod view;

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use agent::recover::{Choice, Decision, Findings, Recovery, Verdict, decide};
use clap::Args;
use rotation::{Fault, KeyId};

use crate::exit::Exit;
use crate::output::{OutputArgs, Paint, note, thousands};
use crate::problem::Problem;
use crate::process::told_to_end;
use crate::verb::db::backup_tools;
use view::{RecoveryView, StepView, backup_text, findings_text, plan_text};

/// A farm's name is far shorter; the limit ends a line that never does.
const TYPED_BYTES_MAX: u64 = 1024;
/// How many rows lie between two words about a long step.
const TOLD_EVERY_ROWS: u64 = 100_000;

/// Which node, and what the administrator knows.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The configuration of this node's agent, which must not run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The key that the data is under, after an older backup was restored
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// Put this backup of the database back first, because the database cannot be undone
    #[arg(long, value_name = "PATH")]
    backup: Option<PathBuf>,
    /// The instances of all other nodes are offline, and somebody has seen it
    #[arg(long)]
    others_offline: bool,
    /// Do not ask for the farm's name before anything is changed
    #[arg(long, conflicts_with = "look")]
    yes: bool,
    /// Only look and say what would be done
    #[arg(long)]
    look: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// A backup that is in its place.
struct Restored {
    key: KeyId,
    /// What was done for it.
    steps: Vec<StepView>,
}

impl Recover {
    /// Looks, shows, asks, does.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        let config = agent::Config::load(&self.config).map_err(|error| {
            Problem::refused(
                "configuration",
                format!("the agent's configuration {} cannot be used", self.config.display()),
                "compare it with deploy/examples/agent.toml",
            )
            .because(&error)
        })?;
        let mut recovery = Recovery::open(config, backup_tools()).await.map_err(opening)?;
        let mut choice = Choice { key: self.key, others_offline: self.others_offline, restored: false };
        let mut done = Vec::new();
        let mut found = recovery.look(&|_| {}).await;
        if let Some(backup) = &self.backup {
            let restoring = self.restore(&mut recovery, &found, &choice, backup).await?;
            let Some(Restored { key, steps }) = restoring else { return Ok(Exit::Stuck) };
            if self.look {
                return Ok(Exit::Done);
            }
            choice = Choice { key: Some(key), restored: true, ..choice };
            done = steps;
            found = recovery.look(&|_| {}).await;
        }
        let found = found.map_err(|fault| looking(&fault))?;
        let decision = decide(&found, &choice);
        let mut view = RecoveryView::new(&found, &decision).after(done);
        if !self.output.json() {
            note(&findings_text(&found));
            note("");
            note(&plan_text(&decision));
        }
        if !self.look && !decision.steps.is_empty() {
            if self.backup.is_none() {
                self.confirm(recovery.farm())?;
            }
            if let Err(fault) = self.perform(&mut recovery, &decision, &mut view).await {
                view.failed(&fault);
                self.output.print(&view, || view.text())?;
                return Err(step_failed(&fault));
            }
        }
        self.output.print(&view, || view.text())?;
        Ok(match decision.verdict {
            Verdict::Impossible | Verdict::Wait => Exit::Stuck,
            Verdict::Whole | Verdict::Back | Verdict::Forward | Verdict::Key | Verdict::Restore => Exit::Done,
        })
    }

    /// Proves the backup and puts it back. `None` when other nodes come first.
    async fn restore(
        &self,
        recovery: &mut Recovery,
        found: &Result<Findings, Fault>,
        choice: &Choice,
        path: &Path,
    ) -> Result<Option<Restored>, Problem> {
        let told = |words: &str| note(&format!("waiting for {words}"));
        let proving = recovery.prove_backup(path, self.key, &told);
        let backup = tokio::select! {
            proved = proving => proved.map_err(|fault| not_proved(&fault))?,
            () = told_to_end() => {
                return Err(Problem::refused("interrupted", "nothing was changed", "run `keyturn recover` again"));
            }
        };
        let decision = recovery.decide_restore(found.as_ref(), choice).await.map_err(|fault| looking(&fault))?;
        let mut view = RecoveryView::of_restore(recovery.node(), &decision);
        if !self.output.json() {
            note(&backup_text(&backup));
            note("");
            note(&plan_text(&decision));
        }
        if !self.look && !decision.steps.is_empty() {
            self.confirm(recovery.farm())?;
            if let Err(fault) = self.perform(recovery, &decision, &mut view).await {
                view.failed(&fault);
                self.output.print(&view, || view.text())?;
                return Err(step_failed(&fault));
            }
        }
        let waits = decision.verdict == Verdict::Wait;
        if self.look || waits {
            self.output.print(&view, || view.text())?;
        }
        Ok((!waits).then(|| Restored { key: backup.key, steps: view.into_steps() }))
    }

    async fn perform(
        &self,
        recovery: &mut Recovery,
        decision: &Decision,
        view: &mut RecoveryView,
    ) -> Result<(), Fault> {
        let paint = Paint::stderr();
        let of = decision.steps.len();
        for (index, step) in decision.steps.iter().enumerate() {
            note(&format!("{} {step}", paint.bold(&format!("[{}/{of}] {}:", index + 1, step.name()))));
            let told = AtomicU64::new(0);
            let progress = |rows: u64| {
                if rows / TOLD_EVERY_ROWS > told.fetch_max(rows, Ordering::Relaxed) / TOLD_EVERY_ROWS {
                    note(&format!("    {} rows", thousands(rows)));
                }
            };
            let result = recovery.perform(step, &progress).await?;
            note(&format!("    done: {result}"));
            view.done(result);
        }
        Ok(())
    }

    /// Without `--yes` the farm's name must be typed.
    fn confirm(&self, farm: &str) -> Result<(), Problem> {
        if self.yes {
            return Ok(());
        }
        note(&format!("{} This is done at once. Type the farm's name to go on:", Paint::stderr().yellow("Warning:")));
        let mut line = String::new();
        let nobody = || {
            Problem::usage("nobody types the farm's name; nothing was changed", "run it at a terminal, or add --yes")
        };
        let typed = io::stdin().lock().take(TYPED_BYTES_MAX).read_line(&mut line);
        if typed.map_err(|error| nobody().because(&error))? == 0 {
            return Err(nobody());
        }
        if line.trim() == farm {
            return Ok(());
        }
        Err(Problem::refused(
            "not-confirmed",
            format!("what was typed is not the farm's name, {farm}; nothing was changed"),
            "run the command again and type it, or add --yes",
        ))
    }
}

fn opening(error: agent::RunError) -> Problem {
    match error {
        agent::RunError::StateDirInUse { path } => Problem::refused(
            "agent-running",
            format!("this node's agent runs: it holds {}", path.display()),
            "stop it first (systemctl stop keyturn-agent); while coordinators lead the rotation, `keyturn rotation abort` \
             or `retry` is the better way",
        ),
        other => Problem::refused(
            "recover",
            "this node cannot be recovered as it is configured",
            "what it says above is in the way; nothing was changed",
        )
        .because(&other),
    }
}

fn looking(fault: &Fault) -> Problem {
    Problem::refused(
        fault.code.as_str(),
        format!("looking at this node failed, and nothing was changed: {}", fault.message),
        fault.next_step.clone(),
    )
}

fn not_proved(fault: &Fault) -> Problem {
    Problem::refused(
        fault.code.as_str(),
        format!("the backup was not proved, and nothing was changed: {}", fault.message),
        fault.next_step.clone(),
    )
}

fn step_failed(fault: &Fault) -> Problem {
    Problem::stuck(
        fault.code.as_str(),
        format!("a step of the recovery failed: {}", fault.message),
        format!("{}; then run `keyturn recover` again: it goes on from where things are", fault.next_step),
    )
}
