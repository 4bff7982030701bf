//! Vets the destination of a request: the name is resolved once, and every address must be public or in a network
//! that the operator's rule allows.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use ipnet::IpNet;
use url::{Host, Url};

use super::rule::EgressRule;
use super::{OutboundError, failure};

/// All networks that are not the public internet (IANA special-purpose registries), and the ranges that embed an IPv4
/// address in an IPv6 one.
static NOT_PUBLIC: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    [
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
        "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10",
        "fec0::/10", "ff00::/8",
    ]
    .iter()
    .filter_map(|network| network.parse().ok())
    .collect()
});

/// Resolves the host once and vets every address. One forbidden address rejects the whole name, because we cannot
/// predict which address a connection would use.
pub(super) async fn resolve(
    url: &Url,
    rule: Option<&EgressRule>,
) -> Result<Vec<SocketAddr>, OutboundError> {
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses: Vec<SocketAddr> = match url.host() {
        Some(Host::Ipv4(address)) => vec![(address, port).into()],
        Some(Host::Ipv6(address)) => vec![(address, port).into()],
        Some(Host::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|_| failure("upstream", &format!("the name {name} does not resolve")))?
            .collect(),
        None => Vec::new(),
    };
    if addresses.is_empty() {
        return Err(failure("upstream", "the host has no address"));
    }
    match addresses.iter().find(|address| !is_allowed(address.ip(), rule)) {
        Some(refused) => {
            let message = format!(
                "{} is at {}, which is not a public address; the grant would have to name its \
                 network (networks = [\"{}\"])",
                url.host_str().unwrap_or_default(),
                refused.ip(),
                IpNet::from(refused.ip().to_canonical()),
            );
            Err(failure("forbidden", &message))
        }
        None => Ok(addresses),
    }
}

fn is_allowed(address: IpAddr, rule: Option<&EgressRule>) -> bool {
    // `::ffff:127.0.0.1` connects to 127.0.0.1, so it is vetted as that address.
    let address = address.to_canonical();
    is_public(address) || rule.is_some_and(|rule| rule.networks_contain(address))
}

/// Whether an address belongs to the public internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    !NOT_PUBLIC.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_network_is_read() {
        assert_eq!(NOT_PUBLIC.len(), 29);
    }

    #[test]
    fn only_the_public_internet_is_public() {
        for address in ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "172.32.0.1", "100.128.0.1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254",
            "172.16.0.1", "172.31.255.255", "192.168.1.1", "198.18.0.1", "224.0.0.1",
            "255.255.255.255", "::", "::1", "::7f00:1", "64:ff9b::7f00:1", "fe80::1", "fc00::1",
            "fd00:ec2::254", "2002:7f00:1::", "ff02::1", "fec0::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert!(!is_public(mapped) && !is_public(mapped.to_canonical()));
    }
}
