//! Any bytes as a stored value.

#![no_main]

#[path = "../bodies/value.rs"]
mod value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| value::check(bytes));
