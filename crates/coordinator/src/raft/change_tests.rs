//! A change of voters whose leader died between its two halves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use openraft::{BasicNode, CommittedLeaderId, EntryPayload};
use wire::pki::{Authority, Role};
use wire::tls::{Tls, TlsFiles};

use super::Consensus;
use super::frame::{self, Kind};
use super::store::Store;
use super::types::{LogEntry, LogId};
use crate::config::{Config, HEARTBEAT_MS, ReplicaConfig};

/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(30);

const FARM: &str = "demo";
const ADDRESS: &str = "https://127.0.0.1:9";

fn config(directory: &Path) -> Config {
    let authority = Authority::create(FARM).expect("a certificate authority");
    let issued = authority.issue(Role::Coordinator, "1", &["127.0.0.1".to_owned()], 1).expect("issues");
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("writes");
        path
    };
    Config {
        id: 1,
        farm: FARM.to_owned(),
        listen: "127.0.0.1:0".parse().expect("valid"),
        data_dir: directory.join("data"),
        tls: TlsFiles {
            ca: file("ca.pem", authority.certificate_pem()),
            certificate: file("certificate.pem", &issued.certificate_pem),
            key: file("key.pem", &issued.key_pem),
        },
        heartbeat_ms: HEARTBEAT_MS,
        join: false,
        replicas: vec![ReplicaConfig { id: 1, address: ADDRESS.to_owned() }],
    }
}

#[tokio::test]
async fn a_leader_finishes_the_change_of_voters_that_an_earlier_one_began() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = config(directory.path());
    // Two majorities, each of this one replica: as of a change of which the first half alone was logged.
    let store = Store::open(&config.data_dir, FARM, 1).expect("opens");
    let only: BTreeSet<u64> = [1].into();
    let nodes: BTreeMap<u64, BasicNode> = [(1, BasicNode::new(ADDRESS))].into();
    let frames: Vec<_> = [vec![only.clone()], vec![only.clone(), only]]
        .into_iter()
        .zip(0..)
        .map(|(configs, index)| {
            let entry = LogEntry {
                log_id: LogId::new(CommittedLeaderId::new(index, 1), index),
                payload: EntryPayload::Membership(openraft::Membership::new(configs, nodes.clone())),
            };
            (index, frame::encode(Kind::Entry, &entry).expect("writes"))
        })
        .collect();
    store.append(&frames).expect("writes");
    let closed = store.closed();
    drop(store);
    closed.cancelled().await;

    let consensus = Consensus::start(&config, Tls::load(&config.tls).expect("loads")).await.expect("starts");
    let mut metrics = consensus.raft.metrics();
    let configs =
        |now: &openraft::RaftMetrics<u64, BasicNode>| now.membership_config.membership().get_joint_config().len();
    let finished = metrics.wait_for(|now| now.last_log_index > Some(1) && configs(now) == 1);
    tokio::time::timeout(BOUND, finished).await.expect("is finished, and nobody asked").expect("runs");
    drop(metrics);
    consensus.shutdown().await;
}
