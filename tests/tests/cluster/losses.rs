//! Pods that end by themselves or by others: who waits is told the reason, and the session goes on in another.
use std::time::Duration;

use kernelbox_api::EndReason;
use kernelbox_proto::v1::{ErrorCode, ExecuteRequest};
use kernelbox_tests::{
    Cluster,
    cluster::{SANDBOXES, kubectl},
    code_of,
};
use kube::ResourceExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::claims::of_template;

/// What the API knows a client is told within this time.
const TOLD: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_pod_that_is_deleted_under_a_call_is_told_and_replaced() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    client.run(&session, "print(1)").await.ok();
    let sandbox = cluster.live(&session).await.unwrap();
    let mut running = client.clone();
    let request = ExecuteRequest {
        session: session.clone(),
        code: "open('on', 'w').close()\nimport time; time.sleep(60)".into(),
        ..Default::default()
    };
    let call = tokio::spawn(async move { running.try_run(request).await });
    let mut looking = client.clone();
    cluster.until("the code runs", async || looking.download(&session, "on").await.is_ok()).await;

    kubectl(&["delete", "pod", "-n", SANDBOXES, &sandbox.name_any(), "--grace-period=0", "--force"]);

    let error = timeout(TOLD, call).await.expect("the client is told in time").unwrap().unwrap_err();
    assert_eq!(code_of(&error), ErrorCode::SandboxLost, "{error:?}");
    assert!(error.message().contains("Deleted"), "{error:?}");
    assert_eq!(cluster.ended(&session).await, EndReason::Deleted);
    assert_eq!(client.run(&session, "print(2)").await.ok(), "2\n");
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn memory_that_runs_out_ends_the_cell_and_not_the_pod() {
    let cluster = Cluster::open().await;
    let limits = json!({"resources": {"requests": {"memory": "256Mi"}, "limits": {"memory": "512Mi"}}});
    cluster.template("small", limits, 1).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "small").await;

    let code = "hog = []\nwhile True: hog.append(bytearray(8 << 20))";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let run = client.try_run(request).await.unwrap();

    assert_eq!(run.finished().code(), ErrorCode::MemoryLimit, "{:#?}", run.events.last());
    assert_eq!(client.run(&session, "print('on')").await.ok(), "on\n");
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(1), "the pod lives");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_workspace_that_is_full_ends_the_cell_and_not_the_pod() {
    let cluster = Cluster::open().await;
    cluster.template("small", json!({"workspace": {"size": "64Mi"}}), 1).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "small").await;

    let code = "import time\nwith open('big', 'wb') as file:\n    while True: file.write(bytes(1 << 18)), file.flush(), time.sleep(0.02)";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let run = client.try_run(request).await.unwrap();

    let finished = run.finished();
    assert_eq!(finished.code(), ErrorCode::DiskLimit, "{finished:?}");
    assert!(finished.message.contains("of the session's 64 MiB"), "{finished:?}");
    let tidied = "import os\nos.remove('big')\nprint(os.listdir())";
    assert_eq!(client.run(&session, tidied).await.ok(), "[]\n");
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(1), "the pod lives");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn the_containers_own_limit_of_memory_ends_the_sandbox() {
    let cluster = Cluster::open().await;
    // Where requests are limits, nothing of a pod is soon ended, so that one part can be put before the others.
    let all = json!({"cpu": "500m", "memory": "512Mi"});
    let changes =
        json!({"resources": {"requests": all, "limits": all}, "workspace": {"medium": "Memory", "size": "2Gi"}});
    cluster.template("small", changes, 1).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "small").await;
    client.run(&session, "print(1)").await.ok();
    let sandbox = cluster.live(&session).await.unwrap();
    let name = sandbox.name_any();
    // The kernel would be the first to go, and its cell alone: the supervisor is put first. What fills the memory is no process'.
    let first = "open('/proc/1/oom_score_adj', 'w').write('1000')";
    kubectl(&["exec", "-n", SANDBOXES, &name, "--", "/opt/kernelbox/bin/python", "-c", first]);

    let code = "with open('full', 'wb') as full:\n    while True: full.write(bytes(8 << 20))";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let mut running = client.clone();
    let call = tokio::spawn(async move { running.try_run(request).await });
    cluster
        .until("the API knows it", async || {
            let pod = cluster.pods_api().get_opt(&name).await.unwrap();
            pod.is_none_or(|pod| pod.status.is_some_and(|it| it.phase.as_deref() == Some("Failed")))
        })
        .await;

    let error = timeout(TOLD, call).await.expect("the client is told in time").unwrap().unwrap_err();
    assert_eq!(code_of(&error), ErrorCode::SandboxLost, "{error:?}");
    assert!(error.message().contains("OOMKilled"), "{error:?}");
    assert_eq!(cluster.ended(&session).await, EndReason::OOMKilled);
    cluster.pod_gone(&sandbox).await;
    assert_eq!(client.run(&session, "print(2)").await.ok(), "2\n");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn an_image_that_does_not_exist_is_told_and_not_tried_for_ever() {
    let cluster = Cluster::open().await;
    let changes =
        json!({"image": "kernelbox.dev/none-such:1", "imagePullPolicy": "Never", "lifecycle": {"startTimeout": "20s"}});
    cluster.template("imageless", changes, 0).await;
    cluster.size_pool("imageless", 2, 2).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "imageless").await;

    let request = ExecuteRequest { session: session.clone(), code: "1".into(), ..Default::default() };
    let error = client.try_run(request).await.unwrap_err();

    assert_eq!(code_of(&error), ErrorCode::SandboxStartFailed, "{error:?}");
    assert!(error.message().contains("ImageUnavailable") && error.message().contains("none-such"), "{error:?}");
    assert_eq!(cluster.ended(&session).await, EndReason::ImageUnavailable);
    cluster
        .until("the pool says that it is degraded", async || {
            let conditions = cluster.pool("imageless").await.status.unwrap_or_default().conditions;
            conditions.iter().any(|it| {
                it.type_ == "Degraded"
                    && it.status == kernelbox_api::ConditionStatus::True
                    && it.message.contains("none-such")
            })
        })
        .await;
    for reason in ["ImageUnavailable", "Degraded"] {
        let selector = format!("reason={reason},reportingComponent=kernelbox-controller");
        cluster
            .until(&format!("an event {reason} tells it"), async || {
                kubectl(&["get", "events", "-n", SANDBOXES, "--field-selector", &selector]).contains("none-such")
            })
            .await;
    }
    let tried = cluster.sandboxes().await.iter().filter(|it| it.spec.template_ref.name == "imageless").count();
    assert!(tried <= 6, "{tried} sandboxes were tried");
    cluster.remove_template("imageless").await;
    cluster.until("no pod is left of it", async || cluster.pods().await.len() == 2).await;
}
