//! `kernelbox-controller`: parses arguments and delegates.
use std::io::{Write as _, stdout};

use clap::{Parser, Subcommand};
use kernelbox_controller::{
    crd, explain,
    metrics::Metrics,
    serve::{self, ServeArgs},
};
use kernelbox_telemetry::{Logs, start_and_export};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Schedules sandboxes in a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator
    Serve(Box<ServeArgs>),
    /// Prints the definitions of Kernelbox' resources, for kubectl apply
    Crd,
    /// Prints the reference of metrics, which is kept in docs/metrics.md
    #[command(hide = true)]
    Metrics,
    /// Prints the story of a sandbox: its stages, their times, the reason of its end
    Explain {
        sandbox: String,
        /// The namespace of sandboxes
        #[arg(long, short, env = "KERNELBOX_SANDBOX_NAMESPACE", default_value = "kernelbox-sandboxes")]
        namespace: String,
    },
}

fn main() -> anyhow::Result<()> {
    // Nothing else chose one before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Args::parse().command {
        Command::Crd => crd::print(&mut stdout().lock()),
        Command::Metrics => Ok(stdout().write_all(Metrics::new()?.book().page("controller").as_bytes())?),
        Command::Explain { sandbox, namespace } => {
            runtime()?.block_on(explain::explain(&namespace, &sandbox, &mut stdout().lock()))
        }
        Command::Serve(args) => {
            let logs = Logs { format: args.log_format, filter: "info" };
            runtime()?.block_on(async {
                let _telemetry = start_and_export("kernelbox-controller", env!("CARGO_PKG_VERSION"), logs)?;
                let stop = CancellationToken::new();
                tokio::spawn(stop_on_signal(stop.clone()));
                Ok(serve::serve(*args, stop).await?)
            })
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// The first signal ends it in order, the second at once.
async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    for _ in 0..2 {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if stop.is_cancelled() {
            std::process::exit(1);
        }
        stop.cancel();
    }
}
