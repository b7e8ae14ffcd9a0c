//! The Python interpreter of the kernels: where it is, and what is wrong with it when no kernel starts. Starts none itself.
use std::{
    collections::BTreeMap,
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// How long it may take to say what is wrong with it.
const LIMIT: Duration = Duration::from_secs(30);
/// The most that is told of its own words.
const WORDS_LIMIT: usize = 1_000;
/// What the kernels' program needs. It has to run on much older interpreters, so that they can say so.
const PROBE: &str = "\
import sys
if sys.version_info < (3, 10):
    sys.exit('it is Python %d.%d, and kernels need 3.10 or newer' % sys.version_info[:2])
try:
    import ipykernel
except Exception as error:
    sys.exit('it cannot import ipykernel (%s); put it into the image: pip install ipykernel' % error)
if ipykernel.version_info[:2] < (6, 29):
    sys.exit('it has ipykernel %s, and kernels need 6.29 or newer' % ipykernel.__version__)
";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no {name} on PATH ({path}): kernels need an image with Python 3.10 or newer and ipykernel. If it has them elsewhere, \
         name the interpreter: `python` of a SandboxTemplate, --python or KERNELBOX_PYTHON of the supervisor"
    )]
    NotOnPath { name: String, path: String },
    #[error(
        "there is no program {0}: it was named as the Python interpreter of the kernels (`python` of a SandboxTemplate, --python or \
         KERNELBOX_PYTHON of the supervisor)"
    )]
    NoProgram(PathBuf),
}

/// The program that `python` means: a path, or a name that is looked up on PATH. Links are not followed: a virtual environment is
/// known by the place of its link.
pub fn find(python: &Path) -> Result<PathBuf, Error> {
    if python.components().count() > 1 {
        return if is_program(python) { Ok(python.to_owned()) } else { Err(Error::NoProgram(python.to_owned())) };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(python)).find(|it| is_program(it)).ok_or_else(|| Error::NotOnPath {
        name: python.to_string_lossy().into_owned(),
        path: path.to_string_lossy().into_owned(),
    })
}

/// What is wrong with the interpreter, in its own words; none if it has what kernels need.
pub async fn fault(python: &Path, env: &BTreeMap<String, String>) -> Option<String> {
    let mut command = Command::new(python);
    command.args(["-c", PROBE]).env_clear().envs(env).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let at = python.display();
    match timeout(LIMIT, command.output()).await {
        Err(_) => Some(format!("{at} did not answer within {} s", LIMIT.as_secs())),
        Ok(Err(error)) => Some(format!("{at} cannot be run: {error}")),
        Ok(Ok(output)) if output.status.success() => None,
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.trim();
            let words = &words[words.ceil_char_boundary(words.len().saturating_sub(WORDS_LIMIT))..];
            Some(if words.is_empty() { format!("{at} ended with {}", output.status) } else { format!("{at}: {words}") })
        }
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("python3");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        let found = find(Path::new("sh")).unwrap();
        assert!(found.is_absolute() && found.ends_with("sh"), "{}", found.display());
        assert_eq!(find(Path::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
        let words = find(Path::new("no-such-python")).unwrap_err().to_string();
        assert!(words.contains("no no-such-python on PATH (") && words.contains("KERNELBOX_PYTHON"), "{words}");
        let dir = tempfile::tempdir().unwrap();
        for not in [dir.path().to_owned(), dir.path().join("python3"), PathBuf::from("/etc/passwd")] {
            assert!(matches!(find(&not), Err(Error::NoProgram(_))), "{}", not.display());
        }
    }

    #[tokio::test]
    async fn an_interpreter_says_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let env = BTreeMap::new();
        assert_eq!(fault(&script(dir.path(), "exit 0"), &env).await, None);
        let words = fault(&script(dir.path(), "echo it is old >&2; exit 1"), &env).await.unwrap();
        assert!(words.ends_with("python3: it is old"), "{words}");
        let words = fault(&script(dir.path(), "exit 3"), &env).await.unwrap();
        assert!(words.contains("exit status: 3"), "{words}");
        let words = fault(&dir.path().join("none"), &env).await.unwrap();
        assert!(words.contains("cannot be run"), "{words}");
    }
}
