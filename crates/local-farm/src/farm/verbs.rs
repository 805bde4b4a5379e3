//! Runs the verbs of this program as an operator would, each as a process of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::{Child, Command};

/// No verb that the demo waits for takes longer; planning reads the whole database.
const LIMIT: Duration = Duration::from_secs(600);

/// This program, as an operator calls it.
#[derive(Debug, Clone)]
pub(crate) struct Verbs {
    program: PathBuf,
    /// `operator.toml`.
    config: PathBuf,
}

impl Verbs {
    pub(super) fn new(program: PathBuf, config: PathBuf) -> Self {
        Self { program, config }
    }

    /// Runs a verb; answers what it printed.
    pub(crate) async fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        self.finish(command).await
    }

    /// Runs a verb that calls the coordinators.
    pub(crate) async fn operate<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--config").arg(&self.config);
        self.finish(command).await
    }

    async fn finish(&self, mut command: Command) -> anyhow::Result<String> {
        let words: Vec<String> =
            command.as_std().get_args().take(2).map(|word| word.to_string_lossy().into_owned()).collect();
        let verb = words.join(" ");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let running = command.spawn().with_context(|| format!("starting keyturn {verb}"))?.wait_with_output();
        let output = tokio::time::timeout(LIMIT, running)
            .await
            .with_context(|| format!("keyturn {verb} did not end within {} s", LIMIT.as_secs()))?
            .with_context(|| format!("waiting for keyturn {verb}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "keyturn {verb} failed ({}):\n{}", output.status, said.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Begins a verb that shows its progress on our standard error; what it prints as data goes to `log`.
    pub(crate) fn begin<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> anyhow::Result<Child> {
        let file = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        Command::new(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(file)
            .kill_on_drop(true)
            .spawn()
            .context("starting keyturn")
    }
}
