//! The command line as scripts see it: help, exit codes, files, JSON. Every test runs the real binary.

mod backups;
mod bad_input;
mod coordinators;
mod db;
#[path = "../../../reencrypt/tests/engine/documented.rs"]
mod documented;
mod examples;
mod farm;
mod help;
mod hostile;
mod keys;
#[path = "../../../reencrypt/tests/engine/mariadb.rs"]
#[expect(clippy::unwrap_used, dead_code, reason = "it is of the engine's tests, which use the rest of it")]
mod mariadb;
mod mysql;
mod operator;
mod physical;
mod pki;
mod recover;
mod recover_failed;
mod recover_midway;
mod restore;
mod restore_login;
mod room;
mod rotation;
#[path = "../../../../tests/end_to_end/sample_vault.rs"]
mod sample_vault;
mod support;
mod usage;
mod vault;
