//! The persisted fence: which cluster this agent obeys, and the highest term and epoch that it has seen.

use std::path::{Path, PathBuf};

use fail_points::point;
use rotation::{ClusterId, Epoch, Fence, Term};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

const FORMAT: &str = "keyturn-agent-fence 1";
const FILE: &str = "fence.json";
/// How many former clusters are remembered. A node changes its cluster when one is lost, so a handful in its life.
const FORMER_MAX: usize = 32;

/// Why a fence is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FenceRefusal {
    /// No operator has enrolled this node yet.
    #[error("this agent obeys no cluster of coordinators yet")]
    NotEnrolled,
    /// The sender belongs to another cluster.
    #[error("the assignment comes from cluster {theirs}, and this agent obeys cluster {ours}")]
    ForeignCluster {
        /// The sender's.
        theirs: ClusterId,
        /// The one that this agent was enrolled with.
        ours: ClusterId,
    },
    /// A later leader has spoken already.
    #[error("the assignment comes from a leader of term {theirs}, and term {ours} has been seen")]
    StaleTerm {
        /// The sender's.
        theirs: Term,
        /// The highest seen.
        ours: Term,
    },
    /// The rotation has moved on.
    #[error("the assignment is of epoch {theirs}, and epoch {ours} has been seen")]
    StaleEpoch {
        /// The sender's.
        theirs: Epoch,
        /// The highest seen.
        ours: Epoch,
    },
}

impl FenceRefusal {
    /// What an operator can do about it.
    pub(crate) fn next_step(&self, node: &str) -> String {
        match self {
            Self::NotEnrolled => {
                format!("enroll it: keyturn node enroll {node} --address https://HOST:PORT")
            }
            Self::ForeignCluster { .. } => {
                format!("if the node is to change its cluster: keyturn node enroll {node} --address https://HOST:PORT")
            }
            Self::StaleTerm { .. } | Self::StaleEpoch { .. } => {
                "nothing: the present leader gives out the work again".to_owned()
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Record {
    current: Option<Fence>,
    /// Clusters obeyed earlier, oldest first: going back to one of them does not make its old assignments valid.
    former: Vec<Fence>,
}

/// The highest fence, in memory and on disk. Disk first.
#[derive(Debug)]
pub(crate) struct FenceFile {
    path: PathBuf,
    record: Record,
}

impl FenceFile {
    /// Reads it; absent means not enrolled, unreadable is an error.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let path = state_dir.join(FILE);
        let record = durable::read(&path, FORMAT)?.unwrap_or_default();
        Ok(Self { path, record })
    }

    /// The cluster obeyed.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.record.current.map(|fence| fence.cluster)
    }

    /// Whether the sender may still give work. Changes nothing.
    pub(crate) fn check(&self, theirs: &Fence) -> Result<(), FenceRefusal> {
        let ours = self.record.current.ok_or(FenceRefusal::NotEnrolled)?;
        if theirs.cluster != ours.cluster {
            Err(FenceRefusal::ForeignCluster { theirs: theirs.cluster, ours: ours.cluster })
        } else if theirs.term < ours.term {
            Err(FenceRefusal::StaleTerm { theirs: theirs.term, ours: ours.term })
        } else if theirs.epoch < ours.epoch {
            Err(FenceRefusal::StaleEpoch { theirs: theirs.epoch, ours: ours.epoch })
        } else {
            Ok(())
        }
    }

    /// Makes a checked fence the highest, on disk before in memory.
    pub(crate) fn raise(&mut self, checked: &Fence) -> Result<(), DurableError> {
        debug_assert_eq!(self.check(checked), Ok(()), "only a checked fence is raised to");
        if self.record.current.as_ref() == Some(checked) {
            return Ok(());
        }
        self.store(Record { current: Some(*checked), former: self.record.former.clone() })
    }

    /// Obeys this cluster from now on. The same one again changes nothing.
    pub(crate) fn adopt(&mut self, cluster: ClusterId) -> Result<(), DurableError> {
        if self.cluster() == Some(cluster) {
            return Ok(());
        }
        let mut former = self.record.former.clone();
        let known = former.iter().position(|fence| fence.cluster == cluster).map(|index| former.remove(index));
        former.extend(self.record.current);
        if former.len() > FORMER_MAX {
            former.remove(0);
        }
        let fresh = Fence { cluster, term: Term::new(0), epoch: Epoch::new(0) };
        self.store(Record { current: Some(known.unwrap_or(fresh)), former })
    }

    fn store(&mut self, record: Record) -> Result<(), DurableError> {
        durable::write(&self.path, FORMAT, &record, point!(AGENT_FENCE))?;
        self.record = record;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(n: u128) -> ClusterId {
        ClusterId::new(uuid::Uuid::from_u128(n))
    }

    fn fence(n: u128, term: u64, epoch: u64) -> Fence {
        Fence { cluster: cluster(n), term: Term::new(term), epoch: Epoch::new(epoch) }
    }

    /// An agent that obeys cluster 1 and has seen term 3 and epoch 7.
    fn seen(folder: &Path) -> FenceFile {
        let mut file = FenceFile::open(folder).unwrap();
        file.adopt(cluster(1)).unwrap();
        file.raise(&fence(1, 3, 7)).unwrap();
        FenceFile::open(folder).unwrap()
    }

    #[test]
    fn nobody_is_obeyed_before_enrolment() {
        let folder = tempfile::tempdir().unwrap();
        let file = FenceFile::open(folder.path()).unwrap();
        assert_eq!(file.check(&fence(1, 9, 9)), Err(FenceRefusal::NotEnrolled));
    }

    #[test]
    fn only_the_same_cluster_with_no_lower_term_and_no_lower_epoch_is_obeyed() {
        let folder = tempfile::tempdir().unwrap();
        let file = seen(folder.path());
        assert_eq!(file.check(&fence(1, 3, 7)), Ok(()));
        assert_eq!(file.check(&fence(1, 4, 7)), Ok(()));
        assert_eq!(file.check(&fence(1, 3, 8)), Ok(()));
        assert!(matches!(file.check(&fence(1, 2, 8)), Err(FenceRefusal::StaleTerm { .. })));
        assert!(matches!(file.check(&fence(1, 4, 6)), Err(FenceRefusal::StaleEpoch { .. })));
        assert!(matches!(file.check(&fence(2, 9, 9)), Err(FenceRefusal::ForeignCluster { .. })));
    }

    #[test]
    fn adopting_the_same_cluster_again_keeps_its_fence() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = seen(folder.path());
        file.adopt(cluster(1)).unwrap();
        assert!(matches!(file.check(&fence(1, 3, 6)), Err(FenceRefusal::StaleEpoch { .. })));
    }

    #[test]
    fn going_back_to_a_former_cluster_keeps_its_fence() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = seen(folder.path());
        file.adopt(cluster(2)).unwrap();
        assert_eq!(file.check(&fence(2, 1, 1)), Ok(()));
        file.adopt(cluster(1)).unwrap();
        assert!(matches!(file.check(&fence(1, 3, 6)), Err(FenceRefusal::StaleEpoch { .. })));
    }

    #[test]
    fn a_broken_file_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        seen(folder.path());
        std::fs::write(folder.path().join(FILE), b"").unwrap();
        assert!(FenceFile::open(folder.path()).is_err());
    }
}
