//! The process's identity in TLS: certificate, key and the CA it trusts, loaded from files and swapped whole on reload.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::{fmt, fs, io};

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use serde::Deserialize;

pub use crate::channel::{ConnectError, ExpectedPeer, InvalidAddress};
use crate::identity::{Peer, ReadIdentityError, read_identity};
use crate::trust::Untrusted;

/// The only application protocol spoken.
const ALPN_HTTP2: &[u8] = b"h2";

/// aws-lc-rs, handed to every configuration by name: with two providers compiled in, a default one would panic.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// Where a process finds its identity.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The farm's CA, PEM. May hold several while one replaces another.
    pub ca: PathBuf,
    /// The own certificate and intermediates, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The same files, relative paths taken from `folder`: that of the configuration file they stand in.
    #[must_use]
    pub fn relative_to(&self, folder: &Path) -> Self {
        Self { ca: folder.join(&self.ca), certificate: folder.join(&self.certificate), key: folder.join(&self.key) }
    }
}

/// An identity that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or key.
    #[error("{} holds no {what} in PEM form; `keyturn pki issue` writes them so", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `key`.
        what: &'static str,
    },
    /// A certificate in the CA file cannot be trusted as one.
    #[error("{} holds a certificate that cannot serve as a CA; use the ca.pem of `keyturn pki init`", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate does not say whose it is.
    #[error("{} does not say whose it is", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadIdentityError,
    },
    /// The CA does not vouch for the certificate, or not now.
    #[error(
        "{} is not accepted under the CA in {}; issue a new one with `keyturn pki issue` from that CA",
        certificate.display(), ca.display()
    )]
    NotAccepted {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// Why: expired, another CA …
        source: Untrusted,
    },
    /// The key is not ECDSA P-256.
    #[error("{} is no ECDSA P-256 key; issue a certificate with `keyturn pki issue`", path.display())]
    KeyType {
        /// The key's file.
        path: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error("{} is not the key of {}; give the two files that were written together", key.display(), certificate.display())]
    KeyDiffers {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
}

/// The process's identity. Clones are the same identity: a reload is seen by all of them.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    current: Arc<ArcSwap<Loaded>>,
}

/// What was loaded together stays together.
pub(crate) struct Loaded {
    pub(crate) identity: Peer,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// Also what signatures are verified by: the same CA, the same rules.
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    pub(crate) signer: EcdsaKeyPair,
}

impl Tls {
    /// Reads the files. Refuses a certificate that nobody would accept: expired, of another CA, without an identity.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::load_at(files, UnixTime::now())
    }

    /// As [`Tls::load`] at another time.
    pub(crate) fn load_at(files: &TlsFiles, now: UnixTime) -> Result<Self, TlsError> {
        let loaded = load(files, now)?;
        Ok(Self { files: Arc::new(files.clone()), current: Arc::new(ArcSwap::from_pointee(loaded)) })
    }

    /// Reads the files again. New connections, both ways, and new signatures use what they hold now; when they cannot
    /// be used, everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(load(&self.files, UnixTime::now())?));
        Ok(())
    }

    /// Who this process is.
    pub fn identity(&self) -> Peer {
        self.current.load().identity.clone()
    }

    /// The own certificate and intermediates, DER, leaf first.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        self.current.load().chain.iter().map(|certificate| certificate.to_vec()).collect()
    }

    pub(crate) fn loaded(&self) -> Arc<Loaded> {
        self.current.load_full()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

fn load(files: &TlsFiles, now: UnixTime) -> Result<Loaded, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in read_certificates(&files.ca)? {
        roots.add(authority).map_err(|source| TlsError::Authority { path: files.ca.clone(), source })?;
    }
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), PROVIDER.clone())
        .build()
        .expect("there is at least one root, and no revocation list that could be malformed");

    let chain = read_certificates(&files.certificate)?;
    let [leaf, intermediates @ ..] = chain.as_slice() else {
        return Err(TlsError::Pem { path: files.certificate.clone(), what: "certificate" });
    };
    let identity =
        read_identity(leaf).map_err(|source| TlsError::Identity { path: files.certificate.clone(), source })?;
    verifier.verify_client_cert(leaf, intermediates, now).map_err(|error| TlsError::NotAccepted {
        certificate: files.certificate.clone(),
        ca: files.ca.clone(),
        source: error.into(),
    })?;

    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|_| TlsError::Pem { path: files.key.clone(), what: "key" })?;
    let signer = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der())
        .map_err(|_| TlsError::KeyType { path: files.key.clone() })?;
    let differs =
        |source| TlsError::KeyDiffers { key: files.key.clone(), certificate: files.certificate.clone(), source };

    let mut server = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has the cipher suites of TLS 1.3")
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(differs)?;
    server.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    // A resumed session would not show its certificate again, and so get round a change of the CA.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});

    let mut client = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has the cipher suites of TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.clone(), key)
        .map_err(differs)?;
    client.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    client.resumption = Resumption::disabled();

    Ok(Loaded { identity, chain, server: Arc::new(server), client: Arc::new(client), verifier, signer })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// All certificates of a PEM file, at least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = || TlsError::Pem { path: path.to_owned(), what: "certificate" };
    let text = read(path)?;
    let certificates =
        CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|_| unreadable())?;
    if certificates.is_empty() { Err(unreadable()) } else { Ok(certificates) }
}
