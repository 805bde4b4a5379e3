//! Why the key store cannot do what it was asked, and what a person can do about it.

use std::io;
use std::path::PathBuf;

use rotation::KeyId;

use crate::PayloadError;

/// Why a file of the store cannot be read although it is there.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not the JSON of such a file.
    #[error("it is not the JSON of a key store's file (line {line}, column {column})")]
    Malformed {
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// JSON of something else.
    #[error("it is not of format {0}")]
    Format(&'static str),
    /// Its ciphertext is no base64 or no ciphertext.
    #[error("its ciphertext is damaged")]
    Ciphertext,
    /// It is of this host, and yet does not open: bytes were changed.
    #[error("it was written on this host, but its content was altered since")]
    Altered,
    /// It opened, and holds no key set.
    #[error("it opens, but holds no usable keys")]
    Payload(#[from] PayloadError),
}

/// What the key store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process is changing the store.
    #[error("another process is changing the key store in {}", directory.display())]
    Busy {
        /// The directory.
        directory: PathBuf,
    },
    /// The node has no keys yet.
    #[error("{} does not exist: this node has no keys yet", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The node has other keys already.
    #[error("{} exists and holds key {key}; it is never overwritten", path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
        /// Its active key.
        key: KeyId,
    },
    /// There, but damaged or something else.
    #[error("{} cannot be read as a file of the key store", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Unreadable,
    },
    /// Written by a release that this one does not know.
    #[error("{} has version {version}, and this release reads version 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Protected in a way that this release does not know.
    #[error("{} is protected by something else than `hostkey`, which this release does not know", path.display())]
    Protector {
        /// The file.
        path: PathBuf,
    },
    /// Copied from another host.
    #[error(
        "{} was written on another host: it is bound to host {found}, and this is host {this}; it opens nothing here",
        path.display()
    )]
    OtherHost {
        /// The file.
        path: PathBuf,
        /// The hint of the host that wrote it.
        found: String,
        /// The hint of this host.
        this: String,
    },
    /// The host's secret is missing.
    #[error("the host's secret {} does not exist", path.display())]
    HostkeyMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Others can read the host's secret.
    #[error("the host's secret {} is open to others (mode {mode:04o})", path.display())]
    HostkeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The host's secret has not 32 bytes.
    #[error("the host's secret {} has {length} bytes, and must have 32", path.display())]
    HostkeyLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The machine has no id.
    #[error("{} holds no machine id", path.display())]
    MachineId {
        /// The file.
        path: PathBuf,
    },
    /// Nothing waits to be activated.
    #[error("key {new} is to be activated, but it is neither current nor pending on this node")]
    NothingPending {
        /// The key to activate.
        new: KeyId,
    },
    /// Something else waits to be activated.
    #[error("{} holds key {found}, and key {expected} is to be activated", path.display())]
    PendingDiffers {
        /// The pending file.
        path: PathBuf,
        /// The key to activate.
        expected: KeyId,
        /// The key found.
        found: KeyId,
    },
    /// The previous keys are nowhere.
    #[error("none of the {files} dated files in {} holds key {key}", directory.display())]
    NoFileWithKey {
        /// The directory.
        directory: PathBuf,
        /// The key looked for.
        key: KeyId,
        /// How many files were looked at.
        files: usize,
    },
    /// Every dated name of this second is taken.
    #[error("every dated name of this second is taken in {}", directory.display())]
    NoDatedName {
        /// The directory.
        directory: PathBuf,
    },
    /// The cipher failed, which has no known cause but a lack of random bytes.
    #[error("the keys could not be encrypted for this host")]
    Cipher(#[source] devolutions_crypto::Error),
}

impl StoreError {
    /// What to do now.
    pub const fn next_step(&self) -> &'static str {
        match self {
            Self::File { .. } => {
                "see that the directory exists and that keyturn may write there, and make room if the disk is full"
            }
            Self::Busy { .. } => "try again in a moment; only one process may change a key store at a time",
            Self::Missing { .. } => "give this node its first keys with `keyturn key import`",
            Self::AlreadyExists { .. } => {
                "leave it, if that is the farm's key; else move the file away by hand, then import again"
            }
            Self::Unreadable { .. } => {
                "put the dated file of the same folder back, or import the farm's bundle again with `keyturn key \
                 import` after moving the damaged file away"
            }
            Self::Version { .. } | Self::Protector { .. } => "use the release of keyturn that wrote it, or a later one",
            Self::OtherHost { .. } => {
                "never copy key stores between hosts: move the file away and give this node the farm's keys with \
                 `keyturn key import`. If it was written here, the host's secret or the machine id has changed since"
            }
            Self::HostkeyMissing { .. } => {
                "put it back from where this host is backed up; if this node never had keys, `keyturn key import` \
                 makes it"
            }
            Self::HostkeyExposed { .. } => {
                "take the others' permissions away: chmod 0600, owned by whom keyturn runs as"
            }
            Self::HostkeyLength { .. } => "put the right file back from where this host is backed up",
            Self::MachineId { .. } => "make one with `systemd-machine-id-setup`, or name the right file",
            Self::NothingPending { .. } | Self::PendingDiffers { .. } => {
                "abort the rotation; the key was never stored on this node, or another one was"
            }
            Self::NoFileWithKey { .. } => {
                "move encryption.config away and import the old key's bundle with `keyturn key import`"
            }
            Self::NoDatedName { .. } => "move dated files away that are no longer needed",
            Self::Cipher(_) => "try again",
        }
    }

    /// Whether the same call may succeed if it is simply made again.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::File { .. } | Self::Busy { .. } | Self::Cipher(_) => true,
            Self::Missing { .. }
            | Self::AlreadyExists { .. }
            | Self::Unreadable { .. }
            | Self::Version { .. }
            | Self::Protector { .. }
            | Self::OtherHost { .. }
            | Self::HostkeyMissing { .. }
            | Self::HostkeyExposed { .. }
            | Self::HostkeyLength { .. }
            | Self::MachineId { .. }
            | Self::NothingPending { .. }
            | Self::PendingDiffers { .. }
            | Self::NoFileWithKey { .. }
            | Self::NoDatedName { .. } => false,
        }
    }
}
