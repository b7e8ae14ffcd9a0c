//! Starting children: with an environment that holds nothing of the gateway's, and a pipe that ends them with it.
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::spawner;

/// How long a child may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// A child that ends when its stdin does, and so with this process.
#[derive(Debug)]
pub(super) struct Piped {
    child: Child,
    /// Kept apart: the child's own `wait` closes it.
    stdin: Option<ChildStdin>,
}

impl Piped {
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Closes its stdin, and kills it if that is not enough.
    pub(super) async fn end(mut self) {
        drop(self.stdin.take());
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.child.id(), "a child did not end with its pipe and is killed");
            // Both fail only for a child that is gone.
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
    }
}

/// Starts the command; `name` is what our log calls it.
pub(super) async fn spawn(command: std::process::Command, name: String) -> io::Result<(Piped, Tail)> {
    let mut child = start(command).await?;
    let tail = Tail::default();
    tail.follow(child.stderr.take(), name);
    let stdin = child.stdin.take();
    Ok((Piped { child, stdin }, tail))
}

async fn start(command: std::process::Command) -> io::Result<Child> {
    let mut command = Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(false);
    // Nobody waits for it any more: the child is dropped, and its stdin with it, at which it ends.
    spawner::spawn(command).await
}

/// A command of ours with the scrubbed environment.
pub(super) fn command(program: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.env_clear().envs(scrubbed(std::env::vars_os(), uv_config().as_deref()));
    command.current_dir("/");
    command
}

fn uv_config() -> Option<OsString> {
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".config")))?;
    let file = config.join("uv/uv.toml");
    file.is_file().then(|| file.into_os_string())
}

/// What of an environment a sandbox needs: to find programs, to speak the user's language, and to reach a package index.
fn scrubbed(all: impl Iterator<Item = (OsString, OsString)>, uv_config: Option<&OsStr>) -> Vec<(OsString, OsString)> {
    const NAMES: [&str; 15] = [
        "PATH",
        "LD_LIBRARY_PATH",
        "JUPYTER_PATH",
        "LANG",
        "LANGUAGE",
        "TZ",
        "RUST_LOG",
        "REQUESTS_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ];
    const PREFIXES: [&str; 4] = ["LC_", "UV_", "PIP_", "SSL_CERT_"];
    // Secrets of publishing, and places of the user's own.
    const NOT: [&str; 5] = ["UV_PUBLISH_", "UV_CACHE_", "UV_PROJECT", "PIP_CACHE_", "PIP_TARGET"];
    let wanted = |name: &str| {
        NAMES.contains(&name)
            || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !NOT.iter().any(|not| name.starts_with(not))
    };
    let mut kept: Vec<_> = all.filter(|(name, _)| name.to_str().is_some_and(wanted)).collect();
    let value = |kept: &[(OsString, OsString)], name: &str| {
        kept.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone())
    };
    // Whoever told pip of an index means it for uv, too, which does not read pip's settings.
    for (pip, uv) in [
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
        ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    ] {
        if let (Some(set), None) = (value(&kept, pip), value(&kept, uv)) {
            kept.push((uv.into(), set));
        }
    }
    if let (Some(file), None) = (uv_config, value(&kept, "UV_CONFIG_FILE")) {
        kept.push(("UV_CONFIG_FILE".into(), file.to_owned()));
    }
    kept.push(("NO_COLOR".into(), "1".into()));
    kept
}

/// The last lines that a child wrote to its stderr; all of them go to our log.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    const LINES: usize = 12;

    /// Follows the stream until it ends, which is when the child and all its heirs are gone.
    fn follow(&self, stderr: Option<ChildStderr>, of: String) {
        let Some(stderr) = stderr else { return };
        let tail = self.clone();
        tokio::spawn(async move {
            let mut lines = FramedRead::new(stderr, LinesCodec::new_with_max_length(16 << 10));
            loop {
                let line = match lines.next().await {
                    Some(Ok(line)) => line,
                    // A line that is too long or not UTF-8 is left out. The stream says once that it is over, and goes on.
                    Some(Err(_)) => {
                        lines.next().await;
                        continue;
                    }
                    None => break,
                };
                tracing::info!(target: "kernelbox_sandbox", of, "{line}");
                let mut kept = tail.0.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > Self::LINES {
                    kept.pop_front();
                }
            }
        });
    }

    /// For a message: `: LINES`, or nothing.
    pub(super) fn suffix(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            return String::new();
        }
        format!(": {}", kept.iter().map(String::as_str).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(all: &[(&str, &str)]) -> Vec<String> {
        let all = all.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let line = |(k, v): (OsString, OsString)| format!("{}={}", k.display(), v.display());
        scrubbed(all, None).into_iter().map(line).collect()
    }

    #[test]
    fn secrets_stay_out_and_the_package_index_goes_in() {
        let kept = kept(&[
            ("PATH", "/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("OPENAI_API_KEY", "hush"),
            ("KERNELBOX_API_KEY", "hush"),
            ("UV_PUBLISH_TOKEN", "hush"),
            ("UV_INDEX_URL", "https://index"),
            ("PIP_FIND_LINKS", "/wheels"),
            ("SSL_CERT_FILE", "/ca"),
        ]);
        assert!(!kept.iter().any(|it| it.contains("hush")), "{kept:?}");
        for expected in
            ["PATH=/bin", "LC_ALL=C.UTF-8", "UV_INDEX_URL=https://index", "UV_FIND_LINKS=/wheels", "SSL_CERT_FILE=/ca"]
        {
            assert!(kept.iter().any(|it| it == expected), "{expected} in {kept:?}");
        }
    }

    #[tokio::test]
    async fn a_child_ends_with_its_pipe_and_not_before_and_its_last_words_are_kept() {
        let mut command = command(Path::new("/bin/sh"));
        let odd = r"printf '\377\n' >&2; head -c 100000 /dev/zero | tr '\0' x >&2; echo >&2";
        command.args(["-c", &format!("{odd}; echo one >&2; read x; echo two >&2; exit 7")]);
        let (mut child, tail) = spawn(command, "test".into()).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), child.wait()).await.is_err(), "ended by itself");
        drop(child.stdin.take());
        assert_eq!(child.wait().await.unwrap().code(), Some(7));
        while !tail.suffix().contains("two") {
            tokio::task::yield_now().await;
        }
        assert_eq!(tail.suffix(), ": one\ntwo");
    }
}
