//! TLS of outbound connections: one cryptography provider, and the HTTP clients that use it.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;

/// The provider of this process: ring, unless a program that embeds this library has installed another one.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have installed one in the meantime.
        let _ = default_provider().install_default();
    }
    CryptoProvider::get_default().map_or_else(|| Arc::new(default_provider()), Arc::clone)
}

/// The builder of every HTTP client. A client that is built without it panics, because there is no provider.
#[expect(clippy::disallowed_methods, reason = "the one place, where there is a provider")]
pub fn http_client() -> reqwest::ClientBuilder {
    let _ = provider();
    reqwest::Client::builder()
}

/// The builder of HTTP clients that block their thread.
pub(crate) fn blocking_http_client() -> reqwest::blocking::ClientBuilder {
    let _ = provider();
    reqwest::blocking::Client::builder()
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
