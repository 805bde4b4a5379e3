//! What an assignment must show before anything is changed for it: the plan, and an operator's signature on it that
//! covers this node, its recipient key and its tables. A coordinator has no power of its own. Dropping the tables that a
//! rotation kept takes a word of its own.

use rotation::{AgentRelease, Digest, Direction, Plan, Retirement, RotationId, Statement, Strategy, Work};
use wire::access::Role;
use wire::convert::Order;
use wire::sign::VerifyError;
use wire::tls::Tls;

/// What was signed, checked against this node.
#[derive(Debug)]
pub(crate) struct Grant {
    /// The plan.
    pub(crate) plan: Plan,
    /// Its digest.
    pub(crate) plan_digest: Digest,
    /// The operator's statement.
    pub(crate) statement: Statement,
    /// BLAKE3 of the statement's bytes.
    pub(crate) statement_digest: Digest,
    /// The bundle sealed for this node, of the digest that the statement names. Absent where it is not needed.
    pub(crate) sealed: Option<Vec<u8>>,
}

/// Who checks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checker<'a> {
    /// The node and farm as configured, which its certificate bears too.
    pub(crate) node: &'a rotation::NodeId,
    pub(crate) farm: &'a str,
    /// The digest of the node's own targets.toml.
    pub(crate) targets: Digest,
    /// The names of the tables in it.
    pub(crate) tables: &'a [String],
    pub(crate) tls: &'a Tls,
}

/// Why an assignment is not covered by an operator's signature.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the assignment comes without a plan and an operator's signature")]
    Missing,
    #[error("the plan or the statement cannot be read")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the operator's signature does not hold")]
    Signature(#[source] VerifyError),
    #[error("the plan is not the one that was signed: its digest is {found}, and what was signed says {signed}")]
    AlteredPlan { found: Digest, signed: Digest },
    #[error("{what} of the signed {document} is {found}, and here it is {expected}")]
    Differs { document: &'static str, what: &'static str, found: String, expected: String },
    #[error("the signed {0} does not name this node")]
    NodeMissing(&'static str),
    #[error("the old key and the new key of the statement are the same")]
    SameKey,
    #[error("the signed plan leaves rows of table {0} out")]
    Gap(String),
    #[error("shard {0} is not one of the signed plan")]
    ForeignShard(rotation::ShardId),
    #[error("key {0} is neither the old nor the new key of the signed statement")]
    ForeignKey(rotation::KeyId),
    #[error("the sealed bundle for this node is missing or is not the one that was signed")]
    Sealed,
    #[error("going forward takes the position that was recorded when the rows were verified, and there is none")]
    NoPosition,
    #[error("the signed plan copies no table, so there is none to {0}")]
    NoShadows(rotation::WorkKind),
}

impl Refusal {
    /// What an operator can do about it.
    pub(crate) fn next_step(&self) -> &'static str {
        match self {
            Self::Differs { what: "targets.toml", .. } => {
                "put back the targets.toml that the plan was made with and restart the agent, or abort and plan again"
            }
            Self::Missing
            | Self::Malformed(_)
            | Self::Signature(_)
            | Self::AlteredPlan { .. }
            | Self::Differs { .. }
            | Self::NodeMissing(_)
            | Self::SameKey
            | Self::Gap(_)
            | Self::ForeignShard(_)
            | Self::ForeignKey(_)
            | Self::Sealed
            | Self::NoPosition
            | Self::NoShadows(_) => {
                "nothing was changed; find out whether somebody altered it between operator and agent, then abort \
                 and plan again"
            }
        }
    }
}

/// Whether the work belongs to Preflight, which needs no signature since it changes nothing that the rotation works on.
pub(crate) const fn is_preflight(work: &Work) -> bool {
    matches!(work, Work::Inspect | Work::SurveyDatabase { .. } | Work::BackUp { .. })
}

/// Whether the work leads back to the old key.
pub(crate) fn turns_back(work: &Work, statement: &Statement) -> bool {
    match work {
        Work::TurnBack | Work::RestoreKey | Work::DiscardKey | Work::SwapTablesBack => true,
        Work::ReencryptShard { direction, .. }
        | Work::VerifyShard { direction, .. }
        | Work::LiftFence { direction, .. }
        | Work::CloseLedger { direction } => *direction == Direction::Back,
        Work::StartInstance { key } => *key == statement.old_key,
        Work::Inspect
        | Work::SurveyDatabase { .. }
        | Work::StoreKey
        | Work::TakeOffline
        | Work::FenceDatabase
        | Work::RecordPosition
        | Work::ActivateKey { .. }
        | Work::AdmitInstance
        | Work::FinishShadows
        | Work::SwapTables
        | Work::BackUp { .. }
        | Work::RetireTables => false,
    }
}

impl Checker<'_> {
    /// Checks everything that can be checked without looking at the node. `is_pinned` says whether this very
    /// statement was verified before: its signer's certificate may have expired since.
    pub(crate) fn check(
        &self,
        order: &Order,
        is_pinned: impl FnOnce(RotationId, Digest) -> bool,
    ) -> Result<Grant, Refusal> {
        let (Some(plan_bytes), Some(authorization)) = (&order.plan, &order.authorization) else {
            return Err(Refusal::Missing);
        };
        let rotation = order.assignment.rotation;
        let statement_digest = hash(&authorization.statement);
        if !is_pinned(rotation, statement_digest) {
            wire::sign::verify(
                self.tls,
                &authorization.certificates,
                Role::Operator,
                Statement::SIGNATURE_DOMAIN,
                &authorization.statement,
                &authorization.signature,
            )
            .map_err(Refusal::Signature)?;
        }
        let statement = authorization.read_statement().map_err(|error| Refusal::Malformed(error.into()))?;
        same("statement", "format", &statement.format, &Statement::FORMAT)?;
        same("statement", "farm", statement.farm.as_str(), self.farm)?;
        same("statement", "rotation", &statement.rotation, &rotation)?;
        let plan_digest = Plan::digest_of(plan_bytes);
        if plan_digest != statement.plan_digest {
            return Err(Refusal::AlteredPlan { found: plan_digest, signed: statement.plan_digest });
        }
        let plan = Plan::from_bytes(plan_bytes).map_err(|error| Refusal::Malformed(error.into()))?;
        same("plan", "farm", plan.farm.as_str(), self.farm)?;
        same("plan", "rotation", &plan.rotation, &rotation)?;
        self.check_node(&plan, &statement)?;
        self.check_coverage(&plan)?;
        check_work(&order.assignment.work, &plan, &statement)?;
        let wants_bundle = matches!(order.assignment.work, Work::StoreKey);
        let sealed = wants_bundle.then(|| self.sealed(authorization, &statement)).transpose()?;
        Ok(Grant { plan, plan_digest, statement, statement_digest, sealed })
    }

    /// Checks the operator's word for dropping the tables that a rotation kept, and answers the plan that it names. The
    /// statement that started the rotation is not asked for: its signer may be gone by then, and its keys too.
    pub(crate) fn check_retirement(&self, order: &Order) -> Result<Plan, Refusal> {
        let (Some(plan_bytes), Some(word)) = (&order.plan, &order.retirement) else { return Err(Refusal::Missing) };
        wire::sign::verify(
            self.tls,
            &word.certificates,
            Role::Operator,
            Retirement::SIGNATURE_DOMAIN,
            &word.retirement,
            &word.signature,
        )
        .map_err(Refusal::Signature)?;
        let retirement = word.read().map_err(|error| Refusal::Malformed(error.into()))?;
        same("retirement", "format", &retirement.format, &Retirement::FORMAT)?;
        same("retirement", "farm", retirement.farm.as_str(), self.farm)?;
        same("retirement", "rotation", &retirement.rotation, &order.assignment.rotation)?;
        let plan_digest = Plan::digest_of(plan_bytes);
        if plan_digest != retirement.plan_digest {
            return Err(Refusal::AlteredPlan { found: plan_digest, signed: retirement.plan_digest });
        }
        let plan = Plan::from_bytes(plan_bytes).map_err(|error| Refusal::Malformed(error.into()))?;
        same("plan", "farm", plan.farm.as_str(), self.farm)?;
        same("plan", "rotation", &plan.rotation, &order.assignment.rotation)?;
        if plan.nodes.contains_key(self.node) { Ok(plan) } else { Err(Refusal::NodeMissing("plan")) }
    }

    fn check_node(&self, plan: &Plan, statement: &Statement) -> Result<(), Refusal> {
        let planned = plan.nodes.get(self.node).ok_or(Refusal::NodeMissing("plan"))?;
        let granted = statement.nodes.get(self.node).ok_or(Refusal::NodeMissing("statement"))?;
        // A node that was upgraded or put back since might misunderstand the rest of what was planned.
        same("plan", "protocol of this node's release", &planned.release.protocol, &AgentRelease::PROTOCOL)?;
        same("statement", "recipient key", &granted.recipient_key, &planned.recipient_key)?;
        same("statement", "old key", &statement.old_key, &planned.current_key)?;
        same("plan", "targets.toml", &planned.targets_digest, &self.targets)?;
        if statement.old_key == statement.new_key { Err(Refusal::SameKey) } else { Ok(()) }
    }

    /// Rows in no shard would stay under the old key, and no count of what was done would show it.
    fn check_coverage(&self, plan: &Plan) -> Result<(), Refusal> {
        let missing = self.tables.iter().map(String::as_str).find(|table| !plan.tables.contains_key(*table));
        match missing.or_else(|| plan.table_with_gap()) {
            Some(table) => Err(Refusal::Gap(table.to_owned())),
            None => Ok(()),
        }
    }

    fn sealed(&self, authorization: &rotation::Authorization, statement: &Statement) -> Result<Vec<u8>, Refusal> {
        let granted = statement.nodes.get(self.node).ok_or(Refusal::NodeMissing("statement"))?;
        let sealed = authorization.sealed.get(self.node).ok_or(Refusal::Sealed)?;
        if hash(sealed) == granted.sealed_digest { Ok(sealed.clone()) } else { Err(Refusal::Sealed) }
    }
}

/// The particulars of the work against what was signed.
fn check_work(work: &Work, plan: &Plan, statement: &Statement) -> Result<(), Refusal> {
    match work {
        Work::ReencryptShard { shard, .. } | Work::VerifyShard { shard, .. } if !plan.shards.contains(shard) => {
            Err(Refusal::ForeignShard(shard.id))
        }
        Work::StartInstance { key } if *key != statement.old_key && *key != statement.new_key => {
            Err(Refusal::ForeignKey(*key))
        }
        Work::LiftFence { direction: Direction::Forward, position: None } => Err(Refusal::NoPosition),
        Work::FinishShadows | Work::SwapTables | Work::SwapTablesBack if shadow_tables(plan).next().is_none() => {
            Err(Refusal::NoShadows(work.kind()))
        }
        Work::Inspect
        | Work::SurveyDatabase { .. }
        | Work::StoreKey
        | Work::TakeOffline
        | Work::FenceDatabase
        | Work::ReencryptShard { .. }
        | Work::VerifyShard { .. }
        | Work::RecordPosition
        | Work::ActivateKey { .. }
        | Work::LiftFence { .. }
        | Work::StartInstance { .. }
        | Work::AdmitInstance
        | Work::CloseLedger { .. }
        | Work::TurnBack
        | Work::RestoreKey
        | Work::DiscardKey
        | Work::FinishShadows
        | Work::SwapTables
        | Work::SwapTablesBack
        | Work::BackUp { .. }
        | Work::RetireTables => Ok(()),
    }
}

/// The tables that are copied and swapped: by the signed plan, whatever a coordinator says.
pub(crate) fn shadow_tables(plan: &Plan) -> impl Iterator<Item = &str> {
    plan.tables.iter().filter(|(_, table)| table.strategy == Strategy::Shadow).map(|(name, _)| name.as_str())
}

fn same<T: PartialEq + ToString + ?Sized>(
    document: &'static str,
    what: &'static str,
    found: &T,
    expected: &T,
) -> Result<(), Refusal> {
    if found == expected {
        return Ok(());
    }
    Err(Refusal::Differs { document, what, found: found.to_string(), expected: expected.to_string() })
}

fn hash(bytes: &[u8]) -> Digest {
    Digest::new(*blake3::hash(bytes).as_bytes())
}
