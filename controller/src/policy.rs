//! The NetworkPolicy of a template: who may call its sandboxes, and what they may reach. Pure.
use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kernelbox_api::{AllowedPeer, Egress, EgressMode, SandboxTemplate, TEMPLATE_LABEL};
use kube::ResourceExt as _;

use crate::{network::Network, pod};

/// Who calls sandboxes, by this label of their pods.
const CALLERS: [&str; 2] = ["kernelbox-controller", "kernelbox-gateway"];
const NAME: &str = "app.kubernetes.io/name";
const NAMESPACE: &str = "kubernetes.io/metadata.name";

/// What a template does not say.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The namespaces of controllers and gateways.
    pub callers: Vec<String>,
    pub dns: ClusterDns,
    /// Beside the addresses that the cluster tells.
    pub blocked: Vec<IpNet>,
}

/// Who answers names, where a template names nobody.
#[derive(Debug, Clone, Default)]
pub struct ClusterDns {
    /// The namespace and the labels of its pods.
    pub pods: Option<(String, BTreeMap<String, String>)>,
    /// Of a resolver on every node, for example.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<u16>,
}

/// The name of a template's policy.
pub fn name(template: &str) -> String {
    format!("kernelbox-{template}")
}

/// The policy, or what is wrong with the template's egress.
pub fn build(template: &SandboxTemplate, around: &Surroundings, network: &Network) -> Result<NetworkPolicy, String> {
    let labels =
        [(TEMPLATE_LABEL, template.name_any()), ("app.kubernetes.io/managed-by", "kernelbox-controller".to_owned())];
    let metadata = ObjectMeta {
        name: Some(name(&template.name_any())),
        namespace: template.namespace(),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        ..Default::default()
    };
    let spec = NetworkPolicySpec {
        pod_selector: Some(select([(TEMPLATE_LABEL.to_owned(), template.name_any())].into())),
        policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
        ingress: Some(vec![callers(&around.callers)]),
        egress: Some(egress(&template.spec.egress, around, network)?).filter(|rules| !rules.is_empty()),
    };
    Ok(NetworkPolicy { metadata, spec: Some(spec) })
}

fn callers(namespaces: &[String]) -> NetworkPolicyIngressRule {
    let is_in = |key: &str, values: Vec<String>| LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: key.to_owned(),
            operator: "In".to_owned(),
            values: Some(values),
        }]),
        ..Default::default()
    };
    let peer = NetworkPolicyPeer {
        namespace_selector: Some(is_in(NAMESPACE, namespaces.to_vec())),
        pod_selector: Some(is_in(NAME, CALLERS.map(str::to_owned).to_vec())),
        ..Default::default()
    };
    NetworkPolicyIngressRule { from: Some(vec![peer]), ports: Some(vec![port("TCP", pod::PORT)]) }
}

fn egress(egress: &Egress, around: &Surroundings, network: &Network) -> Result<Vec<NetworkPolicyEgressRule>, String> {
    let resolvers: Vec<IpAddr> =
        egress.dns.resolvers.iter().map(|it| parsed(it, "dns.resolvers")).collect::<Result<_, _>>()?;
    let mut rules = Vec::new();
    match egress.mode {
        EgressMode::None => return Ok(rules),
        EgressMode::Allowlist => {
            for peer in &egress.allow {
                rules.push(allowed(peer)?);
            }
        }
        EgressMode::Internet => {
            let more: Vec<IpNet> =
                egress.blocked_cidrs.iter().map(|it| parsed(it, "blockedCIDRs")).collect::<Result<_, _>>()?;
            let mut to = vec![all_of("0.0.0.0/0", &network.blocked(&more))];
            if egress.ipv6 {
                let (global, blocked) = network.blocked_v6(&more);
                to.push(all_of(global, &blocked));
            }
            rules.push(NetworkPolicyEgressRule { to: Some(to), ports: None });
            if resolvers.is_empty() {
                rules.extend(clusters_dns(&around.dns));
            }
        }
    }
    if !resolvers.is_empty() {
        rules.push(answerers(resolvers.iter().map(one).collect(), &[53]));
    }
    Ok(rules)
}

fn allowed(peer: &AllowedPeer) -> Result<NetworkPolicyEgressRule, String> {
    let cidr: IpNet = parsed(&peer.cidr, "allow[].cidr")?;
    let ports: Vec<_> = peer.ports.iter().map(|it| port(&format!("{:?}", it.protocol), it.port.into())).collect();
    Ok(NetworkPolicyEgressRule {
        to: Some(vec![all_of(&cidr.trunc().to_string(), &[])]),
        ports: Some(ports).filter(|it| !it.is_empty()),
    })
}

fn clusters_dns(dns: &ClusterDns) -> Option<NetworkPolicyEgressRule> {
    let pods = dns.pods.iter().map(|(namespace, labels)| NetworkPolicyPeer {
        namespace_selector: Some(select([(NAMESPACE.to_owned(), namespace.clone())].into())),
        pod_selector: Some(select(labels.clone())),
        ..Default::default()
    });
    let peers: Vec<_> = pods.chain(dns.addresses.iter().map(one)).collect();
    (!peers.is_empty()).then(|| answerers(peers, &dns.ports))
}

fn answerers(peers: Vec<NetworkPolicyPeer>, ports: &[u16]) -> NetworkPolicyEgressRule {
    let ports = ports.iter().flat_map(|number| ["UDP", "TCP"].map(|protocol| port(protocol, (*number).into())));
    NetworkPolicyEgressRule { to: Some(peers), ports: Some(ports.collect()) }
}

fn one(address: &IpAddr) -> NetworkPolicyPeer {
    all_of(&IpNet::from(*address).to_string(), &[])
}

fn all_of(cidr: &str, except: &[IpNet]) -> NetworkPolicyPeer {
    let except = except.iter().map(ToString::to_string).collect::<Vec<_>>();
    let block = IPBlock { cidr: cidr.to_owned(), except: Some(except).filter(|it| !it.is_empty()) };
    NetworkPolicyPeer { ip_block: Some(block), ..Default::default() }
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), port: Some(IntOrString::Int(number)), end_port: None }
}

fn select(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..Default::default() }
}

fn parsed<T: std::str::FromStr>(text: &str, field: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("egress.{field}: {text:?} is not an address or a network such as 203.0.113.0/24"))
}

#[cfg(test)]
mod tests;
