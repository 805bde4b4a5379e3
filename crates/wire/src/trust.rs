//! Why a certificate or a handshake was refused, in words: the TLS library speaks in the names of its enums.

use std::io;

use rustls::{CertificateError, Error};

/// A refusal by either side of a TLS handshake.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Untrusted {
    /// No certificate of this process's CA file signed it.
    #[error("the certificate was issued by another CA than the one in the CA file")]
    OtherAuthority,
    /// It was valid once.
    #[error("the certificate has expired")]
    Expired,
    /// It will be valid, or a clock is wrong.
    #[error("the certificate is not valid yet; compare the clocks of both machines")]
    NotYetValid,
    /// It was issued for other hosts than the one called.
    #[error("the certificate is for other hosts ({presented}) than the one that was called")]
    OtherHost {
        /// The hosts in it.
        presented: String,
    },
    /// The caller has none.
    #[error("the caller showed no certificate")]
    NoCertificate,
    /// Anything else about TLS.
    #[error("TLS failed: {0}")]
    Tls(Error),
    /// The connection broke.
    #[error("the connection broke during the handshake: {0}")]
    Broken(String),
}

impl From<Error> for Untrusted {
    fn from(error: Error) -> Self {
        match error {
            // A CA of the same name with another key: the signature is found wrong rather than the issuer unknown.
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Self::OtherAuthority
            }
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                Self::Expired
            }
            Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
                Self::NotYetValid
            }
            Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
                Self::OtherHost { presented: presented.join(", ") }
            }
            Error::NoCertificatesPresented => Self::NoCertificate,
            other => Self::Tls(other),
        }
    }
}

impl From<io::Error> for Untrusted {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(inner) => inner.clone().into(),
            None => Self::Broken(error.to_string()),
        }
    }
}
