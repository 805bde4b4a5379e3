//! Generates the protocol's Rust code and its descriptor set from the .proto files, without protoc.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

/// Files of the protocol, relative to the folder `proto` at the top.
const FILES: [&str; 4] =
    ["keyturn/v1/types.proto", "keyturn/v1/operator.proto", "keyturn/v1/agent.proto", "keyturn/v1/raft.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    // The folder too, or a file added to it would go unseen.
    println!("cargo::rerun-if-changed={}", proto.join("keyturn/v1").display());
    for file in FILES {
        println!("cargo::rerun-if-changed={}", proto.join(file).display());
    }

    let descriptors = protox::compile(FILES, [&proto])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Maps in key order, so that the same message always has the same bytes.
    tonic_prost_build::configure().btree_map(".").emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}
