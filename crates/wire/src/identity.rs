//! Who a certificate speaks for: a role and a name within a farm, written as the URI `keyturn://FARM/ROLE/NAME`.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the holder of a certificate is. A certificate has exactly one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// One of the replicas that hold the rotation's state.
    Coordinator,
    /// The agent of one node; its name is the node's.
    Agent,
    /// A person or program that may change things, and whose signature agents obey.
    Operator,
    /// A person or program that may look.
    Viewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Coordinator, Self::Agent, Self::Operator, Self::Viewer];

    /// The stable text, for example `coordinator`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: use coordinator, agent, operator or viewer")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// Longest farm or name: what a DNS label may have, since names of nodes often are host names.
const NAME_BYTES_MAX: usize = 63;

/// A farm or a name that cannot stand in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no valid {what}: use 1 to 63 of a-z, 0-9, '-' and '.', beginning with a letter or digit")]
pub struct InvalidName {
    /// Which name: `farm` or `name`.
    pub what: &'static str,
    /// What was given.
    pub text: String,
}

/// Checks a farm's name, wherever one is given.
pub fn check_farm(text: &str) -> Result<(), InvalidName> {
    check_name("farm", text)
}

/// Checks a farm's or a holder's name; the alphabet is that of node ids, so that a node's name fits both.
pub(crate) fn check_name(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'.');
    if valid { Ok(()) } else { Err(InvalidName { what, text: text.to_owned() }) }
}

/// Who is at the other end of a connection, or signed something: read from a certificate that the farm's CA vouches for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// What it is.
    pub role: Role,
    /// The farm it belongs to.
    pub farm: String,
    /// Its name: a node's id, a replica's name, a person's.
    pub name: String,
}

impl Peer {
    /// A peer of these names, once they are found valid.
    pub fn new(role: Role, farm: &str, name: &str) -> Result<Self, InvalidName> {
        check_name("farm", farm)?;
        check_name("name", name)?;
        Ok(Self { role, farm: farm.to_owned(), name: name.to_owned() })
    }

    /// The URI that stands in the certificate: `keyturn://FARM/ROLE/NAME`.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.farm, self.role, self.name)
    }

    /// Reads the URI. Only what [`Peer::uri`] writes is accepted.
    fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (farm, role, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Self::new(role.parse().ok()?, farm, name).ok()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

const SCHEME: &str = "keyturn://";

/// A certificate that says nothing usable of its holder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadIdentityError {
    /// Not a certificate.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// It has no URI of the form, or more than one.
    #[error(
        "the certificate must have exactly one SAN URI keyturn://FARM/ROLE/NAME, and has {0:?}; issue one with `keyturn pki issue`"
    )]
    NoIdentity(Vec<String>),
}

/// Reads the holder from a certificate. Whether a CA vouches for it has been or will be checked elsewhere.
pub(crate) fn read_identity(certificate: &CertificateDer<'_>) -> Result<Peer, ReadIdentityError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| ReadIdentityError::Malformed)?;
    let names = parsed.subject_alternative_name().map_err(|_| ReadIdentityError::Malformed)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris.as_slice() {
        [uri] => Peer::from_uri(uri).ok_or_else(|| ReadIdentityError::NoIdentity(vec![(*uri).to_owned()])),
        others => Err(ReadIdentityError::NoIdentity(others.iter().map(|uri| (*uri).to_owned()).collect())),
    }
}
