//! Checks the header `Host` (RFC 9112 section 3.2): a request of HTTP/1.1 must have exactly one, and it must be
//! well-formed. If a proxy and the gateway chose differently between two of them, a request could bypass the proxy's
//! rules.

use std::net::Ipv6Addr;

use hyper::header::HOST;
use hyper::{Request, Version};

/// Checks a request's `Host`.
///
/// # Errors
/// If it is missing, repeated or malformed: the reason, for a response with 400.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => Err("the header host is missing"),
        (Some(_), Some(_)) => Err("the header host was sent more than once"),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err("the header host holds no host"),
    }
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110 section 7.2, RFC 3986 section 3.2.2). A name may be empty.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (is_host, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let end = rest.iter().position(|byte| *byte == b']').unwrap_or(rest.len());
            let (address, port) = rest.split_at(end);
            let address = std::str::from_utf8(address).unwrap_or_default();
            // Without the closing bracket it is not a host.
            let Some(port) = port.get(1..) else { return false };
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            let (name, port) = value.split_at(end);
            (is_name(name), port)
        }
    };
    is_host && (port.is_empty() || is_port(port))
}

/// Whether this is a colon and digits, possibly none.
fn is_port(port: &[u8]) -> bool {
    port.strip_prefix(b":").is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

/// Whether this is a `reg-name`. An IPv4 address is one too.
fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~', _) => after,
            (b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=', _) => {
                after
            }
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_addresses_and_ports_and_nothing_else() {
        for good in [
            "x", "example.com", "example.com:8080", "a_b.internal:", "127.0.0.1:1", "[::1]",
            "[::1]:80", "caf%C3%A9.example", "",
        ] {
            assert!(is_host(good.as_bytes()), "{good:?}");
        }
        for wrong in [
            "a b", "a/b", "user@host", "a,b\"", "a:b", "a:1:2", "[::1", "[::1]80", "[x]", "::1",
            "a%2", "a%zz", "a\u{e9}", "http://x", "a?b", "a#b", "a\\b",
        ] {
            assert!(!is_host(wrong.as_bytes()), "{wrong:?}");
        }
    }

    #[test]
    fn only_requests_of_http_1_0_may_have_none() {
        let request = |version, hosts: &[&str]| {
            let mut builder = Request::builder().version(version);
            for host in hosts {
                builder = builder.header(HOST, *host);
            }
            builder.body(()).unwrap()
        };
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        for good in [request(new, &["x"]), request(old, &["x"]), request(old, &[])] {
            assert_eq!(check(&good), Ok(()));
        }
        for wrong in [request(new, &[]), request(new, &["x", "x"]), request(old, &["x", "y"])] {
            assert!(check(&wrong).is_err());
        }
    }
}
