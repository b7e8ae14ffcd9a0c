//! The cluster's own failures: who waits is told, what runs goes on, and nothing is left over or done twice.
use std::{
    process::Command,
    time::{Duration, Instant},
};

use kernelbox_api::EndReason;
use kernelbox_proto::v1::{ErrorCode, ExecuteRequest, Stage, execution_event::Kind};
use kernelbox_tests::{
    Cluster,
    cluster::{SANDBOXES, kubectl},
    code_of,
};
use serde_json::json;

use super::claims::of_template;

/// How long the API server is away: longer than a leader's lease.
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_quota_that_is_used_up_is_told_in_its_own_words() {
    let cluster = Cluster::open().await;
    cluster.template("cold", json!({"lifecycle": {"startTimeout": "30s"}}), 0).await;
    let mut client = cluster.client().await;
    let (waits, too_long) = (of_template(&mut client, "cold").await, of_template(&mut client, "cold").await);
    let quota = Quota::of_pods(2);
    let ask =
        |session: &str| ExecuteRequest { session: session.to_owned(), code: "print(1)".into(), ..Default::default() };
    let mut events = client.code.execute(ask(&waits)).await.unwrap().into_inner();
    loop {
        match events.message().await.unwrap().expect("it waits").kind {
            Some(Kind::Stage(stage)) if stage.stage() == Stage::Queued && stage.message.contains("exceeded quota") => {
                break;
            }
            _ => {}
        }
    }

    // when: there is room again
    drop(quota);
    let mut stdout = String::new();
    while let Some(event) = events.message().await.unwrap() {
        if let Some(Kind::Stdout(text)) = event.kind {
            stdout += &text.text;
        }
    }
    assert_eq!(stdout, "1\n");

    // and: who has waited too long hears of it, too
    let _quota = Quota::of_pods(1);
    let error = client.try_run(ask(&too_long)).await.unwrap_err();
    assert_eq!(code_of(&error), ErrorCode::SandboxStartFailed, "{error:?}");
    assert!(error.message().contains("QueueTimeout") && error.message().contains("exceeded quota"), "{error:?}");
    assert_eq!(cluster.ended(&too_long).await, EndReason::QueueTimeout);
    let told =
        kubectl(&["get", "events", "-n", SANDBOXES, "--field-selector", "reportingComponent=kernelbox-controller"]);
    assert!(told.contains("exceeded quota"), "{told}");
}

/// So many pods may be in the namespace of sandboxes, until this is dropped.
struct Quota;

impl Quota {
    fn of_pods(pods: u32) -> Self {
        kubectl(&["create", "quota", "few", "-n", SANDBOXES, &format!("--hard=pods={pods}")]);
        // It holds once it has been counted.
        kubectl(&["wait", "quota/few", "-n", SANDBOXES, "--for=jsonpath={.status.used.pods}", "--timeout=30s"]);
        Self
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        kubectl(&["delete", "quota", "few", "-n", SANDBOXES]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn while_the_api_server_is_away_what_runs_goes_on_and_who_comes_waits() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    client.run(&session, "print(1)").await.ok();
    let new = client.session().await;
    let pods = cluster.pods().await.len();
    let code = "import time\nfor step in range(40): print(step, flush=True); time.sleep(1)";
    let mut running = client.clone();
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let running = tokio::spawn(async move { running.try_run(request).await });

    // when: it answers nobody for half a minute, and somebody asks for a sandbox meanwhile
    let (begun, away) = (Instant::now(), Stopped::process("kube-apiserver"));
    let request = ExecuteRequest { session: new.clone(), code: "print('new')".into(), ..Default::default() };
    let mut asked = client.code.execute(request).await.unwrap().into_inner();
    loop {
        match asked.message().await.unwrap().expect("it waits").kind {
            Some(Kind::Stage(stage)) if stage.message.contains("Kubernetes API cannot be used") => break,
            Some(Kind::Stage(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    tokio::time::sleep(AWAY.saturating_sub(begun.elapsed())).await;
    drop(away);

    // then: no cell broke, and whoever asks gets its sandbox
    let said = running.await.unwrap().unwrap().ok();
    assert_eq!(said, (0..40).map(|step| format!("{step}\n")).collect::<String>());
    let mut stdout = String::new();
    while let Some(event) = asked.message().await.unwrap() {
        if let Some(Kind::Stdout(text)) = event.kind {
            stdout += &text.text;
        }
    }
    assert_eq!(stdout, "new\n");
    assert_eq!(cluster.of(&new).await.len(), 1, "it was given one, however often it was tried");
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(1), "its pod is the same");
    cluster.until("the pool is filled again", async || cluster.pods().await.len() == pods + 1).await;
}

/// A process of the nodes of tests/cluster that stands still until this is dropped.
struct Stopped(String);

impl Stopped {
    fn process(name: &str) -> Self {
        let found = Command::new("pgrep").args(["-x", "-o", name]).output().unwrap();
        let pid = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        assert!(!pid.is_empty(), "{name} runs on this machine");
        let it = Self(pid);
        it.signal("STOP");
        it
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([&format!("-{signal}"), &self.0]).status().unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}
