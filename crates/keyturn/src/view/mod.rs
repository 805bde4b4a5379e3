//! How a rotation is shown: as an object for programs, as text for people, live while it runs, and as evidence after.

mod live;
mod log;
mod plan;
mod report;
mod rotation;
mod status;

pub(crate) use self::live::Live;
pub(crate) use self::plan::{backups, plan_text, unseen};
pub(crate) use self::report::Report;
pub(crate) use self::rotation::{RotationView, outcome_exit, plan_of};
pub(crate) use self::status::{faults_text, status_text, summary_text};
