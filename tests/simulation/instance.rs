//! The application on a node: it reads `encryption.config` when it starts, serves when it is admitted, answers canaries
//! with the key it runs with, writes like any application, and does not always do what it is told.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, Weak};

use agent::CommandConfig;
use agent::simulation::{Commands, ExecError, Finished};
use keys::SecretKey;
use keys::value::{Cipher, CipherVersion, Encoding};
use rotation::NodeId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::node::Process;
use crate::world::{COLUMNS, ENCODINGS, TABLE, World, lock};

/// The exit status of a command that failed, as waiting for a process tells it.
const FAILED: i32 = 1 << 8;

/// How often an instance writes something, milliseconds.
const WRITES_EVERY_MS: u64 = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Condition {
    Online,
    Drained,
    Started,
    #[default]
    Offline,
}

impl Condition {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Drained => "drained",
            Self::Started => "started",
            Self::Offline => "offline",
        }
    }
}

/// The running process, if it runs.
#[derive(Default)]
pub(crate) struct Instance {
    pub(crate) condition: Condition,
    /// The key that it read when it started.
    pub(crate) key: Option<SecretKey>,
    /// What watches it starts it again when it dies.
    stays_up: bool,
}

/// Runs an agent's commands on the instance of its node.
pub(crate) struct Hands {
    world: Weak<World>,
    process: Arc<Process>,
    node: NodeId,
}

impl Hands {
    pub(crate) fn new(world: &Arc<World>, process: &Arc<Process>, node: &NodeId) -> Self {
        Self { world: Arc::downgrade(world), process: Arc::clone(process), node: node.clone() }
    }
}

#[tonic::async_trait]
impl Commands for Hands {
    async fn run(
        &self,
        command: &CommandConfig,
        input: &[u8],
        cancel: &CancellationToken,
    ) -> Result<Finished, ExecError> {
        let world = self.world.upgrade().expect("the world outlives everybody in it");
        let program = command.program().to_owned();
        self.process.peril(&world, &program).await;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecError::Cancelled { program }),
            () = sleep(world.time(5, 400)) => {}
        }
        self.process.gate().await;
        let fails = world.misfortune(world.rates.command_fails);
        // A command that fails may have done its work all the same.
        let done =
            if fails && world.below(2) == 0 { Some(Vec::new()) } else { perform(&world, &self.node, &program, input) };
        let done = done.filter(|_| !fails);
        self.process.peril(&world, &program).await;
        let status = ExitStatus::from_raw(if done.is_some() { 0 } else { FAILED });
        Ok(Finished { status, stdout: done.unwrap_or_default(), stderr: Vec::new() })
    }
}

/// Does one command. `None` if it fails.
fn perform(world: &World, node: &NodeId, program: &str, input: &[u8]) -> Option<Vec<u8>> {
    let machine = &world.nodes[node];
    let mut instance = lock(&machine.instance);
    let before = instance.condition;
    let name = node.as_str();
    let answer = match program {
        "observe" => before.as_str().as_bytes().to_vec(),
        "drain" => {
            if before == Condition::Online {
                instance.condition = Condition::Drained;
            }
            Vec::new()
        }
        "offline" => {
            *instance = Instance::default();
            world.database.disconnect_application(name);
            world.betrayed.forget(node);
            Vec::new()
        }
        "start" => {
            if before == Condition::Offline {
                *instance = boot(world, node)?;
            }
            Vec::new()
        }
        "admit" => {
            if before == Condition::Offline {
                return None;
            }
            instance.condition = Condition::Online;
            instance.stays_up = true;
            Vec::new()
        }
        "canary" => {
            let key = instance.key.as_ref()?;
            Cipher::new(key).open(input.trim_ascii(), Encoding::Base64, b"").ok()?.plaintext.to_vec()
        }
        other => panic!("there is no command {other}"),
    };
    let after = instance.condition;
    drop(instance);
    if before != after {
        world.happened(format_args!("{node}: its instance is {}", after.as_str()));
    }
    Some(answer)
}

/// An instance that has just started, without clients.
fn boot(world: &World, node: &NodeId) -> Option<Instance> {
    let keys = world.nodes[node].store().current().ok()?;
    world.database.connect_application(node.as_str());
    Some(Instance { condition: Condition::Started, key: Some(keys.active().secret.clone()), stays_up: false })
}

/// Brings an instance up as it is before anything is rotated.
pub(crate) fn bring_up(world: &World, node: &NodeId) {
    let booted = boot(world, node).expect("its file was just written");
    *lock(&world.nodes[node].instance) = Instance { condition: Condition::Online, stays_up: true, ..booted };
}

/// Its process dies.
pub(crate) fn die(world: &World, node: &NodeId) {
    let mut instance = lock(&world.nodes[node].instance);
    let before = instance.condition;
    if before == Condition::Offline {
        return;
    }
    world.database.disconnect_application(node.as_str());
    *instance = Instance { stays_up: instance.stays_up, ..Instance::default() };
    drop(instance);
    world.happened(format_args!("{node}: its instance died"));
}

/// What watches it starts it again as it was, unless it was taken offline on purpose.
fn revive(world: &World, node: &NodeId) {
    let mut instance = lock(&world.nodes[node].instance);
    if instance.condition == Condition::Offline
        && instance.stays_up
        && let Some(booted) = boot(world, node)
    {
        *instance = Instance { condition: Condition::Online, stays_up: true, ..booted };
        drop(instance);
        world.happened(format_args!("{node}: its instance is up again"));
    }
}

/// Clients write through the instance for as long as the world lasts.
pub(crate) async fn serve(world: Arc<World>, node: NodeId) {
    loop {
        sleep(world.time(100, WRITES_EVERY_MS)).await;
        revive(&world, &node);
        write(&world, &node);
    }
}

fn write(world: &World, node: &NodeId) {
    let (condition, key) = {
        let instance = lock(&world.nodes[node].instance);
        (instance.condition, instance.key.clone())
    };
    let (Condition::Online, Some(key)) = (condition, key) else { return };
    let name = node.as_str();
    if !world.database.is_connected(name) && !world.database.connect_application(name) {
        return;
    }
    let (id, column) = {
        let truth = world.truth();
        let ids: Vec<_> = truth.plaintexts.keys().filter(|place| !truth.damaged.contains_key(place)).copied().collect();
        *world.pick(&ids)
    };
    let text = format!("written {} by {node}", world.below(1_000_000));
    debug_assert!(column < COLUMNS, "the table has no more");
    let stored = Cipher::new(&key)
        .encrypt(text.as_bytes(), ENCODINGS[column], b"", CipherVersion::V2)
        .expect("a short text can be encrypted");
    if world.database.application_writes(name, TABLE, id, column, stored) {
        world.truth().plaintexts.insert((id, column), text.into_bytes());
        world.happened(format_args!("{node}: a client wrote row {id}"));
    }
}
