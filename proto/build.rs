//! Compiles the protocol without an installed `protoc`, and keeps its descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTOCOL: [&str; 7] = [
    "refit/v1/common.proto",
    "refit/v1/enrollment.proto",
    "refit/v1/repository.proto",
    "refit/v1/agent.proto",
    "refit/v1/admin.proto",
    "refit/v1/status.proto",
    "refit/v1/changes.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=refit");
    let descriptors = protox::compile(PROTOCOL, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("refit.v1.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // The status model is also shown as JSON, so that gRPC, the page and `--output json` agree.
        .type_attribute(".refit.v1", "#[derive(serde::Serialize)]")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
