//! One agent under test: real TLS, a real SQLite database, real keys, and an instance made of a shell script, driven
//! over gRPC as a leader would drive it.
#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod authority;
mod forward;
mod instance;
mod restart;
mod shadows;
#[expect(dead_code, unused_imports, reason = "shared with the tests in `points`, which use the rest")]
mod support;
mod undo;
