//! The operator's word: the signed statement without which no agent changes anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, KeyId, NodeId, RotationId};

/// What an operator signs: this rotation, this plan, this key, these bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The version of this format: 1.
    pub format: u32,
    /// The farm's name.
    pub farm: String,
    /// The rotation.
    pub rotation: RotationId,
    /// The digest of the plan's bytes.
    pub plan_digest: Digest,
    /// The key that the farm holds now.
    pub old_key: KeyId,
    /// The key that it is to hold.
    pub new_key: KeyId,
    /// Every node of the plan.
    pub nodes: BTreeMap<NodeId, NodeGrant>,
}

/// What the statement says of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGrant {
    /// The recipient key that the bundle is sealed to, as the plan has it.
    pub recipient_key: String,
    /// BLAKE3 of the sealed bundle.
    pub sealed_digest: Digest,
    /// BLAKE3 of the proof of possession that the agent must answer.
    pub possession_digest: Digest,
}

impl Statement {
    /// The format that this release writes.
    pub const FORMAT: u32 = 1;

    /// What the operator's signature is for, so that none given elsewhere passes for one.
    pub const SIGNATURE_DOMAIN: &str = "keyturn statement v1";

    /// The exact bytes that are signed: JSON with fields in the order of declaration and maps in key order.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a statement has string keys only, so it always has a JSON form")
    }
}

/// A statement with its signature and the sealed bundles it speaks of; one Start entry carries it all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The statement's bytes, exactly as signed.
    pub statement: Vec<u8>,
    /// The operator's certificate and intermediates, DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// Signature by that certificate's key over `"keyturn statement v1" || 0x00 || statement`.
    pub signature: Vec<u8>,
    /// Each node's sealed bundle.
    pub sealed: BTreeMap<NodeId, Vec<u8>>,
}

impl Authorization {
    /// Reads the statement. Says nothing of its signature.
    pub fn read_statement(&self) -> Result<Statement, serde_json::Error> {
        serde_json::from_slice(&self.statement)
    }
}

/// What an operator signs to have the tables dropped that a completed rotation kept: this rotation of this farm, by the
/// plan that it went by. Once they are gone, nothing in the database needs the old key any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// The version of this format: 1.
    pub format: u32,
    /// The farm's name.
    pub farm: String,
    /// The rotation that kept the tables.
    pub rotation: RotationId,
    /// The digest of its plan's bytes, which name the database and the tables.
    pub plan_digest: Digest,
}

impl Retirement {
    /// The format that this release writes.
    pub const FORMAT: u32 = 1;

    /// What the operator's signature is for, so that none given elsewhere passes for one.
    pub const SIGNATURE_DOMAIN: &str = "keyturn retirement v1";

    /// The exact bytes that are signed: JSON with fields in the order of declaration.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a retirement has string keys only, so it always has a JSON form")
    }
}

/// A retirement with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRetirement {
    /// The retirement's bytes, exactly as signed.
    pub retirement: Vec<u8>,
    /// The operator's certificate and intermediates, DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// Signature by that certificate's key over `"keyturn retirement v1" || 0x00 || retirement`.
    pub signature: Vec<u8>,
}

impl SignedRetirement {
    /// Reads the retirement. Says nothing of its signature.
    pub fn read(&self) -> Result<Retirement, serde_json::Error> {
        serde_json::from_slice(&self.retirement)
    }
}
