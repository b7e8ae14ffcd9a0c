//! What nobody uses goes, with its files kept; what is used stays; no call is lost on the way.
use std::{collections::HashMap, time::Duration};

use futures::{StreamExt as _, stream};
use kernelbox_api::EndReason;
use kernelbox_proto::v1::{CreateSessionRequest, Session};
use kernelbox_tests::{
    Cluster,
    cluster::{Asker, Forward, OWN, SANDBOXES, first_answer, kubectl},
};
use kube::ResourceExt as _;
use serde_json::json;

use super::claims::of_template;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn an_idle_session_loses_its_pod_and_returns_with_its_files() {
    let cluster = Cluster::open().await;
    cluster.template("short", json!({"lifecycle": {"idleTimeout": "3s"}}), 2).await;
    let mut client = cluster.client().await;
    let (idle, busy) = (of_template(&mut client, "short").await, of_template(&mut client, "short").await);

    // given: one that computes, one that wrote a file and is left alone
    client.run(&idle, "x = 1; open('kept.txt', 'w').write('kept')").await.ok();
    let first = cluster.live(&idle).await.unwrap();
    let mut computing = client.clone();
    let session = busy.clone();
    let computing = tokio::spawn(async move {
        computing.run(&session, "import time\nfor _ in range(20): time.sleep(0.5)\nprint('done')").await
    });

    // then
    assert_eq!(cluster.ended(&idle).await, EndReason::IdleTimeout);
    cluster.pod_gone(&first).await;
    assert_eq!(computing.await.unwrap().ok(), "done\n");
    assert_eq!(cluster.live(&busy).await.unwrap().spec.generation, Some(1));
    let again = client.run(&idle, "print(open('kept.txt').read(), 'x' in globals())").await;
    assert_eq!(again.ok(), "kept False\n");
    assert_eq!(cluster.live(&idle).await.unwrap().spec.generation, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_session_may_want_to_be_idle_for_a_shorter_time() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let idle_timeout = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    let session = Session { idle_timeout, ..Default::default() };
    let request = CreateSessionRequest { session: Some(session), ..Default::default() };
    let session = client.sessions.create_session(request).await.unwrap().into_inner().name;

    client.run(&session, "1").await.ok();

    assert_eq!(cluster.ended(&session).await, EndReason::IdleTimeout);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn without_a_gateway_a_clean_one_goes_and_one_with_a_new_file_is_kept_for_its_grace() {
    let cluster = Cluster::open().await;
    cluster.template("short", json!({"lifecycle": {"idleTimeout": "3s", "unsavedGrace": "6s"}}), 2).await;
    // given: a gateway that asked for two, wrote a file in one, and is gone
    let controller = Forward::start(OWN, "svc/kernelbox-controller", 7080);
    let asker = Asker::connect(&controller.endpoint()).await;
    let (clean, dirty) = ("sessions/clean", "sessions/dirty");
    asker.acquire(clean, "short").await;
    let sandbox = asker.acquire(dirty, "short").await;
    let pod = Forward::start(SANDBOXES, &format!("pod/{}", sandbox.sandbox), 7090);
    first_answer(&pod.endpoint(), &sandbox, dirty, "open('new.txt', 'w').write('new')").await;

    assert_eq!(cluster.ended(clean).await, EndReason::IdleTimeout);
    assert_eq!(cluster.ended(dirty).await, EndReason::IdleUnsaved);

    let ended = |it: &kernelbox_api::Sandbox| it.status.clone().unwrap().stages.ended.unwrap().0;
    let (clean, dirty) = (cluster.of(clean).await.remove(0), cluster.of(dirty).await.remove(0));
    let longer = ended(&dirty).duration_since(ended(&clean)).as_secs_f64();
    assert!(longer > 4.0, "it was kept for {longer} s only");
    cluster.pod_gone(&dirty).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn the_next_gateway_goes_on_with_the_kernels_of_the_last() {
    let mut cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    client.run(&session, "x = 41; open('n.txt', 'w').write('1')").await.ok();

    kubectl(&["rollout", "restart", "-n", OWN, "deploy/kernelbox-gateway"]);
    kubectl(&["rollout", "status", "-n", OWN, "--timeout=90s", "deploy/kernelbox-gateway"]);
    cluster.forward_anew();
    let mut client = cluster.client().await;

    assert_eq!(client.run(&session, "print(x + int(open('n.txt').read()))").await.ok(), "42\n");
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_thousand_calls_racing_retirement_each_run_exactly_once() {
    const CALLS: usize = 1_000;
    const SESSIONS: usize = 4;
    let cluster = Cluster::open().await;
    cluster.template("brief", json!({"lifecycle": {"idleTimeout": "1s"}}), 4).await;
    let mut client = cluster.client().await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(of_template(&mut client, "brief").await);
    }

    // when: calls arrive one after another, and now and then at a moment near to the retirement
    let call = |number: usize| {
        let (session, mut client) = (sessions[number % SESSIONS].clone(), client.clone());
        async move {
            if (number / SESSIONS).is_multiple_of(20) {
                tokio::time::sleep(Duration::from_millis(900 + (number * 37 % 400) as u64)).await;
            }
            let code = format!("with open('log.txt', 'a') as file: file.write('{number}\\n')");
            client.run(&session, &code).await.ok();
        }
    };
    stream::iter(0..CALLS).for_each_concurrent(SESSIONS, call).await;

    // then
    let (mut ran, mut generations) = (HashMap::<usize, usize>::new(), 0);
    for session in &sessions {
        let log = String::from_utf8(client.download(session, "log.txt").await.unwrap()).unwrap();
        for number in log.lines() {
            *ran.entry(number.parse().unwrap()).or_default() += 1;
        }
        generations += cluster.of(session).await.last().and_then(|it| it.spec.generation).unwrap_or_default();
    }
    let wrong: Vec<_> = (0..CALLS).filter(|number| ran.get(number) != Some(&1)).collect();
    assert!(wrong.is_empty(), "not run exactly once: {wrong:?}");
    assert!(generations > 2 * SESSIONS as i64, "only {generations} sandboxes: nothing was raced");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_drain_loses_no_file() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    client.run(&session, "open('kept.txt', 'w').write('kept')").await.ok();
    let node = cluster.node().await.name_any();

    // Only the sandboxes: this cluster has no other node for the control plane.
    kubectl(&[
        "drain",
        &node,
        "--pod-selector=app.kubernetes.io/name=kernelbox-sandbox",
        "--delete-emptydir-data",
        "--force",
        "--timeout=60s",
    ]);
    assert_eq!(cluster.ended(&session).await, EndReason::Evicted);
    kubectl(&["uncordon", &node]);

    assert_eq!(client.run(&session, "print(open('kept.txt').read())").await.ok(), "kept\n");
    let left = kubectl(&["get", "pods", "-n", SANDBOXES, "--field-selector=status.phase=Failed", "-o", "name"]);
    assert_eq!(left, "");
}
