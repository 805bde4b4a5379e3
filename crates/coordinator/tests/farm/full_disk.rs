//! A disk that is full under a coordinator's log: it says so and ends, the others go on, nothing that was acknowledged is
//! lost, and with room again it follows.

use std::error::Error;

use coordinator::RunError;
use wire::pki::Role;
use wire::tls::Tls;

use crate::cluster::{enroll, get_farm, node_names};
use crate::small_disk::SmallDisk;
use crate::support::Farm;

/// Enrolments after which a full disk has been noticed for certain: each writes pages that the file has not yet.
const WRITES_MAX: usize = 2_000;

/// Coordinators of this number, each on a disk of its own.
fn on_small_disks(replicas: usize) -> (Farm, Vec<SmallDisk>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = |number: usize| {
        let path = directory.path().join(format!("data-{number}"));
        std::fs::create_dir(&path).expect("a new directory");
        SmallDisk::mount_on(path, "16m", "uid=0,gid=0")
    };
    let disks = (1..=replicas).map(disk).collect();
    (Farm::start_in(directory, replicas), disks)
}

/// Enrolls nodes until the replica at this place has ended; answers the names of those of which that was acknowledged.
async fn write_until_ended(farm: &Farm, tls: &Tls, place: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0..WRITES_MAX {
        if farm.replicas[place].has_ended() {
            return acknowledged;
        }
        let name = format!("node-{number:04}");
        enroll(farm, tls, &name).await.expect("the others go on");
        acknowledged.push(name);
    }
    panic!("{WRITES_MAX} writes went onto a full disk");
}

/// It names what is wrong and what to do.
fn assert_names_the_disk(error: &RunError) {
    let sources = std::iter::successors(error.source(), |&source| source.source());
    let text: String = sources.fold(error.to_string(), |text, source| format!("{text}: {source}"));
    for words in ["disk is full", "make room", "data_dir", "start", "No space left on device"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_coordinator_whose_disk_is_full_ends_and_says_so_the_others_go_on_and_it_follows_once_there_is_room() {
    for leads in [true, false] {
        let (mut farm, disks) = on_small_disks(3);
        let operator = farm.tls(Role::Operator, "alice");
        let leader = farm.leader(&operator).await;
        let full = if leads { leader } else { (leader + 1) % 3 };
        disks[full].fill();
        let mut acknowledged = write_until_ended(&farm, &operator, full).await;
        assert_names_the_disk(&farm.replicas[full].ended().await);
        assert_ne!(farm.leader(&operator).await, full, "a majority is left");

        // Whoever starts it again before there is room is told the same, and nobody else is disturbed.
        farm.replicas[full].restart();
        acknowledged.extend(write_until_ended(&farm, &operator, full).await);
        assert_names_the_disk(&farm.replicas[full].ended().await);

        disks[full].clear();
        farm.replicas[full].restart();
        let other = (0..3).find(|place| *place != full).expect("three");
        farm.replicas[other].kill().await;
        enroll(&farm, &operator, "the-last").await.expect("it is needed for a majority, and counts");
        acknowledged.push("the-last".to_owned());
        farm.leader(&operator).await;
        let seen = get_farm(&farm, &operator, 3 - full - other).await.expect("answers");
        acknowledged.sort();
        acknowledged.dedup();
        assert_eq!(node_names(&seen), acknowledged);
    }
}

#[tokio::test]
async fn a_coordinator_that_is_alone_on_a_full_disk_has_all_that_it_acknowledged_once_there_is_room() {
    let (mut farm, disks) = on_small_disks(1);
    let operator = farm.tls(Role::Operator, "alice");
    farm.leader(&operator).await;
    let mut acknowledged = Vec::new();
    disks[0].fill();
    for number in 0..WRITES_MAX {
        let name = format!("node-{number:04}");
        let request = wire::v1::EnrollNodeRequest { id: name.clone(), address: "https://127.0.0.1:9".to_owned() };
        match farm.client(&operator, 0).enroll_node(request).await {
            Ok(_) => acknowledged.push(name),
            Err(_) => break,
        }
    }
    assert_names_the_disk(&farm.replicas[0].ended().await);
    disks[0].clear();
    farm.replicas[0].restart();
    farm.leader(&operator).await;
    let seen = get_farm(&farm, &operator, 0).await.expect("answers");
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !node_names(&seen).contains(&name.as_str())).collect();
    assert!(lost.is_empty(), "{lost:?} of {acknowledged:?}");
    assert!(seen.nodes.len() <= acknowledged.len() + 1, "no more than what was asked last: {seen:?}");
    enroll(&farm, &operator, "the-last").await.expect("it goes on");
}
