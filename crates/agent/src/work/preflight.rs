//! Preflight: says what the node is and holds, and reads the database. Changes nothing but the recipient key.

use keys::KeyStore;
use keys::attestation::{self, Context};
use keys::sealed::RecipientKey;
use reencrypt::SurveyRequest;
use rotation::{
    AgentRelease, Answer, Attestation, BackupOffer, Fault, Inspection, RotationId, StrategyChoice, UndecryptableValue,
};

use crate::config::BackedUpDatabase;
use crate::instance::Condition;
use crate::node::{Node, PROTOCOL, RELEASE, store_fault};
use crate::registry::Ticket;

/// How many shards may be asked for. Each is a lease and a line in the plan; more make the work no faster.
const SHARDS_MAX: u32 = 10_000;

pub(super) async fn inspect(node: &Node, rotation: RotationId, ticket: &Ticket) -> Result<Answer, Fault> {
    let keys = node.current_keys()?;
    let current = &keys.active().secret;
    ticket.waiting_for("the instance to be observed");
    let condition = node.instance.observe(&ticket.cancel).await?;
    ticket.waiting_for("the database");
    node.engine.check_targets().await.map_err(|error| error.fault())?;
    let database = node.engine.identity().await.map_err(|error| error.fault())?;
    ticket.still_wanted()?;
    let recipient = recipient_key(node, rotation)?;
    let context = Context {
        farm: node.farm.clone(),
        rotation,
        node: node.id.clone(),
        recipient_key: recipient.public_hex(),
        current_key: current.id(),
        targets_digest: node.targets,
        database_identity: database.identity.clone(),
    };
    let attestation = Attestation {
        certificates: node.tls.certificates().iter().map(hex::encode).collect(),
        signature: hex::encode(wire::sign::sign(&node.tls, Attestation::SIGNATURE_DOMAIN, &context.to_bytes())),
        mac: hex::encode(attestation::mac(current, &context)),
    };
    Ok(Answer::Inspected(Box::new(Inspection {
        release: AgentRelease { version: RELEASE.to_owned(), protocol: PROTOCOL },
        current_key: context.current_key,
        instance: condition.as_str().to_owned(),
        instance_online: condition == Condition::Online,
        protector: KeyStore::PROTECTOR.to_owned(),
        database,
        targets_digest: node.targets,
        recipient_key: context.recipient_key,
        attestation,
        backup: match node.backups.as_ref().map(|backups| backups.settings.database) {
            None => BackupOffer::Nothing,
            Some(BackedUpDatabase::None) => BackupOffer::Folder,
            Some(BackedUpDatabase::Make) => BackupOffer::Database,
        },
    })))
}

/// The recipient key of this rotation: the one that is there, so that an answer that was lost is given again.
fn recipient_key(node: &Node, rotation: RotationId) -> Result<RecipientKey, Fault> {
    let stored = node
        .store
        .recipient(&node.state_dir, &rotation)
        .map_err(|error| store_fault("reading the recipient key of this rotation", &error))?;
    if let Some(stored) = stored {
        return Ok(stored);
    }
    let fresh = RecipientKey::generate();
    node.store
        .put_recipient(&node.state_dir, &rotation, &fresh)
        .map_err(|error| store_fault("storing the recipient key of this rotation", &error))?;
    Ok(fresh)
}

/// What a survey is asked for.
pub(super) struct Asked<'a> {
    pub(super) accepted: &'a [UndecryptableValue],
    pub(super) shards_wanted: u32,
    pub(super) agents: u32,
    pub(super) strategy: StrategyChoice,
}

pub(super) async fn survey(node: &Node, asked: &Asked<'_>, ticket: &Ticket) -> Result<Answer, Fault> {
    let keys = node.current_keys()?;
    ticket.waiting_for("every registered value to be read");
    let progress = |rows| ticket.rows(rows);
    let request = SurveyRequest {
        ring: &keys,
        accepted: asked.accepted,
        shards_wanted: asked.shards_wanted.clamp(1, SHARDS_MAX),
        strategy: asked.strategy,
        agents: asked.agents.max(1),
    };
    let survey = node.engine.survey(&request, &progress).await.map_err(|error| error.fault())?;
    Ok(Answer::DatabaseSurveyed(Box::new(survey)))
}
