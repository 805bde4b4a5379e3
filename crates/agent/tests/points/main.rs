//! An agent as a process of its own that fails, dies or stands still beside each of its durable writes. Built with the
//! feature `armed` alone: cargo test --workspace --features agent/armed --test points
#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod bench;
#[expect(dead_code, reason = "shared with the engine's tests, which use more of it")]
#[path = "../../../reencrypt/tests/engine/cluster.rs"]
mod cluster;
mod courses;
#[expect(dead_code, reason = "shared with the engine's tests, which use more of it")]
#[path = "../../../reencrypt/tests/engine/mariadb.rs"]
mod mariadb;
mod process;
mod servers;
mod steps;
#[expect(dead_code, unused_imports, reason = "shared with the other tests of the agent, which use more of it")]
#[path = "../agent/support/mod.rs"]
mod support;
mod zombies;
