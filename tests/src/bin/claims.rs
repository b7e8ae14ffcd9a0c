//! How fast sessions get sandboxes in a cluster: `make bench-claims`. Asks the controller as a gateway would, and runs a first line of code.
use std::time::{Duration, Instant};

use futures::future::join_all;
use kernelbox_proto::controller::v1::AcquiredSandbox;
use kernelbox_tests::{
    Cluster,
    cluster::{Asker, OWN, first_answer, kubectl},
};

const WARM: usize = 40;
const COLD: usize = 8;
const BURST: usize = 50;
/// Warm ones while others are measured.
const POOL: usize = 2;

struct Bench {
    asker: Asker,
    /// No two runs have the same sessions.
    run: String,
}

impl Bench {
    /// Whoever runs this reaches the cluster's services and pods, as on the machine of tests/cluster.
    async fn open() -> Self {
        let address =
            kubectl(&["get", "service", "-n", OWN, "kernelbox-controller", "-o", "jsonpath={.spec.clusterIP}"]);
        Self { asker: Asker::connect(&format!("http://{address}:7080")).await, run: std::process::id().to_string() }
    }

    /// The sandbox, how long it took, and how long it was until its first answer.
    async fn acquire(&self, template: &str, number: usize) -> (AcquiredSandbox, Duration, Duration) {
        let session = format!("sessions/bench-{}-{template}-{number}", self.run);
        let begun = Instant::now();
        let sandbox = self.asker.acquire(&session, template).await;
        let acquired = begun.elapsed();
        first_answer(&format!("http://{}", sandbox.address), &sandbox, &session, "1 + 1").await;
        (sandbox, acquired, begun.elapsed())
    }

    async fn release(&self, sandboxes: Vec<AcquiredSandbox>) {
        for sandbox in sandboxes {
            self.asker.release(sandbox).await;
        }
    }
}

fn row(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    println!("| {what} | {} | {:.1} | {:.1} | {:.1} |", times.len(), at(0.5), at(0.99), at(1.0));
}

/// So many and no more, so that none is made while others are given.
async fn fill(cluster: &Cluster, many: usize) {
    cluster.change_pool("default", serde_json::json!({"min": many, "max": many, "limit": many})).await;
    cluster.until("the pool is filled", async || cluster.warm("default").await == many).await;
}

/// Until nothing is there but a small pool, so that what ended does not slow what comes.
async fn rest(cluster: &Cluster) {
    cluster.change_pool("default", serde_json::json!({"min": POOL, "max": POOL, "limit": null})).await;
    let has_rest = async || cluster.warm("default").await == POOL && cluster.pods().await.len() == POOL;
    cluster.until("the others are gone", has_rest).await;
}

#[tokio::main]
async fn main() {
    let cluster = Cluster::open().await;
    let bench = Bench::open().await;
    cluster.open_sandboxes().await;
    // The controller learns who asks.
    let (first, ..) = bench.acquire("default", WARM).await;
    bench.release(vec![first]).await;
    println!("| ms | n | p50 | p99 | most |\n| --- | --- | --- | --- | --- |");

    fill(&cluster, WARM).await;
    let writes = cluster.claims().await;
    let (mut acquired, mut answered, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WARM {
        let (sandbox, acquire, answer) = bench.acquire("default", number).await;
        acquired.push(acquire);
        answered.push(answer);
        taken.push(sandbox);
    }
    row("warm: Acquire", &mut acquired);
    row("warm: Acquire to first answer", &mut answered);
    let writes = cluster.claims().await - writes;
    bench.release(taken).await;
    rest(&cluster).await;

    cluster.template("cold", serde_json::json!({}), 0).await;
    let (mut acquired, mut answered, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..COLD {
        let (sandbox, acquire, answer) = bench.acquire("cold", number).await;
        acquired.push(acquire);
        answered.push(answer);
        taken.push(sandbox);
    }
    row("cold: Acquire", &mut acquired);
    row("cold: Acquire to first answer", &mut answered);
    bench.release(taken).await;
    cluster.remove_template("cold").await;

    fill(&cluster, BURST).await;
    let begun = Instant::now();
    let all = join_all((0..BURST).map(|number| bench.acquire("default", 1_000 + number))).await;
    let whole = begun.elapsed();
    let (mut acquired, mut answered, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for (sandbox, acquire, answer) in all {
        acquired.push(acquire);
        answered.push(answer);
        taken.push(sandbox);
    }
    row("burst of 50: Acquire", &mut acquired);
    row("burst of 50: Acquire to first answer", &mut answered);
    println!("\nthe burst was over after {:.2} s", whole.as_secs_f64());
    println!("patches of sandboxes while {WARM} warm ones were given: {writes}");
    bench.release(taken).await;
    rest(&cluster).await;
    cluster.close_sandboxes().await;
}
