//! A node whose kubelet is stopped, and one that is lost.
use std::{process::Command, time::Duration};

use kernelbox_api::{EndReason, Phase};
use kernelbox_proto::v1::{ErrorCode, ExecuteRequest, Stage, execution_event::Kind};
use kernelbox_tests::{Cluster, Run, cluster::phase, code_of, root};
use kube::ResourceExt as _;
use tokio::time::timeout;

use super::gpu::gpu;
use crate::claims::of_template;

/// A client is told within this time that its sandbox does not answer.
pub const UNREACHABLE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn while_a_kubelet_is_stopped_what_runs_goes_on_and_nobody_comes_there() {
    let cluster = Cluster::open().await;
    cluster.template("gpu", gpu(), 1).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "gpu").await;
    client.run(&session, "print(1)").await.ok();
    cluster.until("the node has a warm one, too", async || cluster.warm("gpu").await == 1).await;
    let is_warm = |it: &kernelbox_api::Sandbox| it.spec.session.is_none() && it.spec.template_ref.name == "gpu";
    let warm = cluster.sandboxes().await.into_iter().find(is_warm).unwrap();
    let code = "import os, time\nstep = 0\nwhile not os.path.exists('enough'): print(step, flush=True); step += 1; time.sleep(0.5)";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let mut runs = client.code.execute(request).await.unwrap().into_inner();
    while !matches!(runs.message().await.unwrap().unwrap().kind, Some(Kind::Started(_))) {}

    // when: the cluster finds that the node is not ready
    let stopped = Kubelet::stop(1);
    cluster
        .until("the warm one is not ready", async || {
            let pod = cluster.pods_api().get(&warm.name_any()).await.unwrap();
            let conditions = pod.status.unwrap_or_default().conditions.unwrap_or_default();
            conditions.iter().any(|it| it.type_ == "Ready" && it.status != "True")
        })
        .await;
    let new = of_template(&mut client, "gpu").await;
    let request = ExecuteRequest { session: new.clone(), code: "print('new')".into(), ..Default::default() };
    let mut asks = client.code.execute(request).await.unwrap().into_inner();
    loop {
        match asks.message().await.unwrap().expect("it waits").kind {
            Some(Kind::Stage(stage))
                if stage.stage() == Stage::Scheduling && stage.message.contains("untolerated taint") =>
            {
                break;
            }
            Some(Kind::Stage(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_ne!(cluster.live(&new).await.unwrap().name_any(), warm.name_any());

    // then: what runs there has gone on, and so does who waits once the node is back and has room
    drop(stopped);
    client.upload(&session, "enough", b"").await.unwrap();
    let said = Run::read(runs).await.unwrap().ok();
    assert_eq!(said, (0..said.lines().count()).map(|step| format!("{step}\n")).collect::<String>());
    assert_eq!(phase(&cluster.live(&session).await.unwrap()), Some(Phase::Ready));
    assert_eq!(client.run(&session, "print(step > 20)").await.ok(), "True\n");
    cluster.size_pool("gpu", 0, 0).await;
    assert_eq!(Run::read(asks).await.unwrap().ok(), "new\n");
    cluster.until("only theirs are left", async || cluster.pods().await.len() == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_node_that_is_lost_takes_its_sandboxes_with_it_after_its_grace() {
    let cluster = Cluster::open().await;
    cluster.template("gpu", gpu(), 0).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "gpu").await;
    client.run(&session, "print(1)").await.ok();
    let sandbox = cluster.live(&session).await.unwrap();
    let node = sandbox.status.clone().unwrap().node.unwrap();
    let code = "print('on', flush=True)\nimport time; time.sleep(600)";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let mut events = client.code.execute(request).await.unwrap().into_inner();
    while !matches!(events.message().await.unwrap().unwrap().kind, Some(Kind::Stdout(_))) {}

    let cut = Cable::cut(&node);
    let unreachable = async {
        let is_told = |kind| matches!(kind, Some(Kind::Stage(stage)) if stage.stage() == Stage::Unreachable);
        while !is_told(events.message().await.unwrap().unwrap().kind) {}
    };
    timeout(UNREACHABLE, unreachable).await.expect("the client is told in time");
    let error = loop {
        if let Err(status) = events.message().await {
            break status;
        }
    };

    assert_eq!(code_of(&error), ErrorCode::SandboxLost, "{error:?}");
    assert!(error.message().contains("NodeLost"), "{error:?}");
    assert_eq!(cluster.ended(&session).await, EndReason::NodeLost);
    drop(cut);
    cluster.pod_gone(&sandbox).await;
    assert_eq!(client.run(&session, "print(2)").await.ok(), "2\n");
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(2));
}

/// The kubelet of a node of tests/cluster does not run until this is dropped.
struct Kubelet(u8);

impl Kubelet {
    fn stop(node: u8) -> Self {
        let it = Self(node);
        it.set("stop");
        it
    }

    fn set(&self, what: &str) {
        let script = root().join("tests/cluster/kubelet");
        assert!(Command::new(script).args([what, &self.0.to_string()]).status().unwrap().success(), "kubelet {what}");
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.set("start");
    }
}

/// The cable between a node and all else, on the machine of the tests. It is mended when this is dropped.
struct Cable(String);

impl Cable {
    fn cut(node: &str) -> Self {
        let cable = Self(format!("kbx0-{node}"));
        cable.set("down");
        cable
    }

    fn set(&self, state: &str) {
        let done = Command::new("ip").args(["link", "set", &self.0, state]).status().unwrap();
        assert!(done.success(), "{} {state}: the nodes are those of tests/cluster", self.0);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.set("up");
    }
}
