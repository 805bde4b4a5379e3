//! Whole farms, run by the ordinary binary as separate processes, judged from outside.

mod by_hand;
mod coordinators;
mod demo;
mod failover;
mod faults;
mod foreign_schemas;
mod oracle;
mod partitions;
mod real_farm;
mod replace;
mod sample_vault;
mod soak;
mod support;
