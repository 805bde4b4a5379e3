//! The processes of a demo's farm: each with its log, each known by name, none left behind however the demo ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};

use crate::process::ProcessIdentity;
use crate::vault::Folder;

/// How long processes may take to end in order before they are killed.
const END_LIMIT: Duration = Duration::from_secs(8);

/// Within this time an instance that was started has written which process it is.
const JUST_STARTED: Duration = Duration::from_millis(100);

/// All processes of the farm.
#[derive(Debug)]
pub(crate) struct Processes {
    program: PathBuf,
    logs: PathBuf,
    running: BTreeMap<String, Running>,
    /// Instances, which agents start and which outlive them on purpose.
    instances: Vec<Folder>,
}

#[derive(Debug)]
struct Running {
    arguments: Vec<String>,
    child: Child,
    process: ProcessIdentity,
}

impl Processes {
    pub(super) fn new(program: PathBuf, logs: PathBuf) -> Self {
        Self { program, logs, running: BTreeMap::new(), instances: Vec::new() }
    }

    /// An instance that is to be ended with the rest, whoever starts it.
    pub(super) fn add_instance(&mut self, folder: Folder) {
        self.instances.push(folder);
    }

    /// Starts this program with these arguments, under a name that stands for it from now on.
    pub(super) fn start(&mut self, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.spawn(name, arguments)
    }

    fn spawn(&mut self, name: &str, arguments: Vec<String>) -> anyhow::Result<()> {
        let path = self.logs.join(format!("{name}.log"));
        let log = fs::File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        let child = Command::new(&self.program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            // A signal from the terminal is for the demo, which ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let process = pid.and_then(ProcessIdentity::of).with_context(|| format!("{name} ended before it began"))?;
        self.running.insert(name.to_owned(), Running { arguments, child, process });
        Ok(())
    }

    /// Which process has that name now.
    pub(crate) fn process(&self, name: &str) -> anyhow::Result<ProcessIdentity> {
        Ok(self.running.get(name).with_context(|| format!("there is no process {name}"))?.process)
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.running.get_mut(name).with_context(|| format!("there is no process {name}"))?;
        running.child.kill().await.with_context(|| format!("killing {name}"))
    }

    /// Starts again what was killed, as it was started first.
    pub(crate) fn start_again(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.running.remove(name).with_context(|| format!("there is no process {name}"))?;
        self.spawn(name, running.arguments)
    }

    /// Starts again what was killed and is not running, and continues what was stopped.
    pub(super) fn revive(&mut self) -> anyhow::Result<()> {
        let mut ended = Vec::new();
        for (name, running) in &mut self.running {
            if running.child.try_wait().with_context(|| format!("looking at {name}"))?.is_some() {
                ended.push(name.clone());
            }
        }
        for name in ended {
            self.start_again(&name)?;
        }
        for process in self.all() {
            process.signal(Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Fails when one of the processes has ended by itself, with the end of its log.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for (name, running) in &mut self.running {
            if let Some(status) = running.child.try_wait().with_context(|| format!("looking at {name}"))? {
                let path = self.logs.join(format!("{name}.log"));
                let log = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(5)..].join("\n");
                bail!("{name} ended by itself ({status}); the end of {}:\n{end}", path.display());
            }
        }
        Ok(())
    }

    /// Everything that runs, instances included.
    fn all(&self) -> Vec<ProcessIdentity> {
        let instances = self.instances.iter().filter_map(|folder| folder.process().ok().flatten());
        self.running.values().map(|running| running.process).chain(instances).collect()
    }

    /// Ends all processes in order, and kills what does not.
    pub(super) async fn end(&mut self) {
        let all = self.all();
        for process in &all {
            // What was stopped hears nothing before it is continued.
            let _ = process.signal(Signal::SIGTERM);
            let _ = process.signal(Signal::SIGCONT);
        }
        let gone = async {
            for process in &all {
                while !process.wait_gone(END_LIMIT).await {}
            }
        };
        // Whether they went or not, killing what is left is right.
        let _ = tokio::time::timeout(END_LIMIT, gone).await;
        self.kill_all();
    }

    fn kill_all(&mut self) {
        // An agent that is killed starts no instance any more, so instances are looked for last.
        for running in self.running.values_mut() {
            let _ = running.child.start_kill();
        }
        // Twice: one that an agent had just started may not have written its name the first time.
        for _ in 0..2 {
            for process in self.all() {
                let _ = process.signal(Signal::SIGKILL);
            }
            std::thread::sleep(JUST_STARTED);
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_all();
    }
}
