//! The whole way: a client outside, the gateway in a pod, the controller in a pod, a kernel in a pod.
use kernelbox_api::{EndReason, Phase};
use kernelbox_proto::v1::{CreateSessionRequest, Session};
use kernelbox_tests::{
    Cluster, Collector, ModelServer, Reply, Traced,
    cluster::{COLLECTOR_PORT, MODEL_PORT, kubectl, phase},
    documented_trace, eventually,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn code_files_and_turns_work_from_outside() {
    let cluster = Cluster::open().await;
    let model = ModelServer::listen(([0, 0, 0, 0], MODEL_PORT)).await;
    model.push(Reply::python("print(open('n.txt').read() * 2)"));
    model.push(Reply::text("It is 4242."));
    let mut client = cluster.client().await;

    // when: code, in a pod of its own
    let session = client.session().await;
    let said = client.run(&session, "import os\nx = 1\nprint(os.uname().nodename, os.getuid())").await;
    let sandbox = cluster.live(&session).await.unwrap();
    assert_eq!(said.ok(), format!("{} 1000\n", sandbox.metadata.name.as_ref().unwrap()));
    assert_eq!((phase(&sandbox), sandbox.spec.generation), (Some(Phase::Ready), Some(1)));

    // and: files
    client.upload(&session, "n.txt", b"42").await.unwrap();
    assert_eq!(client.download(&session, "n.txt").await.unwrap(), b"42");

    // and: a question, whose answer runs code in the same kernel
    let turned = client.turn(&session, "Twice n, please").await;
    assert_eq!((turned.answer(), turned.stdout().as_str()), ("It is 4242.", "4242\n"));
    assert_eq!(client.run(&session, "print(x)").await.ok(), "1\n");

    // then: with the session goes its pod
    client.delete(&session).await;
    assert_eq!(cluster.ended(&session).await, EndReason::Released);
    cluster.pod_gone(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_turn_is_one_trace_through_gateway_and_controller() {
    let cluster = Cluster::open().await;
    let model = ModelServer::listen(([0, 0, 0, 0], MODEL_PORT)).await;
    let collector = Collector::listen(([0, 0, 0, 0], COLLECTOR_PORT)).await;
    model.push(Reply::python("print(6 * 7)"));
    model.push(Reply::text("42."));
    let mut client = cluster.client().await;
    let session = client.session().await;

    // when
    let turned = client.turn(&session, "How much is 6 * 7?").await;
    assert_eq!(turned.answer(), "42.");

    // then
    let call = |it: &Traced| it.name.ends_with("/StartTurn") && it.attributes["session"] == session[9..];
    let called = || collector.spans().into_iter().find(call).ok_or_else(|| "no call yet".to_owned());
    let call = eventually("the call is traced", called).await;
    collector.trace(&call.trace, &documented_trace(|_| true)).await;
    let acquire = collector.spans().into_iter().find(|it| it.trace == call.trace && it.name.ends_with("/Acquire"));
    let acquire = acquire.unwrap();
    let sandbox = cluster.live(&session).await.unwrap();
    assert_eq!(acquire.service, "kernelbox-controller");
    assert_eq!(acquire.attributes["sandbox"], sandbox.metadata.name.unwrap());
    client.delete(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_template_that_there_is_not_is_told() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = Session { template: "none-such".into(), ..Default::default() };
    let request = CreateSessionRequest { session: Some(session), ..Default::default() };
    let session = client.sessions.create_session(request).await.unwrap().into_inner().name;

    let request = kernelbox_proto::v1::ExecuteRequest { session, code: "1".into(), ..Default::default() };
    let error = client.try_run(request).await.unwrap_err();

    assert_eq!(error.message(), "there is no SandboxTemplate \"none-such\"");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn operators_see_what_there_is() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    client.run(&session, "1").await.ok();
    let table = kubectl(&["get", "sandboxes,sandboxpools", "-n", "kernelbox-sandboxes"]);
    assert!(table.contains(&session), "{table}");
    let name = cluster.live(&session).await.unwrap().metadata.name.unwrap();
    let story = kubectl(&[
        "exec",
        "-n",
        "kernelbox",
        "deploy/kernelbox-controller",
        "--",
        "/kernelbox-controller",
        "explain",
        &name,
    ]);
    for part in [&session, "pod created", "first kernel answers", "given to its session"] {
        assert!(story.contains(part), "{story}");
    }
    client.delete(&session).await;
}
