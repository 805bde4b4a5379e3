//! Real coordinators over real TLS in one process, with agents that answer as told: the coordinator from outside.

mod cluster;
mod compaction;
mod deposed;
mod members;
mod rotations;
mod support;
