//! The chart, by the real helm, in a cluster that has nothing of Kernelbox: `make test-cluster` runs it after the suites.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::process::Command;

use kernelbox_proto::v1::{ExecuteRequest, ExecutionEvent, ResumeExecutionRequest, execution_event::Kind};
use kernelbox_tests::{
    Client, Run,
    cluster::{Forward, OWN, SANDBOXES, kubectl},
    root,
};

/// Until it is told that it is enough.
const COMPUTES: &str = "import os, time
step = 0
while not os.path.exists('enough'): print(step, flush=True); step += 1; time.sleep(0.25)";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster without Kernelbox: make test-cluster"]
async fn it_installs_upgrades_under_a_session_that_computes_and_leaves_only_the_definitions() {
    helm(&["install", "kernelbox-crds", &chart("kernelbox-crds"), "--create-namespace", "--wait"]);
    kubectl(&["label", "namespace", OWN, "pod-security.kubernetes.io/enforce=restricted"]);
    helm(&["install", "kernelbox", &chart("kernelbox"), "--wait", "--timeout=120s"]);
    assert!(helm(&["test", "kernelbox", "--logs"]).contains("\n42\n"));

    // given: a session that computes
    let key = api_key();
    let (forward, mut client) = connect(&key).await;
    let session = client.session().await;
    let request = ExecuteRequest { session: session.clone(), code: COMPUTES.into(), ..Default::default() };
    let mut stream = client.code.execute(request).await.unwrap().into_inner();
    let mut events: Vec<ExecutionEvent> = Vec::new();
    while !matches!(events.last().and_then(|it| it.kind.as_ref()), Some(Kind::Stdout(_))) {
        events.push(stream.message().await.unwrap().unwrap());
    }

    // when: other values give it another gateway, more controllers, and policies for both
    let changed = ["gateway.resources.requests.cpu=60m", "controller.replicas=3", "networkPolicy.enabled=true"];
    let changed = changed.map(|value| format!("--set={value}"));
    let upgrade =
        ["upgrade", "kernelbox", &chart("kernelbox"), "--reset-then-reuse-values", "--wait", "--timeout=120s"];
    helm(&upgrade.into_iter().chain(changed.iter().map(String::as_str)).collect::<Vec<_>>());
    while let Ok(Some(event)) = stream.message().await {
        events.push(event);
    }
    drop(forward);

    // then: its client goes on where the stream broke, and has missed nothing
    let last = events.last().unwrap().clone();
    assert_eq!(api_key(), key);
    let (_forward, mut client) = connect(&key).await;
    client.upload(&session, "enough", b"").await.unwrap();
    let request = ResumeExecutionRequest { name: last.execution, after_sequence: last.sequence };
    events.extend(Run::read(client.code.resume_execution(request).await.unwrap().into_inner()).await.unwrap().events);
    let run = Run { events };
    let said = run.ok();
    assert_eq!(said, (0..said.lines().count()).map(|step| format!("{step}\n")).collect::<String>());
    let numbers: Vec<_> = run.numbered().iter().map(|event| event.sequence).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    assert!(helm(&["test", "kernelbox", "--logs"]).contains("\n42\n"));

    // and: nothing is left in the end but the definitions, and the sessions' volume
    helm(&["uninstall", "kernelbox", "--wait"]);
    kubectl(&["wait", "--for=delete", &format!("namespace/{SANDBOXES}"), "--timeout=60s"]);
    let left = kubectl(&["get", "clusterroles,clusterrolebindings,crds", "-o", "name"]);
    let left: Vec<_> = left.lines().filter(|name| name.contains("kernelbox")).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().all(|name| name.starts_with("customresourcedefinition") && name.ends_with(".kernelbox.dev")));
    let own = kubectl(&["get", "all,secrets,leases,networkpolicies,persistentvolumeclaims", "-n", OWN, "-o", "name"]);
    let own: Vec<_> = own.lines().filter(|name| name.contains("kernelbox") && !name.contains("helm.release")).collect();
    assert_eq!(own, ["pod/kernelbox-test", "persistentvolumeclaim/kernelbox-gateway"]);
}

/// Past a gateway that is there.
async fn connect(key: &str) -> (Forward, Client) {
    kubectl(&["rollout", "status", "-n", OWN, "--timeout=60s", "deploy/kernelbox-gateway"]);
    let forward = Forward::start(OWN, "svc/kernelbox-gateway", 7070);
    let client = Client::connect(&forward.endpoint(), key).await;
    (forward, client)
}

/// The one that the chart made.
fn api_key() -> String {
    let template = "--template={{.data.key | base64decode}}";
    kubectl(&["get", "secret", "-n", OWN, "kernelbox-api-key", template])
}

fn chart(name: &str) -> String {
    root().join("charts").join(name).to_str().unwrap().to_owned()
}

/// What helm says of the release's namespace.
fn helm(args: &[&str]) -> String {
    let output = Command::new("helm").args(["--namespace", OWN]).args(args).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "helm {args:?}: {out}{err}");
    out.into_owned()
}
