//! Which server a command speaks to: the one it is told, else this user's on this machine, else one that it starts.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use kernelbox_proto::v1::{
    code_service_client::CodeServiceClient, file_service_client::FileServiceClient,
    session_service_client::SessionServiceClient, turn_service_client::TurnServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    failure::{Exit, Failure, Result},
    progress::Progress,
    server_file::{self, ServerFile},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages are at most 1 MiB by contract; a server that sends more is still read.
const MAX_MESSAGE: usize = 16 << 20;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// The server's address, for example https://kernelbox.example:7070 [default: this user's server on this machine]
    #[arg(long, env = "KERNELBOX_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<String>,
    /// The key to show [default: the one that this user's server made]
    #[arg(long, env = "KERNELBOX_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Certificate authorities to trust for https, a PEM file [default: the system's]
    #[arg(long, env = "KERNELBOX_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Where this user's server keeps its data [default: ~/.local/share/kernelbox]
    #[arg(long, env = "KERNELBOX_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

type Service = InterceptedService<Channel, Bearer>;

/// A server that can be spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    bearer: Bearer,
}

impl Client {
    pub(crate) fn code(&self) -> CodeServiceClient<Service> {
        CodeServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Service> {
        SessionServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn files(&self) -> FileServiceClient<Service> {
        FileServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn turns(&self) -> TurnServiceClient<Service> {
        TurnServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// A client of an address; nothing is sent yet.
    pub(crate) fn new(endpoint: &str, key: Option<&str>, tls_ca: Option<&Path>) -> Result<Self> {
        let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        let bad = |e: &dyn std::fmt::Display| Failure::usage(format!("--endpoint {endpoint}: {e}"));
        let mut address = Endpoint::from_shared(url.clone())
            .map_err(|e| bad(&e))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        if url.starts_with("https://") {
            let tls = match tls_ca {
                Some(file) => {
                    let pem = std::fs::read(file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
                None => ClientTlsConfig::new().with_native_roots(),
            };
            address = address.tls_config(tls).map_err(|e| bad(&e))?;
        }
        let token = key
            .map(|key| MetadataValue::try_from(format!("Bearer {key}")))
            .transpose()
            .map_err(|_| Failure::usage("--api-key: not a key"))?;
        Ok(Self { channel: address.connect_lazy(), bearer: Bearer(token) })
    }

    /// Whether the server answers and says that it serves.
    pub(crate) async fn healthy(&self) -> bool {
        let mut health = HealthClient::new(self.channel.clone());
        let check = health.check(HealthCheckRequest { service: String::new() });
        matches!(tokio::time::timeout(HEALTH_TIMEOUT, check).await, Ok(Ok(reply)) if reply.get_ref().status == 1)
    }
}

/// Puts the key into each call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// The server to speak to; starts one where none is said and none runs.
pub(crate) async fn connect(args: &ConnectArgs, progress: &Progress) -> Result<Client> {
    let data_dir = server_file::data_dir(args.data_dir.as_deref());
    let Some(endpoint) = &args.endpoint else {
        let data_dir = data_dir?;
        let server = local_server(&data_dir, progress).await?;
        return local_client(&server, &data_dir, args.api_key.as_deref());
    };
    // The local key is shown to the local server only.
    let local = || {
        let data_dir = data_dir.ok()?;
        let known = ServerFile::read(&data_dir)?.endpoint;
        (known.trim_end_matches('/') == endpoint.trim_end_matches('/')).then(|| server_file::local_key(&data_dir))?
    };
    let key = args.api_key.clone().or_else(local);
    Client::new(endpoint, key.as_deref(), args.tls_ca.as_deref())
}

/// A client of this user's own server.
pub(crate) fn local_client(server: &ServerFile, data_dir: &Path, key: Option<&str>) -> Result<Client> {
    let key = match key {
        Some(key) => key.to_owned(),
        None => server_file::local_key(data_dir).ok_or_else(|| {
            let file = kernelbox_gateway::config::key_file(data_dir);
            Failure::new(Exit::NotAllowed, format!("cannot read {}: say a key with --api-key", file.display()))
        })?,
    };
    Client::new(&server.endpoint, Some(&key), None)
}

#[cfg(target_os = "linux")]
async fn local_server(data_dir: &Path, progress: &Progress) -> Result<ServerFile> {
    match super::daemon::running(data_dir).await? {
        Some(server) => Ok(server),
        None => super::daemon::start(data_dir, progress).await,
    }
}

#[cfg(not(target_os = "linux"))]
async fn local_server(_data_dir: &Path, _progress: &Progress) -> Result<ServerFile> {
    Err(Failure::no_server(
        "no server: say one with --endpoint (KERNELBOX_ENDPOINT); `kernelbox up` says how to run one",
    ))
}
