//! A supervisor in an image that was not made for it: nothing but an interpreter, with ipykernel or even without.
#![allow(clippy::unwrap_used, reason = "these are tests")]
mod common;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::*;
use kernelbox_proto::v1::{ExecutionStatus, execution_event::Kind};

/// A virtual environment with these packages alone.
struct Bare {
    env: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bare {
    fn with(packages: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bare = Self { env: dir.path().join("env"), _dir: dir };
        let uv = |args: &[&str]| {
            let status = Command::new("uv").arg("--quiet").args(args).status().unwrap();
            assert!(status.success(), "uv {args:?}");
        };
        uv(&["venv", "--python", python().to_str().unwrap(), bare.env.to_str().unwrap()]);
        if !packages.is_empty() {
            let interpreter = bare.env.join("bin/python");
            uv(&[&["pip", "install", "--python", interpreter.to_str().unwrap()], packages].concat());
        }
        bare
    }

    /// What programs find: its own, and the machine's without uv.
    fn path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.env.join("bin").display())
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("kb").tempdir_in("/tmp").unwrap()
}

/// Puts the supervisor into `dir`, beside a uv that is found on this `path`.
fn install(dir: &Path, path: &str) -> Output {
    let mut command = Command::new(SUPERVISOR);
    command.arg("install").arg(dir).env_clear().env("PATH", path).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injected_supervisor_finds_python_and_brings_uv() {
    // given: an image with ipykernel, without any of the warm-up libraries, and a supervisor that was put beside it
    let bare = Bare::with(&["ipykernel"]);
    let dir = folder();
    let supervisor = dir.path().join("supervisor");
    let installed = install(&supervisor, &std::env::var("PATH").unwrap());
    assert!(installed.status.success(), "{installed:?}");

    // when: it starts with that image's environment
    let mut command = serve(&supervisor.join("kernelbox-supervisor"), dir.path());
    command.env_clear().envs([("PATH", bare.path().as_str()), ("HOME", "/nonexistent"), ("MODEL", "mine")]);
    command.envs([("KERNELBOX_WARM_UP", "numpy,pandas"), ("KERNELBOX_KERNEL_ENV", "*"), ("KUBERNETES_PORT", "1")]);
    command.envs(std::env::vars().filter(|(name, _)| name.starts_with("UV_") || name == "SSL_CERT_FILE"));
    let sandbox = Sandbox::start_by(command, dir).await;

    // then: kernels have the image's Python and environment, and nothing of the supervisor's
    let code = "import os, sys\nprint(sys.prefix, os.environ['MODEL'], 'KUBERNETES_PORT' in os.environ, \
        sorted(it for it in os.environ if it.startswith('KERNELBOX_')), os.path.isdir(os.environ['HOME']))";
    let expected = format!("{} mine False ['KERNELBOX_PACKAGES', 'KERNELBOX_SANDBOX'] True\n", bare.env.display());
    assert_eq!(stdout(&sandbox.run(code).await), expected);
    let events = sandbox.run("import humanize\nprint(humanize.intcomma(12345))").await;
    assert_eq!((stdout(&events).as_str(), status(&events)), ("12,345\n", ExecutionStatus::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_uv_nothing_is_installed_and_that_is_said() {
    let bare = Bare::with(&["ipykernel"]);
    let dir = folder();
    let mut command = serve(Path::new(SUPERVISOR), dir.path());
    command.env_clear().envs([("PATH", bare.path().as_str()), ("KERNELBOX_WARM_UP", "")]);
    let sandbox = Sandbox::start_by(command, dir).await;
    let events = sandbox.run("import humanize").await;
    assert_eq!(status(&events), ExecutionStatus::Error);
    let failure = kinds(events).into_iter().find_map(|kind| match kind {
        Kind::PackageInstalled(package) => Some(package.failure),
        _ => None,
    });
    assert_eq!(
        failure.as_deref(),
        Some("this sandbox has no uv, which installs packages; put it on the PATH of its image")
    );
}

#[test]
fn what_the_image_lacks_is_said_at_the_end() {
    let ended = |bare: &Bare| {
        let dir = folder();
        let mut command = serve(Path::new(SUPERVISOR), dir.path());
        command.env_clear().env("PATH", bare.path()).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It would end with this.
        let _stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (packages, expected) in [
        (&[][..], ["it cannot import ipykernel", "pip install ipykernel"]),
        (&["ipykernel==6.28.0"], ["it has ipykernel 6.28.0", "6.29 or newer"]),
    ] {
        let (code, words) = ended(&Bare::with(packages));
        assert_eq!(code, Some(1));
        assert!(expected.iter().all(|it| words.contains(it)), "{words}");
    }
}

#[test]
fn without_uv_the_supervisor_alone_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a/b");
    for _ in 0..2 {
        let output = install(&target, "/nonexistent");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no uv here"), "{output:?}");
    }
    let names: Vec<_> = target.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["kernelbox-supervisor"]);
    let version = Command::new(target.join("kernelbox-supervisor")).arg("--version").output().unwrap();
    assert!(version.status.success());
    let refused = install(Path::new("/proc/none"), "/nonexistent");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot make /proc/none"), "{refused:?}");
}
