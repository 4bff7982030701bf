//! `GET /metrics`: what plugins did and what it cost, for Prometheus.
//!
//! Nothing is counted here: each scrape reads the sandbox's own counters, so metrics add no cost to plugin calls.

use std::sync::Arc;

use std::collections::HashSet;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::budget::BodyBudget;
use super::concurrency::Streams;
use super::error::{ApiError, ErrorBody};
use super::extract::header_key_or_bearer;
use super::responses::ReadErrors;
use crate::access::Access;
use crate::ids::{PluginName, TenantId};
use crate::plugins::Plugins;
use crate::sandbox::StatsSnapshot;

/// Maximum number of plugins that have series of their own: each has up to 21, and a Prometheus server keeps every
/// series in memory.
const PLUGINS_MAX: usize = 1_000;

/// The content type of a response in OpenMetrics, which Prometheus reads.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The content type of a response in Prometheus text, for clients that accept only this older format.
const PROMETHEUS_TEXT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The services that the metrics are read from.
#[derive(Debug)]
pub(super) struct MetricsState {
    pub(super) access: Access,
    pub(super) plugins: Plugins,
    pub(super) streams: Streams,
    pub(super) bodies: BodyBudget,
}

/// Read the gateway's metrics.
///
/// They cover plugin calls by outcome, what these calls cost, and which plugins are quarantined, all since the
/// gateway started. The key may be sent as a bearer token (`authorization: Bearer …`) instead of in `x-api-key`.
#[utoipa::path(get, path = "/metrics",
    operation_id = "read_metrics", tag = "gateway",
    responses((status = 200, description = "The metrics, in the format that `accept` asks for.",
               content((String = "application/openmetrics-text"), (String = "text/plain"))),
              ReadErrors,
              (status = 500, body = ErrorBody, description = "The metrics could not be encoded.")),
    security(("operator_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<MetricsState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let key = header_key_or_bearer(&headers)?;
    state.access.operator(key.as_deref()).await?;
    let (plugins, omitted) = state.plugins.stats(PLUGINS_MAX);
    let loaded = usize::try_from(state.plugins.loaded_count().await).unwrap_or(usize::MAX);
    let (streams, body_bytes) = (state.streams.held(), state.bodies.held());
    let snapshot = MetricsSnapshot { plugins, omitted, streams, body_bytes, loaded };
    let mut registry = Registry::with_prefix("wardgate");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        return Err(ApiError::host("the gateway failed to write its metrics"));
    }
    let (declared, text) = match wants_prometheus_text(&headers) {
        true => (PROMETHEUS_TEXT, as_prometheus_text(&text)),
        false => (OPEN_METRICS, text),
    };
    Ok((StatusCode::OK, [(CONTENT_TYPE, declared)], text).into_response())
}

/// Whether the client accepts Prometheus text and not OpenMetrics.
fn wants_prometheus_text(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accepted: Vec<_> = accepted
        .flat_map(|value| value.split(','))
        .filter_map(|range| {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let name = parts.next()?;
            // A weight of 0 means "not acceptable" (RFC 9110 section 12.4.2).
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            (weight != Some(0.0)).then_some(name)
        })
        .collect();
    let names = |range: &str| accepted.iter().any(|accepted| accepted == range);
    names("text/plain") && !names("application/openmetrics-text")
}

/// Converts OpenMetrics to Prometheus text 0.0.4, which describes a counter under the name of its samples (`_total`)
/// and has neither units nor an end marker.
fn as_prometheus_text(open_metrics: &str) -> String {
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                text.push_str(&format!("# {kind} {name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// A snapshot of all metrics.
#[derive(Debug)]
struct MetricsSnapshot {
    plugins: Vec<(TenantId, PluginName, StatsSnapshot)>,
    omitted: usize,
    streams: usize,
    body_bytes: usize,
    loaded: usize,
}

/// A metric that each plugin has.
struct PluginMetric {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    value: fn(&StatsSnapshot) -> f64,
}

const PLUGIN_METRICS: [PluginMetric; 6] = [
    PluginMetric {
        name: "plugin_cpu",
        help: "Time that calls of a plugin computed",
        unit: Some(Unit::Seconds),
        kind: MetricType::Counter,
        value: |stats| stats.cpu_micros as f64 / 1e6,
    },
    PluginMetric {
        name: "plugin_wall",
        help: "Time that calls of a plugin took, waiting included",
        unit: Some(Unit::Seconds),
        kind: MetricType::Counter,
        value: |stats| stats.micros as f64 / 1e6,
    },
    PluginMetric {
        name: "plugin_memory_peak",
        help: "The largest memory of a call of a plugin",
        unit: Some(Unit::Bytes),
        kind: MetricType::Gauge,
        value: |stats| stats.memory_bytes_peak as f64,
    },
    PluginMetric {
        name: "plugin_calls_in_flight",
        help: "Calls of a plugin under way",
        unit: None,
        kind: MetricType::Gauge,
        value: |stats| stats.in_flight as f64,
    },
    PluginMetric {
        name: "plugin_egress_counted",
        help: "Outgoing requests that no rule allows, sent because the grants only count them",
        unit: None,
        kind: MetricType::Counter,
        value: |stats| stats.egress_counted as f64,
    },
    PluginMetric {
        name: "plugin_quarantined",
        help: "Whether a plugin is cut off because it kept failing",
        unit: None,
        kind: MetricType::Gauge,
        value: |stats| f64::from(u8::from(stats.quarantine.is_some())),
    },
];

impl Collector for MetricsSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = ("build", "What runs", None, MetricType::Gauge);
        let mut builds = encoder.encode_descriptor(build.0, build.1, build.2, build.3)?;
        builds.encode_family(&version)?.encode_gauge(&1_u32)?;
        for (name, help, value) in [
            ("event_streams_open", "Callers who follow a task", self.streams),
            (
                "body_bytes_held",
                "Bytes that request bodies hold, small ones left out",
                self.body_bytes,
            ),
            ("components_loaded", "Components that are loaded", self.loaded),
            ("plugins_reported", "Plugins that have series of their own", self.plugins.len()),
            ("plugins_left_out", "Plugins that have none, being too many", self.omitted),
        ] {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&value)?;
        }
        self.encode_calls(&mut encoder)?;
        for metric in &PLUGIN_METRICS {
            let PluginMetric { name, help, unit, kind, value } = metric;
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), *kind)?;
            for (tenant, plugin, stats) in &self.plugins {
                let labels = [("tenant", tenant.to_string()), ("plugin", plugin.to_string())];
                encode_value(family.encode_family(&labels)?, *kind, value(stats))?;
            }
        }
        Ok(())
    }
}

impl MetricsSnapshot {
    fn encode_calls(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Calls of a plugin that have ended, or were refused";
        let mut calls =
            encoder.encode_descriptor("plugin_calls", help, None, MetricType::Counter)?;
        for (tenant, plugin, stats) in &self.plugins {
            let ended = [("answered", stats.answered), ("failed", stats.failed)];
            // A refusal that the plugin never had gets no series.
            let refused = stats.refused.iter().copied().filter(|(_, count)| *count > 0);
            for (outcome, count) in ended.into_iter().chain(refused) {
                let labels = [
                    ("tenant", tenant.to_string()),
                    ("plugin", plugin.to_string()),
                    ("outcome", outcome.to_owned()),
                ];
                calls.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }
}

fn encode_value(
    mut encoder: MetricEncoder<'_>,
    kind: MetricType,
    value: f64,
) -> Result<(), std::fmt::Error> {
    match kind {
        MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}
