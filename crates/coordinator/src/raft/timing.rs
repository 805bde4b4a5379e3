//! Every duration of consensus, with its reason, and openraft's configuration made of them.

use std::time::Duration;

use openraft::{ConfigError, SnapshotPolicy};

/// Between two heartbeats, and how long one batch of entries may take: below 250 ms a busy disk makes openraft send
/// the same batch for ever.
const HEARTBEAT: Duration = Duration::from_millis(300);

/// The shortest wait for a leader before an election: several heartbeats, which openraft sends at every one and a half.
const ELECTION_MIN: Duration = Duration::from_millis(1_200);

/// By how much the replicas' waits differ. openraft draws its wait once per process, so two that drew alike would
/// stand against each other at every election. One and a third heartbeats, since it looks once per one and a half.
const ELECTION_STEP: Duration = Duration::from_millis(400);

/// The spread within one replica's wait; openraft wants one.
const ELECTION_SPREAD: Duration = Duration::from_millis(50);

/// How long one piece of a snapshot may take to be sent and installed.
const SNAPSHOT_PIECE: Duration = Duration::from_secs(10);

/// Bytes of one piece of a snapshot; far below the largest message.
const SNAPSHOT_PIECE_BYTES_MAX: u64 = 1024 * 1024;

/// Entries after which a snapshot is taken and the log before it dropped. A rotation of some hundred shards is about
/// this many, so at most a few of them are applied again at a start.
const SNAPSHOT_EVERY_ENTRIES: u64 = 1_000;

/// Entries kept behind a snapshot, so that a follower that was away for a moment needs no snapshot.
const KEEP_ENTRIES: u64 = 200;

/// The pause after a call that failed.
pub(super) const UNREACHABLE_RETRY: Duration = Duration::from_millis(250);

/// How long a client's write may take: more than an election, so that one in between does not fail it.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a leader may take to show that it still leads before a read fails.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a leader makes sure that it still leads.
pub(super) const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);

/// Attempts of that which may fail in a row. openraft's leader never steps down by itself when it is cut off.
pub(super) const PRESENCE_FAILURES_MAX: u32 = 4;

/// How long a leader may be silent before callers are not sent to it any more: several heartbeats.
pub(super) const LEADER_SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long a replica without a leader waits before it stands for election on its own account, at least: longer than
/// any regular election.
pub(super) const LEADERLESS_MIN: Duration = Duration::from_secs(6);

/// … and at most; drawn anew every time.
pub(super) const LEADERLESS_MAX: Duration = Duration::from_secs(12);

/// How often a replica that hears no leader asks whether it was removed.
pub(super) const REMOVAL_INTERVAL: Duration = Duration::from_secs(3);

/// How long a request waits for a step of a change of the membership to be confirmed before it is answered that the step
/// is under way: shorter than callers wait for an answer.
pub(super) const CHANGE_WAIT: Duration = Duration::from_secs(2);

/// Between two rounds of probing while a cluster forms.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(150);

/// How long one probe may take; covers a TLS handshake on a busy machine.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long another replica's call waits until this one knows whether it is new.
pub(super) const STANDING_TIMEOUT: Duration = Duration::from_millis(250);

/// openraft's configuration for the replica at this place (from 0) among all replicas by id.
pub(super) fn openraft_config(farm: &str, place: u32, elect: bool) -> Result<openraft::Config, Box<ConfigError>> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election_min = ELECTION_MIN + ELECTION_STEP * place;
    openraft::Config {
        cluster_name: farm.to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(election_min),
        election_timeout_max: millis(election_min + ELECTION_SPREAD),
        install_snapshot_timeout: millis(SNAPSHOT_PIECE),
        snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY_ENTRIES),
        max_in_snapshot_log_to_keep: KEEP_ENTRIES,
        enable_elect: elect,
        ..openraft::Config::default()
    }
    .validate()
    .map_err(Box::new)
}
