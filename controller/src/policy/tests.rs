//! Policies as templates want them.
use serde_json::{Value, json};

use super::*;

fn template(egress: Value) -> SandboxTemplate {
    let spec = json!({"image": "x", "egress": egress});
    let metadata = json!({"name": "default", "namespace": "sandboxes"});
    serde_json::from_value(
        json!({"apiVersion": "kernelbox.dev/v1alpha1", "kind": "SandboxTemplate", "metadata": metadata, "spec": spec}),
    )
    .unwrap()
}

fn around() -> Surroundings {
    let pods = Some(("kube-system".to_owned(), [("k8s-app".to_owned(), "kube-dns".to_owned())].into()));
    let dns = ClusterDns { pods, addresses: Vec::new(), ports: vec![53] };
    Surroundings { callers: vec!["kernelbox".into()], dns, blocked: Vec::new() }
}

fn rules(egress: Value) -> Value {
    let policy = build(&template(egress), &around(), &Network::default()).unwrap();
    serde_json::to_value(policy.spec.unwrap().egress.unwrap_or_default()).unwrap()
}

#[test]
fn the_default_policy_is_as_it_is_promised() {
    insta::assert_json_snapshot!(build(&template(json!({})), &around(), &Network::default()).unwrap());
}

#[test]
fn with_none_nothing_is_reached_and_names_neither() {
    assert_eq!(rules(json!({"mode": "None", "dns": {"resolvers": ["203.0.113.53"]}})), json!([]));
}

#[test]
fn an_allowlist_is_all_that_is_reached() {
    let allow = json!([{"cidr": "203.0.113.77/24", "ports": [{"port": 443}, {"port": 53, "protocol": "UDP"}]}, {"cidr": "10.0.0.1/32"}]);
    assert_eq!(
        rules(json!({"mode": "Allowlist", "allow": allow})),
        json!([
            {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
            {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
        ])
    );
}

#[test]
fn a_templates_own_resolvers_take_the_place_of_the_clusters() {
    let names = |egress: Value| rules(egress).as_array().unwrap().last().unwrap()["to"].clone();
    assert_eq!(names(json!({"dns": {"resolvers": ["9.9.9.9"]}})), json!([{"ipBlock": {"cidr": "9.9.9.9/32"}}]));
    let allow = json!([{"cidr": "203.0.113.0/24"}]);
    let listed = json!({"mode": "Allowlist", "allow": allow, "dns": {"resolvers": ["10.0.0.53"]}});
    assert_eq!(names(listed), json!([{"ipBlock": {"cidr": "10.0.0.53/32"}}]));
}

#[test]
fn ipv6_is_reached_only_where_it_is_switched_on() {
    let to = |egress: Value| rules(egress)[0]["to"].as_array().unwrap().len();
    assert_eq!((to(json!({})), to(json!({"ipv6": true}))), (1, 2));
}

#[test]
fn what_is_no_network_is_told() {
    for (egress, field) in [
        (json!({"blockedCIDRs": ["10.0.0.0"]}), "egress.blockedCIDRs: \"10.0.0.0\""),
        (json!({"mode": "Allowlist", "allow": [{"cidr": "example.com"}]}), "egress.allow[].cidr: \"example.com\""),
        (json!({"dns": {"resolvers": ["dns"]}}), "egress.dns.resolvers: \"dns\""),
    ] {
        let error = build(&template(egress), &around(), &Network::default()).unwrap_err();
        assert!(error.starts_with(field), "{error}");
    }
}
