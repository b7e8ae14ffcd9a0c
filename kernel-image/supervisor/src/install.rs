//! Puts this program, and uv, into a folder: so that an image which has neither can be a sandbox. No shell is needed for it.
use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::{args::InstallArgs, interpreter, packages};

/// Its name in the folder, whatever it is called here.
const PROGRAM: &str = "kernelbox-supervisor";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot find the own program: {0}")]
    Own(#[source] io::Error),
    #[error("cannot make {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot copy {from} to {to}")]
    Copy { from: PathBuf, to: PathBuf, source: io::Error },
}

/// Copies both. Without uv the sandbox runs, too, but installs packages only where its own image has one.
pub fn install(args: &InstallArgs) -> Result<(), Error> {
    let own = std::env::current_exe().map_err(Error::Own)?;
    fs::create_dir_all(&args.dir).map_err(|source| Error::Folder { path: args.dir.clone(), source })?;
    copy(&own, &args.dir.join(PROGRAM))?;
    let python = interpreter::find(&args.python).ok();
    match packages::find_uv(args.uv.as_deref(), python.as_deref()) {
        Some(uv) => copy(&uv, &args.dir.join(packages::UV))?,
        None => tracing::warn!("there is no uv here to copy: only an image that has its own can install packages"),
    }
    tracing::info!(dir = %args.dir.display(), "installed");
    Ok(())
}

/// Nobody ever sees half of it.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary)
        .and_then(|_| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&temporary, to))
        .map_err(|source| Error::Copy { from: from.to_owned(), to: to.to_owned(), source })
}
