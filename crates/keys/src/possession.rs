//! Proof of possession: what an agent answers to show that it opened its bundle and holds the new key. The Start
//! entry carries only the digest of the proof, so the coordinator can check it and cannot make it.

use rotation::{Digest, NodeId, RotationId};

use crate::{SecretKey, transcript};

/// The proof that `node` holds `key` in this rotation.
pub fn proof(key: &SecretKey, rotation: &RotationId, node: &NodeId) -> Digest {
    Digest::new(*transcript::derive(
        "keyturn possession v1",
        &[key.expose(), rotation.as_bytes(), node.as_str().as_bytes()],
    ))
}

/// What the operator's statement holds of a proof: its plain BLAKE3.
pub fn digest(proof: &Digest) -> Digest {
    Digest::new(*blake3::hash(proof.as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_speaks_of_one_key_one_rotation_and_one_node() {
        let key = |byte| SecretKey::from_bytes(vec![byte; 32]).unwrap();
        let rotation = |text: &str| text.parse::<RotationId>().unwrap();
        let node = |text: &str| text.parse::<NodeId>().unwrap();
        let (first, second) = ("01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058");
        let base = proof(&key(1), &rotation(first), &node("node-1"));
        assert_eq!(base, proof(&key(1), &rotation(first), &node("node-1")));
        assert_ne!(base, proof(&key(2), &rotation(first), &node("node-1")));
        assert_ne!(base, proof(&key(1), &rotation(second), &node("node-1")));
        assert_ne!(base, proof(&key(1), &rotation(first), &node("node-2")));
        assert_ne!(base, digest(&base));
    }
}
