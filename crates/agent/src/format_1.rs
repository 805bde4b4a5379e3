//! The agent's own files byte for byte, as kept in `tests/compatibility/agent-1`: what a release wrote, every later one
//! reads. A test that fails here means that a stored record has changed: before the first release that wrote it the files
//! are written anew with `KEYTURN_WRITE_FIXTURES=1 cargo test -p agent format_1`; afterwards the change needs a new
//! version of the file's format, and the kept files stay.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rotation::{
    AgentRelease, Attestation, BackedUpTable, ClusterId, DatabaseBackup, DatabaseIdentity, DatabaseKind,
    DatabasePosition, Digest, Epoch, Fence, FolderArchive, KeyBound, KeyId, Millis, NodeBackup, NodeGrant, Plan,
    PlanNode, PlanTable, RotationId, Shard, ShardId, ShardRange, Statement, Strategy, Term,
};
use uuid::Uuid;

use crate::backed_up;
use crate::fence::FenceFile;
use crate::held::{Held, HeldFile};
use crate::kept::KeptFile;
use crate::pin::Pin;
use crate::recovered::{Recovered, RecoveredFile};

const FILES: [&str; 6] = ["backup.json", "fence.json", "held.json", "plan.json", "recovered.json", "rotation.json"];
const AT: Millis = Millis::new(1_700_000_000_000);

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compatibility/agent-1")
}

fn cluster(n: u128) -> ClusterId {
    ClusterId::new(Uuid::from_u128(n))
}

fn fence(n: u128, term: u64, epoch: u64) -> Fence {
    Fence { cluster: cluster(n), term: Term::new(term), epoch: Epoch::new(epoch) }
}

fn rotation() -> RotationId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

fn earlier() -> RotationId {
    "01890a5d-ac96-774b-bcce-b302099a8056".parse().unwrap()
}

const OLD: KeyId = KeyId::new([1; 16]);
const NEW: KeyId = KeyId::new([2; 16]);

fn identity() -> DatabaseIdentity {
    DatabaseIdentity { kind: DatabaseKind::Postgres, identity: "7/16384".to_owned() }
}

fn plan() -> Plan {
    let node = PlanNode {
        release: AgentRelease { version: "0.1.0".to_owned(), protocol: 2 },
        current_key: OLD,
        recipient_key: "0d0c".to_owned(),
        targets_digest: Digest::new([3; 32]),
        database: identity(),
        protector: "hostkey".to_owned(),
        attestation: Attestation {
            certificates: vec!["3082".to_owned()],
            signature: "01".to_owned(),
            mac: "02".to_owned(),
        },
    };
    let table = PlanTable {
        columns: vec!["secret".to_owned()],
        strategy: Strategy::InPlace,
        reason: "chosen".to_owned(),
        forecast_ms: 10,
        rows: 100,
        values: 90,
        bytes: 9_000,
    };
    let range = ShardRange { after: None, through: Some(KeyBound("[\"i:100\"]".to_owned())) };
    Plan {
        // One without a budget has the bytes that it always had.
        format: Plan::FORMAT_WITHOUT_BUDGET,
        farm: "demo".to_owned(),
        rotation: rotation(),
        nodes: BTreeMap::from([("node-1".parse().unwrap(), node)]),
        tables: BTreeMap::from([("items".to_owned(), table)]),
        shards: vec![Shard { id: ShardId::new(0), table: "items".to_owned(), range, rows_estimated: 100 }],
        writers_max: 3,
        accepted: Vec::new(),
        downtime_forecast_ms: 30_000,
        budget: None,
        backup: None,
        folders: BTreeMap::new(),
        unseen: rotation::Unseen::default(),
    }
}

fn statement(plan: &[u8]) -> Statement {
    let grant = NodeGrant {
        recipient_key: "0d0c".to_owned(),
        sealed_digest: Digest::new([4; 32]),
        possession_digest: Digest::new([5; 32]),
    };
    Statement {
        format: Statement::FORMAT,
        farm: "demo".to_owned(),
        rotation: rotation(),
        plan_digest: Plan::digest_of(plan),
        old_key: OLD,
        new_key: NEW,
        nodes: BTreeMap::from([("node-1".parse().unwrap(), grant)]),
    }
}

fn made() -> NodeBackup {
    let table = BackedUpTable { rows: 100, rows_opened: 100, values_opened: 90 };
    NodeBackup {
        folder: FolderArchive {
            path: "/backups/demo-node-1-folder.tar".to_owned(),
            bytes: 10_240,
            digest: Digest::new([7; 32]),
            made_at: AT,
        },
        database: Some(DatabaseBackup {
            node: "node-1".parse().unwrap(),
            path: "/backups/demo.dump".to_owned(),
            bytes: 65_536,
            digest: Digest::new([8; 32]),
            made_at: AT,
            shown: false,
            position: Some(DatabasePosition { identity: identity(), timeline: 3, position: 26_738_688 }),
            key: OLD,
            tables: BTreeMap::from([("items".to_owned(), table)]),
            proof: "restored aside".to_owned(),
            made_ms: 800,
            proved_ms: 1_500,
        }),
    }
}

/// Writes every file with something in every field.
fn write(folder: &Path) {
    backed_up::keep(folder, rotation(), &made()).unwrap();
    let mut file = FenceFile::open(folder).unwrap();
    file.adopt(cluster(1)).unwrap();
    file.raise(&fence(1, 3, 7)).unwrap();
    file.adopt(cluster(2)).unwrap();
    file.raise(&fence(2, 1, 9)).unwrap();
    HeldFile::open(folder).unwrap().hold(rotation(), AT).unwrap();
    let plan = plan().to_bytes();
    let statement = statement(&plan).to_bytes();
    KeptFile::open(folder).unwrap().keep(rotation(), &statement, &plan).unwrap();
    let mark = Recovered { rotation: earlier(), key: OLD, at: AT };
    RecoveredFile::open(folder).unwrap().mark(mark).unwrap();
    let mut pin = Pin::open(folder).unwrap();
    pin.follow(earlier(), Digest::new([6; 32])).unwrap();
    pin.follow(rotation(), Digest::new(*blake3::hash(&statement).as_bytes())).unwrap();
    pin.set_held(rotation()).unwrap();
    pin.set_proved(rotation(), Some(NEW)).unwrap();
    pin.set_no_return(rotation()).unwrap();
}

#[test]
fn the_agents_files_are_written_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let mut written: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    written.sort();
    assert_eq!(written, FILES, "a file that is new needs a kept example too");
    for name in FILES {
        let now = fs::read_to_string(folder.path().join(name)).unwrap();
        if std::env::var_os("KEYTURN_WRITE_FIXTURES").is_some() {
            fs::write(kept().join(name), &now).unwrap();
        }
        assert_eq!(now, fs::read_to_string(kept().join(name)).unwrap(), "{name} changed; see the head of this file");
    }
}

#[test]
fn the_kept_files_of_an_agent_are_read() {
    let file = FenceFile::open(&kept()).unwrap();
    assert_eq!(file.check(&fence(2, 1, 9)), Ok(()));
    assert!(file.check(&fence(2, 1, 8)).is_err() && file.check(&fence(1, 9, 9)).is_err());
    assert_eq!(HeldFile::open(&kept()).unwrap().get(), Some(&Held { rotation: rotation(), since: AT }));
    let plan = plan();
    let found = KeptFile::open(&kept()).unwrap().read(rotation()).unwrap().expect("kept");
    assert_eq!((found.statement, found.plan), (statement(&plan.to_bytes()), plan));
    let mark = Recovered { rotation: earlier(), key: OLD, at: AT };
    assert_eq!(RecoveredFile::open(&kept()).unwrap().get(earlier()), Some(&mark));
    assert_eq!(backed_up::kept(&kept(), rotation()).unwrap(), Some(made()));
    assert_eq!(backed_up::kept(&kept(), earlier()).unwrap(), None);
    let pin = Pin::open(&kept()).unwrap();
    let followed = pin.followed(rotation()).expect("followed");
    assert!(followed.proved == Some(NEW) && followed.was_held && followed.no_return);
    let statement = followed.statement;
    assert!(pin.check(earlier(), Digest::new([6; 32]), false).is_err(), "an earlier one is not followed again");
    assert!(pin.check(rotation(), statement, true).is_err(), "nothing turns back after the point of no return");
}
