//! The operator's side: where the coordinators are, who we are, following the leader, opening bundles, authorizing.

mod authorize;
mod bundle;
mod config;
mod connection;
mod follow;
mod leader;

pub(crate) use authorize::{Proposal, authorize};
pub(crate) use bundle::{ClosedBundle, bundle_problem, open_bundle};
pub(crate) use config::OperatorArgs;
pub(crate) use connection::{CallFailed, Client, Coordinators, status_problem};
pub(crate) use follow::follow;
