//! What must hold in every run: one invariant per file, each over random runs of a small world of its own.
//!
//! The world (`world.rs`) has real consequences: machines with key files and instances, a database with rows and a
//! ledger, agents that work late, reports that come late, twice or in another order, faults, crashes and operators who
//! do as they like. `coverage.rs` looks that the random runs come everywhere.

#[path = "../support/mod.rs"]
mod support;

mod database;
mod world;

mod a_budget_only_leads_back;
mod coverage;
mod epochs_only_rise;
mod every_run_ends;
mod leases_are_bounded;
mod live_work_is_never_superseded;
mod never_two_keys_live;
mod no_activation_before_every_proof;
mod no_key_before_the_swap;
mod no_swap_before_every_verification;
mod nothing_is_undone_after_admit;
mod pending_is_empty_only_when_waiting;
mod refusals_change_nothing;
mod replicas_agree;
mod retired_only_on_a_signed_word;
mod stale_epochs_change_nothing;
mod throttle_changes_no_work;
mod undo_is_reachable_before_admit;
