//! Compiles the .proto files with protox, so that no protoc is needed.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 8] = [
    "kernelbox/v1/error.proto",
    "kernelbox/v1/execution.proto",
    "kernelbox/v1/code.proto",
    "kernelbox/v1/file.proto",
    "kernelbox/v1/session.proto",
    "kernelbox/v1/turn.proto",
    "kernelbox/sandbox/v1/sandbox.proto",
    "kernelbox/controller/v1/allocator.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=kernelbox");
    let descriptors = protox::compile(FILES, ["."])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("kernelbox.binpb");
    fs::write(path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
