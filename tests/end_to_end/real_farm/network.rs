//! A network of the test's own: one namespace for each machine of the farm, joined by bridges in a namespace of their own.
//! Nothing of it is seen outside, and all of it goes when the farm is dropped.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::support::succeed;

/// What every machine but the database's is on.
pub(crate) const CONTROL: &str = "control";
/// What nodes and the database are on.
pub(crate) const DATA: &str = "data";

/// The machine that all bridges stand in.
const HUB: &str = "hub";

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// All namespaces of one farm.
pub(crate) struct Network {
    prefix: String,
    machines: Vec<&'static str>,
}

impl Network {
    /// Needs root, and Debian's packages iproute2 and nftables.
    pub(crate) fn new() -> Self {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut network = Self { prefix: format!("kt-{}-{number}", std::process::id()), machines: Vec::new() };
        network.add(HUB);
        for bridge in [CONTROL, DATA] {
            network.hub(&["link", "add", bridge, "type", "bridge"]);
            network.hub(&["link", "set", bridge, "up"]);
        }
        network
    }

    fn add(&mut self, machine: &'static str) {
        let namespace = self.namespace(machine);
        let made = Command::new("ip").args(["netns", "add", &namespace]).output();
        match made {
            Ok(output) if output.status.success() => {}
            Ok(output) => panic!(
                "no network namespace can be made here, and without them partitions are not tested; run the tests as root \
                 with CAP_SYS_ADMIN (in a container: --privileged): {}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => panic!("`ip` cannot be run ({error}); run: sudo apt-get install iproute2 nftables"),
        }
        self.machines.push(machine);
        self.ip(machine, &["link", "set", "lo", "up"]);
    }

    /// A machine with an address on each of these bridges; the last byte of both is `number`.
    pub(crate) fn machine(&mut self, machine: &'static str, number: u8, bridges: &[&str]) {
        self.add(machine);
        for bridge in bridges {
            let (port, namespace) = (port(machine, bridge), self.namespace(machine));
            self.hub(&["link", "add", &port, "type", "veth", "peer", "name", bridge, "netns", &namespace]);
            self.hub(&["link", "set", &port, "master", bridge]);
            self.hub(&["link", "set", &port, "up"]);
            self.ip(machine, &["address", "add", &format!("{}/24", address(bridge, number)), "dev", bridge]);
            self.ip(machine, &["link", "set", bridge, "up"]);
        }
    }

    fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }

    fn ip(&self, machine: &str, arguments: &[&str]) {
        succeed(Command::new("ip").args(["-n", &self.namespace(machine)]).args(arguments));
    }

    fn hub(&self, arguments: &[&str]) {
        self.ip(HUB, arguments);
    }

    /// A program that runs on that machine. Its process is the program itself.
    pub(crate) fn on(&self, machine: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.namespace(machine)), "--", program]);
        command
    }

    /// What moves a thread to that machine; sockets that it opens from then on are opened there.
    pub(crate) fn door(&self, machine: &str) -> Door {
        let path = format!("/run/netns/{}", self.namespace(machine));
        Door(File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// Pulls the plug of a machine.
    pub(crate) fn unplug(&self, machine: &str, bridge: &str) {
        self.hub(&["link", "set", &port(machine, bridge), "down"]);
    }

    /// Puts it back.
    pub(crate) fn plug(&self, machine: &str, bridge: &str) {
        self.hub(&["link", "set", &port(machine, bridge), "up"]);
    }

    /// Drops what a machine is sent (`input`) or sends (`output`): all of it, or so many packets of a hundred, at random.
    pub(crate) fn lose(&self, machine: &str, hook: &str, bridge: &str, percent: u8) {
        let side = if hook == "input" { "iifname" } else { "oifname" };
        let some = if percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() };
        let rules = format!(
            "table inet loss {{\n chain loss {{\n type filter hook {hook} priority 0;\n {side} {bridge} {some}drop\n }}\n}}\n"
        );
        self.nft(machine, &rules);
    }

    /// Nothing is dropped any more.
    pub(crate) fn lose_nothing(&self, machine: &str) {
        self.nft(machine, "table inet loss\ndelete table inet loss\n");
    }

    /// Who calls one of these addresses from that machine gets to the other one instead, from the next connection on.
    pub(crate) fn divert(&self, machine: &str, detours: &[(String, String)]) {
        let mut rules = "table ip detour {\n chain detour {\n type nat hook output priority -100;\n".to_owned();
        for (from, to) in detours {
            let (host, port) = from.split_once(':').expect("an address with its port");
            rules.push_str(&format!("ip daddr {host} tcp dport {port} dnat to {to}\n"));
        }
        rules.push_str("}\n}\n");
        self.nft(machine, &rules);
    }

    fn nft(&self, machine: &str, rules: &str) {
        succeed(self.on(machine, "nft").arg(rules));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in &self.machines {
            // What still runs there keeps it alive without a name; nothing does by now.
            let _ = Command::new("ip").args(["netns", "delete", &self.namespace(machine)]).status();
        }
    }
}

/// The way into a machine's namespace, for one thread.
pub(crate) struct Door(File);

impl Door {
    /// Moves the calling thread there.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace of its own");
    }
}

/// Private, and within the namespaces only.
pub(crate) fn address(bridge: &str, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, if bridge == CONTROL { 71 } else { 72 }, 0, number)
}

/// The bridge's end of a machine's cable. The kernel allows 15 characters.
fn port(machine: &str, bridge: &str) -> String {
    format!("{machine}-{bridge}")
}
