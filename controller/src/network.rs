//! What sandboxes never reach, whatever their templates say: the cluster's own addresses, and all that are not public. Pure.
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::{core::v1::Node, networking::v1::ServiceCIDR};

/// Networks that are not public (RFC 6890), multicast, and addresses at which clouds serve their machines: 100.64.0.0/10, 168.63.129.16.
/// Those for documentation are not among them, so that they can stand for the internet in tests.
const NOT_PUBLIC: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// The part of IPv6 that is public.
const GLOBAL: &str = "2000::/3";

/// The cluster's own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    own: Vec<IpNet>,
}

impl Network {
    /// Of its nodes, of their pods and of its services, and `more` where the cluster does not tell.
    pub fn new<'a>(
        nodes: impl IntoIterator<Item = &'a Node>,
        services: impl IntoIterator<Item = &'a ServiceCIDR>,
        more: &[IpNet],
    ) -> Self {
        let mut own = more.to_vec();
        for node in nodes {
            let addresses = node.status.iter().flat_map(|it| it.addresses.iter().flatten());
            own.extend(addresses.filter_map(|it| it.address.parse::<IpAddr>().ok()).map(IpNet::from));
            let spec = node.spec.iter().flat_map(|it| it.pod_cidrs.iter().flatten().chain(&it.pod_cidr));
            own.extend(spec.filter_map(|it| it.parse::<IpNet>().ok()));
        }
        let ranges = services.into_iter().flat_map(|it| it.spec.iter()).flat_map(|it| it.cidrs.iter().flatten());
        own.extend(ranges.filter_map(|it| it.parse::<IpNet>().ok()));
        own.sort_unstable();
        own.dedup();
        Self { own }
    }

    /// What of 0.0.0.0/0 is not reached; none of it lies within another.
    pub fn blocked(&self, more: &[IpNet]) -> Vec<IpNet> {
        let of = |nets: &[IpNet]| -> Vec<Ipv4Net> {
            nets.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(net.trunc()) } else { None }).collect()
        };
        let mut all: Vec<_> = NOT_PUBLIC.iter().filter_map(|net| net.parse().ok()).collect();
        all.extend(of(&self.own));
        all.extend(of(more));
        Ipv4Net::aggregate(&all).into_iter().map(IpNet::V4).collect()
    }

    /// The public part of IPv6, and what of it is not reached.
    pub fn blocked_v6(&self, more: &[IpNet]) -> (&'static str, Vec<IpNet>) {
        let inside = |net: &Ipv6Net| GLOBAL.parse::<Ipv6Net>().is_ok_and(|global| global.contains(net));
        let all: Vec<_> = self
            .own
            .iter()
            .chain(more)
            .filter_map(|net| if let IpNet::V6(net) = net { Some(net.trunc()) } else { None })
            .filter(inside)
            .collect();
        (GLOBAL, Ipv6Net::aggregate(&all).into_iter().map(IpNet::V6).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn network() -> Network {
        let node = |address: &str, pods: &str| -> Node {
            let status = json!({"addresses": [{"type": "ExternalIP", "address": address}, {"type": "Hostname", "address": "node-1"}]});
            serde_json::from_value(json!({"metadata": {}, "spec": {"podCIDRs": [pods]}, "status": status})).unwrap()
        };
        let services: ServiceCIDR =
            serde_json::from_value(json!({"metadata": {}, "spec": {"cidrs": ["33.0.0.0/16", "2001:db8:1::/112"]}}))
                .unwrap();
        let nodes = [node("203.0.113.7", "10.244.0.0/24"), node("2001:db8::7", "34.0.0.0/16")];
        Network::new(&nodes, [&services], &["35.0.0.0/8".parse().unwrap()])
    }

    #[test]
    fn the_clusters_own_addresses_are_blocked_wherever_they_are() {
        let blocked = network().blocked(&["36.1.2.3/16".parse().unwrap()]);
        let is_blocked = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            blocked.iter().any(|net| net.contains(&address))
        };
        for address in [
            "10.1.2.3",
            "172.20.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "127.0.0.1",
            "203.0.113.7",
            "33.0.4.4",
            "34.0.1.1",
            "35.9.9.9",
            "36.1.200.1",
            "224.0.0.251",
        ] {
            assert!(is_blocked(address), "{address}");
        }
        for address in ["203.0.113.10", "198.51.100.1", "8.8.8.8", "168.63.129.17", "36.2.0.1"] {
            assert!(!is_blocked(address), "{address}");
        }
        let within = |one: &IpNet| blocked.iter().any(|other| other != one && other.contains(one));
        assert!(!blocked.iter().any(within), "{blocked:?}");
    }

    #[test]
    fn of_ipv6_the_public_part_is_told() {
        let more = ["fd00::/8".parse().unwrap(), "2001:db8:9::/48".parse().unwrap()];
        let (global, blocked) = network().blocked_v6(&more);
        let told: Vec<_> = blocked.iter().map(ToString::to_string).collect();
        assert_eq!(
            (global, told),
            ("2000::/3", vec!["2001:db8::7/128".into(), "2001:db8:1::/112".into(), "2001:db8:9::/48".to_owned()])
        );
    }
}
