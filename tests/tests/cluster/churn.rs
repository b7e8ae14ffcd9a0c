//! Many sessions come and go, and nothing remains of them.
use futures::{StreamExt as _, stream};
use kernelbox_api::Phase;
use kernelbox_tests::{
    Cluster,
    cluster::{OWN, kubectl, phase},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn two_hundred_sessions_leave_nothing_but_the_pool() {
    const SESSIONS: usize = 200;
    let cluster = Cluster::open().await;
    cluster.size_pool("default", 4, 4).await;
    cluster.until("the pool is filled", async || cluster.warm("default").await == 4).await;
    let client = cluster.client().await;
    let memory = memory();

    stream::iter(0..SESSIONS)
        .for_each_concurrent(2, |number| {
            let mut client = client.clone();
            async move {
                let session = client.session().await;
                assert_eq!(client.run(&session, &format!("print({number})")).await.ok(), format!("{number}\n"));
                client.delete(&session).await;
            }
        })
        .await;

    cluster
        .until("nothing remains but the pool", async || {
            let live = cluster.sandboxes().await.iter().filter(|it| phase(it) != Some(Phase::Ended)).count();
            live == 4 && cluster.warm("default").await == 4 && cluster.pods().await.len() == 4
        })
        .await;
    let after = self::memory();
    for ((name, before), (_, after)) in memory.iter().zip(&after) {
        println!("{name}: {} MiB before, {} MiB after", before >> 20, after >> 20);
        assert!(*after < before + (48 << 20), "{name} grew from {before} to {after} bytes");
    }
    assert_eq!(memory.len(), after.len(), "a pod of the control plane was replaced");
}

/// Resident bytes of each process of the control plane, from the node's figures.
fn memory() -> Vec<(String, u64)> {
    let node = kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let stats = kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let own = |pod: &&serde_json::Value| pod["podRef"]["namespace"] == OWN;
    let figure = |pod: &serde_json::Value| {
        let name = pod["podRef"]["name"].as_str().unwrap().to_owned();
        (name, pod["containers"][0]["memory"]["rssBytes"].as_u64().unwrap_or_default())
    };
    let mut figures: Vec<_> = stats["pods"].as_array().unwrap().iter().filter(own).map(figure).collect();
    figures.sort();
    figures
}
