//! Templates that ask for accelerators, on a node that says that it has two. There is none behind them: the node's status says so.
use k8s_openapi::api::core::v1::Pod;
use kernelbox_api::{EndReason, Sandbox, TEMPLATE_LABEL};
use kernelbox_proto::v1::{
    ArtifactChange, ExecuteRequest, ExecutionEvent, Session, Stage, UpdateSessionRequest, execution_event::Kind,
};
use kernelbox_tests::{
    Client, Cluster,
    cluster::{SANDBOXES, kubectl},
    root,
};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::claims::of_template;

/// One of the node's two, with a node selector and shared memory.
pub fn gpu() -> Value {
    json!({"accelerator": {
        "resource": {"name": "nvidia.com/gpu", "count": 1},
        "nodeSelector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "sharedMemory": "256Mi",
    }})
}

async fn node_of(cluster: &Cluster, session: &str) -> String {
    cluster.live(session).await.unwrap().status.unwrap().node.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn who_finds_all_accelerators_taken_waits_for_one_and_hears_why() {
    let cluster = Cluster::open().await;
    cluster.template("gpu", gpu(), 0).await;
    let mut client = cluster.client().await;
    let holders = [of_template(&mut client, "gpu").await, of_template(&mut client, "gpu").await];
    for holder in &holders {
        client.run(holder, "1").await.ok();
        assert_eq!(node_of(&cluster, holder).await, "node1");
    }
    let said = client.run(&holders[0], "import shutil; print(shutil.disk_usage('/dev/shm').total >> 20)").await;
    assert_eq!(said.ok(), "256\n");

    // when: a third one asks
    let third = of_template(&mut client, "gpu").await;
    let request = ExecuteRequest { session: third.clone(), code: "print('mine')".into(), ..Default::default() };
    let mut events = client.code.execute(request).await.unwrap().into_inner();
    let mut next = async || events.message().await.unwrap().and_then(|event: ExecutionEvent| event.kind);
    loop {
        match next().await.expect("it waits") {
            Kind::Stage(stage)
                if stage.stage() == Stage::Scheduling && stage.message.contains("Insufficient nvidia.com/gpu") =>
            {
                break;
            }
            Kind::Stage(_) => {}
            other => panic!("{other:?}"),
        }
    }

    // then: it goes on once one is free
    client.delete(&holders[0]).await;
    let mut stdout = String::new();
    while let Some(kind) = next().await {
        if let Kind::Stdout(text) = kind {
            stdout += &text.text;
        }
    }
    assert_eq!(stdout, "mine\n");
    assert_eq!(node_of(&cluster, &third).await, "node1");

    // and: nobody who asked for none is there
    let pods = cluster.pods().await;
    let on_node = |pod: &&Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node1");
    let wants = |pod: &Pod| {
        let resources = pod.spec.as_ref().unwrap().containers[0].resources.clone().unwrap_or_default();
        resources.limits.unwrap_or_default().contains_key("nvidia.com/gpu")
    };
    assert!(pods.iter().filter(on_node).all(wants) && pods.iter().any(|pod| !wants(pod)));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_warm_one_gives_its_accelerator_to_a_session_that_waits() {
    let cluster = Cluster::open().await;
    // So little of a processor that one asks long before they are ready.
    let mut slow = gpu();
    slow["resources"] = json!({"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "300m"}});
    cluster.template("gpu", slow, 0).await;
    cluster.change_pool("gpu", json!({"min": 2, "max": 2})).await;
    let mut placed = Vec::new();
    cluster
        .until("both are taken", async || {
            let pods = cluster.pods().await.into_iter();
            let own = pods.filter(|pod| pod.labels()[TEMPLATE_LABEL] == "gpu");
            placed = own.filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some()).map(|it| it.name_any()).collect();
            placed.len() == 2
        })
        .await;

    let mut client = cluster.client().await;
    let session = of_template(&mut client, "gpu").await;
    assert_eq!(client.run(&session, "print('mine')").await.ok(), "mine\n");

    let gave_way = |it: &Sandbox| {
        let reason = it.status.as_ref().and_then(|status| status.end_reason);
        placed.contains(&it.name_any()) && reason == Some(EndReason::ScaledDown)
    };
    assert_eq!(cluster.sandboxes().await.iter().filter(|it| gave_way(it)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_session_moves_to_an_accelerator_and_back_with_its_files() {
    let cluster = Cluster::open().await;
    cluster.template("stable-diffusion", stable_diffusion(), 0).await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    client.run(&session, "x = 1\nopen('notes.txt', 'w').write('from the cpu\\n')").await.ok();
    assert_eq!(node_of(&cluster, &session).await, "node0");

    // when: it paints, in an image that knows nothing of Kernelbox
    let told = on(&mut client, &session, "stable-diffusion", "print(open('notes.txt').read(), 'x' in globals())").await;
    assert_eq!(told, "from the cpu\n False\n");
    assert_eq!(node_of(&cluster, &session).await, "node1");
    let painted = client.run(&session, include_str!("../../../../examples/stable-diffusion/pipeline.py")).await;
    assert_eq!(painted.ok(), "fox.png: tiny on cpu (random weights: this is noise)\n");
    assert!(painted.artifacts().contains(&("fox.png".into(), ArtifactChange::Created)), "{:#?}", painted.artifacts());
    let is_shown = |kind: &Kind| matches!(kind, Kind::Display(shown) if shown.parts.iter().any(|part| part.media_type == "image/png"));
    assert!(painted.kinds().any(is_shown), "{:#?}", painted.events);

    // then: the picture is there on the ordinary node, too
    let picture = client.download(&session, "fox.png").await.unwrap();
    let code = "from PIL import Image\nprint(open('notes.txt').read(), Image.open('fox.png').size)";
    assert_eq!(on(&mut client, &session, "", code).await, "from the cpu\n (64, 64)\n");
    assert_eq!(node_of(&cluster, &session).await, "node0");
    assert_eq!(client.download(&session, "fox.png").await.unwrap(), picture);
    cluster
        .until("its accelerator is free", async || {
            kubectl(&["get", "pods", "-n", SANDBOXES, "-l", "kernelbox.dev/template=stable-diffusion", "-o", "name"])
                .is_empty()
        })
        .await;
}

/// The example's template with what is there on the machine of the tests: an image without CUDA, a model without weights, little room.
fn stable_diffusion() -> Value {
    let example = root().join("examples/stable-diffusion/template.yaml");
    let list = kubectl(&["create", "--dry-run=client", "-o", "json", "-f", example.to_str().unwrap()]);
    // One document after the other.
    let template: Value = serde_json::Deserializer::from_str(&list).into_iter().next().unwrap().unwrap();
    let mut spec = template["spec"].clone();
    spec["image"] = "kernelbox.test/diffusion:1".into();
    spec["supervisor"] = "Injected".into();
    spec["resources"]["requests"] = json!({"cpu": "10m", "memory": "256Mi"});
    spec["env"][0]["value"] = "tiny".into();
    spec
}

/// Gives the session another template; what code says that runs then, once it has told what did not move.
async fn on(client: &mut Client, session: &str, template: &str, code: &str) -> String {
    let session_now = Session { name: session.into(), template: template.into(), ..Default::default() };
    let mask = prost_types::FieldMask { paths: vec!["template".into()] };
    let request = UpdateSessionRequest { session: Some(session_now), update_mask: Some(mask) };
    client.sessions.update_session(request).await.unwrap();
    let run = client.run(session, code).await;
    let is_told = |kind: &Kind| matches!(kind, Kind::Stage(stage) if stage.message.contains("the variables of the earlier sandbox are gone"));
    assert!(run.kinds().any(is_told), "{:#?}", run.events);
    run.ok()
}
