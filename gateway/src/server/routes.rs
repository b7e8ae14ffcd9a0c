//! What is served where.
use std::convert::Infallible;

use axum::{Router, body::Body, middleware};
use http::{Request, Response};
use kernelbox_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        code_service_server::CodeServiceServer, file_service_server::FileServiceServer,
        session_service_server::SessionServiceServer, turn_service_server::TurnServiceServer,
    },
};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceExt as _};

use super::door::{self, Door};
use crate::{
    http::files,
    services::{Code, File, Sessions, TurnService},
};

/// Tells clients whether to send work here.
pub(super) struct Health(HealthReporter);

const SERVICES: [&str; 5] = [
    "",
    SessionServiceServer::<Sessions>::NAME,
    CodeServiceServer::<Code>::NAME,
    FileServiceServer::<File>::NAME,
    TurnServiceServer::<TurnService>::NAME,
];

impl Health {
    pub(super) async fn stop(&self) {
        for service in SERVICES {
            self.0.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

pub(super) async fn build(
    turns: TurnService,
    door: Door,
    message_bytes: usize,
) -> Result<(Router, Health), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SessionServiceServer::<Sessions>::NAME)
            .with_service_name(CodeServiceServer::<Code>::NAME)
            .with_service_name(FileServiceServer::<File>::NAME)
            .with_service_name(TurnServiceServer::<TurnService>::NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let services = turns.services.clone();
    let sessions = Sessions { services: services.clone(), turns: turns.turns.clone() };
    let sessions = SessionServiceServer::new(sessions).max_decoding_message_size(message_bytes);
    let code = CodeServiceServer::new(Code(services.clone())).max_decoding_message_size(message_bytes);
    let file = FileServiceServer::new(File(services.clone())).max_decoding_message_size(message_bytes);
    let turns = TurnServiceServer::new(turns).max_decoding_message_size(message_bytes);
    let mut grpc = Router::new();
    grpc = add(grpc, sessions);
    grpc = add(grpc, code);
    grpc = add(grpc, file);
    grpc = add(grpc, turns);
    grpc = add(grpc, health);
    grpc = add(grpc, reflection().build_v1()?);
    grpc = add(grpc, reflection().build_v1alpha()?);
    // Outermost: inside of it, every call is plain gRPC.
    let through_door = middleware::from_fn_with_state(door, door::pass);
    let grpc = grpc.layer(through_door.clone()).layer(tonic_web::GrpcWebLayer::new());
    let http = files::routes(services).layer(through_door);
    Ok((grpc.merge(http).fallback(door::nowhere), Health(reporter)))
}

fn add<S>(router: Router, service: S) -> Router
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let service = service.map_request(|request: Request<Body>| request.map(tonic::body::Body::new));
    router.route_service(&format!("/{}/{{*rest}}", S::NAME), service)
}
