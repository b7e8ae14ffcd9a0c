//! `kernelbox-controller`: parses arguments and delegates.
use clap::{Parser, Subcommand};
use kernelbox_controller::crd;

/// Schedules sandboxes in a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the definitions of Kernelbox' resources, for kubectl apply
    Crd,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Crd => crd::print(&mut std::io::stdout().lock()),
    }
}
