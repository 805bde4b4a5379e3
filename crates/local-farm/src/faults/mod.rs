//! What `--fail KIND@PHASE` breaks, from outside: by signal, SQL, file or proxy, on the ordinary binary.

mod act;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rotation::Phase;

/// After this time what was broken is healed.
pub(crate) const HEALS_AFTER: Duration = Duration::from_secs(10);

/// The phases at which a rotation can be held.
pub(crate) const PHASES: [Phase; 7] =
    [Phase::Distribute, Phase::Quiesce, Phase::Reencrypt, Phase::Verify, Phase::Activate, Phase::Start, Phase::Admit];

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The leading coordinator is killed, and started again.
    Leader,
    /// An agent is killed, and started again.
    Agent,
    /// An instance cannot be stopped while it runs, or cannot start while it does not.
    Instance,
    /// A row's ciphertext is corrupted behind Keyturn's back.
    Row,
    /// The database server is restarted in the middle of work.
    Database,
    /// An agent is cut off from everybody.
    PartitionAgent,
    /// The leading coordinator is cut off from everybody.
    PartitionLeader,
    /// An agent is stopped by SIGSTOP and continued after its work has moved.
    Zombie,
    /// A follower loses its data directory.
    CoordinatorDisk,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 9] = [
        Self::Leader,
        Self::Agent,
        Self::Instance,
        Self::Row,
        Self::Database,
        Self::PartitionAgent,
        Self::PartitionLeader,
        Self::Zombie,
        Self::CoordinatorDisk,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Agent => "agent",
            Self::Instance => "instance",
            Self::Row => "row",
            Self::Database => "database",
            Self::PartitionAgent => "partition-agent",
            Self::PartitionLeader => "partition-leader",
            Self::Zombie => "zombie",
            Self::CoordinatorDisk => "coordinator-disk",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is broken, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
}

/// Not a fault that can be caused here: wrong usage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UnusableFault(pub(crate) String);

impl FromStr for Fault {
    type Err = UnusableFault;

    fn from_str(text: &str) -> Result<Self, UnusableFault> {
        let parsed = text.split_once('@').and_then(|(kind, phase)| {
            let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
            let phase = PHASES.into_iter().find(|known| known.as_str() == phase)?;
            Some(Self { kind, phase })
        });
        parsed.ok_or_else(|| {
            let kinds = Kind::ALL.map(Kind::as_str).join(", ");
            let phases = PHASES.map(Phase::as_str).join(", ");
            UnusableFault(format!(
                "{text:?} cannot be caused; write KIND@PHASE with a kind of {kinds} and a phase of {phases}"
            ))
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind, self.phase.as_str())
    }
}

impl Fault {
    /// Whether proxies must stand between the farm's processes from the beginning.
    pub(crate) const fn needs_network(self) -> bool {
        matches!(self.kind, Kind::PartitionAgent | Kind::PartitionLeader)
    }

    /// Whether it strikes when work has begun again; the others strike while the rotation is held.
    pub(crate) const fn strikes_after_resume(self) -> bool {
        matches!(self.kind, Kind::Database)
    }

    /// Refuses what this farm cannot suffer.
    pub(crate) fn check(self, coordinators: u32, database_can_restart: bool) -> Result<(), UnusableFault> {
        if self.kind == Kind::Database && !database_can_restart {
            return Err(UnusableFault(
                "--fail database@… restarts a server of the demo's own; use it with --database postgres or mariadb"
                    .to_owned(),
            ));
        }
        if self.kind == Kind::CoordinatorDisk && coordinators < 2 {
            return Err(UnusableFault(
                "--fail coordinator-disk@… needs a follower; use it with --coordinators 3 or 5".to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_at_every_phase_is_read_as_it_is_written() {
        for kind in Kind::ALL {
            for phase in PHASES {
                let fault = Fault { kind, phase };
                assert_eq!(fault.to_string().parse(), Ok(fault));
            }
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_there_is() {
        for text in ["", "agent", "agent@", "@reencrypt", "agent@preflight", "agent@completed", "meteor@reencrypt"] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains("partition-leader") && error.contains("activate"), "{error}");
        }
    }

    #[test]
    fn what_a_farm_cannot_suffer_is_refused() {
        let fault = |kind| Fault { kind, phase: Phase::Verify };
        assert!(fault(Kind::Database).check(3, false).is_err());
        assert!(fault(Kind::Database).check(3, true).is_ok());
        assert!(fault(Kind::CoordinatorDisk).check(1, false).is_err());
        assert!(fault(Kind::Leader).check(1, false).is_ok());
    }
}
