//! A namespace that has no room for more pods: who waits is told, and nothing is left over.
use kernelbox_api::EndReason;
use kernelbox_proto::v1::{ErrorCode, ExecuteRequest, Stage, execution_event::Kind};
use kernelbox_tests::{
    Cluster,
    cluster::{SANDBOXES, kubectl},
    code_of,
};
use serde_json::json;

use super::claims::of_template;

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
