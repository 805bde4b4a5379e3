//! What the CA issues and refuses to issue, and what a process refuses to load.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::support::{TestFarm, hosts};
use crate::identity::{Peer, ReadIdentityError, Role, read_identity};
use crate::pki::{Authority, CERTIFICATE_DAYS_MAX, Issued, PkiError};
use crate::status;
use crate::tls::{Tls, TlsError};

fn inspect(pem: &str, look: impl FnOnce(&X509Certificate<'_>)) {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    look(&certificate);
}

#[test]
fn the_ca_may_sign_certificates_and_nothing_else() {
    let authority = Authority::create("demo").unwrap();
    inspect(authority.certificate_pem(), |certificate| {
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        assert!(certificate.validity().is_valid());
    });
}

#[test]
fn a_certificate_says_who_and_where_and_serves_both_ways() {
    let authority = Authority::create("demo").unwrap();
    let issued = authority.issue(Role::Agent, "node-1", &hosts(), 30).unwrap();
    inspect(&issued.certificate_pem, |certificate| {
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        let loopback: &[u8] = &[127, 0, 0, 1];
        assert_eq!(
            names.as_slice(),
            [
                GeneralName::URI("keyturn://demo/agent/node-1"),
                GeneralName::IPAddress(loopback),
                GeneralName::DNSName("localhost"),
            ]
        );
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert!(!certificate.is_ca());
        let days =
            (certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp()) / 86_400;
        assert_eq!(days, 30);
    });
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    assert_eq!(read_identity(&der).unwrap(), Peer::new(Role::Agent, "demo", "node-1").unwrap());
}

#[test]
fn a_ca_read_from_its_files_issues_what_the_first_one_vouches_for() {
    let farm = TestFarm::new();
    let again = Authority::from_pem(farm.authority.certificate_pem(), &farm.authority.key_pem()).unwrap();
    assert_eq!(again.farm(), "demo");
    let issued = again.issue(Role::Viewer, "bob", &[], 1).unwrap();
    let identity = Tls::load(&farm.write("bob", &issued)).unwrap().identity();
    assert_eq!(identity.uri(), "keyturn://demo/viewer/bob");
}

#[test]
fn what_is_not_the_ca_is_not_taken_for_it() {
    let (one, two) = (Authority::create("demo").unwrap(), Authority::create("demo").unwrap());
    assert!(matches!(Authority::from_pem(one.certificate_pem(), &two.key_pem()), Err(PkiError::Key)));
    assert!(matches!(Authority::from_pem(one.certificate_pem(), "nothing"), Err(PkiError::Key)));
    assert!(matches!(Authority::from_pem("nothing", &one.key_pem()), Err(PkiError::NotAuthority(_))));
    let leaf = one.issue(Role::Viewer, "bob", &[], 1).unwrap();
    let outcome = Authority::from_pem(&leaf.certificate_pem, &leaf.key_pem);
    assert!(matches!(outcome, Err(PkiError::NotAuthority(_))));
}

#[test]
fn names_that_could_be_taken_for_others_are_refused() {
    let authority = Authority::create("demo").unwrap();
    let too_long = "a".repeat(64);
    for name in ["", "Alice", "a/b", "a b", "-a", ".a", "über", "a\0", "a\n", &too_long] {
        let outcome = authority.issue(Role::Operator, name, &[], 30);
        assert!(matches!(outcome, Err(PkiError::Name(_))), "{name:?}");
        assert!(matches!(Authority::create(name), Err(PkiError::Name(_))), "{name:?}");
    }
    for name in ["a", "node-1.example.org", &"a".repeat(63)] {
        authority.issue(Role::Operator, name, &[], 30).unwrap();
    }
}

#[test]
fn hosts_and_days_are_checked() {
    let authority = Authority::create("demo").unwrap();
    let issue = |hosts: &[&str], days| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        authority.issue(Role::Agent, "node-1", &hosts, days)
    };
    issue(&["::1", "10.0.0.1", "node-1.example.org"], CERTIFICATE_DAYS_MAX).unwrap();
    for host in ["https://node-1", "node-1:7101", "node 1", "", "*.example.org"] {
        assert!(matches!(issue(&[host], 30), Err(PkiError::Host(_))), "{host:?}");
    }
    assert!(matches!(issue(&[], 30), Err(PkiError::NoHost(Role::Agent))));
    assert!(matches!(issue(&["a"; 65], 30), Err(PkiError::TooManyHosts(65))));
    for days in [0, CERTIFICATE_DAYS_MAX + 1, u32::MAX] {
        assert!(matches!(issue(&["node-1"], days), Err(PkiError::Days(_))));
    }
}

#[test]
fn keys_are_not_in_debug_output() {
    let authority = Authority::create("demo").unwrap();
    let issued = authority.issue(Role::Viewer, "bob", &[], 1).unwrap();
    let shown = format!("{authority:?} {issued:?}");
    for key in [authority.key_pem(), issued.key_pem.clone()] {
        let secret = key.lines().nth(1).unwrap();
        assert!(!shown.contains(secret));
    }
    assert!(!shown.contains("PRIVATE"));
}

/// Loads what `spoil` made of good files, and expects a refusal that says `reason`.
fn check_not_loaded(issued: impl FnOnce(&TestFarm) -> Issued, reason: &str) {
    let farm = TestFarm::new();
    let issued = issued(&farm);
    let error = Tls::load(&farm.write("spoilt", &issued)).expect_err(reason);
    let text = status::chain(&error);
    assert!(text.contains(reason), "{text:?} does not say {reason:?}");
    assert!(text.contains("spoilt."), "{text:?} names no file");
}

#[test]
fn an_identity_that_nobody_would_accept_is_not_loaded() {
    check_not_loaded(|farm| farm.expired(Role::Agent, "node-1"), "expired");
    check_not_loaded(
        |_| Authority::create("demo").unwrap().issue(Role::Agent, "node-1", &hosts(), 30).unwrap(),
        "issued by another CA",
    );
    check_not_loaded(
        |farm| Issued { key_pem: farm.issue(Role::Agent, "other").key_pem, ..farm.issue(Role::Agent, "node-1") },
        "is not the key of",
    );
    check_not_loaded(
        |farm| Issued { certificate_pem: "nothing".to_owned(), ..farm.issue(Role::Agent, "node-1") },
        "holds no certificate",
    );
    check_not_loaded(
        |farm| Issued { key_pem: "nothing".to_owned().into(), ..farm.issue(Role::Agent, "node-1") },
        "holds no key",
    );
    check_not_loaded(
        |_| {
            let certified = rcgen::generate_simple_self_signed(hosts()).unwrap();
            let key_pem = certified.signing_key.serialize_pem().into();
            Issued { certificate_pem: certified.cert.pem(), key_pem }
        },
        "exactly one SAN URI keyturn://FARM/ROLE/NAME",
    );
}

#[test]
fn a_missing_file_is_named() {
    let farm = TestFarm::new();
    let mut files = farm.write("node-1", &farm.issue(Role::Agent, "node-1"));
    files.key = files.key.with_file_name("missing.key");
    let error = Tls::load(&files).unwrap_err();
    assert!(matches!(&error, TlsError::Read { path, .. } if *path == files.key), "{error}");
}

#[test]
fn a_certificate_with_no_or_two_identities_has_none() {
    let identities: [&[&str]; 6] = [
        &[],
        &["keyturn://demo/agent/node-1", "keyturn://demo/operator/alice"],
        &["https://demo/agent/node-1"],
        &["keyturn://demo/agent/node-1/more"],
        &["keyturn://demo/root/node-1"],
        &["keyturn://demo/agent/"],
    ];
    for uris in identities {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let refused = read_identity(certificate.der()).unwrap_err();
        assert!(matches!(refused, ReadIdentityError::NoIdentity(_)), "{uris:?}");
    }
}
