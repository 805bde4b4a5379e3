//! What a signature proves, and everything that it does not.

use super::support::TestFarm;
use crate::identity::{Peer, Role};
use crate::sign::{VerifyError, sign, verify};

const DOMAIN: &str = "keyturn statement v1";

struct Signed {
    farm: TestFarm,
    chain: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    signature: Vec<u8>,
}

/// Something that operator alice signed.
fn signed() -> Signed {
    let farm = TestFarm::new();
    let alice = farm.tls(Role::Operator, "alice");
    let bytes = b"{\"format\":1}".to_vec();
    let signature = sign(&alice, DOMAIN, &bytes);
    Signed { chain: alice.certificates(), farm, bytes, signature }
}

impl Signed {
    /// Has the agent of a node verify it.
    fn check(&self, expect: Role, domain: &str) -> Result<Peer, VerifyError> {
        let verifier = self.farm.tls(Role::Agent, "node-1");
        verify(&verifier, &self.chain, expect, domain, &self.bytes, &self.signature)
    }
}

#[test]
fn an_operators_signature_is_accepted_and_says_who_it_was() {
    let peer = signed().check(Role::Operator, DOMAIN).unwrap();
    assert_eq!(peer, Peer::new(Role::Operator, "demo", "alice").unwrap());
}

#[test]
fn one_altered_bit_anywhere_is_refused() {
    let mut signed = signed();
    for at in 0..signed.bytes.len() {
        signed.bytes[at] ^= 1;
        assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Signature(_))));
        signed.bytes[at] ^= 1;
    }
    for at in 0..signed.signature.len() {
        signed.signature[at] ^= 1;
        assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Signature(_))), "byte {at}");
        signed.signature[at] ^= 1;
    }
    signed.check(Role::Operator, DOMAIN).unwrap();
}

#[test]
fn a_shorter_longer_or_empty_text_or_signature_is_refused() {
    let mut signed = signed();
    signed.bytes.push(0);
    assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Signature(_))));
    signed.bytes.pop();
    signed.signature.push(0);
    assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Signature(_))));
    signed.signature.clear();
    assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Signature(_))));
}

#[test]
fn a_signature_of_another_domain_is_refused() {
    let signed = signed();
    for domain in ["keyturn attestation v1", "keyturn statement v2", "keyturn statement v", ""] {
        assert!(matches!(signed.check(Role::Operator, domain), Err(VerifyError::Signature(_))), "{domain:?}");
    }
}

/// What is moved over the border between domain and bytes is another message.
#[test]
fn domain_and_bytes_cannot_be_shifted_against_each_other() {
    let farm = TestFarm::new();
    let alice = farm.tls(Role::Operator, "alice");
    let signature = sign(&alice, "ab", b"c");
    let check = |domain, bytes: &[u8]| verify(&alice, &alice.certificates(), Role::Operator, domain, bytes, &signature);
    check("ab", b"c").unwrap();
    assert!(check("a", b"bc").is_err());
    assert!(check("abc", b"").is_err());
}

#[test]
fn a_signature_by_another_role_is_refused() {
    let farm = TestFarm::new();
    let verifier = farm.tls(Role::Agent, "node-1");
    for role in [Role::Coordinator, Role::Agent, Role::Viewer] {
        let signer = farm.tls(role, "somebody");
        let signature = sign(&signer, DOMAIN, b"text");
        let outcome = verify(&verifier, &signer.certificates(), Role::Operator, DOMAIN, b"text", &signature);
        assert!(matches!(outcome, Err(VerifyError::WrongSigner { .. })), "{role}");
    }
}

#[test]
fn a_signature_under_a_foreign_ca_is_refused() {
    let signed = signed();
    let elsewhere = TestFarm::new();
    let verifier = elsewhere.tls(Role::Agent, "node-1");
    let outcome = verify(&verifier, &signed.chain, Role::Operator, DOMAIN, &signed.bytes, &signed.signature);
    assert!(matches!(outcome, Err(VerifyError::NotAccepted(_))));
}

#[test]
fn a_signature_of_another_farm_under_the_same_ca_is_refused() {
    let farm = TestFarm::new();
    let signer = crate::tls::Tls::load(&farm.write("x", &farm.of_another_farm(Role::Operator, "alice"))).unwrap();
    let verifier = farm.tls(Role::Agent, "node-1");
    let signature = sign(&signer, DOMAIN, b"text");
    let outcome = verify(&verifier, &signer.certificates(), Role::Operator, DOMAIN, b"text", &signature);
    assert!(matches!(outcome, Err(VerifyError::WrongSigner { .. })));
}

#[test]
fn a_signature_by_an_expired_certificate_is_refused() {
    let farm = TestFarm::new();
    let signer = farm.expired_tls(Role::Operator, "alice");
    let verifier = farm.tls(Role::Agent, "node-1");
    let signature = sign(&signer, DOMAIN, b"text");
    let outcome = verify(&verifier, &signer.certificates(), Role::Operator, DOMAIN, b"text", &signature);
    assert!(matches!(outcome, Err(VerifyError::NotAccepted(_))));
}

/// Another holder of the same role, with a certificate that is as good, did not sign this.
#[test]
fn a_signature_shown_with_somebody_elses_certificate_is_refused() {
    let mut signed = signed();
    signed.chain = signed.farm.tls(Role::Operator, "bob").certificates();
    assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Signature(_))));
}

#[test]
fn a_signature_without_a_readable_certificate_is_refused() {
    let mut signed = signed();
    let leaf = signed.chain[0].clone();
    signed.chain = Vec::new();
    assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Chain(0))));
    signed.chain = vec![b"certainly not a certificate".to_vec()];
    assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::NotAccepted(_))));
    signed.chain = vec![leaf; 9];
    assert!(matches!(signed.check(Role::Operator, DOMAIN), Err(VerifyError::Chain(9))));
}
