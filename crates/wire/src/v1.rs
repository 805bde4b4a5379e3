//! The generated code of the package `keyturn.v1`; what it means stands in proto/keyturn/v1.
#![expect(
    clippy::allow_attributes,
    clippy::all,
    missing_docs,
    reason = "generated; the comments of the .proto files are its documentation"
)]

include!(concat!(env!("OUT_DIR"), "/keyturn.v1.rs"));
