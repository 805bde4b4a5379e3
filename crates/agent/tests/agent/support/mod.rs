//! What the cases share: a farm of one node, its instance, and a leader that drives its agent.

pub(crate) mod database;
pub(crate) mod farm;
mod instance;
pub(crate) mod leader;

pub(crate) use farm::{Agent, Farm};
pub(crate) use instance::Instance;
pub(crate) use leader::{ACTIVATED_AT, Failure, Leader, finish};

/// An agent that can be called.
pub(crate) trait Listening {
    /// Where it listens.
    fn address(&self) -> String;
}
