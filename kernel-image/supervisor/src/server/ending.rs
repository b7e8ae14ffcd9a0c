//! When a supervisor ends: at a signal, or with its standard input.
use std::time::Duration;

use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::lifecycle::Lifecycle;

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Calls that run may come to their end.
    Drain,
    AtOnce,
}

/// What can end it.
pub(super) struct Endings {
    signals: Option<(Signal, Signal)>,
    stdin: Option<tokio::io::Stdin>,
}

impl Endings {
    pub(super) fn new(with_stdin: bool) -> Self {
        let signals = signal(SignalKind::terminate()).ok().zip(signal(SignalKind::interrupt()).ok());
        Self { signals, stdin: with_stdin.then(tokio::io::stdin) }
    }

    /// Waits until it is time to end. A sandbox that somebody can still save is waited for, for as long as `grace`.
    pub(super) async fn wait(&mut self, lifecycle: &Lifecycle, grace: Duration) -> Ending {
        if self.next().await == Ending::AtOnce {
            return Ending::AtOnce;
        }
        if !lifecycle.terminate() {
            return Ending::Drain;
        }
        tracing::info!("waiting until what changed is saved");
        tokio::select! {
            () = lifecycle.saved() => Ending::Drain,
            () = tokio::time::sleep(grace) => {
                tracing::warn!("nobody saved what changed; it is lost");
                Ending::Drain
            }
            // The second signal ends it whatever is left.
            _ = self.next() => Ending::AtOnce,
        }
    }

    /// Waits for a signal (then calls may be drained) or the end of standard input.
    pub(super) async fn next(&mut self) -> Ending {
        let Self { signals, stdin } = self;
        let signalled = async {
            match signals {
                Some((term, int)) => {
                    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                }
                None => std::future::pending().await,
            }
        };
        let closed = async {
            match stdin {
                Some(stdin) => {
                    let mut buffer = [0; 256];
                    while stdin.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! { () = signalled => Ending::Drain, () = closed => Ending::AtOnce }
    }
}
