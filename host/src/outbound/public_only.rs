//! Name resolution for HTTP clients whose address a tenant has chosen: public addresses only.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::vetting::is_public;

/// Resolves names to public addresses, and fails if a name has any other. It is asked for every new connection, so a
/// name that points elsewhere later is refused then. Addresses in URLs are not resolved: see [`is_public_host`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublicOnly;

/// A name that does not lead to the public internet.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("its name leads to an address that is not public")]
pub(crate) struct NotPublic;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if addresses.iter().any(|address| !is_public(address.ip().to_canonical())) {
                return Err(NotPublic.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Whether a URL's host is a name, which is vetted when it is resolved, or a public address.
pub(crate) fn is_public_host(url: &Url) -> bool {
    let is_public = |address: IpAddr| is_public(address.to_canonical());
    match url.host() {
        Some(Host::Domain(_)) => true,
        Some(Host::Ipv4(address)) => is_public(address.into()),
        Some(Host::Ipv6(address)) => is_public(address.into()),
        None => false,
    }
}

/// The time limit for establishing a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// The builder of a client for servers that an operator or a tenant has set: it follows no redirect, which could lead a
/// credential elsewhere.
pub(crate) fn server_client() -> reqwest::ClientBuilder {
    crate::tls::http_client()
        .connect_timeout(CONNECT_TIME_MAX)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("wardgate/", env!("CARGO_PKG_VERSION")))
}

/// The same for servers that a tenant's admin has set: HTTPS, and public addresses only. Check the URL with
/// [`is_public_host`] as well.
pub(crate) fn admins_server_client() -> reqwest::ClientBuilder {
    server_client().https_only(true).no_proxy().dns_resolver(Arc::new(PublicOnly))
}

/// Checks the address of a server that a tenant's admin sets. `field` is its name in the definition.
///
/// # Errors
/// Why only an operator may set it, in one sentence.
pub(crate) fn check_admins_address(field: &str, url: &Url) -> Result<(), String> {
    let why = match url.scheme() {
        "https" if is_public_host(url) => return Ok(()),
        "https" => "public",
        _ => "HTTPS",
    };
    Err(format!("{field} is not {why}; only an operator can set such an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_urls_are_vetted_in_every_notation() {
        for url in ["https://api.example.com/v1", "https://1.1.1.1/", "https://[2606:4700::1111]/"]
        {
            assert!(is_public_host(&url.parse().unwrap()), "{url}");
        }
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
        ] {
            assert!(!is_public_host(&url.parse().unwrap()), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused() {
        let resolved = PublicOnly.resolve("localhost".parse().unwrap()).await;
        assert!(resolved.err().unwrap().is::<NotPublic>());
    }
}
