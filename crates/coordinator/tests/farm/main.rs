//! Real coordinators over real TLS in one process, with agents that answer as told: the coordinator from outside.

mod cluster;
mod compaction;
mod deposed;
mod full_disk;
mod members;
mod rotations;
#[expect(dead_code, reason = "shared with the engine's tests, which use more of it")]
#[path = "../../../reencrypt/tests/engine/small_disk.rs"]
mod small_disk;
mod support;
