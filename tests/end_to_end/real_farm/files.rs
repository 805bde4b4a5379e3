//! What is on the disks of the farm's machines before its processes start: certificates, configurations, the database.

use std::fs;
use std::process::Command;

use super::network::{CONTROL, DATA, address};
use super::{AGENT_PORT, COORDINATOR_PORT, COORDINATORS, INSTANCE_PORT, NODES, ROWS, RealFarm, server};
use crate::sample_vault::{TARGETS, commands, settings};
use crate::support::succeed;

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Two hours old, so that a clock that is an hour behind finds them valid.
pub(super) fn certificates(farm: &RealFarm) {
    let pki = farm.path("pki");
    let old = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        command.args(["pki"]).args(arguments);
        if !farm.options.clocks.is_empty() {
            let clock = farm.path("pki-clock");
            fs::write(&clock, "-2h").expect("written");
            on_its_own_clock(&mut command, &clock);
        }
        succeed(&mut command);
    };
    old(&["init", "--farm", "demo", "--out", &pki]);
    for number in 1..=3 {
        let (name, host) = (number.to_string(), address(CONTROL, number).to_string());
        old(&["issue", "coordinator", &name, "--host", &host, "--dir", &pki]);
    }
    for (node, number) in NODES.into_iter().zip(11..) {
        old(&["issue", "agent", node, "--host", &address(CONTROL, number).to_string(), "--dir", &pki]);
    }
    old(&["issue", "operator", "alice", "--dir", &pki]);
}

/// Its wall clock is the machine's plus what the file says. What it measures time by stays as it is, as it does when a
/// clock is set.
pub(super) fn on_its_own_clock(command: &mut Command, file: &str) {
    if !std::path::Path::new(file).exists() {
        fs::write(file, "+0").expect("written");
    }
    assert!(std::path::Path::new(FAKETIME).exists(), "clocks cannot be stepped; run: sudo apt-get install faketime");
    command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", file);
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
}

pub(super) fn configurations(farm: &RealFarm) {
    let tls = |name: &str| {
        let file = |name: String| farm.path(&format!("pki/{name}"));
        let (ca, certificate, key) =
            (file("ca.pem".to_owned()), file(format!("{name}.pem")), file(format!("{name}.key")));
        format!("[tls]\nca = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
    };
    let coordinator = |number: u8| format!("https://{}:{COORDINATOR_PORT}", address(CONTROL, number));
    let replicas: String =
        (1..=3).map(|id| format!("[[replica]]\nid = {id}\naddress = \"{}\"\n", coordinator(id))).collect();
    let heartbeat = farm.options.heartbeat_ms.map_or_else(String::new, |ms| format!("heartbeat_ms = {ms}\n"));
    for (machine, id) in COORDINATORS.into_iter().zip(1..) {
        fs::create_dir(farm.path(machine)).expect("a folder");
        let listen = address(CONTROL, id);
        farm.write(
            &format!("{machine}/coordinator.toml"),
            &format!(
                "id = {id}\nfarm = \"demo\"\nlisten = \"{listen}:{COORDINATOR_PORT}\"\ndata_dir = \"data\"\n{heartbeat}{}{replicas}",
                tls(&format!("coordinator-{id}"))
            ),
        );
    }
    let all: Vec<String> = (1..=3).map(|id| format!("\"{}\"", coordinator(id))).collect();
    farm.write("operator.toml", &format!("coordinators = [{}]\n{}", all.join(", "), tls("operator-alice")));
    farm.write("targets.toml", TARGETS);
    for (node, number) in NODES.into_iter().zip(11..) {
        for folder in ["application", "instance"] {
            fs::create_dir_all(farm.path(&format!("{node}/{folder}"))).expect("a folder");
        }
        farm.write(&format!("{node}/instance/instance.toml"), &instance(farm, node));
        farm.write(
            &format!("{node}/agent.toml"),
            &format!(
                "node = \"{node}\"\nfarm = \"demo\"\nlisten = \"{}:{AGENT_PORT}\"\nstate_dir = \"state\"\n{}\
                 [store]\ndirectory = \"application\"\nhostkey = \"hostkey\"\n\
                 [database]\nurl = \"{}\"\napplication_role = \"vault_app\"\nallowed_session_users = [\"postgres\"]\n\
                 targets = \"../targets.toml\"\n[instance]\n{}",
                address(CONTROL, number),
                tls(&format!("agent-{node}")),
                database_url(farm, "keyturn_agent"),
                commands(&farm.path(&format!("{node}/instance"))),
            ),
        );
    }
}

fn instance(farm: &RealFarm, node: &str) -> String {
    let (store, hostkey) = (farm.path(&format!("{node}/application")), farm.path(&format!("{node}/hostkey")));
    settings(INSTANCE_PORT, &database_url(farm, "vault_app"), &store, &hostkey)
}

fn database_url(farm: &RealFarm, role: &str) -> String {
    let port = farm.options.database_port;
    format!("postgres://{role}@{}:{port}/vault?sslmode=disable", address(DATA, server::NUMBER))
}

/// Roles, tables, rows and rights, as docs/by-hand.md has them.
pub(super) fn database(farm: &RealFarm) {
    farm.server.execute_in("postgres", "CREATE ROLE vault_app LOGIN");
    farm.server.execute_in(
        "postgres",
        "CREATE ROLE keyturn_agent LOGIN CREATEROLE;
         GRANT pg_signal_backend, pg_read_all_stats TO keyturn_agent;
         GRANT SET ON PARAMETER session_replication_role TO keyturn_agent",
    );
    farm.server.execute_in("postgres", "CREATE DATABASE vault OWNER vault_app");
    farm.server.execute_in(
        "vault",
        "GRANT ALL ON SCHEMA public TO vault_app; CREATE SCHEMA keyturn AUTHORIZATION keyturn_agent",
    );
    let first = NODES[0];
    // Past proxies that are not there yet.
    let file = farm.path(&format!("{first}/instance/instance.toml"));
    let own = fs::read_to_string(&file).expect("written before");
    let direct =
        own.replace(&format!(":{}/vault", farm.options.database_port), &format!(":{}/vault", super::DATABASE_PORT));
    fs::write(&file, direct).expect("written");
    farm.on(first, &["sample-vault", "seed", "--dir", &farm.path(&format!("{first}/instance")), "--rows", ROWS]);
    fs::write(&file, own).expect("written");
    farm.server.execute_in(
        "vault",
        "GRANT USAGE ON SCHEMA public TO keyturn_agent;
         GRANT SELECT (id, credentials), UPDATE (credentials) ON connections TO keyturn_agent;
         GRANT SELECT (id, password, notes), UPDATE (password, notes) ON user_vault_entries TO keyturn_agent;
         GRANT SELECT (slug, body), UPDATE (body) ON documentation TO keyturn_agent;
         GRANT SELECT (entry_id, file_name, content), UPDATE (content) ON attachments TO keyturn_agent",
    );
}
