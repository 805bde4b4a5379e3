//! One agent under test: real TLS, a real database, real keys, and an instance made of a shell script, driven over gRPC
//! as a leader would drive it. The database is SQLite where nothing else is said.
#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod authority;
#[expect(dead_code, reason = "shared with the engine's tests, which use more of it")]
#[path = "../../../reencrypt/tests/engine/cluster.rs"]
mod cluster;
mod forward;
mod full_disk;
mod instance;
mod lost_undo;
#[expect(dead_code, reason = "shared with the engine's tests, which use more of it")]
#[path = "../../../reencrypt/tests/engine/mariadb.rs"]
mod mariadb;
mod restart;
#[path = "../points/servers.rs"]
mod servers;
mod shadows;
#[expect(dead_code, reason = "shared with the engine's tests, which use more of it")]
#[path = "../../../reencrypt/tests/engine/small_disk.rs"]
mod small_disk;
mod support;
mod undo;
