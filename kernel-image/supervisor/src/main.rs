//! `kernelbox-supervisor`: keeps the kernels and files of one sandbox.
use std::{fs, io::Write as _, os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;
use clap::Parser as _;
use kernelbox_supervisor::{args, embedded, install, interpreter, server};
use kernelbox_telemetry::Logs;

/// Where Kubernetes reads why a container ended. It is there in no other place.
const TERMINATION_LOG: &str = "/dev/termination-log";

fn main() -> anyhow::Result<()> {
    let cli = args::Cli::parse();
    let logs = Logs { format: cli.log_format, filter: "info,zeromq=error" };
    let _telemetry = kernelbox_telemetry::start("kernelbox-supervisor", logs);
    let done = run(cli.command);
    if let Err(error) = &done
        && let Ok(mut log) = fs::File::options().write(true).truncate(true).open(TERMINATION_LOG)
    {
        // Whoever reads the container's log has these words as well.
        let _ = write!(log, "{error:#}");
    }
    done
}

fn run(command: args::Command) -> anyhow::Result<()> {
    match command {
        args::Command::Zygote(args) => zygote(&args),
        args::Command::Install(args) => Ok(install::install(&args)?),
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
    let python = interpreter::find(&args.python)?;
    let program = embedded::write(&args.state_dir).context("cannot write the kernel's files")?;
    let error = Command::new(&python).arg(program).arg("host").arg(&args.listen).arg(&args.warm_up).exec();
    Err(error).with_context(|| format!("cannot start {}", python.display()))
}
