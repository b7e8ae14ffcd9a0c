//! Puts the operator together and runs it: what is known of the cluster, the leader, and the service for gateways.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clap::{Args, builder::NonEmptyStringValueParser};
use ipnet::IpNet;
use kernelbox_proto::controller::v1::allocator_service_server::AllocatorServiceServer;
use kernelbox_telemetry::LogFormat;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use tracing::{Span, field::Empty};

use crate::{
    admin::{self, Admin},
    allocator::Allocator,
    auth::Gateways,
    cluster::Cluster,
    events::Events,
    keys::Keys,
    leader::{Leader, Refusals},
    lease::Candidate,
    metrics::Metrics,
    pod::Platform,
    policy::{ClusterDns, Surroundings},
};

/// How long calls may take to end after the first signal.
const DRAIN: Duration = Duration::from_secs(5);

/// Where it listens and what it looks after.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where gateways ask for sandboxes (gRPC)
    #[arg(long, env = "KERNELBOX_LISTEN", default_value = "0.0.0.0:7080")]
    pub listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env = "KERNELBOX_ADMIN_LISTEN", default_value = "0.0.0.0:7081")]
    pub admin_listen: SocketAddr,
    /// The namespace of the controller itself: its lease and its signing keys
    #[arg(long, env = "KERNELBOX_NAMESPACE", default_value = "kernelbox")]
    pub namespace: String,
    /// The namespace of templates, pools and sandboxes
    #[arg(long, env = "KERNELBOX_SANDBOX_NAMESPACE", default_value = "kernelbox-sandboxes")]
    pub sandbox_namespace: String,
    /// The service accounts of gateways, as NAMESPACE:NAME
    #[arg(
        long = "gateway-account",
        env = "KERNELBOX_GATEWAY_ACCOUNTS",
        value_delimiter = ',',
        default_value = "kernelbox:kernelbox-gateway"
    )]
    pub gateway_accounts: Vec<String>,
    /// The pods that answer names to sandboxes, as NAMESPACE/LABEL=VALUE; empty for none
    #[arg(long, env = "KERNELBOX_DNS_PODS", default_value = "kube-system/k8s-app=kube-dns")]
    pub dns_pods: String,
    /// Addresses that answer names to sandboxes, such as that of a resolver on every node
    #[arg(long = "dns-address", env = "KERNELBOX_DNS_ADDRESSES", value_delimiter = ',')]
    pub dns_addresses: Vec<IpAddr>,
    /// Where both of them listen
    #[arg(long = "dns-port", env = "KERNELBOX_DNS_PORTS", value_delimiter = ',', default_value = "53")]
    pub dns_ports: Vec<u16>,
    /// Networks that sandboxes never reach, beside all that are not public and what the cluster tells of its own
    #[arg(long = "blocked-cidr", env = "KERNELBOX_BLOCKED_CIDRS", value_delimiter = ',')]
    pub blocked_cidrs: Vec<IpNet>,
    /// An image with kernelbox-supervisor and uv, for templates whose own image has none (supervisor: Injected)
    #[arg(long, env = "KERNELBOX_SUPERVISOR_IMAGE", value_parser = NonEmptyStringValueParser::new())]
    pub supervisor_image: Option<String>,
    /// How its log, and those of sandboxes, are written
    #[arg(long, env = "KERNELBOX_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// The name of this replica, unlike all others; in a cluster its pod's
    #[arg(long, env = "KERNELBOX_IDENTITY")]
    pub identity: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("there is no way to the Kubernetes API: neither a kubeconfig nor a pod's service account")]
    Config(#[from] kube::config::InferConfigError),
    #[error("cannot make a client of the Kubernetes API")]
    Client(#[source] kube::Error),
    #[error("cannot listen on {address} ({flag})")]
    Listen { address: SocketAddr, flag: &'static str, source: std::io::Error },
    #[error("--dns-pods {0:?} is not NAMESPACE/LABEL=VALUE, such as kube-system/k8s-app=kube-dns")]
    DnsPods(String),
    #[error("cannot make the metrics")]
    Metrics(#[from] kernelbox_metrics::Error),
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the server ended")]
    Serve(#[from] tonic::transport::Error),
}

impl ServeArgs {
    /// What its policies say of who is around sandboxes.
    fn surroundings(&self) -> Result<Surroundings, ServeError> {
        let of_accounts =
            self.gateway_accounts.iter().filter_map(|account| Some(account.split_once(':')?.0.to_owned()));
        let mut callers: Vec<String> = of_accounts.chain([self.namespace.clone()]).collect();
        callers.sort_unstable();
        callers.dedup();
        let pods = match self.dns_pods.as_str() {
            "" => None,
            text => Some(dns_pods(text).ok_or_else(|| ServeError::DnsPods(text.to_owned()))?),
        };
        let dns = ClusterDns { pods, addresses: self.dns_addresses.clone(), ports: self.dns_ports.clone() };
        Ok(Surroundings { callers, dns, blocked: self.blocked_cidrs.clone() })
    }
}

fn dns_pods(text: &str) -> Option<(String, BTreeMap<String, String>)> {
    let (namespace, labels) = text.split_once('/')?;
    let (label, value) = labels.rsplit_once('=')?;
    Some((namespace.to_owned(), [(label.to_owned(), value.to_owned())].into()))
}

/// Of a call that says which trace it belongs to.
fn span<B>(request: &http::Request<B>) -> Span {
    if !request.headers().contains_key("traceparent") {
        return Span::none();
    }
    let span = tracing::info_span!(
        "call",
        otel.name = request.uri().path().trim_start_matches('/'),
        otel.kind = "server",
        trace_id = Empty,
        session = Empty,
        generation = Empty,
        sandbox = Empty,
    );
    kernelbox_telemetry::join(&span, request.headers());
    span
}

/// Runs until `stop`.
pub async fn serve(args: ServeArgs, stop: CancellationToken) -> Result<(), ServeError> {
    let config = kube::Config::infer().await?;
    let client = Client::try_from(config).map_err(ServeError::Client)?;
    let metrics = Metrics::new()?;
    let platform = Platform {
        supervisor_image: args.supervisor_image.clone(),
        log_format: args.log_format,
        ..Platform::default()
    };
    let keys = Keys::new(client.clone(), &args.namespace, &args.sandbox_namespace, platform.public_keys.clone());
    let keys = Arc::new(keys);
    let cluster = Arc::new(Cluster::new(
        client.clone(),
        args.sandbox_namespace.clone(),
        platform,
        args.surroundings()?,
        metrics.clone(),
    ));
    let identity = args.identity.unwrap_or_else(|| format!("replica-{}", rand::random::<u32>()));
    let events = Events::new(client.clone(), identity.clone());
    let candidate = Candidate::new(
        Api::namespaced(client.clone(), &args.namespace),
        "kernelbox-controller",
        identity,
        metrics.clone(),
    );
    let leader = Leader {
        cluster: Arc::clone(&cluster),
        keys: Arc::clone(&keys),
        leadership: candidate.leadership(),
        metrics: metrics.clone(),
        events,
        refusals: Refusals::default(),
    };
    let accounts = args.gateway_accounts.iter().map(|account| format!("system:serviceaccount:{account}")).collect();
    let gateways = Gateways::new(client, accounts);
    let allocator = Allocator::new(Arc::clone(&cluster), Arc::clone(&keys), gateways, metrics.clone(), stop.clone());

    let listen = |address, flag| async move {
        admin::bind(address).await.map_err(|source| ServeError::Listen { address, flag, source })
    };
    let (listener, address) = listen(args.listen, "--listen").await?;
    let (admin_listener, admin_address) = listen(args.admin_listen, "--admin-listen").await?;
    tracing::info!(%address, admin = %admin_address, "serving");

    let mut tasks = JoinSet::new();
    let (following, reading) = (Arc::clone(&cluster), Arc::clone(&keys));
    let (following_stop, reading_stop, leading_stop) = (stop.clone(), stop.clone(), stop.clone());
    tasks.spawn(async move { following.follow(following_stop).await });
    tasks.spawn(async move { reading.follow(reading_stop).await });
    tasks.spawn(candidate.run(stop.clone()));
    tasks.spawn(leader.run(leading_stop));
    let (admin, admin_stop) = (Admin { cluster, keys, metrics }, stop.clone());
    tasks.spawn(async move {
        if let Err(error) = admin.serve(admin_listener, admin_stop).await {
            tracing::error!("the admin port: {error}");
        }
    });

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AllocatorServiceServer<Allocator>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kernelbox_proto::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let service = AllocatorServiceServer::new(allocator);
    // Else the end of an answer waits for the other side's acknowledgement, which takes its time.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder()
        .trace_fn(span)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = served => served?,
        () = drained => tracing::warn!("calls took too long to end"),
    }
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}
