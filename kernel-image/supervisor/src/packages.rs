//! Python packages of the session: what is missing is found, resolved against what the sandbox has, and put beside the workspace.
//!
//! uv runs inside the sandbox, through the zygote: source distributions execute code.
mod requirement;
mod uv;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use kernelbox_proto::{
    Error,
    v1::{AutoInstall, ErrorCode, Package, PackageInstalled},
};
use tokio::sync::mpsc;

use crate::{
    execution::duration,
    zygote::{Missing, Zygote},
};

pub use requirement::Requirement;
use uv::Uv;
pub use uv::{UV, find as find_uv};

/// The most requirements of one install.
const MAX_REQUIREMENTS: usize = 100;

#[derive(Debug)]
pub struct Packages {
    zygote: Arc<Zygote>,
    uv: Uv,
    dir: PathBuf,
    /// One install at a time.
    installing: tokio::sync::Mutex<()>,
}

/// A requirement, and the import that asked for it.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub requirement: Requirement,
    pub module: String,
}

impl Packages {
    /// Packages go to `dir`. `uv` is the program, where it is named.
    pub fn new(zygote: Arc<Zygote>, python: &Path, uv: Option<&Path>, dir: PathBuf) -> Self {
        let uv = Uv::new(Arc::clone(&zygote), python, uv, dir.join(".install"));
        Self { zygote, uv, dir, installing: tokio::sync::Mutex::default() }
    }

    /// What the code imports, the sandbox lacks, and the policy lets install.
    pub async fn missing(&self, code: &str, policy: AutoInstall) -> Vec<Wanted> {
        let policy = match policy {
            AutoInstall::Off => return Vec::new(),
            AutoInstall::Any => "any",
            AutoInstall::Known | AutoInstall::Unspecified => "known",
        };
        match self.zygote.scan(code, policy).await {
            Ok(scan) => scan.missing.into_iter().filter_map(wanted).collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot look for missing packages");
                Vec::new()
            }
        }
    }

    /// Installs, and tells the outcome for each that was wanted. uv's words go to `progress` as they come.
    pub async fn install(&self, wanted: Vec<Wanted>, progress: Option<&mpsc::Sender<String>>) -> Vec<PackageInstalled> {
        let _one_at_a_time = self.installing.lock().await;
        let began = Instant::now();
        let mut outcome = self.try_install(&wanted, progress).await;
        if outcome.is_err() && wanted.len() > 1 {
            // One that cannot be had must not keep the others out.
            let mut installed = Vec::new();
            for wanted in wanted {
                let began = Instant::now();
                let outcome = self.try_install(std::slice::from_ref(&wanted), progress).await;
                installed.push(report(wanted, &outcome, began.elapsed()));
            }
            return installed;
        }
        if let Err(words) = &mut outcome {
            tracing::info!("packages were not installed");
            tracing::debug!("uv says: {words}");
        }
        wanted.into_iter().map(|wanted| report(wanted, &outcome, began.elapsed())).collect()
    }

    /// The packages that code can import, sorted.
    pub async fn list(&self) -> Result<Vec<Package>, Error> {
        let failed = |words| Error::new(ErrorCode::Internal, format!("cannot list packages: {words}"));
        let mut packages = BTreeMap::new();
        for (distribution, version) in self.installed() {
            packages.insert(distribution.clone(), Package { distribution, version, session: true });
        }
        for (distribution, version) in self.uv.base().await.map_err(failed)? {
            packages.insert(distribution.clone(), Package { distribution, version, session: false });
        }
        Ok(packages.into_values().collect())
    }

    /// Resolves so that nothing of the sandbox changes, and installs only what is lacking. Answers all versions.
    async fn try_install(
        &self,
        wanted: &[Wanted],
        progress: Option<&mpsc::Sender<String>>,
    ) -> Result<BTreeMap<String, String>, String> {
        let base = self.uv.base().await?;
        let session = self.installed();
        let named = |name: &String| wanted.iter().any(|wanted| wanted.requirement.name() == *name);
        let mut constraints = base.clone();
        constraints.extend(session.clone().into_iter().filter(|(name, _)| !named(name)));
        let requirements: Vec<_> = wanted.iter().map(|wanted| &wanted.requirement).collect();
        let resolved = self.uv.resolve(&requirements, &constraints, progress).await?;
        let lacking: BTreeMap<_, _> = resolved
            .iter()
            .filter(|(name, version)| base.get(*name) != Some(version) && session.get(*name) != Some(version))
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect();
        if !lacking.is_empty() {
            self.uv.install(&lacking, &self.dir, progress).await?;
        }
        Ok(resolved)
    }

    /// What is installed for the session: names, normalised, and versions.
    fn installed(&self) -> BTreeMap<String, String> {
        let entries = self.dir.read_dir().into_iter().flatten().flatten();
        let folders = entries.filter_map(|entry| entry.file_name().into_string().ok());
        folders
            .filter_map(|folder| {
                let (name, version) = folder.strip_suffix(".dist-info")?.split_once('-')?;
                Some((requirement::normalise(name), version.to_owned()))
            })
            .collect()
    }
}

/// Requirements of a call, checked: nothing in them may be an option, a path or an address.
pub fn parse(requirements: &[String]) -> Result<Vec<Wanted>, Error> {
    if requirements.is_empty() || requirements.len() > MAX_REQUIREMENTS {
        return Err(Error::invalid("requirements", format!("must be 1 to {MAX_REQUIREMENTS}")));
    }
    let wanted = |text: &String| Ok(Wanted { requirement: text.parse()?, module: String::new() });
    requirements.iter().map(wanted).collect()
}

fn wanted(missing: Missing) -> Option<Wanted> {
    // The table lives in the sandbox: its words are checked like anybody's.
    Some(Wanted { requirement: missing.distribution.parse().ok()?, module: missing.module })
}

fn report(wanted: Wanted, outcome: &Result<BTreeMap<String, String>, String>, took: Duration) -> PackageInstalled {
    let distribution = wanted.requirement.name();
    let (version, failure) = match outcome {
        Ok(versions) => match versions.get(&distribution) {
            Some(version) => (version.clone(), String::new()),
            None => (String::new(), format!("{distribution} is not for this platform")),
        },
        Err(words) => (String::new(), words.clone()),
    };
    PackageInstalled { distribution, version, module: wanted.module, failure, duration: Some(duration(took)) }
}
