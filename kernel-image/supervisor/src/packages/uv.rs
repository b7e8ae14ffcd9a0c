//! Runs uv inside the sandbox.
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::requirement::{Requirement, normalise};
use crate::zygote::{Exit, Process, Program, Zygote};

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(600);
/// How often uv's words are looked for while it runs.
const WORDS_EVERY: Duration = Duration::from_millis(100);
/// The most that is told of uv's words when it fails.
const WORDS_LIMIT: usize = 4_000;
/// What uv gets of the supervisor's own environment: where the index is and how to reach it.
const PASSED: [&str; 6] =
    ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC", "UV_CONFIG_FILE"];

/// The program's name.
pub const UV: &str = "uv";
/// How Python says that it has none.
const NO_MODULE: &str = "No module named uv";

type Versions = BTreeMap<String, String>;

#[derive(Debug)]
pub(super) struct Uv {
    zygote: Arc<Zygote>,
    /// The program, or how Python runs it.
    argv: Vec<String>,
    python: String,
    /// Files of the installs that are under way.
    scratch: PathBuf,
    next: AtomicU64,
}

/// The uv that is named, else the one beside the interpreter, else beside this program, else on PATH.
pub fn find(named: Option<&Path>, python: Option<&Path>) -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = [python, own.as_deref()].into_iter().flatten().filter_map(|it| Some(it.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = beside.chain(std::env::split_paths(&path)).map(|dir| dir.join(UV));
    named.map(Path::to_owned).or_else(|| found.find(|uv| uv.is_file()))
}

impl Uv {
    pub(super) fn new(zygote: Arc<Zygote>, python: &Path, uv: Option<&Path>, scratch: PathBuf) -> Self {
        // Nothing of an install that was cut off is of use.
        fs::remove_dir_all(&scratch).ok();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let argv = match find(uv, Some(python)) {
            Some(uv) => vec![text(&uv)],
            None => vec![text(python), "-m".to_owned(), "uv".to_owned()],
        };
        Self { zygote, argv, python: text(python), scratch, next: AtomicU64::new(0) }
    }

    /// The packages of the sandbox itself.
    pub(super) async fn base(&self) -> Result<Versions, String> {
        #[derive(Deserialize)]
        struct Listed {
            name: String,
            version: String,
        }
        let run = self.scratch()?;
        let json = self.run(&run, &["pip", "list", "--format", "json", "--python", &self.python], None).await?;
        let listed: Vec<Listed> = serde_json::from_str(&json).map_err(|error| format!("uv pip list: {error}"))?;
        Ok(listed.into_iter().map(|Listed { name, version }| (normalise(&name), version)).collect())
    }

    /// All that the requirements need, in versions that fit `constraints`. Wheels are preferred to building.
    pub(super) async fn resolve(
        &self,
        requirements: &[&Requirement],
        constraints: &Versions,
        progress: Option<&mpsc::Sender<String>>,
    ) -> Result<Versions, String> {
        let run = self.scratch()?;
        let lines: String = requirements.iter().map(|requirement| format!("{requirement}\n")).collect();
        let wanted = run.write("wanted.txt", &lines)?;
        let constraints = run.write("constraints.txt", &exact(constraints))?;
        let mut args = vec!["pip", "compile", &wanted, "--constraint", &constraints, "--python", &self.python];
        args.extend(["--no-header", "--no-annotate", "--only-binary", ":all:"]);
        let resolved = match self.run(&run, &args, progress).await {
            Ok(resolved) => resolved,
            Err(words) => {
                args.truncate(args.len() - 2);
                // The first words say what is wrong where there are only wheels; the second where building fails, too.
                self.run(&run, &args, progress)
                    .await
                    .map_err(|second| if second.is_empty() { words } else { second })?
            }
        };
        let pins = resolved.lines().filter_map(|line| {
            let (name, version) = line.split(';').next()?.split_once("==")?;
            let name = name.split('[').next().unwrap_or(name);
            Some((normalise(name.trim()), version.trim().to_owned()))
        });
        Ok(pins.collect())
    }

    /// Puts exactly these into `dir`.
    pub(super) async fn install(
        &self,
        versions: &Versions,
        dir: &Path,
        progress: Option<&mpsc::Sender<String>>,
    ) -> Result<(), String> {
        let run = self.scratch()?;
        let pins = run.write("pins.txt", &exact(versions))?;
        let dir = dir.to_string_lossy();
        let args = ["pip", "install", "--target", &dir, "--no-deps", "--python", &self.python, "--requirement", &pins];
        self.run(&run, &args, progress).await.map(|_| ())
    }

    /// Runs uv to its end and answers what it printed; its words where it fails.
    async fn run(
        &self,
        scratch: &Scratch,
        args: &[&str],
        progress: Option<&mpsc::Sender<String>>,
    ) -> Result<String, String> {
        let (stdout, stderr) = (scratch.0.join("stdout"), scratch.0.join("stderr"));
        for file in [&stdout, &stderr] {
            fs::write(file, "").map_err(|error| error.to_string())?;
        }
        let program = Program {
            argv: self.argv.iter().map(String::as_str).chain(args.iter().copied()).map(str::to_owned).collect(),
            env: environment(&scratch.0),
            cwd: scratch.0.clone(),
            stdout: Some(stdout.clone()),
            stderr: Some(stderr.clone()),
        };
        let process = self.zygote.exec(program).await.map_err(|error| format!("uv did not start: {error}"))?;
        let mut running = Running(process);
        let mut words = Words { file: stderr, at: 0, progress };
        let deadline = tokio::time::Instant::now() + LIMIT;
        let exit = loop {
            tokio::select! {
                exit = running.0.exited() => break exit,
                () = tokio::time::sleep(WORDS_EVERY), if progress.is_some() => words.tell().await,
                () = tokio::time::sleep_until(deadline) => return Err(format!("uv took longer than {} s", LIMIT.as_secs())),
            }
        };
        words.tell().await;
        if exit == Exit::Code(0) {
            return fs::read_to_string(&stdout).map_err(|error| error.to_string());
        }
        let words = fs::read(&words.file).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let words = words.trim();
        Err(match words {
            "" => format!("uv failed: {exit:?}"),
            words if words.ends_with(NO_MODULE) => {
                "this sandbox has no uv, which installs packages; put it on the PATH of its image".to_owned()
            }
            words => words[words.ceil_char_boundary(words.len().saturating_sub(WORDS_LIMIT))..].to_owned(),
        })
    }

    fn scratch(&self) -> Result<Scratch, String> {
        let dir = self.scratch.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Scratch(dir))
    }
}

fn exact(versions: &Versions) -> String {
    versions.iter().map(|(name, version)| format!("{name}=={version}\n")).collect()
}

fn environment(scratch: &Path) -> BTreeMap<String, String> {
    let passed = std::env::vars().filter(|(name, _)| {
        PASSED.contains(&name.as_str())
            || name.starts_with("UV_")
            || name.starts_with("PIP_")
            || name.to_ascii_lowercase().ends_with("_proxy")
    });
    let mut env: BTreeMap<_, _> = passed.collect();
    // A cache that outlived this install could be written by the session's code.
    env.insert("UV_CACHE_DIR".to_owned(), scratch.join("cache").to_string_lossy().into_owned());
    env.insert("UV_LINK_MODE".to_owned(), "copy".to_owned());
    env.insert("UV_NO_PROGRESS".to_owned(), "1".to_owned());
    env.insert("NO_COLOR".to_owned(), "1".to_owned());
    env.remove("UV_TARGET");
    env
}

/// A folder that goes with the install.
struct Scratch(PathBuf);

impl Scratch {
    fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A uv that nobody waits for any more is killed.
struct Running(Process);

impl Drop for Running {
    fn drop(&mut self) {
        let process = self.0.clone();
        if !process.has_exited() {
            tokio::spawn(async move { process.signal(Signal::SIGKILL, true).await });
        }
    }
}

/// uv's words, told line by line as they come.
struct Words<'a> {
    file: PathBuf,
    at: u64,
    progress: Option<&'a mpsc::Sender<String>>,
}

impl Words<'_> {
    async fn tell(&mut self) {
        let Some(progress) = self.progress else { return };
        let mut bytes = Vec::new();
        let read = fs::File::open(&self.file).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.at))?;
            file.take(1 << 20).read_to_end(&mut bytes)
        });
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if read.is_err() || complete == 0 {
            return;
        }
        self.at += complete as u64;
        for line in String::from_utf8_lossy(&bytes[..complete]).lines() {
            progress.send(line.to_owned()).await.ok();
        }
    }
}
