//! A whole farm on this machine: sample vault, balancer, client load, faults and checks, for the demo, benchmarks and tests.

mod arguments;
mod balancer;
mod database;
mod demo;
mod farm;
mod faults;
mod http;
mod launch;
mod load;
mod narrate;
mod paths;
mod ports;
mod process;
mod seed;
mod serve;
mod server;
mod signals;
mod soak;
mod tables;
mod vault;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use ports::Ports;
pub use server::{CopiedServer, Extension, NoRoom, SpareDatabase, room_aside};

/// What `keyturn demo` was asked for.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// `sqlite`, `postgres`, `mariadb` or the URL of a running database.
    pub database: String,
    /// How many nodes.
    pub nodes: u32,
    /// How many coordinators: 1, 3 or 5.
    pub coordinators: u32,
    /// How many rows to seed, over all tables.
    pub rows: u64,
    /// Where to keep everything; a temporary directory that is removed at the end without it.
    pub keep: Option<PathBuf>,
    /// `KIND@PHASE`: what to break, and when.
    pub fail: Option<String>,
    /// Print one JSON object at the end instead of a summary.
    pub json: bool,
}

/// What `keyturn soak` was asked for.
#[derive(Debug, Clone)]
pub struct SoakOptions {
    /// For how long rotations begin.
    pub duration: Duration,
    /// `sqlite`, `postgres`, `mariadb` or the URL of a running database.
    pub database: String,
    /// How many nodes.
    pub nodes: u32,
    /// How many coordinators: 1, 3 or 5.
    pub coordinators: u32,
    /// How many rows to seed, over all tables.
    pub rows: u64,
    /// Chooses faults and moments; drawn at random without it.
    pub seed: Option<u64>,
    /// Where to keep everything; a temporary directory that is removed at the end without it.
    pub keep: Option<PathBuf>,
    /// Print one JSON object at the end instead of a table.
    pub json: bool,
}

/// The options ask for what cannot be had; the text says what can.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(String);

/// Builds a farm on this machine, rotates its keys under load, checks everything, and answers the exit code. Fails with
/// [`WrongUsage`] when the options cannot be carried out.
pub async fn demo(options: DemoOptions) -> anyhow::Result<u8> {
    demo::run(options).await
}

/// Builds a farm on this machine and turns its keys again and again under load and random faults, with every check after
/// each rotation; answers the exit code. Fails with [`WrongUsage`] when the options cannot be carried out.
pub async fn soak(options: SoakOptions) -> anyhow::Result<u8> {
    soak::run(options).await
}

/// The hidden verb `sample-vault`: the demo's application, and the commands that control it.
pub async fn sample_vault(args: Vec<OsString>) -> anyhow::Result<u8> {
    vault::run(args).await
}

/// The hidden verb `balancer`: the demo's load balancer.
pub async fn balancer(args: Vec<OsString>) -> anyhow::Result<u8> {
    balancer::run(args).await
}
