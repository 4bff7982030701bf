//! TLS of outbound requests: one configuration for all of them, created when the sandbox starts, because creating one
//! reads the machine's certificates and takes milliseconds.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_platform_verifier::Verifier;

use crate::tls;

/// The configuration that all outbound connections share. `None` if the machine has no certificates: then nothing can
/// be sent.
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

    /// Cheap: cloning the configuration clones only handles.
    pub(super) fn config(&self) -> Option<ClientConfig> {
        self.0.clone()
    }
}

fn make() -> Result<ClientConfig, rustls::Error> {
    let provider = tls::provider();
    let verifier = Verifier::new(Arc::clone(&provider))?;
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    // "Dangerous" means a custom verifier; this is the platform's, which reqwest would use as well.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}
