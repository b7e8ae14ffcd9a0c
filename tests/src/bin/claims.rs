//! How fast sessions get sandboxes in a cluster: `make bench-claims`. Asks the controller as a gateway would, and runs a first line of code.
use std::time::{Duration, Instant};

use futures::future::join_all;
use kernelbox_proto::{
    controller::v1::{
        AcquireRequest, AcquiredSandbox, ReleaseRequest, acquire_event::Kind,
        allocator_service_client::AllocatorServiceClient,
    },
    sandbox::v1::{BindRequest, sandbox_service_client::SandboxServiceClient},
    v1::{ExecuteRequest, execution_event},
};
use kernelbox_tests::{
    Cluster,
    cluster::{OWN, kubectl},
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

const WARM: usize = 40;
const COLD: usize = 8;
const BURST: usize = 50;

struct Bench {
    channel: Channel,
    token: String,
    /// No two runs have the same sessions.
    run: String,
}

impl Bench {
    async fn open() -> Self {
        // Whoever runs this reaches the cluster's services, as on the node of tests/cluster.
        let address =
            kubectl(&["get", "service", "-n", OWN, "kernelbox-controller", "-o", "jsonpath={.spec.clusterIP}"]);
        let channel = Endpoint::from_shared(format!("http://{address}:7080")).unwrap().connect().await.unwrap();
        let token = kubectl(&["create", "token", "-n", OWN, "kernelbox-gateway", "--audience=kernelbox-controller"]);
        Self { channel, token: token.trim().to_owned(), run: std::process::id().to_string() }
    }

    fn signed<T>(token: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }

    /// The sandbox, how long it took, and how long it was until its first answer.
    async fn acquire(&self, template: &str, number: usize) -> (AcquiredSandbox, Duration, Duration) {
        let session = format!("sessions/bench-{}-{template}-{number}", self.run);
        let begun = Instant::now();
        let request = AcquireRequest {
            session: session.clone(),
            generation: 1,
            tenant: "bench".into(),
            template: template.into(),
            existing_only: false,
        };
        let mut client = AllocatorServiceClient::new(self.channel.clone());
        let mut events = client.acquire(Self::signed(&self.token, request)).await.unwrap().into_inner();
        let sandbox = loop {
            if let Some(Kind::Acquired(sandbox)) = events.message().await.unwrap().expect("a sandbox").kind {
                break sandbox;
            }
        };
        let acquired = begun.elapsed();
        self.first_answer(&sandbox, &session).await;
        (sandbox, acquired, begun.elapsed())
    }

    async fn first_answer(&self, sandbox: &AcquiredSandbox, session: &str) {
        let channel = Endpoint::from_shared(format!("http://{}", sandbox.address)).unwrap().connect().await.unwrap();
        let mut client = SandboxServiceClient::new(channel);
        let bind = BindRequest { session: session.into(), generation: 1, ..Default::default() };
        client.bind(Self::signed(&sandbox.token, bind)).await.unwrap();
        let code = ExecuteRequest { session: session.into(), code: "1 + 1".into(), ..Default::default() };
        let mut events = client.execute(Self::signed(&sandbox.token, code)).await.unwrap().into_inner();
        while let Some(event) = events.message().await.unwrap() {
            if let Some(execution_event::Kind::Result(_)) = event.kind {
                return;
            }
        }
        panic!("no answer");
    }

    async fn release(&self, sandboxes: Vec<AcquiredSandbox>) {
        for sandbox in sandboxes {
            let request = ReleaseRequest { sandbox: sandbox.sandbox, uid: sandbox.uid };
            AllocatorServiceClient::new(self.channel.clone())
                .release(Self::signed(&self.token, request))
                .await
                .unwrap();
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

#[tokio::main]
async fn main() {
    let cluster = Cluster::open().await;
    let bench = Bench::open().await;
    println!("| ms | n | p50 | p99 | most |\n| --- | --- | --- | --- | --- |");

    fill(&cluster, WARM).await;
    let writes = cluster.api_writes("sandboxes", "").await;
    let (mut acquired, mut answered, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WARM {
        let (sandbox, acquire, answer) = bench.acquire("default", number).await;
        acquired.push(acquire);
        answered.push(answer);
        taken.push(sandbox);
    }
    row("warm: Acquire", &mut acquired);
    row("warm: Acquire to first answer", &mut answered);
    let writes = cluster.api_writes("sandboxes", "").await - writes;
    bench.release(taken).await;

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
    println!("writes to sandboxes while {WARM} warm ones were given: {writes}");
    bench.release(taken).await;
    cluster.change_pool("default", serde_json::json!({"min": 2, "max": 2, "limit": null})).await;
}
