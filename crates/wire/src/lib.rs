//! The protocol between the parts of Keyturn: generated messages and services, their conversions from and to the
//! domain, mutual TLS with roles, and what a caller may call.

pub mod access;
pub mod channel;
pub mod convert;
pub mod identity;
pub mod pki;
pub mod rpc;
pub mod serve;
pub mod sign;
pub mod status;
pub mod tls;
pub mod trust;
pub mod v1;

#[cfg(test)]
mod tests;

/// The descriptors of every .proto file, for reflection and for tests that walk over all methods.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
