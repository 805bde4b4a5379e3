//! Attestation: an agent's word that a recipient key is its own, authenticated under a key derived from the farm's
//! current key. The operator, who holds that key in escrow, checks it before sealing anything, so that a hostile
//! coordinator cannot slip in a recipient key of its own. The same context is also signed with the agent's
//! certificate.

use rotation::{Digest, KeyId, NodeId, RotationId};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{SecretKey, transcript};

/// What is attested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The farm's name.
    pub farm: String,
    /// The rotation that the recipient key was made for.
    pub rotation: RotationId,
    /// The node.
    pub node: NodeId,
    /// The recipient key, as [`crate::sealed::RecipientKey::public_hex`] gives it.
    pub recipient_key: String,
    /// The key that the node holds now.
    pub current_key: KeyId,
    /// The digest of its targets.toml.
    pub targets_digest: Digest,
    /// The database that it sees, as text.
    pub database_identity: String,
}

/// A MAC that does not fit what is attested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the attestation was not made with the farm's current key, or what it attests was changed on the way")]
pub struct NotAttested;

impl NotAttested {
    /// What to do now.
    pub const fn next_step(&self) -> &'static str {
        "check that --current-bundle holds the farm's current key; if it does, somebody changed the plan: withdraw \
         the rotation and look at the coordinators"
    }
}

impl Context {
    /// The bytes that are signed and authenticated.
    pub fn to_bytes(&self) -> Vec<u8> {
        transcript::bytes(&[
            self.farm.as_bytes(),
            self.rotation.as_bytes(),
            self.node.as_str().as_bytes(),
            self.recipient_key.as_bytes(),
            self.current_key.as_bytes(),
            self.targets_digest.as_bytes(),
            self.database_identity.as_bytes(),
        ])
    }
}

/// Authenticates `context` under the farm's current key.
pub fn mac(current: &SecretKey, context: &Context) -> [u8; 32] {
    let key = Zeroizing::new(blake3::derive_key("keyturn attestation mac v1", current.expose()));
    *blake3::keyed_hash(&key, &context.to_bytes()).as_bytes()
}

/// Checks a MAC, in constant time.
pub fn check(current: &SecretKey, context: &Context, mac: &[u8]) -> Result<(), NotAttested> {
    let expected = self::mac(current, context);
    if bool::from(expected.ct_eq(mac)) { Ok(()) } else { Err(NotAttested) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            farm: "demo".to_owned(),
            rotation: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            node: "node-1".parse().unwrap(),
            recipient_key: "0d0c".to_owned(),
            current_key: KeyId::new([1; 16]),
            targets_digest: Digest::new([2; 32]),
            database_identity: "7300000000000000000/16384".to_owned(),
        }
    }

    #[test]
    fn every_field_is_bound() {
        let key = SecretKey::from_bytes(vec![9; 32]).unwrap();
        let made = mac(&key, &context());
        check(&key, &context(), &made).unwrap();
        let changed = [
            Context { farm: "demo2".to_owned(), ..context() },
            Context { rotation: "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap(), ..context() },
            Context { node: "node-2".parse().unwrap(), ..context() },
            Context { recipient_key: "0d0d".to_owned(), ..context() },
            Context { current_key: KeyId::new([2; 16]), ..context() },
            Context { targets_digest: Digest::new([3; 32]), ..context() },
            Context { database_identity: "another".to_owned(), ..context() },
        ];
        for changed in changed {
            assert_eq!(check(&key, &changed, &made), Err(NotAttested), "{changed:?}");
        }
    }

    #[test]
    fn another_key_or_a_cut_mac_does_not_pass() {
        let key = SecretKey::from_bytes(vec![9; 32]).unwrap();
        let made = mac(&key, &context());
        let other = SecretKey::from_bytes(vec![8; 32]).unwrap();
        assert_eq!(check(&other, &context(), &made), Err(NotAttested));
        assert_eq!(check(&key, &context(), &made[..31]), Err(NotAttested));
        assert_eq!(check(&key, &context(), &[]), Err(NotAttested));
    }
}
