//! The exit codes that scripts rely on.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Refused or failed; nothing is left to undo.
    Refused,
    /// The command line was wrong.
    Usage,
    /// The rotation was rolled back: everything is under the old key.
    RolledBack,
    /// The rotation is stuck: an operator is needed.
    Stuck,
    /// No leader or no connection.
    Unreachable,
    /// The evidence does not add up.
    VerificationFailed,
    /// Ctrl-C ended the watching, not what was watched; the number is the shell's for SIGINT.
    Interrupted,
}

impl Exit {
    /// All of them.
    const ALL: [Self; 8] = [
        Self::Done,
        Self::Refused,
        Self::Usage,
        Self::RolledBack,
        Self::Stuck,
        Self::Unreachable,
        Self::VerificationFailed,
        Self::Interrupted,
    ];

    /// Reads a number; one that is not in the list is a failure without a name.
    pub(crate) fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Refused)
    }

    /// The number that the process exits with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::RolledBack => 3,
            Self::Stuck => 4,
            Self::Unreachable => 5,
            Self::VerificationFailed => 6,
            Self::Interrupted => 130,
        }
    }
}
