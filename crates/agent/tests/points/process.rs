//! The agent's process: this test binary once more, running one hidden test that is the agent.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::recover::{Choice, Recovery, decide};
use fail_points::{ARM, FOLDER_VARIABLE, TRACE};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::Listening;
use crate::support::farm::NoBackups;

/// Names the folder of the agent's configuration in the environment of its process.
const CONFIGURATION: &str = "KEYTURN_TEST_AGENT";
/// Longer than anything here takes; only so that a failure ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent. Run by itself, as one of the tests, it has nothing to do.
#[test]
fn agent_process() {
    let Ok(folder) = std::env::var(CONFIGURATION) else { return };
    // Whoever started it holds the other end: an agent without its test ends.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let config = agent::Config::load(&Path::new(&folder).join("agent.toml")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        // The test's harness writes to the same line.
        println!("\nlistening={}", listener.local_addr().unwrap());
        agent::run_with(config, Arc::new(NoBackups), listener, std::future::pending()).await.unwrap();
    });
}

/// The recovery by hand of a node whose agent does not run, to its end. Run by itself, it has nothing to do.
#[test]
fn recovery_process() {
    let Ok(folder) = std::env::var(CONFIGURATION) else { return };
    let config = agent::Config::load(&Path::new(&folder).join("agent.toml")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut recovery = Recovery::open(config, Arc::new(NoBackups)).await.unwrap();
        let found = recovery.look(&|_| {}).await.unwrap();
        let decision = decide(&found, &Choice::default());
        for step in &decision.steps {
            recovery.perform(step, &|_| {}).await.unwrap();
        }
    });
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Error,
    Kill,
    Stop,
}

/// One side of a point, the so-many-th time that it is passed, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) nth: usize,
}

/// The folder through which a test and the points of a process speak.
#[derive(Debug, Clone)]
pub(crate) struct Points {
    folder: PathBuf,
}

impl Points {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self { folder: folder.to_owned() }
    }

    /// From now on, in every process that runs with this folder.
    pub(crate) fn arm(&self, place: &Place, action: Action) {
        let action = match action {
            Action::Error => "error",
            Action::Kill => "kill",
            Action::Stop => "stop",
        };
        // As a whole: it may be read meanwhile.
        fs::write(self.folder.join("next"), format!("{} {action} {}", place.name, place.nth)).unwrap();
        fs::rename(self.folder.join("next"), self.folder.join(ARM)).unwrap();
    }

    pub(crate) fn disarm(&self) {
        let _ = fs::remove_file(self.folder.join(ARM));
    }

    /// What was passed since it was last asked.
    pub(crate) fn passed(&self) -> Vec<Place> {
        let trace = fs::read_to_string(self.folder.join(TRACE)).unwrap_or_default();
        let _ = fs::remove_file(self.folder.join(TRACE));
        let mut places: Vec<Place> = Vec::new();
        for line in trace.lines() {
            let nth = places.iter().filter(|place| place.name == line).count();
            places.push(Place { name: line.to_owned(), nth });
        }
        places
    }
}

/// Recovers the node of a folder by hand, in a process of its own. How that ended.
pub(crate) fn recover(folder: &Path, points: &Points) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::recovery_process", "--nocapture"])
        .env(CONFIGURATION, folder)
        .env(FOLDER_VARIABLE, &points.folder)
        .output()
        .unwrap()
}

/// A running agent. Killed when dropped.
pub(crate) struct Process {
    address: String,
    child: Child,
    /// Its end was seen already, so that nothing is sent to its number any more.
    has_ended: bool,
    _stdin: ChildStdin,
}

impl Listening for Process {
    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Process {
    /// Starts the agent of a folder.
    pub(crate) fn start(folder: &Path, points: &Points) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::agent_process", "--nocapture"])
            .env(CONFIGURATION, folder)
            .env(FOLDER_VARIABLE, &points.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address =
            lines.by_ref().map(Result::unwrap).find_map(|line| line.strip_prefix("listening=").map(str::to_owned));
        let address = address.unwrap_or_else(|| {
            let mut said = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
            panic!("the agent did not start: {said}")
        });
        // Read on, so that it never waits for somebody to.
        std::thread::spawn(move || lines.for_each(drop));
        let mut stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { address: format!("https://{address}"), child, has_ended: false, _stdin: stdin }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits until it has been killed by one of its own points.
    pub(crate) fn wait_killed(mut self) {
        let begun = Instant::now();
        let status = loop {
            match waitpid(self.pid(), Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
                status => break status,
            }
        };
        assert_eq!(status, WaitStatus::Signaled(self.pid(), Signal::SIGKILL, false));
        self.has_ended = true;
    }

    /// Whether one of its points has stopped it. Asked until it has, and then no more.
    pub(crate) fn has_stopped(&self) -> bool {
        match waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive => false,
            status => {
                assert_eq!(status, WaitStatus::Stopped(self.pid(), Signal::SIGSTOP));
                true
            }
        }
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Kills it from outside.
    pub(crate) fn kill(&self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
