//! `kernelbox-supervisor`: keeps the kernels and files of one sandbox.
use std::{io::IsTerminal as _, os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;
use clap::Parser as _;
use kernelbox_supervisor::{args, embedded, server};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let cli = args::Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,zeromq=error")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Whoever reads the log may be gone, and to say so on the same stream would panic.
        .log_internal_errors(false)
        .init();
    match cli.command {
        args::Command::Zygote(args) => zygote(&args),
        args::Command::Serve(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let served = runtime.block_on(server::run(*args));
            // A read that blocks, as that of standard input, does not hold up the end.
            runtime.shutdown_background();
            served
        }
    }
}

/// Becomes the host zygote.
fn zygote(args: &args::ZygoteArgs) -> anyhow::Result<()> {
    let program = embedded::write(&args.state_dir).context("cannot write the kernel's files")?;
    let error = Command::new(&args.python).arg(program).arg("host").arg(&args.listen).arg(&args.warm_up).exec();
    Err(error).with_context(|| format!("cannot start {}", args.python.display()))
}
