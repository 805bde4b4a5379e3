//! Any text as a targets.toml.

#![no_main]

#[path = "../bodies/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|text: &str| targets::check(text));
