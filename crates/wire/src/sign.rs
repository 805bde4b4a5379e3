//! Signatures by a TLS identity: an operator's word that agents obey, a node's word that a key is its own.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Peer, ReadIdentityError, Role, read_identity};
use crate::tls::Tls;
use crate::trust::Untrusted;

/// Longest chain that is looked at: a certificate and intermediates, as TLS itself would take.
const CHAIN_MAX: usize = 8;

/// A signature that proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No certificate, or too many.
    #[error("a signature comes with 1 to {CHAIN_MAX} certificates, not {0}")]
    Chain(usize),
    /// The CA does not vouch for the signer, or not now.
    #[error("the signer's certificate is not accepted by the farm's CA")]
    NotAccepted(#[source] Untrusted),
    /// The certificate does not say whose it is.
    #[error("the signer's certificate does not say whose it is")]
    Identity(#[source] ReadIdentityError),
    /// It is somebody else's.
    #[error("{found} of farm {} signed, and {expected} of farm {farm} must", found.farm)]
    WrongSigner {
        /// Who signed.
        found: Peer,
        /// The role that was expected.
        expected: Role,
        /// The farm that was expected.
        farm: String,
    },
    /// What was signed is something else, or was signed by another key.
    #[error("the signature of {0} does not fit what it is said to sign")]
    Signature(Peer),
}

/// Signs `domain || 0x00 || bytes` with the process's key, ECDSA P-256 with SHA-256, ASN.1.
/// The domain says what kind of thing is signed, so that a signature of one kind is none of another.
pub fn sign(tls: &Tls, domain: &str, bytes: &[u8]) -> Vec<u8> {
    let signed = tls
        .loaded()
        .signer
        .sign(&SystemRandom::new(), &message(domain, bytes))
        .expect("a P-256 key that was loaded signs any message");
    signed.as_ref().to_vec()
}

/// Checks that a holder of `expect` in this process's farm signed these bytes in this domain, and that the farm's CA
/// vouches for it now. `chain` is DER, leaf first. Answers who it was.
pub fn verify(
    tls: &Tls,
    chain: &[Vec<u8>],
    expect: Role,
    domain: &str,
    bytes: &[u8],
    signature: &[u8],
) -> Result<Peer, VerifyError> {
    let certificates: Vec<CertificateDer<'_>> =
        chain.iter().map(|certificate| CertificateDer::from(certificate.as_slice())).collect();
    let [leaf, intermediates @ ..] = certificates.as_slice() else {
        return Err(VerifyError::Chain(0));
    };
    if certificates.len() > CHAIN_MAX {
        return Err(VerifyError::Chain(certificates.len()));
    }
    let loaded = tls.loaded();
    loaded
        .verifier
        .verify_client_cert(leaf, intermediates, UnixTime::now())
        .map_err(|error| VerifyError::NotAccepted(error.into()))?;
    let signer = read_identity(leaf).map_err(VerifyError::Identity)?;
    let farm = &loaded.identity.farm;
    if signer.role != expect || signer.farm != *farm {
        return Err(VerifyError::WrongSigner { found: signer, expected: expect, farm: farm.clone() });
    }
    let (_, certificate) = X509Certificate::from_der(leaf).expect("its identity has just been read from it");
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &certificate.public_key().subject_public_key.data);
    match key.verify(&message(domain, bytes), signature) {
        Ok(()) => Ok(signer),
        Err(_) => Err(VerifyError::Signature(signer)),
    }
}

/// What is signed. No domain holds a zero byte, so no two pairs give the same message.
fn message(domain: &str, bytes: &[u8]) -> Vec<u8> {
    assert!(!domain.contains('\0'), "a domain is a constant of the program, without a zero byte");
    [domain.as_bytes(), &[0], bytes].concat()
}
