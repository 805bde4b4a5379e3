//! Whom the agent obeys, and what it asks to be shown: everything here is refused, and nothing is changed by it.

use rotation::{
    Answer, ClusterId, Direction, FaultCode, KeyBound, KeyId, LeaseNumber, Millis, Plan, RotationId, Term, Work,
};
use tonic::Code;
use uuid::Uuid;
use wire::pki::Role;

use crate::support::{Farm, Leader};

/// Nothing was changed for whoever was refused.
async fn assert_untouched(farm: &Farm, leader: &Leader) {
    let described = leader.describe().await;
    assert_eq!(described.current_key, farm.old.id().to_string());
    assert_eq!(described.pending_key, "");
    assert!(!described.held_offline);
    assert_eq!(farm.instance.state(), "online");
    farm.assert_rows_under(&farm.old).await;
}

#[tokio::test]
async fn before_enrolment_nobody_is_obeyed() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let leader = Leader::new(&farm, &agent);
    let status = leader.send(Work::Inspect).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let problem = wire::status::problem(&status).unwrap();
    assert_eq!(problem.next_step, "enroll it: keyturn node enroll node-1 --address https://HOST:PORT");
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn another_cluster_a_lower_term_and_a_lower_epoch_are_refused() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let leader = Leader::planned(&farm, &agent).await;

    let mut foreign = leader.clone();
    foreign.fence.cluster = ClusterId::new(Uuid::from_u128(2));
    foreign.next_phase();
    let refusal = foreign.ask(Work::StoreKey).await.unwrap_err().refusal();
    assert!(refusal.contains("comes from cluster"), "{refusal}");

    let mut next = leader.clone();
    next.fence.term = Term::new(5);
    next.next_phase();
    next.answer(Work::StoreKey).await;
    let refusal = leader.ask(Work::DiscardKey).await.unwrap_err().refusal();
    assert!(refusal.contains("term 5 has been seen"), "{refusal}");
    let mut stale = leader.clone();
    stale.fence.term = Term::new(5);
    let refusal = stale.ask(Work::DiscardKey).await.unwrap_err().refusal();
    assert!(refusal.contains("has been seen"), "{refusal}");

    // The fence survives the agent.
    agent.stop().await;
    let agent = farm.start().await;
    stale.reconnect(&farm, &agent);
    let refusal = stale.ask(Work::DiscardKey).await.unwrap_err().refusal();
    assert!(refusal.contains("has been seen"), "{refusal}");
    assert_eq!(stale.describe().await.pending_key, farm.new.id().to_string());
}

#[tokio::test]
async fn a_refused_assignment_raises_no_fence() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let leader = Leader::planned(&farm, &agent).await;
    let mut unsigned = leader.clone();
    unsigned.fence.epoch = rotation::Epoch::new(1_000);
    unsigned.authorization = None;
    let refusal = unsigned.ask(Work::TakeOffline).await.unwrap_err().refusal();
    assert!(refusal.contains("without a plan"), "{refusal}");
    leader.answer(Work::StoreKey).await;
}

#[tokio::test]
async fn an_altered_plan_is_refused() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    let mut plan = leader.read_plan();
    plan.shards.pop();
    leader.plan = Some(plan.to_bytes());
    leader.next_phase();
    let refusal = leader.ask(Work::StoreKey).await.unwrap_err().refusal();
    assert!(refusal.contains("not the one that was signed"), "{refusal}");
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn a_forged_signature_is_refused() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let leader = Leader::planned(&farm, &agent).await;
    let genuine = leader.authorization.clone().unwrap();

    let mut bent = genuine.clone();
    bent.signature[10] ^= 1;
    let mut other_words = genuine.clone();
    let words = String::from_utf8(other_words.statement.clone()).unwrap();
    other_words.statement = words.replace(&farm.new.id().to_string(), &farm.old.id().to_string()).into_bytes();
    let forgeries = [
        ("a bent signature", bent),
        ("other words under the same signature", other_words),
        ("a viewer", leader.sign(&farm, &farm.tls(Role::Viewer, "alice"), |_| {})),
        ("a coordinator", leader.sign(&farm, &farm.tls(Role::Coordinator, "coordinator-1"), |_| {})),
        ("an operator of another CA", leader.sign(&farm, &farm.foreign_tls(Role::Operator, "alice"), |_| {})),
    ];
    for (what, authorization) in forgeries {
        let mut leader = leader.clone();
        leader.authorization = Some(authorization);
        leader.next_phase();
        let refusal = leader.ask(Work::StoreKey).await.unwrap_err().refusal();
        assert!(refusal.contains("signature does not hold"), "{what}: {refusal}");
    }
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn a_statement_for_something_else_is_refused() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let leader = Leader::planned(&farm, &agent).await;
    let operator = farm.tls(Role::Operator, "alice");
    let node = "node-1".parse::<rotation::NodeId>().unwrap();
    let other_rotation = RotationId::new(Uuid::now_v7());
    let old = farm.old.id();
    let cases = [
        ("farm", leader.sign(&farm, &operator, |statement| statement.farm = "other".to_owned())),
        ("rotation", leader.sign(&farm, &operator, |statement| statement.rotation = other_rotation)),
        ("format", leader.sign(&farm, &operator, |statement| statement.format = 2)),
        ("does not name this node", leader.sign(&farm, &operator, |statement| statement.nodes.clear())),
        ("are the same", leader.sign(&farm, &operator, |statement| statement.new_key = old)),
        ("old key", leader.sign(&farm, &operator, |statement| statement.old_key = KeyId::new([7; 16]))),
        (
            "recipient key",
            leader.sign(&farm, &operator, |statement| {
                statement.nodes.get_mut(&node).unwrap().recipient_key = "00".to_owned();
            }),
        ),
        (
            "sealed bundle",
            leader.sign(&farm, &operator, |statement| {
                statement.nodes.get_mut(&node).unwrap().sealed_digest = rotation::Digest::new([7; 32]);
            }),
        ),
    ];
    for (expected, authorization) in cases {
        let mut leader = leader.clone();
        leader.authorization = Some(authorization);
        leader.next_phase();
        let refusal = leader.ask(Work::StoreKey).await.unwrap_err().refusal();
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn an_operators_certificate_alone_gives_the_farm_no_key() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    // A genuine signature over a bundle of the thief's own, who holds neither the escrow nor its password.
    let thief = farm.tls(Role::Operator, "alice");
    leader.authorization = Some(leader.sign_with(&farm, &thief, &keys::SecretKey::generate(), |_| {}));
    leader.next_phase();
    let fault = leader.ask(Work::StoreKey).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Bundle);
    assert!(fault.message.contains("without the farm's current key"), "{fault}");
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn other_targets_than_planned_are_refused() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    agent.stop().await;
    let targets = farm.path().join("targets.toml");
    let text = std::fs::read_to_string(&targets).unwrap().replace("base64", "raw");
    std::fs::write(&targets, text).unwrap();
    let agent = farm.start().await;
    leader.reconnect(&farm, &agent);
    leader.next_phase();
    let refusal = leader.ask(Work::StoreKey).await.unwrap_err().refusal();
    assert!(refusal.contains("targets.toml"), "{refusal}");
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn only_one_statement_is_followed_in_a_rotation_and_no_earlier_rotation_after_a_later_one() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut first = Leader::planned(&farm, &agent).await;
    first.next_phase();
    first.answer(Work::StoreKey).await;

    // Signed with another nonce and other sealed bytes: another statement, although for the same keys.
    let mut again = first.clone();
    again.approve(&farm);
    again.next_phase();
    let refusal = again.ask(Work::StoreKey).await.unwrap_err().refusal();
    assert!(refusal.contains("another signed statement"), "{refusal}");

    first.next_phase();
    first.answer(Work::DiscardKey).await;
    let mut second = first.clone();
    second.rotation = RotationId::new(Uuid::now_v7());
    second.preflight(&farm).await;
    second.approve(&farm);
    second.next_phase();
    second.answer(Work::StoreKey).await;
    first.fence = second.fence;
    first.next_phase();
    let refusal = first.ask(Work::TakeOffline).await.unwrap_err().refusal();
    assert!(refusal.contains("is over on this node"), "{refusal}");
    assert_eq!(farm.instance.state(), "online");
}

#[tokio::test]
async fn a_statement_that_was_verified_once_holds_when_its_signer_has_expired_since() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    leader.answer(Work::StoreKey).await;
    // As good as expired: the chain leads nowhere.
    leader.authorization.as_mut().unwrap().certificates.clear();
    leader.next_phase();
    leader.answer(Work::DiscardKey).await;
    // A statement that was never verified gets nothing from that.
    leader.authorization.as_mut().unwrap().statement.push(b' ');
    leader.next_phase();
    let refusal = leader.ask(Work::TakeOffline).await.unwrap_err().refusal();
    assert!(refusal.contains("signature does not hold"), "{refusal}");
}

#[tokio::test]
async fn the_particulars_of_work_must_be_those_that_were_signed() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.next_phase();
    let lease = LeaseNumber::new(1);
    let direction = Direction::Forward;
    let mut other_range = leader.read_plan().shards.remove(0);
    other_range.range.after = Some(rotation::KeyBound("[7]".to_owned()));
    let mut elsewhere = leader.read_plan().shards.remove(0);
    elsewhere.table = "sqlite_master".to_owned();
    let cases = [
        (
            "is not one of the signed plan",
            Work::ReencryptShard { shard: other_range, lease, direction, rows_per_second: None },
        ),
        (
            "is not one of the signed plan",
            Work::VerifyShard { shard: elsewhere, lease, direction, rows_per_second: None },
        ),
        ("neither the old nor the new key", Work::StartInstance { key: KeyId::new([7; 16]) }),
        ("there is none", Work::LiftFence { direction, position: None }),
    ];
    for (expected, work) in cases {
        let refusal = leader.ask(work).await.unwrap_err().refusal();
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    let mut other_node = leader.clone();
    let mut plan = other_node.read_plan();
    let planned = plan.nodes.values().next().unwrap().clone();
    plan.nodes.insert("node-2".parse().unwrap(), planned);
    other_node.plan = Some(plan.to_bytes());
    assert!(other_node.ask(Work::FenceDatabase).await.unwrap_err().refusal().contains("not the one that was signed"));
    farm.assert_rows_under(&farm.old).await;
}

#[tokio::test]
async fn work_that_the_node_is_not_ready_for_is_refused() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.next_phase();
    let shard = leader.read_plan().shards.remove(0);
    let lease = LeaseNumber::new(1);
    let direction = Direction::Forward;
    let check = async |leader: &Leader, work: Work, code: FaultCode, expected: &str| {
        let fault = leader.ask(work).await.unwrap_err().fault();
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.message.contains(expected), "{expected}: {fault}");
    };
    let refused = FaultCode::AssignmentRefused;
    let not_held = "does not hold its instance offline";
    check(&leader, Work::FenceDatabase, refused, not_held).await;
    check(&leader, Work::ReencryptShard { shard, lease, direction, rows_per_second: None }, refused, not_held).await;
    check(&leader, Work::ActivateKey { at: crate::support::ACTIVATED_AT }, refused, not_held).await;
    check(&leader, Work::AdmitInstance, refused, "did not prove key").await;
    check(&leader, Work::StartInstance { key: farm.new.id() }, FaultCode::KeyStore, "key there is").await;
    check(&leader, Work::CloseLedger { direction }, FaultCode::KeyStore, "key there is").await;

    leader.next_phase();
    leader.answer(Work::TakeOffline).await;
    leader.next_phase();
    let work = Work::ActivateKey { at: crate::support::ACTIVATED_AT };
    check(&leader, work, refused, "the pending key is none").await;
    for at in [Millis::new(0), Millis::new(u64::MAX)] {
        leader.next_phase();
        check(&leader, Work::ActivateKey { at }, refused, "no time near now").await;
    }
    assert_eq!(leader.describe().await.current_key, farm.old.id().to_string());
}

#[tokio::test]
async fn a_bundle_of_another_plan_does_not_open() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    // Sealed for this plan, and then the plan was changed and signed again: the bundle is bound to the first.
    let sealed_for_first = leader.authorization.clone().unwrap().sealed;
    let mut plan: Plan = leader.read_plan();
    plan.downtime_forecast_ms += 1;
    leader.plan = Some(plan.to_bytes());
    let digest = rotation::Digest::new(*blake3::hash(sealed_for_first.values().next().unwrap()).as_bytes());
    let mut authorization = leader.sign(&farm, &farm.tls(Role::Operator, "alice"), |statement| {
        statement.nodes.values_mut().for_each(|grant| grant.sealed_digest = digest);
    });
    authorization.sealed = sealed_for_first;
    leader.authorization = Some(authorization);
    leader.next_phase();
    let fault = leader.ask(Work::StoreKey).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Bundle, "{fault}");
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn each_role_may_do_its_own_and_a_foreign_ca_nothing() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let leader = Leader::planned(&farm, &agent).await;
    for role in [Role::Operator, Role::Agent, Role::Viewer] {
        let other = leader.with_identity(&farm.tls(role, "somebody"), &agent);
        assert_eq!(other.send(Work::Inspect).await.unwrap_err().code(), Code::PermissionDenied, "{role}");
        other.describe().await;
    }
    let foreign = leader.with_identity(&farm.foreign_tls(Role::Coordinator, "coordinator-1"), &agent);
    assert!(foreign.send(Work::Inspect).await.is_err());
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn the_application_is_not_let_in_among_rows_that_it_cannot_open() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    leader.quiesce().await;
    leader.next_phase();
    leader.rows(Direction::Forward, false).await;
    let Answer::PositionRecorded(position) = leader.answer(Work::RecordPosition).await else { unreachable!() };
    // Verify is left out.
    leader.next_phase();
    leader.answer(Work::ActivateKey { at: crate::support::ACTIVATED_AT }).await;
    let forward = Work::LiftFence { direction: Direction::Forward, position: Some(position) };
    let fault = leader.ask(forward).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::AssignmentRefused);
    assert!(fault.message.contains("not verified under the new key"), "{fault}");

    // The rows' way back is left out.
    leader.next_phase();
    leader.answer(Work::TurnBack).await;
    leader.answer(Work::RestoreKey).await;
    let back = Work::LiftFence { direction: Direction::Back, position: None };
    let fault = leader.ask(back).await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::DatabasePosition);
    assert!(fault.message.contains("not verified back"), "{fault}");
    assert_eq!(farm.instance.state(), "offline");
}

#[tokio::test]
async fn a_plan_that_leaves_rows_out_is_refused_although_it_is_signed() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let leader = Leader::planned(&farm, &agent).await;
    let cases: [fn(&mut Plan); 3] = [
        |plan| plan.shards[0].range.after = Some(KeyBound("[\"i:1\"]".to_owned())),
        |plan| drop(plan.shards.pop()),
        |plan| {
            plan.tables.clear();
            plan.shards.clear();
        },
    ];
    for change in cases {
        let mut leader = leader.clone();
        let mut plan = leader.read_plan();
        change(&mut plan);
        leader.plan = Some(plan.to_bytes());
        leader.approve(&farm);
        leader.next_phase();
        let refusal = leader.ask(Work::StoreKey).await.unwrap_err().refusal();
        assert!(refusal.contains("leaves rows of table"), "{refusal}");
    }
    assert_untouched(&farm, &leader).await;
}

#[tokio::test]
async fn a_plan_that_another_protocol_made_is_refused() {
    let farm = Farm::new().await;
    let agent = farm.start().await;
    let mut leader = Leader::planned(&farm, &agent).await;
    let mut plan = leader.read_plan();
    let ours = rotation::AgentRelease::PROTOCOL;
    plan.nodes.values_mut().for_each(|node| node.release.protocol = ours + 1);
    leader.plan = Some(plan.to_bytes());
    leader.approve(&farm);
    leader.next_phase();
    let refusal = leader.ask(Work::StoreKey).await.unwrap_err().refusal();
    let named = refusal.contains("protocol of this node's release");
    assert!(named && refusal.contains(&ours.to_string()) && refusal.contains(&(ours + 1).to_string()), "{refusal}");
    assert_untouched(&farm, &leader).await;
}
