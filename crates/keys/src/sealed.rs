//! The sealed bundle: the new key on its way to one agent, encrypted to a key that this agent made for this rotation
//! alone, bound to everything that the operator signed, and vouched for with the farm's current key: a signature alone
//! gives a farm no key.

use devolutions_crypto::ciphertext::{Ciphertext, encrypt_asymmetric_with_aad};
use devolutions_crypto::key::{PrivateKey, PublicKey, mix_key_exchange};
use devolutions_crypto::{CiphertextVersion, Error as CipherError};
use rotation::{Digest, KeyId, NodeId, RotationId};
use zeroize::Zeroizing;

use crate::secret::random_bytes;
use crate::{KeySet, PayloadError, SecretKey, payload, transcript};

/// One key and a farm's name make a few hundred bytes.
const SEALED_BYTES_MAX: usize = 64 * 1024;

/// Signature, type key, subtype private, version 1: what precedes the 32 bytes of a serialized private key.
const PRIVATE_KEY_HEADER: [u8; 8] = [0x0D, 0x0C, 1, 0, 1, 0, 1, 0];
/// The same for a public key.
const PUBLIC_KEY_HEADER: [u8; 8] = [0x0D, 0x0C, 1, 0, 2, 0, 1, 0];
const KEY_BYTES: usize = 32;

/// What a sealed bundle is bound to; its additional authenticated data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealContext {
    /// The farm's name.
    pub farm: String,
    /// The rotation.
    pub rotation: RotationId,
    /// The node that may open it.
    pub node: NodeId,
    /// The digest of the plan that was approved.
    pub plan_digest: Digest,
    /// The key that the farm holds now.
    pub old_key: KeyId,
    /// The key inside.
    pub new_key: KeyId,
}

impl SealContext {
    /// The bytes that are authenticated. Their last field is a MAC that only a holder of the farm's current key makes:
    /// whoever stole an operator's certificate alone can sign, and still give the farm no key of their own.
    pub fn to_bytes(&self, current: &SecretKey) -> Vec<u8> {
        let mut bytes = transcript::bytes(&[
            b"keyturn sealed bundle v1",
            self.farm.as_bytes(),
            self.rotation.as_bytes(),
            self.node.as_str().as_bytes(),
            self.plan_digest.as_bytes(),
            self.old_key.as_bytes(),
            self.new_key.as_bytes(),
        ]);
        let key = Zeroizing::new(blake3::derive_key("keyturn sealed bundle mac v1", current.expose()));
        let mac = blake3::keyed_hash(&key, &bytes);
        bytes.extend(transcript::bytes(&[mac.as_bytes()]));
        bytes
    }
}

/// Why a bundle cannot be sealed or a sealed one cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not a public key as devolutions-crypto writes one, or one that yields no secret.
    #[error("the recipient key is not a usable public key")]
    RecipientKey,
    /// The keys belong to another farm than the context.
    #[error("the bundle belongs to farm {found:?}, and the rotation is of farm {expected:?}")]
    Farm {
        /// The farm of the rotation.
        expected: String,
        /// The farm of the bundle.
        found: String,
    },
    /// The key is another than the context names.
    #[error("the bundle holds key {found}, and the signed plan says {expected}")]
    Key {
        /// The key of the plan.
        expected: KeyId,
        /// The key of the bundle.
        found: KeyId,
    },
    /// Not a sealed bundle at all.
    #[error("these are not the bytes of a sealed bundle")]
    Malformed,
    /// Sealed to another recipient key, for another plan, node or rotation, without the farm's current key, or altered.
    #[error(
        "the sealed bundle does not open here: it was sealed to another recipient key, for another plan, by somebody \
         without the farm's current key, or altered"
    )]
    NotForThis,
    /// It opened, and holds no key set.
    #[error("the sealed bundle opened, but holds no usable key")]
    Payload(#[from] PayloadError),
    /// The cipher failed, which has no known cause but a lack of random bytes.
    #[error("the bundle could not be sealed")]
    Cipher(#[source] CipherError),
}

impl SealError {
    /// What to do now.
    pub const fn next_step(&self) -> &'static str {
        match self {
            Self::RecipientKey => "withdraw the rotation and plan it again; look at the node if it happens again",
            Self::Farm { .. } => "give the bundle that was generated for this farm",
            Self::Key { .. } => "withdraw the rotation, plan it again and start it with the right bundle",
            Self::Malformed | Self::NotForThis => {
                "abort the rotation and plan it again; if it happens again, somebody changes messages between the \
                 operator and the agents"
            }
            Self::Payload(_) => "use the same release of keyturn for the operator and the agents",
            Self::Cipher(_) => "try again",
        }
    }
}

/// Seals the active key of `set` to a recipient. `current` is the farm's current key.
pub fn seal(
    recipient_public_hex: &str,
    set: &KeySet,
    current: &SecretKey,
    context: &SealContext,
) -> Result<Vec<u8>, SealError> {
    let recipient = hex::decode(recipient_public_hex).map_err(|_| SealError::RecipientKey)?;
    let recipient = PublicKey::try_from(recipient.as_slice()).map_err(|_| SealError::RecipientKey)?;
    check(set, context)?;
    let json = payload::to_json(&set.only_active());
    encrypt_asymmetric_with_aad(&json, &recipient, &context.to_bytes(current), CiphertextVersion::V2)
        .map(Vec::from)
        .map_err(|error| match error {
            // A public key of low order, for which anybody knows the shared secret.
            CipherError::InvalidData => SealError::RecipientKey,
            other => SealError::Cipher(other),
        })
}

/// The key pair that an agent makes for one rotation.
pub struct RecipientKey {
    /// devolutions-crypto's serialized private key: header and 32 bytes.
    private: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecipientKey({}, private half redacted)", self.public_hex())
    }
}

impl RecipientKey {
    /// Draws a new pair. Not by the library's own function, from whose private key no wiped copy can be taken.
    pub fn generate() -> Self {
        let mut private = Zeroizing::new(Vec::with_capacity(PRIVATE_KEY_HEADER.len() + KEY_BYTES));
        private.extend_from_slice(&PRIVATE_KEY_HEADER);
        private.extend_from_slice(&random_bytes(KEY_BYTES));
        Self { private }
    }

    /// Hex of the serialized public key.
    pub fn public_hex(&self) -> String {
        // The public key is by definition the exchange with the curve's base point, u = 9.
        let mut base_point = [0; PUBLIC_KEY_HEADER.len() + KEY_BYTES];
        base_point[..PUBLIC_KEY_HEADER.len()].copy_from_slice(&PUBLIC_KEY_HEADER);
        base_point[PUBLIC_KEY_HEADER.len()] = 9;
        let base_point = PublicKey::try_from(base_point.as_slice()).expect("the constant is a public key");
        let public = mix_key_exchange(&self.private_key(), &base_point).expect("the base point is not of low order");
        hex::encode([&PUBLIC_KEY_HEADER[..], &public].concat())
    }

    /// Opens a bundle that was sealed to this key, for exactly this context, by a holder of `current`.
    pub fn open(&self, sealed: &[u8], current: &SecretKey, context: &SealContext) -> Result<KeySet, SealError> {
        if sealed.len() > SEALED_BYTES_MAX {
            return Err(SealError::Malformed);
        }
        let ciphertext = Ciphertext::try_from(sealed).map_err(|_| SealError::Malformed)?;
        let json = ciphertext.decrypt_asymmetric_with_aad(&self.private_key(), &context.to_bytes(current)).map_err(
            |error| match error {
                CipherError::InvalidDataType | CipherError::UnknownVersion => SealError::Malformed,
                _ => SealError::NotForThis,
            },
        )?;
        let set = payload::from_json(&Zeroizing::new(json))?.only_active();
        check(&set, context)?;
        Ok(set)
    }

    /// The serialized private key, for the key store alone.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.private
    }

    /// Takes back what [`RecipientKey::expose`] gave.
    pub(crate) fn from_exposed(private: Zeroizing<Vec<u8>>) -> Option<Self> {
        PrivateKey::try_from(private.as_slice()).is_ok().then_some(Self { private })
    }

    fn private_key(&self) -> PrivateKey {
        PrivateKey::try_from(self.private.as_slice()).expect("header and length were checked when it was made")
    }
}

/// The farm and the active key must be those of the context.
fn check(set: &KeySet, context: &SealContext) -> Result<(), SealError> {
    if set.farm() != context.farm {
        return Err(SealError::Farm { expected: context.farm.clone(), found: set.farm().to_owned() });
    }
    let found = set.active().secret.id();
    if found != context.new_key {
        return Err(SealError::Key { expected: context.new_key, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(byte: u8) -> KeySet {
        KeySet::new("demo", SecretKey::from_bytes(vec![byte; 32]).unwrap(), 5)
    }

    fn current() -> SecretKey {
        SecretKey::from_bytes(vec![4; 32]).unwrap()
    }

    fn context() -> SealContext {
        SealContext {
            farm: "demo".to_owned(),
            rotation: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            node: "node-1".parse().unwrap(),
            plan_digest: Digest::new([3; 32]),
            old_key: current().id(),
            new_key: set(1).active().secret.id(),
        }
    }

    #[test]
    fn the_recipient_opens_it_and_finds_the_new_key_alone() {
        let recipient = RecipientKey::generate();
        let promoted = set(2).promote(set(1).active().clone(), 9);
        assert_eq!(promoted.entries().count(), 2);
        let sealed = seal(&recipient.public_hex(), &promoted, &current(), &context()).unwrap();
        let opened = recipient.open(&sealed, &current(), &context()).unwrap();
        assert_eq!(opened.active(), promoted.active());
        assert_eq!(opened.entries().count(), 1);
    }

    #[test]
    fn a_generated_pair_is_a_pair_for_the_library_too() {
        let recipient = RecipientKey::generate();
        let public = hex::decode(recipient.public_hex()).unwrap();
        let public = PublicKey::try_from(public.as_slice()).unwrap();
        let other = devolutions_crypto::key::generate_keypair(devolutions_crypto::key::KeyVersion::Latest);
        let here = mix_key_exchange(&recipient.private_key(), &other.public_key).unwrap();
        let there = mix_key_exchange(&other.private_key, &public).unwrap();
        assert_eq!(here, there);
    }

    #[test]
    fn every_field_of_the_context_is_bound() {
        let recipient = RecipientKey::generate();
        let sealed = seal(&recipient.public_hex(), &set(1), &current(), &context()).unwrap();
        let changed = [
            SealContext { farm: "demo2".to_owned(), ..context() },
            SealContext { rotation: "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap(), ..context() },
            SealContext { node: "node-2".parse().unwrap(), ..context() },
            SealContext { plan_digest: Digest::new([9; 32]), ..context() },
            SealContext { old_key: KeyId::new([9; 16]), ..context() },
            SealContext { new_key: KeyId::new([9; 16]), ..context() },
        ];
        for changed in changed {
            assert!(matches!(recipient.open(&sealed, &current(), &changed), Err(SealError::NotForThis)), "{changed:?}");
        }
        assert!(matches!(RecipientKey::generate().open(&sealed, &current(), &context()), Err(SealError::NotForThis)));
    }

    #[test]
    fn whoever_lacks_the_current_key_seals_nothing_that_opens() {
        let recipient = RecipientKey::generate();
        let guessed = SecretKey::from_bytes(vec![5; 32]).unwrap();
        let sealed = seal(&recipient.public_hex(), &set(1), &guessed, &context()).unwrap();
        assert!(matches!(recipient.open(&sealed, &current(), &context()), Err(SealError::NotForThis)));
    }

    #[test]
    fn cut_or_foreign_bytes_do_not_open() {
        let recipient = RecipientKey::generate();
        let sealed = seal(&recipient.public_hex(), &set(1), &current(), &context()).unwrap();
        for length in 0..sealed.len() {
            let error = recipient.open(&sealed[..length], &current(), &context()).unwrap_err();
            assert!(matches!(error, SealError::Malformed | SealError::NotForThis), "{length}: {error}");
        }
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(recipient.open(&altered, &current(), &context()).is_err(), "{at}");
        }
        assert!(matches!(
            recipient.open(&[0; SEALED_BYTES_MAX + 1], &current(), &context()),
            Err(SealError::Malformed)
        ));
        assert!(matches!(recipient.open(b"foreign bytes", &current(), &context()), Err(SealError::Malformed)));
    }

    #[test]
    fn another_farm_or_another_key_is_not_sealed() {
        let public = RecipientKey::generate().public_hex();
        let other = SealContext { farm: "other".to_owned(), ..context() };
        assert!(matches!(seal(&public, &set(1), &current(), &other), Err(SealError::Farm { .. })));
        assert!(matches!(seal(&public, &set(2), &current(), &context()), Err(SealError::Key { .. })));
    }

    #[test]
    fn recipient_keys_that_are_none() {
        let public = RecipientKey::generate().public_hex();
        let low_order = format!("{}{}", hex::encode(PUBLIC_KEY_HEADER), "00".repeat(32));
        let private = format!("{}{}", hex::encode(PRIVATE_KEY_HEADER), "01".repeat(32));
        for key in ["", "zz", &public[2..], &public[..78], &low_order, &private] {
            assert!(matches!(seal(key, &set(1), &current(), &context()), Err(SealError::RecipientKey)), "{key}");
        }
    }

    #[test]
    fn a_recipient_key_prints_its_public_half_only() {
        let recipient = RecipientKey::generate();
        let text = format!("{recipient:?}");
        assert!(text.contains("redacted"));
        assert!(!text.contains(&hex::encode(&recipient.expose()[8..])));
    }
}
