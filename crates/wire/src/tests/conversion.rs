//! Every value of the domain survives the way through the protocol's bytes; what the protocol allows and the domain
//! does not is refused with the field's name.

use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use rotation::{
    AgentRelease, Answer, Assignment, Attestation, Authorization, BackedUpTable, BackupOffer, BackupSource, ClusterId,
    ContentDigest, DatabaseBackup, DatabaseIdentity, DatabaseKind, DatabasePosition, Digest, Direction, Epoch, Fault,
    FaultCode, Fence, FolderArchive, Inspection, KeyBound, KeyId, LeaseNumber, Millis, NodeBackup, NodeId,
    NotLookedInto, Phase, PlanTable, RotationId, Shard, ShardId, ShardRange, ShardTally, SignedRetirement,
    Strategy as Way, StrategyChoice, Survey, Term, UndecryptableValue, Unseen, Work,
};
use uuid::Uuid;

use crate::convert::{ConvertError, Order, Report, authorization_for, optional_phase, strategy_choice};
use crate::v1;

/// Through the bytes, as another process would read it.
fn through_bytes<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn check_survives<D, M>(value: &D)
where
    M: Message + Default + for<'a> From<&'a D>,
    D: TryFrom<M> + PartialEq + Debug,
    D::Error: Debug,
{
    let message = through_bytes(&M::from(value));
    assert_eq!(&D::try_from(message).unwrap(), value);
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::new)
}

fn key_id() -> impl Strategy<Value = KeyId> {
    any::<[u8; 16]>().prop_map(KeyId::new)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u16>().prop_map(|number| format!("node-{number}").parse().unwrap())
}

fn rotation_id() -> impl Strategy<Value = RotationId> {
    any::<u128>().prop_map(|number| RotationId::new(Uuid::from_u128(number)))
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Forward), Just(Direction::Back)]
}

fn kind() -> impl Strategy<Value = DatabaseKind> {
    prop_oneof![Just(DatabaseKind::Postgres), Just(DatabaseKind::Mariadb), Just(DatabaseKind::Sqlite)]
}

fn strategy() -> impl Strategy<Value = StrategyChoice> {
    prop_oneof![Just(StrategyChoice::Auto), Just(StrategyChoice::InPlace), Just(StrategyChoice::Shadow)]
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(|characters| characters.into_iter().collect())
}

fn identity() -> impl Strategy<Value = DatabaseIdentity> {
    (kind(), text()).prop_map(|(kind, identity)| DatabaseIdentity { kind, identity })
}

fn position() -> impl Strategy<Value = DatabasePosition> {
    (identity(), any::<u64>(), any::<u64>()).prop_map(|(identity, timeline, position)| DatabasePosition {
        identity,
        timeline,
        position,
    })
}

prop_compose! {
    fn undecryptable()(
        table in text(), column in text(), key in text(), raw_digest in digest(), reason in text(),
    ) -> UndecryptableValue {
        UndecryptableValue { table, column, key: KeyBound(key), raw_digest, reason }
    }
}

prop_compose! {
    fn shard()(
        id in any::<u64>(),
        table in text(),
        after in option::of(text()),
        through in option::of(text()),
        rows_estimated in any::<u64>(),
    ) -> Shard {
        let range = ShardRange { after: after.map(KeyBound), through: through.map(KeyBound) };
        Shard { id: ShardId::new(id), table, range, rows_estimated }
    }
}

prop_compose! {
    fn tally()(
        rows in any::<u64>(), values in any::<u64>(), undecryptable in any::<u64>(), sum in any::<u128>(),
    ) -> ShardTally {
        ShardTally { rows, values, undecryptable, digest: ContentDigest::new(sum), rest: ContentDigest::new(!sum) }
    }
}

prop_compose! {
    fn plan_table()(
        columns in vec(text(), 0..3), rows in any::<u64>(), values in any::<u64>(), bytes in any::<u64>(),
    ) -> PlanTable {
        PlanTable { columns, strategy: if rows % 2 == 0 { Way::InPlace } else { Way::Shadow }, reason: format!("{rows} rows"), forecast_ms: bytes, rows, values, bytes }
    }
}

prop_compose! {
    fn unseen()(total in any::<u64>(), named in vec((text(), option::of(text()), text()), 0..3)) -> Unseen {
        let named = named.into_iter().map(|(table, column, reason)| NotLookedInto { table, column, reason });
        Unseen { total, named: named.collect() }
    }
}

prop_compose! {
    fn survey()(
        kind in kind(),
        tables in vec((text(), plan_table()), 0..3),
        shards in vec(shard(), 0..4),
        writers_max in any::<u32>(),
        undecryptable in vec(undecryptable(), 0..3),
        undecryptable_total in any::<u64>(),
        downtime_forecast_ms in any::<u64>(),
        unseen in unseen(),
    ) -> Survey {
        Survey { kind, tables, shards, writers_max, undecryptable, undecryptable_total, downtime_forecast_ms, unseen }
    }
}

fn hex_text() -> impl Strategy<Value = String> {
    vec(any::<u8>(), 0..40).prop_map(hex::encode)
}

prop_compose! {
    fn inspection()(
        version in text(),
        protocol in any::<u32>(),
        current_key in key_id(),
        instance in text(),
        instance_online in any::<bool>(),
        protector in text(),
        database in identity(),
        targets_digest in digest(),
        recipient_key in text(),
        certificates in vec(hex_text(), 0..3),
        signature in hex_text(),
        mac in hex_text(),
    ) -> Inspection {
        let offers = [BackupOffer::Nothing, BackupOffer::Folder, BackupOffer::Database];
        Inspection {
            backup: offers[protocol as usize % offers.len()],
            release: AgentRelease { version, protocol },
            current_key,
            instance,
            instance_online,
            protector,
            database,
            targets_digest,
            recipient_key,
            attestation: Attestation { certificates, signature, mac },
        }
    }
}

prop_compose! {
    fn archive()(path in text(), bytes in any::<u64>(), digest in digest(), made_at in any::<u64>()) -> FolderArchive {
        FolderArchive { path, bytes, digest, made_at: Millis::new(made_at) }
    }
}

prop_compose! {
    fn backup()(
        node in node(),
        path in text(),
        digest in digest(),
        (bytes, made_at, made_ms, proved_ms) in any::<(u64, u64, u64, u64)>(),
        shown in any::<bool>(),
        position in option::of(position()),
        key in key_id(),
        tables in btree_map(text(), any::<(u64, u64, u64)>(), 0..3),
        proof in text(),
    ) -> DatabaseBackup {
        let table = |(name, (rows, rows_opened, values_opened))| {
            (name, BackedUpTable { rows, rows_opened, values_opened })
        };
        let tables = tables.into_iter().map(table).collect();
        let made_at = Millis::new(made_at);
        DatabaseBackup { node, path, bytes, digest, made_at, shown, position, key, tables, proof, made_ms, proved_ms }
    }
}

fn work() -> impl Strategy<Value = Work> {
    let shard_work = || (shard(), any::<u64>().prop_map(LeaseNumber::new), direction(), option::of(any::<u32>()));
    prop_oneof![
        Just(Work::Inspect),
        (vec(undecryptable(), 0..3), any::<u32>(), any::<u32>(), strategy()).prop_map(
            |(accepted, shards_wanted, agents, strategy)| Work::SurveyDatabase {
                accepted,
                shards_wanted,
                agents,
                strategy,
            }
        ),
        Just(Work::StoreKey),
        Just(Work::TakeOffline),
        Just(Work::FenceDatabase),
        shard_work().prop_map(|(shard, lease, direction, rows_per_second)| Work::ReencryptShard {
            shard,
            lease,
            direction,
            rows_per_second
        }),
        shard_work().prop_map(|(shard, lease, direction, rows_per_second)| Work::VerifyShard {
            shard,
            lease,
            direction,
            rows_per_second
        }),
        Just(Work::RecordPosition),
        any::<u64>().prop_map(|at| Work::ActivateKey { at: Millis::new(at) }),
        (direction(), option::of(position())).prop_map(|(direction, position)| Work::LiftFence { direction, position }),
        key_id().prop_map(|key| Work::StartInstance { key }),
        Just(Work::AdmitInstance),
        direction().prop_map(|direction| Work::CloseLedger { direction }),
        Just(Work::TurnBack),
        Just(Work::RestoreKey),
        Just(Work::DiscardKey),
        Just(Work::FinishShadows),
        Just(Work::SwapTables),
        Just(Work::SwapTablesBack),
        Just(Work::RetireTables),
        option::of(option::of(text())).prop_map(|source| Work::BackUp {
            database: source.map(|shown| shown.map_or(BackupSource::Made, BackupSource::Shown)),
        }),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let counted = || (any::<u64>().prop_map(ShardId::new), any::<u64>().prop_map(LeaseNumber::new), tally());
    prop_oneof![
        inspection().prop_map(|inspection| Answer::Inspected(Box::new(inspection))),
        survey().prop_map(|survey| Answer::DatabaseSurveyed(Box::new(survey))),
        digest().prop_map(|possession| Answer::KeyStored { possession }),
        Just(Answer::WentOffline),
        vec((text(), any::<u64>()), 0..4).prop_map(|rows| Answer::DatabaseFenced { rows }),
        counted().prop_map(|(shard, lease, tally)| Answer::ShardReencrypted { shard, lease, tally }),
        counted().prop_map(|(shard, lease, tally)| Answer::ShardVerified { shard, lease, tally }),
        position().prop_map(Answer::PositionRecorded),
        key_id().prop_map(|key| Answer::KeyActivated { key }),
        Just(Answer::FenceLifted),
        key_id().prop_map(|key| Answer::InstanceStarted { key }),
        Just(Answer::InstanceAdmitted),
        Just(Answer::LedgerClosed),
        Just(Answer::TurnedBack),
        key_id().prop_map(|key| Answer::KeyRestored { key }),
        Just(Answer::KeyDiscarded),
        Just(Answer::ShadowsFinished),
        Just(Answer::TablesSwapped),
        Just(Answer::TablesSwappedBack),
        Just(Answer::TablesRetired),
        (archive(), option::of(backup()))
            .prop_map(|(folder, database)| Answer::BackedUp(Box::new(NodeBackup { folder, database }))),
    ]
}

prop_compose! {
    fn fault()(
        code in proptest::sample::select(FaultCode::ALL.to_vec()),
        node in option::of(node()),
        message in text(),
        next_step in text(),
        retryable in any::<bool>(),
    ) -> Fault {
        Fault { code, node, message, next_step, retryable }
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

prop_compose! {
    fn authorization()(
        statement in bytes(),
        certificates in vec(bytes(), 0..3),
        signature in bytes(),
        sealed in btree_map(node(), bytes(), 0..4),
    ) -> Authorization {
        Authorization { statement, certificates, signature, sealed }
    }
}

prop_compose! {
    fn retirement()(
        retirement in bytes(), certificates in vec(bytes(), 0..3), signature in bytes(),
    ) -> SignedRetirement {
        SignedRetirement { retirement, certificates, signature }
    }
}

prop_compose! {
    /// An order as the driver makes it: with everybody's sealed bundles.
    fn order()(
        cluster in any::<u128>(),
        term in any::<u64>(),
        epoch in any::<u64>(),
        rotation in rotation_id(),
        node in node(),
        work in work(),
        plan in option::of(vec(any::<u8>(), 1..40)),
        authorization in option::of(authorization()),
        retirement in option::of(retirement()),
        own in bytes(),
    ) -> Order {
        let epoch = Epoch::new(epoch);
        let authorization = authorization.map(|mut authorization| {
            authorization.sealed.insert(node.clone(), own);
            authorization
        });
        Order {
            fence: Fence { cluster: ClusterId::new(Uuid::from_u128(cluster)), term: Term::new(term), epoch },
            assignment: Assignment { rotation, epoch, node, work },
            plan,
            authorization,
            retirement,
        }
    }
}

proptest! {
    #[test]
    fn work_survives(work in work()) {
        check_survives::<Work, v1::Work>(&work);
    }

    #[test]
    fn answers_survive(answer in answer()) {
        check_survives::<Answer, v1::Answer>(&answer);
    }

    #[test]
    fn faults_survive(fault in fault()) {
        check_survives::<Fault, v1::Fault>(&fault);
    }

    #[test]
    fn authorizations_survive(authorization in authorization()) {
        check_survives::<Authorization, v1::Authorization>(&authorization);
    }

    #[test]
    fn reports_survive(answer in answer(), fault in fault(), rows_done in any::<u64>(), waiting_for in text()) {
        for report in [
            Report::Answered(Box::new(answer)),
            Report::Failed(fault),
            Report::Progress(v1::Progress { rows_done, waiting_for }),
        ] {
            check_survives::<Report, v1::Report>(&report);
        }
    }

    #[test]
    fn orders_survive_but_for_other_nodes_bundles(order in order()) {
        let read = Order::try_from(through_bytes(&order.to_request())).unwrap();
        let node = &order.assignment.node;
        let mut expected = order.clone();
        if let Some(authorization) = &mut expected.authorization {
            authorization.sealed.retain(|other, _| other == node);
            assert_eq!(authorization.sealed.len(), 1);
        }
        assert_eq!(read, expected);
    }

    /// Whatever arrives is read or refused, and nothing panics.
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = v1::ExecuteRequest::decode(bytes.as_slice()) {
            let _ = Order::try_from(message);
        }
        if let Ok(message) = v1::Report::decode(bytes.as_slice()) {
            let _ = Report::try_from(message);
        }
    }
}

#[test]
fn enums_survive() {
    for phase in Phase::ALL {
        assert_eq!(Phase::try_from(v1::Phase::from(phase)).unwrap(), phase);
        assert_eq!(optional_phase(v1::Phase::from(phase).into()).unwrap(), Some(phase));
    }
    assert_eq!(optional_phase(0).unwrap(), None);
    assert!(matches!(optional_phase(99), Err(ConvertError::Invalid { field: "hold_at", .. })));
    assert!(Phase::try_from(v1::Phase::Unspecified).is_err());
    for choice in [StrategyChoice::Auto, StrategyChoice::InPlace, StrategyChoice::Shadow] {
        assert_eq!(strategy_choice(v1::StrategyChoice::from(choice).into()).unwrap(), choice);
    }
    assert_eq!(strategy_choice(0).unwrap(), StrategyChoice::Auto);
    assert!(matches!(strategy_choice(9), Err(ConvertError::Invalid { field: "strategy", .. })));
}

#[test]
fn one_agent_gets_one_bundle() {
    let node = |name: &str| name.parse::<NodeId>().unwrap();
    let authorization = Authorization {
        statement: b"statement".to_vec(),
        certificates: vec![b"certificate".to_vec()],
        signature: b"signature".to_vec(),
        sealed: BTreeMap::from([(node("node-1"), b"one".to_vec()), (node("node-2"), b"two".to_vec())]),
    };
    let own = authorization_for(&authorization, &node("node-2"));
    assert_eq!(own.sealed, BTreeMap::from([("node-2".to_owned(), b"two".to_vec())]));
    assert_eq!(own.statement, authorization.statement);
    assert!(authorization_for(&authorization, &node("node-3")).sealed.is_empty());
}

fn check_refused<M, D>(message: M, field: &str)
where
    D: TryFrom<M, Error = ConvertError> + Debug,
{
    let error = D::try_from(message).unwrap_err();
    assert!(error.to_string().contains(field), "{error} does not name {field}");
    let status = tonic::Status::from(error);
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    check_refused::<_, Work>(v1::Work { kind: None }, "Work.kind");
    check_refused::<_, Answer>(v1::Answer { kind: None }, "Answer.kind");
    check_refused::<_, Report>(v1::Report { kind: None }, "Report.kind");
    check_refused::<_, Fault>(v1::Fault { code: "bad-luck".to_owned(), ..v1::Fault::default() }, "Fault.code");
    check_refused::<_, Fault>(
        v1::Fault { code: "internal".to_owned(), node: "Not A Node".to_owned(), ..v1::Fault::default() },
        "Fault.node",
    );
    let no_shard = v1::ReencryptShard { shard: None, lease: 1, direction: 1, rows_per_second: None };
    check_refused::<_, Work>(v1::Work { kind: Some(v1::work::Kind::ReencryptShard(no_shard)) }, "Work.shard");
    for direction in [0, 3] {
        let no_direction = v1::CloseLedger { direction };
        check_refused::<_, Work>(v1::Work { kind: Some(v1::work::Kind::CloseLedger(no_direction)) }, "irection");
    }
    let no_key = v1::StartInstance { key: "00".to_owned() };
    check_refused::<_, Work>(v1::Work { kind: Some(v1::work::Kind::StartInstance(no_key)) }, "StartInstance.key");
    check_refused::<_, ShardTally>(v1::ShardTally::default(), "ShardTally.digest");
    check_refused::<_, Order>(v1::ExecuteRequest::default(), "ExecuteRequest.fence");
    let unknown_way = v1::DatabaseSurveyed {
        kind: 1,
        tables: vec![v1::Table { strategy: "by-hand".to_owned(), ..v1::Table::default() }],
        ..v1::DatabaseSurveyed::default()
    };
    check_refused::<_, Survey>(unknown_way, "Table.strategy");
}

#[test]
fn what_a_fault_says_is_cut_on_both_sides() {
    let long = "é".repeat(100_000);
    let fault = Fault::new(FaultCode::Backup, long.clone(), long.clone());
    let sent = v1::Fault::from(&fault);
    assert!(sent.message.len() <= 4096 && sent.next_step.len() <= 4096 && sent.message.ends_with(" …"));
    let sent = v1::Fault { message: long.clone(), next_step: long, ..sent };
    let received = Fault::try_from(sent).expect("it is a fault");
    assert!(received.message.len() <= 4096 && received.next_step.len() <= 4096);
}
