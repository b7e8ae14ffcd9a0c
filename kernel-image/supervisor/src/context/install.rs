//! Packages that an execution lacks: before it runs, and after it raised.
use std::{collections::HashSet, time::Instant};

use kernelbox_proto::v1::{AutoInstall, execution_event::Kind};

use super::{
    Job,
    actor::{Actor, Next},
};

impl Actor {
    /// Installs what the code imports and the sandbox lacks. Answers the modules for which that was tried.
    pub(super) async fn install_missing(&mut self, job: &Job) -> Result<HashSet<String>, Next> {
        if !job.code.contains("import") {
            return Ok(HashSet::new());
        }
        let mut tried = HashSet::new();
        self.install(job, &job.code, &mut tried).await?;
        Ok(tried)
    }

    /// Installs the module that an import did not find, unless that was tried. Answers whether it is there now.
    pub(super) async fn install_after(
        &mut self,
        job: &Job,
        message: &str,
        tried: &mut HashSet<String>,
    ) -> Result<bool, Next> {
        let module = message.strip_prefix("No module named ").unwrap_or_default().trim_matches(['\'', '"']);
        let is_path = module.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with(char::is_numeric)
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        });
        if !is_path || module.len() > 200 {
            return Ok(false);
        }
        self.install(job, &format!("import {module}"), tried).await
    }

    async fn install(&mut self, job: &Job, code: &str, tried: &mut HashSet<String>) -> Result<bool, Next> {
        let policy = match job.auto_install {
            AutoInstall::Unspecified => self.sandbox.settings().auto_install,
            policy => policy,
        };
        if policy == AutoInstall::Off || !self.settings.spec.is_ours() {
            return Ok(false);
        }
        let began = Instant::now();
        let sandbox = std::sync::Arc::clone(&self.sandbox);
        let known = tried.clone();
        let work = async {
            let mut missing = sandbox.packages.missing(code, policy).await;
            missing.retain(|wanted| !known.contains(&wanted.module));
            if missing.is_empty() {
                return Vec::new();
            }
            let _writing = sandbox.lifecycle.writing();
            sandbox.packages.install(missing, None).await
        };
        let packages = self.meanwhile(work, Some(&job.execution)).await?;
        if packages.is_empty() {
            return Ok(false);
        }
        job.execution.stage("install", began.elapsed());
        let all = packages.iter().all(|package| package.failure.is_empty());
        for package in packages {
            tried.insert(package.module.clone());
            job.execution.push(Kind::PackageInstalled(package));
        }
        Ok(all)
    }
}
