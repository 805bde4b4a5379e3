//! What the cases share: a farm of one node, its instance, and a leader that drives its agent.

mod farm;
mod instance;
mod leader;

pub(crate) use farm::{Agent, Farm};
pub(crate) use instance::Instance;
pub(crate) use leader::{ACTIVATED_AT, Leader, finish};
