//! A whole farm on this machine, as separate processes on loopback: coordinators, agents, instances, balancer, database.

mod configs;
pub(crate) mod layout;
pub(crate) mod network;
pub(crate) mod operator;
pub(crate) mod processes;
pub(crate) mod verbs;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use keys::{KeySet, Password, bundle};
use rand::Rng as _;

use crate::narrate::say;
use crate::ports::Ports;
use crate::seed::content::Counts;
use crate::seed::seed;
use crate::server::VaultDatabase;
use crate::vault::Folder;
use layout::{CoordinatorPlace, FARM, Layout, NodePlace, https, write_private};
use network::Network;
use operator::Operator;
use processes::Processes;
use verbs::Verbs;

/// How long the farm may take to come up.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(100);

/// The bytes of the bundles' password, which is written in hexadecimal.
const PASSWORD_BYTES: usize = 24;

/// How big a farm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) nodes: u32,
    pub(crate) coordinators: u32,
    pub(crate) counts: Counts,
}

/// A farm. Its processes end when it is dropped, and its folder goes if it is not to be kept.
pub(crate) struct Farm {
    // In the order in which they are dropped: nothing may run on in a folder that is gone.
    pub(crate) processes: Processes,
    pub(crate) database: VaultDatabase,
    pub(crate) network: Option<Network>,
    pub(crate) nodes: Vec<NodePlace>,
    pub(crate) coordinators: Vec<CoordinatorPlace>,
    pub(crate) balancer: SocketAddr,
    pub(crate) size: Size,
    pub(crate) verbs: Verbs,
    operator: Option<Operator>,
    pub(crate) layout: Layout,
    /// Its addresses are its own as long as these live, also of processes that are down.
    _ports: Ports,
}

impl Farm {
    /// Prepares everything that is on disk: certificates, configurations, keys, rows. With `separable`, every
    /// coordinator and agent can be cut off from the others.
    pub(crate) async fn prepare(
        layout: Layout,
        database: VaultDatabase,
        size: Size,
        separable: bool,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut ports = Ports::default();
        let mut address = |reach: Option<SocketAddr>| match reach {
            Some(address) if !separable => anyhow::Ok(address),
            _ => ports.free(),
        };
        let mut coordinators = Vec::new();
        for id in 1..=u64::from(size.coordinators) {
            let listen = address(None)?;
            let folder = layout.root().join("coordinators").join(id.to_string());
            coordinators.push(CoordinatorPlace { id, folder, listen, reach: address(Some(listen))? });
        }
        let mut nodes = Vec::new();
        for number in 1..=size.nodes {
            let listen = address(None)?;
            let id = format!("node-{number}");
            nodes.push(NodePlace {
                folder: layout.root().join("nodes").join(&id),
                id: id.parse().context("naming a node")?,
                listen,
                reach: address(Some(listen))?,
                instance: address(None)?,
            });
        }
        let balancer = address(None)?;
        let mut farm = Self {
            processes: Processes::new(program.clone(), layout.logs()),
            database,
            network: None,
            nodes,
            coordinators,
            balancer,
            size,
            verbs: Verbs::new(program.clone(), layout.operator_config()),
            operator: None,
            layout,
            _ports: ports,
        };
        if separable {
            farm.network = Some(farm.separable_network().await?);
        }
        farm.issue_certificates().await?;
        configs::write_all(&farm.layout, &program, &farm.database, &farm.coordinators, &farm.nodes)?;
        farm.give_first_key().await?;
        farm.fill_database().await?;
        Ok(farm)
    }

    async fn separable_network(&self) -> anyhow::Result<Network> {
        let mut network = Network::new();
        for coordinator in &self.coordinators {
            network.stand_before(&coordinator.name(), coordinator.reach, coordinator.listen).await?;
        }
        for node in &self.nodes {
            network.stand_before(&node.agent_name(), node.reach, node.listen).await?;
        }
        Ok(network)
    }

    async fn issue_certificates(&self) -> anyhow::Result<()> {
        let pki = path_text(self.layout.pki())?;
        self.verbs.run(["pki", "init", "--farm", FARM, "--out", &pki]).await?;
        let issue = |role: &'static str, name: String, host: bool| {
            let mut arguments = vec!["pki".to_owned(), "issue".to_owned(), role.to_owned(), name];
            arguments.extend(["--dir".to_owned(), pki.clone()]);
            if host {
                arguments.extend(["--host".to_owned(), "127.0.0.1".to_owned()]);
            }
            self.verbs.run(arguments)
        };
        for coordinator in &self.coordinators {
            issue("coordinator", coordinator.id.to_string(), true).await?;
        }
        for node in &self.nodes {
            issue("agent", node.id.to_string(), true).await?;
        }
        issue("operator", "demo".to_owned(), false).await?;
        Ok(())
    }

    /// Makes the farm's first key and gives it to every node.
    async fn give_first_key(&self) -> anyhow::Result<()> {
        let mut password = [0_u8; PASSWORD_BYTES];
        rand::rng().fill(&mut password);
        write_private(&self.layout.password_file(), hex::encode(password).as_bytes())?;
        let (bundle, password) = (path_text(self.layout.first_bundle())?, path_text(self.layout.password_file())?);
        let generate = ["key", "generate", "--farm", FARM, "--out", &bundle, "--password-file", &password];
        self.verbs.run(generate).await?;
        for node in &self.nodes {
            let config = path_text(node.config())?;
            let import = ["key", "import", "--config", &config, "--bundle", &bundle, "--password-file", &password];
            self.verbs.run(import).await?;
        }
        Ok(())
    }

    async fn fill_database(&self) -> anyhow::Result<()> {
        say(&format!("filling the {} database with {} rows", self.database.kind(), self.size.counts.total()));
        let keys = self.open_bundle(self.layout.first_bundle())?;
        let connection = self.database.connect()?;
        let seeded = seed(&connection, &keys.active().secret, self.size.counts).await;
        connection.close().await;
        seeded?;
        self.database.grant().await
    }

    /// Opens one of the farm's bundles.
    pub(crate) fn open_bundle(&self, path: PathBuf) -> anyhow::Result<KeySet> {
        let password = std::fs::read(self.layout.password_file()).context("reading the bundles' password")?;
        let sealed = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let password = Password::from_file_bytes(password).context("reading the bundles' password")?;
        bundle::open(&sealed, &password).with_context(|| format!("opening {}", path.display()))
    }

    /// Starts every process, enrols the nodes, and waits until clients are served.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        for coordinator in self.coordinators.clone() {
            let config = path_text(coordinator.config())?;
            self.processes.start(&coordinator.name(), &["coordinator", "--config", &config])?;
        }
        let mut balancer = vec!["balancer".to_owned(), "--listen".to_owned(), self.balancer.to_string()];
        for node in self.nodes.clone() {
            let (config, folder) = (path_text(node.config())?, path_text(node.instance_folder())?);
            self.processes.start(&node.agent_name(), &["agent", "--config", &config])?;
            self.processes.add_instance(Folder::new(node.instance_folder()));
            self.verbs.run(["sample-vault", "start", "--dir", &folder]).await?;
            self.verbs.run(["sample-vault", "admit", "--dir", &folder]).await?;
            balancer.extend(["--backend".to_owned(), node.instance.to_string()]);
        }
        let balancer: Vec<&str> = balancer.iter().map(String::as_str).collect();
        self.processes.start("balancer", &balancer)?;
        self.operator = Some(Operator::new(&self.layout, &self.coordinators)?);
        self.wait_ready().await?;
        for node in &self.nodes {
            self.verbs.operate(["node", "enroll", node.id.as_str(), "--address", &https(node.reach)]).await?;
        }
        Ok(())
    }

    /// Waits until a coordinator leads and every agent answers.
    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        self.until(deadline, "no coordinator leads", async |farm| farm.operator()?.farm().await.map(drop)).await?;
        for node in self.nodes.clone() {
            let what = format!("the agent of {} does not answer", node.id);
            self.until(deadline, &what, async |farm| farm.operator()?.describe(&node).await.map(drop)).await?;
        }
        Ok(())
    }

    async fn until(
        &mut self,
        deadline: tokio::time::Instant,
        what: &str,
        look: impl AsyncFn(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            self.processes.check()?;
            match look(self).await {
                Ok(()) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error.context(what.to_owned())),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Whoever was killed, stopped or cut off is back.
    pub(crate) fn heal_all(&mut self) -> anyhow::Result<()> {
        if let Some(network) = &self.network {
            network.join();
        }
        self.processes.revive()
    }

    /// An operator's connections, once the farm was started.
    pub(crate) fn operator(&self) -> anyhow::Result<&Operator> {
        self.operator.as_ref().context("the farm was not started")
    }

    /// The node with that number, or the last.
    pub(crate) fn node(&self, number: usize) -> anyhow::Result<NodePlace> {
        self.nodes.get(number).or(self.nodes.last()).cloned().context("the farm has no node")
    }

    /// The coordinator with that id.
    pub(crate) fn coordinator(&self, id: u64) -> anyhow::Result<CoordinatorPlace> {
        match self.coordinators.iter().find(|coordinator| coordinator.id == id) {
            Some(coordinator) => Ok(coordinator.clone()),
            None => bail!("the farm has no coordinator {id}"),
        }
    }

    /// Ends all processes in order; the database stays.
    pub(crate) async fn stop(&mut self) {
        self.processes.end().await;
    }

    /// Ends the database too.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.stop().await;
        self.database.end().await
    }
}

/// A path as an argument or in a configuration file.
pub(crate) fn path_text(path: PathBuf) -> anyhow::Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| anyhow::anyhow!("{} is not UTF-8; use another folder", path.display()))
}
