//! Tests that need a farm: its CA, certificates of every role, servers on loopback or on a network of pipes.

mod access;
mod connection;
mod conversion;
mod handshake;
mod pki;
mod signature;
mod status;
mod support;
