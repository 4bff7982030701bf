//! Identifies clients for limits, by the network that they connect from.

use std::net::{IpAddr, Ipv6Addr};

/// Prefix length of the smallest IPv6 network that a provider assigns to one customer, which can connect from every
/// address in it (RFC 6177).
const NETWORK_BITS: u32 = 64;

/// The network that a client connects from: an IPv4 address, or the first 64 bits of an IPv6 address. Behind a proxy,
/// it is the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientNetwork(IpAddr);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & (u128::MAX << (u128::BITS - NETWORK_BITS));
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> ClientNetwork {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_ipv4_address_is_a_client_and_so_is_an_ipv6_network_of_64_bits() {
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::7"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }
}
