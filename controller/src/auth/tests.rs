//! Whose token it is, while the API server says so and while it does not.
use std::sync::atomic::{AtomicU16, Ordering};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

const GATEWAY: &str = "system:serviceaccount:kernelbox:kernelbox-gateway";

/// An API server that answers reviews with this status, and each answer is forgotten at once.
fn gateways(status: &Arc<AtomicU16>) -> Gateways {
    let status = Arc::clone(status);
    let server = tower::service_fn(move |_: Request<Body>| {
        let user = json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": GATEWAY}});
        let (status, user) = match status.load(Ordering::Relaxed) {
            401 => (201, json!({"authenticated": false})),
            status => (status, user),
        };
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": user});
        let body = Body::from(serde_json::to_vec(&review).unwrap());
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body).unwrap()))
    });
    let known = Cache::builder().time_to_live(Duration::ZERO).build();
    Gateways { known, ..Gateways::new(Client::new(server, "default"), vec![GATEWAY.to_owned()]) }
}

async fn check(gateways: &Gateways, token: &str) -> Result<(), ErrorCode> {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
    gateways.check(&metadata).await.map_err(|error| error.code)
}

#[tokio::test]
async fn a_gateway_that_is_known_is_let_in_while_the_api_server_is_away() {
    let status = Arc::new(AtomicU16::new(201));
    let gateways = gateways(&status);
    assert_eq!(check(&gateways, "known").await, Ok(()));

    status.store(503, Ordering::Relaxed);
    assert_eq!(check(&gateways, "known").await, Ok(()));
    assert_eq!(check(&gateways, "unknown").await, Err(ErrorCode::DeadlineExceeded));
}

#[tokio::test]
async fn one_that_is_told_to_be_nobody_is_let_in_no_more() {
    let status = Arc::new(AtomicU16::new(201));
    let gateways = gateways(&status);
    assert_eq!(check(&gateways, "known").await, Ok(()));

    status.store(401, Ordering::Relaxed);
    assert_eq!(check(&gateways, "known").await, Err(ErrorCode::Unauthenticated));

    status.store(503, Ordering::Relaxed);
    assert_eq!(check(&gateways, "known").await, Err(ErrorCode::DeadlineExceeded));
}
