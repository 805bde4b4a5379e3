//! One node of the farm: its disk, its agent's process, which may die and stand still, and its instance.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use agent::simulation::{Agent, Surroundings};
use agent::{CommandConfig, InstanceConfig, StoreConfig};
use keys::KeyStore;
use reencrypt::Engine;
use reencrypt::simulation::{Line, Lost};
use rotation::NodeId;
use tokio::sync::watch;
use tokio::time::sleep;
use wire::tls::{Tls, TlsFiles};

use crate::disk::{self, Journal};
use crate::instance::{Hands, Instance};
use crate::world::{FARM, World, lock, targets};

/// How long an agent that died stays away, milliseconds.
const AWAY_MS_MAX: u64 = 20_000;
/// How long one stands still; longer than a lease, and than some deadlines.
const STILL_MS_MAX: u64 = 40_000;

/// One process of an agent, from its start to its death.
pub(crate) struct Process {
    /// Whose it is, with its number, as the database knows its sessions.
    pub(crate) name: String,
    node: NodeId,
    is_dead: watch::Sender<bool>,
    is_still: watch::Sender<bool>,
}

impl Process {
    /// Goes on when the process does; never, if it is dead.
    pub(crate) async fn gate(&self) {
        if *self.is_dead.borrow() {
            std::future::pending::<()>().await;
        }
        let mut still = self.is_still.subscribe();
        let _ = still.wait_for(|still| !*still).await;
        if *self.is_dead.borrow() {
            std::future::pending::<()>().await;
        }
    }

    /// Chance may kill it or have it stand still right here.
    pub(crate) async fn peril(&self, world: &Arc<World>, doing: &str) {
        self.gate().await;
        if world.misfortune(world.rates.dies) {
            world.say(format_args!("{}: dies while {doing}", self.name));
            world.nodes[&self.node].kill(world);
        } else if world.misfortune(world.rates.stands_still) {
            world.say(format_args!("{}: stands still while {doing}", self.name));
            world.nodes[&self.node].stop(world);
        }
        self.gate().await;
    }
}

/// A node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    root: PathBuf,
    tls: Tls,
    pub(crate) instance: Mutex<Instance>,
    /// What of its disk is not flushed.
    pub(crate) journal: Mutex<Journal>,
    running: Mutex<Option<(Arc<Process>, Arc<Agent>)>>,
    starts: Mutex<u32>,
}

impl Node {
    /// A node whose disk is this folder.
    pub(crate) fn new(id: NodeId, root: PathBuf, files: &TlsFiles) -> Self {
        let tls = Tls::load(files).expect("the certificates were just made");
        Self {
            id,
            root,
            tls,
            instance: Mutex::default(),
            journal: Mutex::default(),
            running: Mutex::default(),
            starts: Mutex::default(),
        }
    }

    /// The process and the agent in it, if it runs.
    pub(crate) fn running(&self) -> Option<(Arc<Process>, Arc<Agent>)> {
        lock(&self.running).clone()
    }

    /// The folder of the application.
    pub(crate) fn store_folder(&self) -> PathBuf {
        self.root.join("application")
    }

    /// The key store, as the application itself and whoever looks from outside open it.
    pub(crate) fn store(&self) -> KeyStore {
        let places = places(&self.root);
        KeyStore::new(keys::StoreConfig {
            directory: places.directory,
            hostkey: places.hostkey,
            machine_id: places.machine_id,
        })
    }

    /// Starts the agent. What it remembers is on its disk.
    pub(crate) fn start(&self, world: &Arc<World>) {
        if self.running().is_some() {
            return;
        }
        let number = {
            let mut starts = lock(&self.starts);
            *starts += 1;
            *starts
        };
        let process = Arc::new(Process {
            name: format!("{}/{number}", self.id),
            node: self.id.clone(),
            is_dead: watch::Sender::new(false),
            is_still: watch::Sender::new(false),
        });
        // Each process sees the disk under a name of its own, so that a dead one's late calls can be told apart.
        let disk = self.root.with_file_name(format!("{}.{number}", self.id));
        std::os::unix::fs::symlink(&self.root, &disk).expect("the folder is ours");
        let way = Way { world: Arc::downgrade(world), process: Arc::clone(&process) };
        let started = Agent::start(Surroundings {
            node: self.id.clone(),
            farm: FARM.to_owned(),
            state_dir: disk.join("state"),
            tls: self.tls.clone(),
            store: places(&disk),
            engine: Engine::simulated(Arc::clone(&world.database), Arc::new(way), targets()),
            instance: commands(),
            commands: Arc::new(Hands::new(world, &process, &self.id)),
        });
        match started {
            Ok(agent) => {
                world.say(format_args!("{}: starts", process.name));
                *lock(&self.running) = Some((process, Arc::new(agent)));
            }
            Err(error) => {
                world.violated("every run ends", format_args!("the agent of {} does not start: {error}", self.id))
            }
        }
    }

    /// The process dies, with everything that it had under way, and is started again after a while.
    pub(crate) fn kill(&self, world: &Arc<World>) {
        let Some((process, agent)) = lock(&self.running).take() else { return };
        world.say(format_args!("{}: is dead", process.name));
        process.is_dead.send_replace(true);
        drop(agent);
        world.database.end_worker(&process.name);
        disk::crash(world, &self.id);
        let (world, id) = (Arc::clone(world), self.id.clone());
        tokio::spawn(async move {
            sleep(world.time(100, AWAY_MS_MAX)).await;
            world.nodes[&id].start(&world);
        });
    }

    /// The process stands still for a while.
    pub(crate) fn stop(&self, world: &Arc<World>) {
        let Some((process, _)) = self.running() else { return };
        if process.is_still.send_replace(true) {
            return;
        }
        let world = Arc::clone(world);
        tokio::spawn(async move {
            sleep(world.time(500, STILL_MS_MAX)).await;
            if process.is_still.send_replace(false) {
                world.say(format_args!("{}: goes on", process.name));
            }
        });
    }

    /// Starts what is dead, and wakes what stands still.
    pub(crate) fn heal(&self, world: &Arc<World>) {
        if let Some((process, _)) = self.running() {
            process.is_still.send_replace(false);
        }
        self.start(world);
    }
}

/// Where the key store is on a disk.
fn places(disk: &Path) -> StoreConfig {
    StoreConfig {
        directory: disk.join("application"),
        hostkey: disk.join("hostkey"),
        machine_id: disk.join("machine-id"),
    }
}

fn commands() -> InstanceConfig {
    let command = |name: &str| CommandConfig::new(vec![name.to_owned()], Duration::from_secs(10));
    InstanceConfig {
        drain: command("drain"),
        offline: command("offline"),
        start: command("start"),
        observe: command("observe"),
        canary: command("canary"),
        admit: command("admit"),
    }
}

/// A process's way to the database.
struct Way {
    world: Weak<World>,
    process: Arc<Process>,
}

impl Way {
    async fn travel(&self, doing: &str) -> Result<(), Lost> {
        let world = self.world.upgrade().expect("the world outlives everybody in it");
        self.process.peril(&world, doing).await;
        sleep(world.time(0, 12)).await;
        self.process.gate().await;
        if world.misfortune(world.rates.statement_lost) {
            world.say(format_args!("{}: loses its connection while {doing}", self.process.name));
            return Err(Lost);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Line for Way {
    fn worker(&self) -> String {
        self.process.name.clone()
    }

    async fn to_server(&self, doing: &str) -> Result<(), Lost> {
        self.travel(doing).await
    }

    async fn inside(&self, doing: &str) -> Result<(), Lost> {
        self.travel(doing).await
    }

    async fn to_client(&self, doing: &str) -> Result<(), Lost> {
        self.travel(doing).await
    }
}
