//! Values with something in every field, for tests.

use std::collections::{BTreeMap, BTreeSet};

use rotation::*;
use uuid::Uuid;

pub(crate) fn id() -> RotationId {
    RotationId::new(Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057))
}

pub(crate) fn node() -> NodeId {
    "node-1".parse().expect("valid")
}

pub(crate) fn work() -> AssignmentId {
    let shard = Some((ShardId::new(3), LeaseNumber::new(2)));
    AssignmentId { rotation: id(), epoch: Epoch::new(5), node: node(), kind: WorkKind::ReencryptShard, shard }
}

pub(crate) fn tally() -> ShardTally {
    ShardTally {
        rows: 10,
        values: 20,
        undecryptable: 1,
        digest: ContentDigest::new(0xfeed),
        rest: ContentDigest::new(0xbeef),
    }
}

pub(crate) fn fault() -> Fault {
    Fault {
        code: FaultCode::Undecryptable,
        node: Some(node()),
        message: "items [\"7\"] secret opens under no known key".to_owned(),
        next_step: "accept it or restore it".to_owned(),
        retryable: false,
    }
}

pub(crate) fn undecryptable() -> UndecryptableValue {
    UndecryptableValue {
        table: "items".to_owned(),
        column: "secret".to_owned(),
        key: KeyBound("[\"7\"]".to_owned()),
        raw_digest: Digest::new([8; 32]),
        reason: "InvalidMac".to_owned(),
    }
}

pub(crate) fn authorization() -> Authorization {
    Authorization {
        statement: statement().to_bytes(),
        certificates: vec![vec![0x30, 0x82]],
        signature: vec![1, 2, 3],
        sealed: BTreeMap::from([(node(), vec![4, 5])]),
    }
}

pub(crate) fn statement() -> Statement {
    let grant = NodeGrant {
        recipient_key: "0d0c".to_owned(),
        sealed_digest: Digest::new([3; 32]),
        possession_digest: Digest::new([4; 32]),
    };
    Statement {
        format: Statement::FORMAT,
        farm: "demo".to_owned(),
        rotation: id(),
        plan_digest: Digest::new([5; 32]),
        old_key: KeyId::new([1; 16]),
        new_key: KeyId::new([2; 16]),
        nodes: BTreeMap::from([(node(), grant)]),
    }
}

pub(crate) fn retirement() -> SignedRetirement {
    let retirement = Retirement {
        format: Retirement::FORMAT,
        farm: "demo".to_owned(),
        rotation: id(),
        plan_digest: Digest::new([5; 32]),
    };
    SignedRetirement {
        retirement: retirement.to_bytes(),
        certificates: vec![vec![0x30, 0x82]],
        signature: vec![1, 2, 3],
    }
}

pub(crate) fn budget() -> DowntimeBudget {
    DowntimeBudget { max_downtime_ms: 1_200_000, on_budget: OnBudget::Continue }
}

pub(crate) fn options() -> RotationOptions {
    RotationOptions {
        accepted: vec![undecryptable()],
        hold_at: Some(Phase::Verify),
        strategy: StrategyChoice::Shadow,
        budget: Some(budget()),
        backup: BackupChoice::Shown("/backups/vault.dump".to_owned()),
    }
}

pub(crate) fn attestation() -> Attestation {
    Attestation { certificates: vec!["3082".to_owned()], signature: "01".to_owned(), mac: "02".to_owned() }
}

pub(crate) fn inspection() -> Inspection {
    Inspection {
        release: AgentRelease { version: "0.1.0".to_owned(), protocol: 1 },
        current_key: KeyId::new([1; 16]),
        instance: "online".to_owned(),
        instance_online: true,
        protector: "hostkey".to_owned(),
        database: position().identity,
        targets_digest: Digest::new([2; 32]),
        recipient_key: "0d0c".to_owned(),
        attestation: attestation(),
        backup: BackupOffer::Database,
    }
}

pub(crate) fn node_backup() -> NodeBackup {
    let folder = FolderArchive {
        path: "/backups/folder.tar".to_owned(),
        bytes: 10_240,
        digest: Digest::new([6; 32]),
        made_at: Millis::new(1_700_000_000_000),
    };
    let tables =
        BTreeMap::from([("items".to_owned(), BackedUpTable { rows: 100, rows_opened: 100, values_opened: 90 })]);
    let database = DatabaseBackup {
        node: node(),
        path: "/backups/vault.dump".to_owned(),
        bytes: 20_480,
        digest: Digest::new([7; 32]),
        made_at: Millis::new(1_700_000_000_000),
        shown: true,
        position: Some(position()),
        key: KeyId::new([1; 16]),
        tables,
        proof: "restored into a temporary server".to_owned(),
        made_ms: 700,
        proved_ms: 900,
    };
    NodeBackup { folder, database: Some(database) }
}

pub(crate) fn position() -> DatabasePosition {
    let identity = DatabaseIdentity { kind: DatabaseKind::Postgres, identity: "7/16384".to_owned() };
    DatabasePosition { identity, timeline: 1, position: 0x0123_4567 }
}

pub(crate) fn shard() -> Shard {
    let range = ShardRange { after: None, through: Some(KeyBound("[\"100\"]".to_owned())) };
    Shard { id: ShardId::new(3), table: "items".to_owned(), range, rows_estimated: 100 }
}

pub(crate) fn table() -> PlanTable {
    PlanTable {
        columns: vec!["secret".to_owned()],
        strategy: Strategy::Shadow,
        reason: "chosen".to_owned(),
        forecast_ms: 10,
        rows: 100,
        values: 90,
        bytes: 9_000,
    }
}

pub(crate) fn survey() -> Survey {
    Survey {
        kind: DatabaseKind::Postgres,
        tables: vec![("items".to_owned(), table())],
        shards: vec![shard()],
        writers_max: 3,
        undecryptable: vec![undecryptable()],
        undecryptable_total: 1,
        downtime_forecast_ms: 30_000,
        unseen: unseen(),
    }
}

pub(crate) fn unseen() -> Unseen {
    Unseen::of(vec![NotLookedInto {
        table: "notes".to_owned(),
        column: Some("body".to_owned()),
        reason: "the role may not SELECT it".to_owned(),
    }])
}

pub(crate) fn plan() -> Plan {
    let planned = PlanNode {
        release: inspection().release,
        current_key: inspection().current_key,
        recipient_key: inspection().recipient_key,
        targets_digest: inspection().targets_digest,
        database: inspection().database,
        protector: inspection().protector,
        attestation: attestation(),
    };
    Plan {
        format: Plan::FORMAT,
        farm: "demo".to_owned(),
        rotation: id(),
        nodes: BTreeMap::from([(node(), planned)]),
        tables: BTreeMap::from([("items".to_owned(), table())]),
        shards: vec![shard()],
        writers_max: 3,
        accepted: vec![undecryptable()],
        downtime_forecast_ms: 30_000,
        budget: Some(budget()),
        backup: node_backup().database,
        folders: BTreeMap::from([(node(), node_backup().folder)]),
        unseen: unseen(),
    }
}

/// A state with something in every field.
pub(crate) fn state() -> State {
    let at = |ms: u64| Millis::new(1_700_000_000_000 + ms);
    let progress = NodeProgress {
        inspection: Some(inspection()),
        inspection_fault: Some(fault()),
        key_stored: true,
        offline_at: Some(at(1)),
        activated: true,
        started: true,
        admitted_at: Some(at(2)),
        undo: NodeUndo { offline: true, ..NodeUndo::default() },
        shunned: true,
        backup: Some(node_backup()),
        ..NodeProgress::default()
    };
    let lease = ShardLease { node: node(), number: LeaseNumber::new(2), since: at(3), rows_per_second: Some(250) };
    let shard_progress = ShardProgress {
        leases: LeaseNumber::new(2),
        lease: Some(lease),
        reencrypted: Some(tally()),
        verified: Some(tally()),
        restored: Some(tally()),
        restored_verified: None,
    };
    let course = Course::Stuck {
        from: Phase::Verify,
        step: UndoStep::RestoreRows,
        reason: fault(),
        next_steps: vec!["restore the row".to_owned()],
    };
    let rotation = Rotation {
        id: id(),
        requested_by: "alice".to_owned(),
        requested_at: at(0),
        options: options(),
        course,
        reached: Phase::Verify,
        epoch: Epoch::new(5),
        paused: true,
        nodes: BTreeMap::from([(node(), progress)]),
        lead: Some(node()),
        survey: Some(survey()),
        plan: Some(plan()),
        plan_digest: Some(plan().digest()),
        authorization: Some(authorization()),
        lead_done: true,
        lease_rounds: 1,
        rows_fixed: BTreeMap::from([("items".to_owned(), 100)]),
        shards: BTreeMap::from([(ShardId::new(3), shard_progress)]),
        position: Some(position()),
        activated_at: Some(at(4)),
        times: vec![PhaseTime { name: "preflight".to_owned(), started: at(0), ended: Some(at(1)) }],
        faults: vec![fault()],
        leader_changes: 1,
        ended_at: Some(at(5)),
        throttle: Some(1_000),
        retiring: Some(Retiring {
            by: "alice".to_owned(),
            since: at(5),
            word: retirement(),
            node: node(),
            done: Some(at(6)),
        }),
        pace: Pace { since: at(3), done_us: 5_000, slowness: 1_500 },
        budget_spent_at: Some(at(5)),
    };
    let quarantine = Quarantine { rotation: id(), since: at(5), reason: fault() };
    let enrolled = Node {
        address: "https://node-1:7101".to_owned(),
        enrolled_at: at(0),
        key: Some(KeyId::new([1; 16])),
        quarantine: Some(quarantine),
    };
    State {
        cluster: Some(ClusterId::new(Uuid::from_u128(1))),
        farm: "demo".to_owned(),
        now: at(6),
        epoch: Epoch::new(5),
        term: Term::new(3),
        nodes: BTreeMap::from([(node(), enrolled)]),
        rotations: BTreeMap::from([(id(), rotation)]),
        active: Some(id()),
        removed_replicas: BTreeSet::from([3]),
    }
}
