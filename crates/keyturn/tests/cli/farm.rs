//! A farm of real processes: certificates, one coordinator, and the operators' configurations.

use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use local_farm::Ports;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{Ran, keyturn, run, text};

/// A farm's certificates, a coordinator's port, and the operators' configurations.
pub(crate) struct Farm {
    folder: TempDir,
    pub(crate) port: u16,
}

impl Farm {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let farm = Self { folder, port };
        let pki = farm.path("");
        run(["pki", "init", "--farm", "demo", "--out", &pki]).done();
        for issue in [&["coordinator", "1", "--host", "127.0.0.1"][..], &["operator", "alice"], &["viewer", "victor"]] {
            run([&["pki", "issue"], issue, &["--dir", &pki]].concat()).done();
        }
        farm.write(
            "coordinator.toml",
            &format!(
                "id = 1\nfarm = \"demo\"\nlisten = \"127.0.0.1:{port}\"\ndata_dir = \"data\"\n\
                 [tls]\nca = \"ca.pem\"\ncertificate = \"coordinator-1.pem\"\nkey = \"coordinator-1.key\"\n\
                 [[replica]]\nid = 1\naddress = \"https://127.0.0.1:{port}\"\n"
            ),
        );
        for name in ["operator-alice", "viewer-victor"] {
            farm.write(
                &format!("{name}.toml"),
                &format!(
                    "coordinators = [\"https://127.0.0.1:{port}\"]\n\
                     [tls]\nca = \"ca.pem\"\ncertificate = \"{name}.pem\"\nkey = \"{name}.key\"\n"
                ),
            );
        }
        farm
    }

    pub(crate) fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name)).to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("written");
    }

    pub(crate) fn coordinator(&self) -> Running {
        self.coordinator_of("coordinator.toml", "log")
    }

    /// Starts a coordinator with this configuration, which logs there.
    pub(crate) fn coordinator_of(&self, config: &str, log: &str) -> Running {
        let mut command: Command = keyturn();
        command.args(["coordinator", "--config", &self.path(config), "--log-format", "json"]);
        let log = std::fs::File::create(self.path(log)).expect("a file");
        Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary runs"))
    }

    pub(crate) fn as_operator(&self, arguments: &[&str]) -> Ran {
        run([arguments, &["--config", &self.path("operator-alice.toml")]].concat())
    }

    pub(crate) fn as_viewer(&self, arguments: &[&str]) -> Ran {
        run([arguments, &["--config", &self.path("viewer-victor.toml")]].concat())
    }
}

/// A port that is free, and still is when who had it has been killed and comes back.
pub(crate) fn free_port() -> u16 {
    static PORTS: LazyLock<Mutex<Ports>> = LazyLock::new(Mutex::default);
    PORTS.lock().expect("nobody fails in there").free().expect("a port").port()
}

/// A process that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Asks it to end and answers its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"));
        kill(pid, Signal::SIGTERM).expect("the process is there");
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
