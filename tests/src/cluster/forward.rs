//! A way into the cluster that every cluster has: kubectl port-forward.
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

pub struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    /// To a pod or service.
    pub fn start(namespace: &str, target: &str, port: u16) -> Self {
        let mut child = Command::new("kubectl")
            .args(["port-forward", "--namespace", namespace, "--address", "127.0.0.1", target, &format!(":{port}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        // It says more at each connection, and ends when nobody listens.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        // Forwarding from 127.0.0.1:43210 -> 7070
        let port = line.split_whitespace().nth(2).and_then(|it| it.rsplit(':').next()?.parse().ok());
        Self { child, port: port.unwrap_or_else(|| panic!("kubectl port-forward said {line:?}")) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
