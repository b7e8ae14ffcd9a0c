//! The kernels' Python environment: made once for each list of packages and Python, by uv or by venv and pip.
//!
//! Scripts in it name its path, so it is built in place; a marker, written last, tells a whole one from a part.
use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use sha2::{Digest as _, Sha256};

use super::{
    failure::{Failure, Result},
    progress::Progress,
    say,
};

/// The packages of every kernel.
const REQUIREMENTS: &str = include_str!("../../../kernel-image/requirements.txt");
/// Installs packages for sessions, at run time.
const INSTALLER: &str = "uv";
/// What goes into site-packages.
const SITE: [(&str, &str); 3] = [
    ("kernelbox.pth", include_str!("../../../kernel-image/site/kernelbox.pth")),
    ("kernelbox_packages.py", include_str!("../../../kernel-image/site/kernelbox_packages.py")),
    ("kernelbox_pip.py", include_str!("../../../kernel-image/site/kernelbox_pip.py")),
];
/// Raised when what is done below changes, so that environments of before are not taken for new ones.
const LAYOUT: &str = "2";
const MARKER: &str = ".complete";
/// Oldest Python that the packages support.
const OLDEST: (u32, u32) = (3, 10);
const CANDIDATES: [&str; 6] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"];
/// As measured on two cores; most of it is the download.
const EXPECTED: &str = "about a minute";

#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub python: PathBuf,
    pub uv: PathBuf,
}

/// The environment, made first if it is not there.
pub(crate) async fn ensure(data_dir: &Path, progress: &Progress) -> Result<Environment> {
    progress.say("looking for Python");
    let home = data_dir.join("python");
    let progress = progress.clone();
    blocking(move || {
        let base = base_python()?;
        let dir = home.join(digest(&base));
        let environment = Environment { python: dir.join("bin/python"), uv: dir.join("bin/uv") };
        // A Python that was removed leaves a dangling link.
        let complete = || dir.join(MARKER).exists() && environment.python.exists();
        if complete() {
            return Ok(environment);
        }
        let lock = lock(&home)?;
        if !complete() {
            progress.clear();
            say(&format!("setting up Python {} in {} (once; {EXPECTED})", base.version, dir.display()));
            build(&base, &dir, &|step| progress.say(format!("setting up Python: {step}")))?;
        }
        drop(lock);
        Ok(environment)
    })
    .await
}

/// Refuses an interpreter that cannot run kernels.
pub(crate) async fn check(python: &Path) -> Result<()> {
    let python = python.to_owned();
    blocking(move || {
        let probe =
            "import sys; assert sys.version_info >= (3, 10), 'Python 3.10 or newer is needed'; import ipykernel";
        let output = run(Command::new(&python).args(["-c", probe])).map_err(|e| {
            let python = python.display();
            Failure::usage(format!("--python {python}: {e}\nfix: {python} -m pip install ipykernel"))
        })?;
        drop(output);
        Ok(())
    })
    .await
}

/// An interpreter of the machine's.
#[derive(Debug)]
struct Base {
    python: PathBuf,
    version: String,
    /// uv, where there is one; else venv and pip make the environment.
    uv: Option<PathBuf>,
}

fn base_python() -> Result<Base> {
    let probe = "import sys; print(sys.version_info[0], sys.version_info[1], '%d.%d.%d' % sys.version_info[:3], sys.executable)";
    let mut found_old = None;
    for name in CANDIDATES {
        let Ok(output) = run(Command::new(name).args(["-c", probe])) else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.trim().splitn(4, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
        let version = (number(), number());
        let (Some(full), Some(path)) = (words.next(), words.next()) else { continue };
        if version < OLDEST {
            found_old.get_or_insert_with(|| full.to_owned());
            continue;
        }
        let python = PathBuf::from(path);
        let uv = find_uv(&python);
        if uv.is_none() && run(Command::new(&python).args(["-c", "import venv, ensurepip"])).is_err() {
            return Err(Failure::no_server(format!(
                "{path} has no venv: apt install python3-venv (or install uv: pip install uv)"
            )));
        }
        return Ok(Base { python, version: full.to_owned(), uv });
    }
    Err(Failure::no_server(match found_old {
        Some(old) => format!("Python {old} is too old: apt install python3.12 (3.10 or newer is needed)"),
        None => "Python 3 is missing: apt install python3 python3-venv".to_owned(),
    }))
}

fn find_uv(python: &Path) -> Option<PathBuf> {
    if run(Command::new("uv").arg("--version")).is_ok() {
        return Some(PathBuf::from("uv"));
    }
    let output = run(Command::new(python).args(["-c", "import uv; print(uv.find_uv_bin())"])).ok()?;
    Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Names the environment: another list, Python or layout is another environment.
fn digest(base: &Base) -> String {
    let mut hash = Sha256::new();
    let site = SITE.iter().map(|(_, text)| *text);
    for part in [LAYOUT, REQUIREMENTS, INSTALLER, &base.version].into_iter().chain(site) {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.update(base.python.as_os_str().as_encoded_bytes());
    hex::encode(&hash.finalize()[..8])
}

fn lock(home: &Path) -> Result<File> {
    let path = home.join("lock");
    let lock = std::fs::create_dir_all(home)
        .and_then(|()| File::options().create(true).append(true).open(&path))
        .and_then(|file| file.lock().map(|()| file));
    lock.map_err(|e| Failure::local(path.display(), e))
}

fn build(base: &Base, dir: &Path, step: &dyn Fn(&str)) -> Result<()> {
    let cannot = |what: &str| {
        let what = what.to_owned();
        move |error: String| Failure::no_server(format!("cannot set up Python: {what}: {error}"))
    };
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| Failure::local(dir.display(), e))?;
    }
    let python = dir.join("bin/python");
    let requirements = dir.join("kernelbox-requirements.txt");
    step("making an environment");
    match &base.uv {
        Some(uv) => {
            run(Command::new(uv).args(["venv", "--no-config", "--seed", "--python"]).arg(&base.python).arg(dir))
        }
        None => run(Command::new(&base.python).args(["-m", "venv"]).arg(dir)),
    }
    .map_err(cannot("the virtual environment"))?;
    std::fs::write(&requirements, format!("{REQUIREMENTS}\n{INSTALLER}\n"))
        .map_err(|e| Failure::local(dir.display(), e))?;
    step("installing packages");
    match &base.uv {
        Some(uv) => run(Command::new(uv)
            .args(["pip", "install", "--compile-bytecode", "--python"])
            .arg(&python)
            .arg("-r")
            .arg(&requirements)),
        None => run(Command::new(&python)
            .args(["-m", "pip", "install", "--disable-pip-version-check", "-r"])
            .arg(&requirements)),
    }
    .map_err(cannot("packages could not be installed"))?;
    step("checking");
    run(Command::new(&python).args(["-m", "bash_kernel.install", "--sys-prefix"]))
        .map_err(cannot("the bash kernel"))?;
    let site = run(Command::new(&python).args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))
        .map_err(cannot("site-packages"))?;
    let site = PathBuf::from(String::from_utf8_lossy(&site.stdout).trim());
    for (name, text) in SITE {
        std::fs::write(site.join(name), text).map_err(|e| Failure::local(site.display(), e))?;
    }
    run(Command::new(&python).args(["-c", "import ipykernel, numpy, pandas, matplotlib.pyplot"]))
        .map_err(cannot("its packages do not import"))?;
    std::fs::write(dir.join(MARKER), "").map_err(|e| Failure::local(dir.display(), e))
}

/// Runs a program to its end; an error says the last it wrote.
fn run(command: &mut Command) -> std::result::Result<Output, String> {
    // The caller's own Python settings would reach into the environment that is being made.
    for name in ["PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP"] {
        command.env_remove(name);
    }
    command.stdin(std::process::Stdio::null());
    let output = command.output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last: Vec<_> = stderr.trim_end().lines().rev().take(8).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("program")).to_string_lossy();
    Err(match last.is_empty() {
        true => format!("{program}: {}", output.status),
        false => last.into_iter().rev().collect::<Vec<_>>().join("\n"),
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::local("interrupted", e))?
}
