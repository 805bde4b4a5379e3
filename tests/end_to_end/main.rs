//! Whole farms, run by the ordinary binary as separate processes, judged from outside.

mod by_hand;
mod demo;
mod faults;
mod foreign_schemas;
mod oracle;
mod replace;
mod soak;
mod support;
