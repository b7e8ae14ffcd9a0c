//! `up` and `serve` where there is no Linux: how to run the server in a container.
use clap::Args;

use super::failure::{Exit, Failure, Result};

const CONTAINER: &str = "the server needs Linux. In a container, from Kernelbox's source folder:
  docker run --rm -it -p 127.0.0.1:7070:7070 -v \"$PWD\":/kernelbox -w /kernelbox rust:1.95 sh -c \\
    'apt-get update && apt-get install -y python3-venv && cargo build --release &&
     target/release/kernelbox up --listen 0.0.0.0:7070'";

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

pub(crate) type ServeArgs = UpArgs;

pub(crate) async fn up(_args: UpArgs) -> Result<Exit> {
    Err(Failure::new(Exit::Failed, CONTAINER))
}

pub(crate) async fn serve(args: ServeArgs) -> Result<Exit> {
    up(args).await
}
