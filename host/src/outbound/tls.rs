//! TLS of outgoing requests: one configuration for all of them, made when the sandbox starts. To make one reads the
//! machine's certificates, which takes milliseconds.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_platform_verifier::Verifier;

use crate::tls;

/// What every outgoing connection has in common. None on a machine without certificates: nothing is sent then.
#[derive(Debug, Clone)]
pub(crate) struct Tls(Option<ClientConfig>);

impl Tls {
    pub(crate) fn of_this_machine() -> Self {
        let made = make();
        if let Err(error) = &made {
            tracing::error!(%error, "plugins cannot send anything: no certificates can be checked on this machine");
        }
        Self(made.ok())
    }

    /// Cloning it clones handles to what it holds.
    pub(super) fn config(&self) -> Option<ClientConfig> {
        self.0.clone()
    }
}

fn make() -> Result<ClientConfig, rustls::Error> {
    let provider = tls::provider();
    let verifier = Verifier::new(Arc::clone(&provider))?;
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    // "Dangerous" is a verifier of one's own; this one is the platform's, as reqwest would make it.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}
