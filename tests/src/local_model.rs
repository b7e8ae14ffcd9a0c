//! The small model that `deploy/local-model/get` installs, served by llama.cpp as `kernelbox up` serves it.
//!
//! It takes 2 GB of memory and all cores: tests run one at a time.
use std::{
    env,
    fs::File,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{Stack, StackBuilder};

const START: Duration = Duration::from_secs(120);

/// A running llama.cpp server. It ends when it is dropped.
pub struct LocalModel {
    child: Child,
    name: String,
    port: u16,
    /// Holds its log.
    _folder: TempDir,
}

/// Where `deploy/local-model/get` puts it: KERNELBOX_TEST_LOCAL_MODEL, or its own default.
fn folder() -> PathBuf {
    let own = env::var_os("KERNELBOX_TEST_LOCAL_MODEL").map(PathBuf::from);
    let data = || match env::var_os("XDG_DATA_HOME").map(PathBuf::from) {
        Some(data) if data.is_absolute() => data,
        _ => PathBuf::from(env::var_os("HOME").unwrap()).join(".local/share"),
    };
    own.unwrap_or_else(|| data().join("kernelbox/local-model"))
}

impl LocalModel {
    pub async fn start() -> Self {
        let folder = folder();
        let manifest = std::fs::read(folder.join("manifest.json"))
            .unwrap_or_else(|error| panic!("{}: {error}; run deploy/local-model/get", folder.display()));
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let text = |key: &str| manifest[key].as_str().unwrap().to_owned();
        let log_folder = tempfile::tempdir().unwrap();
        let log_path = log_folder.path().join("llama-server.log");
        let log = File::create(&log_path).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        // It must not outlive a test that is killed.
        let mut child = Command::new("setpriv")
            .arg("--pdeathsig=KILL")
            .arg(folder.join(text("server")))
            .arg("-m")
            .arg(folder.join(text("model")))
            .arg("--chat-template-file")
            .arg(folder.join(text("chat_template")))
            .args(["--jinja", "--temp", "0.2", "-np", "1", "-t", "2", "--host", "127.0.0.1", "--alias", &text("name")])
            .args(["-c", &manifest["context_tokens"].to_string(), "--port", &port.to_string()])
            .env("OMP_WAIT_POLICY", "passive")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let ready = timeout(START, async {
            while !is_ready(port).await {
                let ended = child.try_wait().unwrap();
                assert!(ended.is_none(), "{ended:?}: {}", std::fs::read_to_string(&log_path).unwrap());
                sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(ready.await.is_ok(), "not ready: {}", std::fs::read_to_string(&log_path).unwrap());
        Self { child, name: text("name"), port, _folder: log_folder }
    }

    /// A server whose turns ask it.
    pub fn stack(&self) -> StackBuilder {
        Stack::builder()
            .flag(format!("--model-url=http://127.0.0.1:{}/v1", self.port))
            .flag(format!("--model={}", self.name))
    }
}

impl Drop for LocalModel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it answers its health page with 200: it answers 503 while it loads.
async fn is_ready(port: u16) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.map(|_| head.ends_with(b" 200"))
    };
    timeout(Duration::from_secs(2), ask).await.is_ok_and(|answered: std::io::Result<bool>| answered.unwrap_or(false))
}
