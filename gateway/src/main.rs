//! The `kernelbox` binary: reads the arguments and hands over to [`command`].
mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    kernelbox_gateway::install_crypto();
    command::run()
}
