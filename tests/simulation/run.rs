//! One run: a farm is built, a rotation is asked for, things go wrong, everything heals, and the rotation must end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordinator::simulation::{Hints, drive};
use keys::value::{Cipher, CipherVersion};
use keys::{KeySet, SecretKey};
use reencrypt::simulation::Database;
use rotation::{Ending, NodeId, StrategyChoice};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use wire::access::Role;
use wire::pki::Authority;
use wire::tls::{Tls, TlsFiles};

use crate::cluster::{Cluster, Handle, REPLICAS};
use crate::network::Network;
use crate::node::Node;
use crate::rates::Rates;
use crate::world::{ENCODINGS, FARM, Parts, TABLE, World};
use crate::{disk, faults, instance, invariants, machine, operator};

/// Simulated time within which a run must end once everything has healed: every deadline several times over.
const HEALED_TIME_MAX: Duration = Duration::from_secs(3600);
/// How long the operator waits before looking again at what is stuck.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// How long faults may last in all; the operator's own waiting for a plan is part of it.
const FAULTS_TIME_MAX: Duration = Duration::from_secs(600);

/// How much older than a run its certificates are, milliseconds.
const CLOCK_AHEAD_MS: i64 = 48 * 3_600_000;

/// What became of a run.
pub(crate) struct Outcome {
    pub(crate) ending: Option<Ending>,
    pub(crate) violation: Option<String>,
    pub(crate) trace: String,
    pub(crate) events: u64,
    pub(crate) lasted: Duration,
}

/// Plays a seed in this thread, which must be one that has done nothing else yet.
pub(crate) fn play(seed: u64, is_printed: bool) -> Outcome {
    machine::simulate(seed);
    let folder = folder(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread needs nothing");
    let outcome = runtime.block_on(async {
        let world = build(seed, &folder, is_printed);
        disk::watch(&folder, &world);
        live(&world).await
    });
    // Tasks that wait for ever hold parts of the world; the process ends with them.
    runtime.shutdown_background();
    let _ = fs::remove_dir_all(folder);
    outcome
}

/// A folder in memory where there is one: flushing costs nothing there, and what it would be worth is simulated.
fn folder(seed: u64) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("keyturn-simulation-{}-{seed}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the folder can be made");
    folder
}

async fn live(world: &Arc<World>) -> Outcome {
    let replicas = Arc::new(Replicas::default());
    world.cluster.elect(world);
    for replica in REPLICAS {
        replicas.start(world, replica);
    }
    for node in world.nodes.values() {
        node.start(world);
    }
    // Certificates were just issued: clocks that are set back must not come to a time before that.
    machine::step_wall_clock(CLOCK_AHEAD_MS);
    operator::enroll(world).await;
    for node in world.nodes.keys() {
        tokio::spawn(instance::serve(Arc::clone(world), node.clone()));
    }
    tokio::spawn(elections(Arc::clone(world)));
    let strategy = if world.below(3) == 0 { StrategyChoice::Shadow } else { StrategyChoice::InPlace };
    let rotating = {
        let world = Arc::clone(world);
        tokio::spawn(async move { operator::rotate(&world, strategy).await })
    };
    let raging = tokio::spawn(faults::rage(Arc::clone(world), Arc::clone(&replicas)));
    let _ = timeout(FAULTS_TIME_MAX, raging).await;
    // The smaller faults go on for as long as the rotation would take.
    sleep(world.time(1_000, 60_000)).await;
    faults::heal(world, &replicas).await;

    let id = operator::rotation_id();
    let ended = timeout(HEALED_TIME_MAX, async {
        let _ = rotating.await;
        while world.violation().is_none() && !invariants::has_ended(world, id) {
            sleep(LOOK_EVERY).await;
            operator::look_after(world).await;
        }
        // Instances that died in between come up, and late messages arrive.
        sleep(Duration::from_secs(60)).await;
    });
    let _ = ended.await;
    let ending = invariants::at_the_end(world, id);
    if world.rates.is_quiet() && ending != Some(Ending::Completed) {
        world.violated("a quiet farm completes", format_args!("it ended {ending:?}"));
    }
    let (trace, events) = world.trace();
    Outcome { ending, violation: world.violation(), trace, events, lasted: machine::elapsed() }
}

/// Sees that somebody leads whenever somebody can.
async fn elections(world: Arc<World>) {
    loop {
        sleep(world.time(500, 3_000)).await;
        if world.cluster.leader().is_none() {
            world.cluster.elect(&world);
        }
    }
}

/// The processes of the coordinators.
#[derive(Default)]
pub(crate) struct Replicas(Mutex<BTreeMap<u64, JoinHandle<()>>>);

impl Replicas {
    /// Starts one, if it does not run.
    pub(crate) fn start(&self, world: &Arc<World>, id: u64) {
        let mut running = crate::world::lock(&self.0);
        if running.contains_key(&id) {
            return;
        }
        if world.cluster.is_down(id) {
            world.cluster.restart(id);
            world.say(format_args!("cluster: replica {id} starts again"));
        }
        let (hints, _) = watch::channel(Hints::default());
        let driver = drive(Handle::new(world, id), Arc::new(Network::new(world, id)), hints, CancellationToken::new());
        running.insert(id, tokio::spawn(driver));
    }

    /// Ends one where it is.
    pub(crate) fn kill(&self, world: &World, id: u64) {
        if let Some(driver) = crate::world::lock(&self.0).remove(&id) {
            driver.abort();
            world.cluster.set_down(id, true);
            world.say(format_args!("cluster: replica {id} is dead"));
        }
    }
}

/// A farm whose instances serve with the old key, and whose rows are under it.
fn build(seed: u64, folder: &Path, is_printed: bool) -> Arc<World> {
    let mut random = seed;
    let rates = Rates::draw(&mut random);
    let mut below = |bound: u64| machine::next_random(&mut random) % bound;
    let (old, new) = (SecretKey::generate(), SecretKey::generate());
    let authority = Authority::create(FARM).expect("a CA can be made");
    fs::write(folder.join("ca.pem"), authority.certificate_pem()).expect("the folder is ours");
    let operator = Tls::load(&issue(folder, &authority, Role::Operator, "alice")).expect("it was just made");

    let nodes: BTreeMap<NodeId, Node> = (1..=2 + below(2))
        .map(|number| {
            let id: NodeId = format!("node-{number}").parse().expect("a node's name");
            let files = issue(folder, &authority, Role::Agent, id.as_str());
            let root = folder.join(id.as_str());
            for part in ["application", "state"] {
                fs::create_dir_all(root.join(part)).expect("the folder is ours");
            }
            fs::write(root.join("machine-id"), format!("{number:032x}\n")).expect("the folder is ours");
            let node = Node::new(id.clone(), root, &files);
            node.store().create(&KeySet::new(FARM, old.clone(), 1)).expect("the folder is empty");
            (id, node)
        })
        .collect();

    let database = Arc::new(Database::new(below(3) > 0));
    let cipher = Cipher::new(&old);
    let (mut plaintexts, mut rests, mut rows) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for id in 1..=i64::try_from(6 + below(20)).unwrap_or(6) {
        let value = |column: usize| {
            let text = format!("column {column} of row {id}").into_bytes();
            let stored = cipher
                .encrypt(&text, ENCODINGS[column], b"", CipherVersion::V2)
                .expect("a short text can be encrypted");
            (text, stored)
        };
        let values: Vec<_> = (0..ENCODINGS.len()).map(value).collect();
        let rest = format!("row {id} has this besides").into_bytes();
        for (column, (text, _)) in values.iter().enumerate() {
            plaintexts.insert((id, column), text.clone());
        }
        rests.insert(id, rest.clone());
        rows.push((id, values.into_iter().map(|(_, stored)| stored).collect(), rest));
    }
    database.create_table(TABLE, rows);

    let world = World::new(Parts {
        database,
        cluster: Cluster::new(),
        nodes,
        operator,
        old,
        new,
        rates,
        plaintexts,
        rest: rests,
        is_printed,
        random,
    });
    for node in world.nodes.keys() {
        instance::bring_up(&world, node);
    }
    world
}

fn issue(folder: &Path, authority: &Authority, role: Role, name: &str) -> TlsFiles {
    let issued = authority.issue(role, name, &["127.0.0.1".to_owned()], 30).expect("a certificate can be issued");
    let files = TlsFiles {
        ca: folder.join("ca.pem"),
        certificate: folder.join(format!("{role}-{name}.pem")),
        key: folder.join(format!("{role}-{name}.key")),
    };
    fs::write(&files.certificate, issued.certificate_pem).expect("the folder is ours");
    fs::write(&files.key, issued.key_pem.as_bytes()).expect("the folder is ours");
    files
}
