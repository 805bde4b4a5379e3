//! The farm's certificate authority: makes the CA, and the certificates of every role that it vouches for.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

pub use crate::identity::{InvalidName, Role, UnknownRole};
use crate::identity::{Peer, check_name};

/// How long a CA lasts: a farm that outlives it hands out the next one beside it first, since a CA file may hold several.
pub const CA_DAYS: u32 = 3650;
/// Longest life of a certificate: the longest that common TLS clients accept.
pub const CERTIFICATE_DAYS_MAX: u32 = 825;
/// Most hosts in one certificate: every address of one machine, not of a farm.
pub const HOSTS_MAX: usize = 64;

/// Certificates begin this long before they are made, so that a clock that is a little behind accepts them.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The CA's common name. Its organization is the farm.
const CA_NAME: &str = "Keyturn CA";

/// A CA or certificate that could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The farm or the name has no valid form.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A host is neither a DNS name nor an IP address.
    #[error("{0:?} is no host: give a DNS name or an IP address, without scheme and port")]
    Host(String),
    /// A server without a host: no client could connect to it.
    #[error("a certificate for {0} needs the hosts under which it is called; give each with --host")]
    NoHost(Role),
    /// More hosts than one certificate may have.
    #[error("a certificate holds at most {HOSTS_MAX} hosts, and {0} were given; issue one for each machine")]
    TooManyHosts(usize),
    /// No time at all, or too long.
    #[error("a certificate lasts from 1 to {CERTIFICATE_DAYS_MAX} days, not {0}")]
    Days(u32),
    /// It would still be valid when nobody trusts its CA any more.
    #[error("the CA expires before {0} days are over; give fewer days, or make a new CA with `keyturn pki init`")]
    OutlivesAuthority(u32),
    /// Not a CA of this program's making.
    #[error("this is no CA made by `keyturn pki init`: {0}")]
    NotAuthority(&'static str),
    /// The key is unreadable or is another certificate's.
    #[error(
        "the CA's key is not the one of its certificate; give the two files that `keyturn pki init` wrote together"
    )]
    Key,
    /// The library failed.
    #[error("the certificate could not be made")]
    Generate(#[source] rcgen::Error),
}

/// The farm's CA with its key.
pub struct Authority {
    farm: String,
    certificate_pem: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub struct Issued {
    /// The certificate, and intermediates if there are any, leaf first; PEM.
    pub certificate_pem: String,
    /// Its key, PKCS#8, PEM.
    pub key_pem: Zeroizing<String>,
}

impl Authority {
    /// Makes a CA for a new farm.
    pub fn create(farm: &str) -> Result<Self, PkiError> {
        check_name("farm", farm)?;
        let key = generate_key()?;
        let now = SystemTime::now();
        let not_after = now + DAY * CA_DAYS;
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = not_after.into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, farm);
        params.distinguished_name.push(DnType::CommonName, CA_NAME);
        // It issues to holders directly; nobody else may issue in its name.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(PkiError::Generate)?.pem();
        Ok(Self { farm: farm.to_owned(), certificate_pem, not_after, issuer: Issuer::new(params, key) })
    }

    /// Reads a CA that [`Authority::create`] made.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| PkiError::NotAuthority("the file holds no PEM certificate"))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| PkiError::NotAuthority("the certificate cannot be parsed"))?;
        if !certificate.is_ca() {
            return Err(PkiError::NotAuthority("the certificate is not a CA's"));
        }
        let farm = certificate
            .subject()
            .iter_organization()
            .next()
            .and_then(|name| name.as_str().ok())
            .ok_or(PkiError::NotAuthority("its subject names no farm"))?
            .to_owned();
        check_name("farm", &farm)?;
        let key = KeyPair::from_pem(key_pem).map_err(|_| PkiError::Key)?;
        if key.subject_public_key_info() != certificate.public_key().raw {
            return Err(PkiError::Key);
        }
        let not_after_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            farm,
            certificate_pem: certificate_pem.to_owned(),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after_s),
            issuer: Issuer::from_ca_cert_der(&der, key).map_err(PkiError::Generate)?,
        })
    }

    /// The farm's name.
    pub fn farm(&self) -> &str {
        &self.farm
    }

    /// The CA's certificate, PEM; every process of the farm trusts it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's key, PKCS#8, PEM. Whoever has it can be anybody in this farm.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Issues a certificate that is valid from now for this many days. Coordinators and agents need the hosts under
    /// which they are called; operators and viewers need none.
    pub fn issue(&self, role: Role, name: &str, hosts: &[String], days: u32) -> Result<Issued, PkiError> {
        if !(1..=CERTIFICATE_DAYS_MAX).contains(&days) {
            return Err(PkiError::Days(days));
        }
        let now = SystemTime::now();
        let until = now + DAY * days;
        if until > self.not_after {
            return Err(PkiError::OutlivesAuthority(days));
        }
        let holder = Peer::new(role, &self.farm, name)?;
        self.issue_to(&holder, hosts, now - CLOCK_SKEW, until)
    }

    /// Issues a certificate for exactly this time. Tests use it for times and farms that `issue` refuses.
    pub(crate) fn issue_to(
        &self,
        holder: &Peer,
        hosts: &[String],
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Issued, PkiError> {
        let is_server = matches!(holder.role, Role::Coordinator | Role::Agent);
        if is_server && hosts.is_empty() {
            return Err(PkiError::NoHost(holder.role));
        }
        if hosts.len() > HOSTS_MAX {
            return Err(PkiError::TooManyHosts(hosts.len()));
        }
        let uri = holder.uri().try_into().map_err(PkiError::Generate)?;
        let mut names = vec![SanType::URI(uri)];
        for host in hosts {
            names.push(host_name(host)?);
        }

        let key = generate_key()?;
        let mut params = CertificateParams::default();
        params.not_before = from.into();
        params.not_after = until.into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, holder.farm.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, holder.role.as_str());
        params.distinguished_name.push(DnType::CommonName, holder.name.as_str());
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every process is a client of some and a server to others, and a signature is checked as a client's.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Generate)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
    }
}

/// P-256: every TLS client and every hardware token knows it.
fn generate_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Generate)
}

fn host_name(host: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let invalid = || PkiError::Host(host.to_owned());
    DnsName::try_from(host).map_err(|_| invalid())?;
    Ok(SanType::DnsName(host.to_owned().try_into().map_err(|_| invalid())?))
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("farm", &self.farm).finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}
