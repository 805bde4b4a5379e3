//! Every duration of consensus, with its reason, and openraft's configuration made of them. What depends on how far the
//! coordinators are from each other is given here for the default heartbeat, and grows with it in proportion.

use std::time::Duration;

use openraft::{ConfigError, SnapshotPolicy};

use crate::config::{HEARTBEAT_MS, HEARTBEAT_MS_MAX};

/// The shortest wait for a leader before an election: several heartbeats, which openraft sends at every one and a half.
const ELECTION_MIN: Duration = Duration::from_millis(1_200);

/// By how much the replicas' waits differ. openraft draws its wait once per process, so two that drew alike would
/// stand against each other at every election. One and a third heartbeats, since it looks once per one and a half.
const ELECTION_STEP: Duration = Duration::from_millis(400);

/// The spread within one replica's wait; openraft wants one.
const ELECTION_SPREAD: Duration = Duration::from_millis(50);

/// How long one piece of a snapshot may take to be sent and installed.
const SNAPSHOT_PIECE: Duration = Duration::from_secs(10);

/// How long a client's write may take: more than an election, so that one in between does not fail it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a leader may take to show that it still leads before a read fails.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a leader makes sure that it still leads.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a leader may be silent before callers are not sent to it any more: several heartbeats.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long a replica without a leader waits before it stands for election on its own account, at least: longer than
/// any regular election.
const LEADERLESS_MIN: Duration = Duration::from_secs(6);

/// … and at most; drawn anew every time.
const LEADERLESS_MAX: Duration = Duration::from_secs(12);

/// How long one probe may take; covers a TLS handshake on a busy machine.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long another replica's call waits until this one knows whether it is new. Shorter than the caller waits.
const STANDING_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a replica may leave every call unanswered before a new connection is made. openraft drops a late call
/// without a word, and a connection over a network that was cut may be silent for minutes after it is whole again.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Bytes of one piece of a snapshot; far below the largest message.
const SNAPSHOT_PIECE_BYTES_MAX: u64 = 1024 * 1024;

/// Entries after which a snapshot is taken and the log before it dropped. A rotation of some hundred shards is about
/// this many, so at most a few of them are applied again at a start.
const SNAPSHOT_EVERY_ENTRIES: u64 = 1_000;

/// Entries kept behind a snapshot, so that a follower that was away for a moment needs no snapshot.
const KEEP_ENTRIES: u64 = 200;

/// The pause after a call that failed.
pub(super) const UNREACHABLE_RETRY: Duration = Duration::from_millis(250);

/// Attempts of that which may fail in a row. openraft's leader never steps down by itself when it is cut off.
pub(super) const PRESENCE_FAILURES_MAX: u32 = 4;

/// How often a replica that hears no leader asks whether it was removed.
pub(super) const REMOVAL_INTERVAL: Duration = Duration::from_secs(3);

/// How long a request waits for a step of a change of the membership to be confirmed before it is answered that the step
/// is under way: shorter than callers wait for an answer.
pub(super) const CHANGE_WAIT: Duration = Duration::from_secs(2);

/// Between two rounds in which those that have not told their heartbeat are asked for it.
pub(super) const COMPARE_INTERVAL: Duration = Duration::from_secs(3);

/// Between two rounds of probing while a cluster forms.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(150);

/// All durations that depend on how far the coordinators are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    heartbeat_ms: u32,
}

impl Timing {
    /// For a heartbeat of so many milliseconds, as [`crate::Config::check`] allows.
    pub(crate) fn new(heartbeat_ms: u32) -> Self {
        Self { heartbeat_ms: heartbeat_ms.clamp(HEARTBEAT_MS, HEARTBEAT_MS_MAX) }
    }

    /// Between two heartbeats, and how long one batch of entries may take, in milliseconds.
    pub(crate) fn heartbeat_ms(self) -> u32 {
        self.heartbeat_ms
    }

    /// What is so long with the default heartbeat.
    fn scaled(self, by_default: Duration) -> Duration {
        by_default * self.heartbeat_ms / HEARTBEAT_MS
    }

    pub(super) fn write_timeout(self) -> Duration {
        self.scaled(WRITE_TIMEOUT)
    }

    pub(super) fn read_timeout(self) -> Duration {
        self.scaled(READ_TIMEOUT)
    }

    pub(super) fn presence_interval(self) -> Duration {
        self.scaled(PRESENCE_INTERVAL)
    }

    pub(super) fn leader_silence_max(self) -> Duration {
        self.scaled(LEADER_SILENCE_MAX)
    }

    /// From when to when a replica without a leader stands for election on its own account.
    pub(super) fn leaderless(self) -> std::ops::Range<Duration> {
        self.scaled(LEADERLESS_MIN)..self.scaled(LEADERLESS_MAX)
    }

    pub(super) fn probe_timeout(self) -> Duration {
        self.scaled(PROBE_TIMEOUT)
    }

    pub(super) fn standing_timeout(self) -> Duration {
        self.scaled(STANDING_TIMEOUT)
    }

    pub(super) fn silence_max(self) -> Duration {
        self.scaled(SILENCE_MAX)
    }

    /// openraft's configuration for the replica at this place (from 0) among all replicas by id.
    pub(super) fn openraft_config(
        self,
        farm: &str,
        place: u32,
        elect: bool,
    ) -> Result<openraft::Config, Box<ConfigError>> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let election_min = self.scaled(ELECTION_MIN + ELECTION_STEP * place);
        openraft::Config {
            cluster_name: farm.to_owned(),
            heartbeat_interval: self.heartbeat_ms.into(),
            election_timeout_min: millis(election_min),
            election_timeout_max: millis(election_min + self.scaled(ELECTION_SPREAD)),
            install_snapshot_timeout: millis(self.scaled(SNAPSHOT_PIECE)),
            snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY_ENTRIES),
            max_in_snapshot_log_to_keep: KEEP_ENTRIES,
            enable_elect: elect,
            ..openraft::Config::default()
        }
        .validate()
        .map_err(Box::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openraft(heartbeat_ms: u32, place: u32) -> [u64; 4] {
        let config = Timing::new(heartbeat_ms).openraft_config("demo", place, true).expect("openraft takes it");
        let election = [config.election_timeout_min, config.election_timeout_max];
        [config.heartbeat_interval, election[0], election[1], config.install_snapshot_timeout]
    }

    #[test]
    fn without_a_word_all_is_as_it_is_for_coordinators_that_are_near() {
        let timing = Timing::new(HEARTBEAT_MS);
        let seconds = Duration::from_secs;
        assert_eq!(openraft(HEARTBEAT_MS, 0), [300, 1_200, 1_250, 10_000]);
        assert_eq!(openraft(HEARTBEAT_MS, 2), [300, 2_000, 2_050, 10_000]);
        assert_eq!([timing.write_timeout(), timing.read_timeout()], [seconds(10), seconds(3)]);
        assert_eq!([timing.presence_interval(), timing.leader_silence_max()], [seconds(1), seconds(2)]);
        assert_eq!(timing.leaderless(), seconds(6)..seconds(12));
        assert_eq!([timing.probe_timeout(), timing.silence_max()], [seconds(2), seconds(3)]);
        assert_eq!(timing.standing_timeout(), Duration::from_millis(250));
    }

    #[test]
    fn all_that_depends_on_the_network_grows_with_the_heartbeat() {
        let timing = Timing::new(1_500);
        let seconds = Duration::from_secs;
        assert_eq!(openraft(1_500, 0), [1_500, 6_000, 6_250, 50_000]);
        assert_eq!(openraft(1_500, 2), [1_500, 10_000, 10_250, 50_000]);
        assert_eq!([timing.write_timeout(), timing.read_timeout()], [seconds(50), seconds(15)]);
        assert_eq!([timing.presence_interval(), timing.leader_silence_max()], [seconds(5), seconds(10)]);
        assert_eq!(timing.leaderless(), seconds(30)..seconds(60));
        assert_eq!([timing.probe_timeout(), timing.silence_max()], [seconds(10), seconds(15)]);
        assert_eq!(timing.standing_timeout(), Duration::from_millis(1_250));
    }

    #[test]
    fn with_any_heartbeat_an_election_begins_after_several_and_ends_before_a_write_is_given_up() {
        for heartbeat_ms in (HEARTBEAT_MS..=HEARTBEAT_MS_MAX).step_by(97).chain([HEARTBEAT_MS_MAX]) {
            let timing = Timing::new(heartbeat_ms);
            let [heartbeat, min, max, _] = openraft(heartbeat_ms, 4).map(Duration::from_millis);
            let [_, first, ..] = openraft(heartbeat_ms, 0).map(Duration::from_millis);
            assert!(first >= heartbeat * 4, "{heartbeat_ms}");
            // A follower grants its vote once the leader's lease is over, and only then waits for its own turn.
            assert!(min + max < timing.write_timeout(), "{heartbeat_ms}");
            assert!(timing.leader_silence_max() > heartbeat * 3, "{heartbeat_ms}");
            assert!(timing.leaderless().start > max, "{heartbeat_ms}");
            assert!(timing.standing_timeout() < heartbeat && timing.read_timeout() > heartbeat, "{heartbeat_ms}");
            assert!(
                timing.silence_max() > heartbeat && timing.silence_max() > timing.probe_timeout(),
                "{heartbeat_ms}"
            );
        }
    }
}
