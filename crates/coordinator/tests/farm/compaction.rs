//! New replicas of a cluster whose log was compacted: what they are told by snapshot is all there was.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use wire::pki::Role;
use wire::v1;

use crate::cluster::{enroll, get_farm, node_names, write_many};
use crate::members::change;
use crate::support::{BOUND, Farm};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_replica_that_joins_after_the_log_was_compacted_is_brought_up_by_a_snapshot() {
    let mut farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    write_many(&farm, &operator, 0).await;
    enroll(&farm, &operator, "node-2").await.expect("enrolls");
    let pair = [farm.join(2), farm.join(3)];
    change(&farm, &operator, &pair, &[]).await;
    farm.replicas[0].kill().await;
    enroll(&farm, &operator, "node-3").await.expect("the new ones go on alone");
    let leader = farm.leader(&operator).await;
    let seen = get_farm(&farm, &operator, leader).await.expect("answers");
    assert_eq!(node_names(&seen), ["node-1", "node-2", "node-3"]);
    farm.replicas[leader].kill().await;
    farm.replicas[leader].restart();
    enroll(&farm, &operator, "node-4").await.expect("what a snapshot brought outlives a restart");
}

/// Rotations in the audit trail, and accepted values in each: several pieces of a snapshot.
const ROTATIONS: usize = 10;
const ACCEPTED: usize = 1_000;

#[tokio::test]
async fn a_long_audit_trail_goes_over_whole() {
    let mut farm = Farm::start(1);
    let operator = farm.tls(Role::Operator, "alice");
    enroll(&farm, &operator, "node-1").await.expect("enrolls");
    let value = |number: usize| v1::UndecryptableValue {
        table: "items".to_owned(),
        column: "secret".to_owned(),
        key: format!("[\"{number}\"]"),
        raw_digest: "07".repeat(32),
        reason: "it opens under no known key, and somebody has written down at length why that is so ".repeat(3),
    };
    let accepted: Vec<_> = (0..ACCEPTED).map(value).collect();
    let mut client = farm.client(&operator, 0);
    for _ in 0..ROTATIONS {
        let request = v1::PlanRotationRequest { accepted: accepted.clone(), hold_at: 0, ..Default::default() };
        let planned = client.plan_rotation(request).await.expect("begins").into_inner();
        client.abort_rotation(v1::AbortRotationRequest { id: planned.id }).await.expect("withdraws");
    }
    write_many(&farm, &operator, 0).await;
    let before = client.list_rotations(v1::ListRotationsRequest {}).await.expect("lists").into_inner();
    assert_eq!(before.rotations.len(), ROTATIONS);

    let new = farm.join(2);
    change(&farm, &operator, &[new], &[1]).await;
    let list = async {
        loop {
            let mut client = farm.client(&operator, new);
            match client.list_rotations(v1::ListRotationsRequest {}).await {
                Ok(list) if list.get_ref().rotations.len() == ROTATIONS => return list.into_inner(),
                _ => sleep(LOOK).await,
            }
        }
    };
    let after = timeout(BOUND, list).await.expect("the new one alone has it all");
    let ids = |list: &v1::ListRotationsResponse| -> Vec<_> {
        list.rotations.iter().map(|rotation| (rotation.id.clone(), rotation.outcome)).collect()
    };
    assert_eq!(ids(&after), ids(&before));
    let size = farm.directory.path().join("data-2/raft.redb").metadata().expect("the file is there").len();
    assert!(size > 2 * 1024 * 1024, "a snapshot of several pieces was taken over: {size}");
}
