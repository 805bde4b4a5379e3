//! Identities and small values of the domain, each a type of its own so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {expected}")]
pub struct ParseIdError {
    /// Which kind of id was expected, for example `node id`.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// The form that would have been accepted.
    pub expected: &'static str,
}

/// The name of a node: 1 to 63 of `a-z`, `0-9`, `-` and `.`, beginning with a letter or digit.
/// It stands in certificates and file names, hence the narrow alphabet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let valid = (1..=63).contains(&text.len())
            && text.starts_with(plain)
            && text.chars().all(|c| plain(c) || c == '-' || c == '.');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseIdError {
                what: "node id",
                text: text.to_owned(),
                expected: "1 to 63 of a-z, 0-9, '-' and '.', beginning with a letter or digit",
            })
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a UUID that the caller drew; the domain has no random source.
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The 16 bytes of the UUID.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| ParseIdError {
                    what: $what,
                    text: text.to_owned(),
                    expected: "a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057",
                })
            }
        }
    };
}

uuid_id!(
    /// One rotation. A version 7 UUID, so that ids sort by the time of their request.
    RotationId, "rotation id"
);
uuid_id!(
    /// One cluster of coordinators. Agents obey a single cluster, and only an operator changes which.
    ClusterId, "cluster id"
);

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps the bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $len];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(ParseIdError { what: $what, text: text.to_owned(), expected: $expected }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bytes_id!(
    /// Which key something is under: `blake3::derive_key("keyturn key id v1", key)`, its first 16 bytes.
    /// It tells keys apart and discloses nothing of them.
    KeyId, 16, "key id", "32 hexadecimal digits"
);
bytes_id!(
    /// A BLAKE3 digest of public content: a plan, a targets file, a sealed bundle, a proof.
    Digest, 32, "digest", "64 hexadecimal digits"
);

/// The sum modulo 2^128 of a keyed hash over every value of a set of rows. Equal before and after a
/// rotation when, and only when, the plaintexts survived; the order of rows does not matter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ContentDigest(u128);

impl ContentDigest {
    /// Wraps a sum.
    pub const fn new(sum: u128) -> Self {
        Self(sum)
    }

    /// The sum.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The digest of both sets together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentDigest({self})")
    }
}

impl FromStr for ContentDigest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error =
            || ParseIdError { what: "content digest", text: text.to_owned(), expected: "32 hexadecimal digits" };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| error())
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps the number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next one up.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The fence of all work. It rises by a log entry at every phase and every change of direction, for the
    /// whole life of the cluster, and never falls.
    Epoch
);
number!(
    /// The term of the leader that sent an assignment.
    Term
);
number!(
    /// A shard's number within its rotation, from 0.
    ShardId
);
number!(
    /// How often a shard has been leased. A worker whose lease number is not the ledger's changes nothing.
    LeaseNumber
);
number!(
    /// Milliseconds since the Unix epoch, as the leader's clock had it when it wrote the entry.
    Millis
);

impl Millis {
    /// Milliseconds from `earlier` to this, zero if that is in the future.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The release of an agent and the protocol it speaks; agents of different protocols are refused together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRelease {
    /// The release, for people: `0.1.0`.
    pub version: String,
    /// The number of the protocol between coordinator and agent. Must be the same on all nodes and on the coordinators.
    pub protocol: u32,
}

impl AgentRelease {
    /// The protocol of this release. Raised when an older agent would misunderstand an assignment, or an older coordinator
    /// an answer.
    pub const PROTOCOL: u32 = 2;
}
