//! Small cases, one file per group of phases: an entry goes in, the course and the exact pending work come out.

#[path = "../support/mod.rs"]
mod support;

mod abort;
mod activate;
mod approval;
mod budget;
mod catch_up;
mod commands;
mod distribute;
mod estimate;
mod farm;
mod leases;
mod lost_undo;
mod preflight;
mod quiesce;
mod recovered;
mod retire;
mod rows;
mod shadows;
mod start_and_admit;
mod stored;
mod throttle;
mod undo;
mod waiting;
