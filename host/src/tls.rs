//! TLS of whatever the gateway sends: one provider of cryptography, and the HTTP clients that have it.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;

/// The provider of this process: ring, unless a program that this library is a part of has installed
/// another one before.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been faster.
        let _ = default_provider().install_default();
    }
    CryptoProvider::get_default().map_or_else(|| Arc::new(default_provider()), Arc::clone)
}

/// What an HTTP client is made from. One that is made without this panics, for want of a provider.
#[expect(clippy::disallowed_methods, reason = "the one place, where there is a provider")]
pub fn http_client() -> reqwest::ClientBuilder {
    let _ = provider();
    reqwest::Client::builder()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_cryptography() {
        http_client().https_only(true).build().unwrap();
        let suites = &provider().cipher_suites;
        assert_eq!(suites.len(), default_provider().cipher_suites.len());
    }
}
