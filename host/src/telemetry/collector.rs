//! The client of the collector: no redirects, which would take the trace and the headers elsewhere, no proxy of the
//! environment, and the headers of the settings.

use std::pin::Pin;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use secrecy::ExposeSecret as _;

use super::{EXPORT_TIME_MAX, TelemetryError};
use crate::settings::TelemetrySettings;

/// Sends requests to the collector. It blocks, as the thread that exports has no runtime.
#[derive(Debug)]
pub(super) struct Collector {
    client: reqwest::blocking::Client,
    headers: HeaderMap,
}

impl Collector {
    /// # Errors
    /// If the client cannot be made, or a header cannot be sent.
    pub(super) fn new(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        let failed = |error: &dyn std::error::Error| TelemetryError(error.to_string());
        // A blocking client has a runtime of its own, which must be made outside of ours.
        let client = std::thread::spawn(|| {
            crate::tls::blocking_http_client()
                .timeout(EXPORT_TIME_MAX)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .build()
        });
        let client = client
            .join()
            .map_err(|_| TelemetryError("no HTTP client could be made".to_owned()))?
            .map_err(|error| failed(&error))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.otlp_headers {
            let name = HeaderName::try_from(name).map_err(|error| failed(&error))?;
            let mut value =
                HeaderValue::try_from(value.expose_secret()).map_err(|error| failed(&error))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(Self { client, headers })
    }
}

impl HttpClient for Collector {
    fn send_bytes<'c, 'f>(
        &'c self,
        mut request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'c: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            // Over what the library takes from the environment.
            request.headers_mut().extend(self.headers.clone());
            let response = self.client.send_bytes(request).await?;
            let content_type = response.headers().get(CONTENT_TYPE);
            let is_collector = content_type
                .is_some_and(|value| value.as_bytes().starts_with(b"application/x-protobuf"));
            if response.status().is_success() && !is_collector && !response.body().is_empty() {
                return Err("telemetry.otlp_endpoint is not that of a collector: it answers with something else".into());
            }
            Ok(response)
        })
    }
}
