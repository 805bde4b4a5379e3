//! The configuration files of a demo's farm: the same that an operator writes by hand.

use std::path::Path;

use anyhow::Context as _;
use keys::value::Encoding;
use serde::Serialize;

use super::layout::{CoordinatorPlace, FARM, Layout, NodePlace, https, write_private};
use crate::server::VaultDatabase;
use crate::tables::TABLES;
use crate::vault::{Folder, Settings};

/// Writes targets.toml, operator.toml, and every coordinator's, agent's and instance's file.
pub(super) fn write_all(
    layout: &Layout,
    program: &Path,
    database: &VaultDatabase,
    coordinators: &[CoordinatorPlace],
    nodes: &[NodePlace],
) -> anyhow::Result<()> {
    write(&layout.targets(), &targets())?;
    write(
        &layout.operator_config(),
        &OperatorFile {
            coordinators: coordinators.iter().map(|coordinator| https(coordinator.reach)).collect(),
            tls: TlsSection::of(layout, "operator-demo"),
        },
    )?;
    for coordinator in coordinators {
        create_folder(&coordinator.folder)?;
        write(&coordinator.config(), &coordinator_file(layout, coordinator, coordinators))?;
    }
    for node in nodes {
        create_folder(&node.folder)?;
        create_folder(&node.store())?;
        create_folder(&node.instance_folder())?;
        write(&node.config(), &agent_file(layout, program, database, node)?)?;
        let instance = Folder::new(node.instance_folder());
        let settings = Settings {
            listen: node.instance,
            database_url: database.application_url.clone(),
            store: node.store(),
            hostkey: node.hostkey(),
        };
        settings.write(&instance.settings_path())?;
    }
    Ok(())
}

fn create_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))
}

fn write(path: &Path, file: &impl Serialize) -> anyhow::Result<()> {
    let text = toml::to_string(file).with_context(|| format!("composing {}", path.display()))?;
    write_private(path, text.as_bytes())
}

#[derive(Serialize)]
struct TlsSection {
    ca: String,
    certificate: String,
    key: String,
}

impl TlsSection {
    /// The files of one identity in the farm's folder of certificates.
    fn of(layout: &Layout, identity: &str) -> Self {
        let path = |name: String| layout.pki().join(name).display().to_string();
        Self {
            ca: path("ca.pem".to_owned()),
            certificate: path(format!("{identity}.pem")),
            key: path(format!("{identity}.key")),
        }
    }
}

#[derive(Serialize)]
struct OperatorFile {
    coordinators: Vec<String>,
    tls: TlsSection,
}

#[derive(Serialize)]
struct CoordinatorFile {
    id: u64,
    farm: &'static str,
    listen: String,
    data_dir: String,
    tls: TlsSection,
    replica: Vec<Replica>,
}

#[derive(Serialize)]
struct Replica {
    id: u64,
    address: String,
}

fn coordinator_file(layout: &Layout, own: &CoordinatorPlace, all: &[CoordinatorPlace]) -> CoordinatorFile {
    CoordinatorFile {
        id: own.id,
        farm: FARM,
        listen: own.listen.to_string(),
        data_dir: own.data().display().to_string(),
        tls: TlsSection::of(layout, &own.name()),
        replica: all.iter().map(|replica| Replica { id: replica.id, address: https(replica.reach) }).collect(),
    }
}

#[derive(Serialize)]
struct AgentFile {
    node: String,
    farm: &'static str,
    listen: String,
    state_dir: String,
    tls: TlsSection,
    store: StoreSection,
    database: DatabaseSection,
    instance: InstanceSection,
}

#[derive(Serialize)]
struct StoreSection {
    directory: String,
    hostkey: String,
}

#[derive(Serialize)]
struct DatabaseSection {
    url_file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_role: Option<String>,
    targets: String,
}

#[derive(Serialize)]
struct InstanceSection {
    drain: CommandLine,
    offline: CommandLine,
    start: CommandLine,
    observe: CommandLine,
    canary: CommandLine,
    admit: CommandLine,
}

#[derive(Serialize)]
struct CommandLine {
    command: Vec<String>,
    deadline_s: u64,
}

fn agent_file(
    layout: &Layout,
    program: &Path,
    database: &VaultDatabase,
    node: &NodePlace,
) -> anyhow::Result<AgentFile> {
    // A file of its own, since the URL of somebody else's server holds a password.
    let url_file = node.folder.join("database-url");
    write_private(&url_file, database.agent_url.as_bytes())?;
    let command = |verb: &str, deadline_s| CommandLine {
        command: vec![
            program.display().to_string(),
            "sample-vault".to_owned(),
            verb.to_owned(),
            "--dir".to_owned(),
            node.instance_folder().display().to_string(),
        ],
        deadline_s,
    };
    Ok(AgentFile {
        node: node.id.to_string(),
        farm: FARM,
        listen: node.listen.to_string(),
        state_dir: node.state().display().to_string(),
        tls: TlsSection::of(layout, &node.agent_name()),
        store: StoreSection {
            directory: node.store().display().to_string(),
            hostkey: node.hostkey().display().to_string(),
        },
        database: DatabaseSection {
            url_file: url_file.display().to_string(),
            application_role: database.application_role.clone(),
            targets: layout.targets().display().to_string(),
        },
        // Each a little longer than what the command itself waits for, so that its own words are heard.
        instance: InstanceSection {
            drain: command("drain", 15),
            offline: command("offline", 30),
            start: command("start", 25),
            observe: command("observe", 5),
            canary: command("canary", 5),
            admit: command("admit", 5),
        },
    })
}

#[derive(Serialize)]
struct TargetsFile {
    version: u32,
    table: Vec<TargetTable>,
}

#[derive(Serialize)]
struct TargetTable {
    name: &'static str,
    key: Vec<&'static str>,
    column: Vec<TargetColumn>,
}

#[derive(Serialize)]
struct TargetColumn {
    name: &'static str,
    encoding: Encoding,
    #[serde(skip_serializing_if = "str::is_empty")]
    aad: &'static str,
}

fn targets() -> TargetsFile {
    let tables = TABLES.iter().map(|table| TargetTable {
        name: table.name,
        key: table.key.iter().map(|column| column.name).collect(),
        column: table
            .columns
            .iter()
            .map(|column| TargetColumn { name: column.name, encoding: column.encoding, aad: column.aad })
            .collect(),
    });
    TargetsFile { version: 1, table: tables.collect() }
}
