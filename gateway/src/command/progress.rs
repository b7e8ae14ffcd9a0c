//! What a command waits for, told on stderr after a second, and only on a terminal.
use std::{
    io::IsTerminal as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Shorter waits are not told.
const PATIENCE: Duration = Duration::from_secs(1);

/// One line at the bottom of the terminal. Nothing else may be written while it shows: call [`Progress::clear`] before.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    shown: Option<Arc<Mutex<Shown>>>,
}

#[derive(Debug, Default)]
struct Shown {
    bar: Option<ProgressBar>,
    text: String,
    /// Counts waits, so that a timer of an earlier one shows nothing.
    wait: u64,
    waiting: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal().then(Arc::default) }
    }

    /// What is being waited for now. The first such call after `clear` starts the second of patience.
    pub(crate) fn say(&self, text: impl Into<String>) {
        let Some(shared) = &self.shown else { return };
        let mut shown = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shown.text = text.into();
        if let Some(bar) = &shown.bar {
            bar.set_message(shown.text.clone());
        } else if !shown.waiting {
            shown.waiting = true;
            shown.wait += 1;
            let (wait, shared) = (shown.wait, Arc::clone(shared));
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                let mut shown = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if shown.waiting && shown.wait == wait {
                    shown.bar = Some(spinner(&shown.text));
                }
            });
        }
    }

    /// Takes the line away, if it shows.
    pub(crate) fn clear(&self) {
        let Some(shared) = &self.shown else { return };
        let mut shown = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shown.waiting = false;
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn spinner(text: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_elapsed(PATIENCE).with_message(text.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar for a transfer of this many bytes; hidden unless stderr is a terminal.
pub(crate) fn transfer(size: Option<u64>, what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}"),
        None => (ProgressBar::new_spinner(), "{msg} {bytes} {bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}
