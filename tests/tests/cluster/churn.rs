//! Many sessions come and go, and nothing remains of them.
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

use futures::{StreamExt as _, future::join_all, stream};
use kernelbox_api::Phase;
use kernelbox_tests::{
    Client, Cluster,
    cluster::{OWN, kubectl, phase},
};
use serde_json::json;

use super::claims::of_template;

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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_template_that_changes_under_load_is_followed_and_nobody_is_refused() {
    const WORKERS: usize = 3;
    let version = |version: u32| json!({"env": [{"name": "VERSION", "value": version.to_string()}]});
    let cluster = Cluster::open().await;
    cluster.template("changing", version(1), 3).await;
    let mut client = cluster.client().await;
    let kept = of_template(&mut client, "changing").await;
    client.run(&kept, "x = 'kept'").await.ok();
    let (served, stop) = (AtomicUsize::new(0), AtomicBool::new(false));

    let work = async |mut client: Client| {
        let mut seen = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let opened = Instant::now();
            let session = of_template(&mut client, "changing").await;
            let said = client.run(&session, "import os; print(os.environ['VERSION'], end='')").await.ok();
            seen.push((opened, said.parse::<u32>().unwrap()));
            client.delete(&session).await;
            served.fetch_add(1, Ordering::Relaxed);
        }
        seen
    };
    let change = async {
        let mut changed = Vec::new();
        for now in 2..=3 {
            let before = served.load(Ordering::Relaxed);
            let is_busy = async || served.load(Ordering::Relaxed) >= before + 2 * WORKERS;
            cluster.until("sessions come and go", is_busy).await;
            cluster.change_template("changing", version(now)).await;
            cluster.until("its warm ones are of the new kind", async || cluster.is_renewed("changing").await).await;
            changed.push((Instant::now(), now));
        }
        let before = served.load(Ordering::Relaxed);
        cluster.until("and go on", async || served.load(Ordering::Relaxed) >= before + 2 * WORKERS).await;
        stop.store(true, Ordering::Relaxed);
        changed
    };
    let (seen, changed) = tokio::join!(join_all((0..WORKERS).map(|_| work(client.clone()))), change);

    // then: none was refused, and who came after a change found it made
    for (opened, said) in seen.into_iter().flatten() {
        let due = changed.iter().filter(|(at, _)| *at < opened).map(|(_, version)| *version).max().unwrap_or(1);
        assert!(said >= due, "version {said} was given after {due}");
    }
    // and: who had one keeps it
    assert_eq!(client.run(&kept, "import os; print(x, os.environ['VERSION'])").await.ok(), "kept 1\n");
    cluster
        .until("nothing is left but both pools and the kept one", async || {
            cluster.warm("changing").await == 3 && cluster.pods().await.len() == 2 + 3 + 1
        })
        .await;
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
