//! The model of this machine, whichever there is when one is needed: a server that runs already, else the installed model.
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use kernelbox_proto::{Error, v1::ErrorCode};
use tokio::sync::Mutex;

use super::{Installed, LocalModel, LocalServer, ManifestError, Places, running};

/// How long a server that was found is taken to be there.
const FRESH: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Finder {
    /// Folders that may have an installed model, the first first.
    dirs: Vec<PathBuf>,
    log: PathBuf,
    places: Places,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    running: Option<(Instant, LocalServer)>,
    installed: Option<Installed>,
}

impl Finder {
    pub(crate) fn new(dirs: Vec<PathBuf>, log: PathBuf, places: Places) -> Self {
        Self { dirs, log, places, found: Mutex::default() }
    }

    /// Where a model answers now. The installed one is started if need be, which takes seconds. None: there is none.
    pub(crate) async fn find(&self) -> Result<Option<LocalServer>, Error> {
        let mut found = self.found.lock().await;
        if let Some((at, server)) = &found.running
            && at.elapsed() < FRESH
        {
            return Ok(Some(server.clone()));
        }
        found.running = running(&self.places).await.map(|server| (Instant::now(), server));
        if let Some((_, server)) = &found.running {
            return Ok(Some(server.clone()));
        }
        if found.installed.is_none() {
            let model = self.installed().map_err(|error| unavailable(&error))?;
            found.installed = model.map(|model| model.start(self.log.clone()));
        }
        match &found.installed {
            Some(installed) => installed.server().await.map(Some).map_err(|error| unavailable(&error)),
            None => Ok(None),
        }
    }

    /// What would be found now, for a line at the start; nothing is started for it.
    pub(crate) async fn describe(&self) -> Option<String> {
        if let Some(LocalServer { provider, model, base_url }) = running(&self.places).await {
            return Some(format!("{model}, served by {provider} at {base_url}"));
        }
        let installed = self.installed().ok().flatten()?;
        Some(format!("{}, which is installed here and started by the first question", installed.name()))
    }

    fn installed(&self) -> Result<Option<LocalModel>, ManifestError> {
        self.dirs.iter().find_map(|dir| LocalModel::find(dir).transpose()).transpose()
    }

    /// Ends the installed model's server and waits for its end.
    pub(crate) async fn stop(&self) {
        if let Some(installed) = self.found.lock().await.installed.take() {
            installed.stop().await;
        }
    }
}

fn unavailable(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut words = error.to_string();
    if let Some(cause) = error.source() {
        words.push_str(&format!(": {cause}"));
    }
    Error::new(ErrorCode::ModelUnavailable, words)
}
