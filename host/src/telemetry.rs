//! Exports finished runs as traces of OpenTelemetry (OTLP over HTTP), by its conventions for generative AI. The spans are
//! made from the recorded steps, which are redacted already, so that a trace there shows what the thread shows here.
//!
//! The id of a trace is that of its task. Nothing waits for the export: what the collector does not take in time is
//! dropped, and the log says so.

mod collector;
mod spans;

use std::sync::Arc;
use std::time::Duration;

use collector::Collector;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor as _};

use crate::settings::TelemetrySettings;
use crate::tasks::{EndStatus, Task};
use crate::tenants::Agent;
use crate::trace::Step;

/// How long spans wait for others to be sent together.
const DELAY: Duration = Duration::from_secs(1);

/// The most spans that wait. More are dropped.
const SPANS_MAX: usize = 2048;

/// The most spans of one request.
const SPANS_AT_ONCE_MAX: usize = 256;

/// How long the collector may take for one request.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the end of the process waits for the last spans.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(5);

/// A run that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedRun<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its agent. None if it does not exist any more.
    pub agent: Option<&'a Agent>,
    /// How it ended.
    pub status: EndStatus,
    /// The result, redacted.
    pub result: &'a str,
    /// Its steps, redacted.
    pub steps: &'a [Step],
}

/// The export of runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Option<Arc<Export>>);

#[derive(Debug)]
struct Export {
    processor: BatchSpanProcessor,
    /// Whether spans have prompts, answers, arguments and results.
    has_content: bool,
}

/// Why runs cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("runs cannot be exported to telemetry.otlp_endpoint: {0}")]
pub struct TelemetryError(String);

impl Telemetry {
    /// Starts the export, if the settings have a collector.
    ///
    /// # Errors
    /// If the settings cannot be used.
    pub fn start(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        if settings.otlp_endpoint.is_empty() {
            return Ok(Self(None));
        }
        let endpoint = format!("{}/v1/traces", settings.otlp_endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(settings)?)
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIME_MAX)
            .build()
            .map_err(|error| TelemetryError(error.to_string()))?;
        let config = BatchConfigBuilder::default()
            .with_scheduled_delay(DELAY)
            .with_max_queue_size(SPANS_MAX)
            .with_max_export_batch_size(SPANS_AT_ONCE_MAX)
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let resource = Resource::builder_empty()
            .with_service_name("wardgate")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        processor.set_resource(&resource);
        Ok(Self(Some(Arc::new(Export { processor, has_content: settings.content }))))
    }

    /// Whether runs are exported.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Exports a run.
    pub fn record(&self, run: EndedRun<'_>) {
        let Some(export) = &self.0 else { return };
        for span in spans::of(run, export.has_content) {
            export.processor.on_end(span);
        }
    }

    /// Sends what still waits, and stops.
    pub async fn stop(self) {
        let Some(export) = self.0 else { return };
        // The library blocks.
        let stopped = tokio::task::spawn_blocking(move || {
            export.processor.shutdown_with_timeout(SHUTDOWN_TIME_MAX)
        });
        if let Ok(Err(error)) = stopped.await {
            tracing::warn!(%error, "the last runs may not have been exported");
        }
    }
}
