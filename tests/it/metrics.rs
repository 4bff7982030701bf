//! Metrics in the Prometheus format show the calls and costs of each tenant's plugins, to operators only.

use std::collections::BTreeMap;

use serde_json::json;
use wardgate::tenants::KeyHolder;

use crate::support::{Gateway, Setup};

/// The metrics of a plugin of the first tenant, by name and remaining labels.
async fn series(gateway: &Gateway, plugin: &str) -> BTreeMap<String, f64> {
    let text = gateway.get("/metrics").key(&gateway.operator_key()).expect(200).await.text;
    let labels = format!("{{tenant=\"{}\",plugin=\"{plugin}\"", gateway.tenant);
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(&labels)?;
        let (more, value) = rest.split_once("} ")?;
        Some((format!("{name}{more}"), value.parse().unwrap()))
    });
    lines.collect()
}

#[tokio::test]
async fn calls_time_and_memory_of_a_plugin_are_told() {
    let gateway = Gateway::start().await;
    assert_eq!(series(&gateway, "calculator").await, BTreeMap::new(), "nobody has called it");
    for expression in ["6*7", "1+1", "not a sum"] {
        gateway
            .ask(json!({"prompt": format!("calculate {{\"expression\":\"{expression}\"}}")}))
            .await;
    }
    let result = series(&gateway, "calculator").await;
    // Each run asks the plugin for its tools first.
    assert_eq!(result["wardgate_plugin_calls_total,outcome=\"answered\""], 5.0);
    assert_eq!(result["wardgate_plugin_calls_total,outcome=\"failed\""], 1.0);
    assert!(!result.keys().any(|name| name.contains("trapped")), "{result:?}");
    let (computed, took) =
        (result["wardgate_plugin_cpu_seconds_total"], result["wardgate_plugin_wall_seconds_total"]);
    assert!(0.0 < computed && computed <= took && took < 60.0, "{result:?}");
    let memory = result["wardgate_plugin_memory_peak_bytes"];
    assert!((65_536.0..16_777_216.0).contains(&memory), "{result:?}");
    for zero in ["calls_in_flight", "egress_counted_total", "quarantined"] {
        assert_eq!(result[&format!("wardgate_plugin_{zero}")], 0.0, "{zero}");
    }
}

#[tokio::test]
async fn a_plugin_that_is_cut_off_shows_as_such() {
    let change =
        |settings: &mut wardgate::settings::Settings| settings.sandbox.quarantine_after = 2;
    let gateway = Setup::new().settings(change).start().await;
    let agent = gateway.agent_with_mapper("panics", "").await;
    for status in [502, 502, 503] {
        agent.trigger().json(&json!({})).expect(status).await;
    }
    let result = series(&gateway, "panics").await;
    assert_eq!(result["wardgate_plugin_quarantined"], 1.0);
    assert_eq!(result["wardgate_plugin_calls_total,outcome=\"trapped\""], 2.0);
    assert_eq!(result["wardgate_plugin_calls_total,outcome=\"quarantined\""], 1.0);
}

#[tokio::test]
async fn they_are_for_operators_and_in_the_form_that_prometheus_reads() {
    let gateway = Gateway::start().await;
    gateway.get("/metrics").expect(401).await;
    for holder in [KeyHolder::Admin(gateway.tenant), KeyHolder::Tenant(gateway.tenant)] {
        gateway.get("/metrics").key(&gateway.new_key(holder).await).expect(403).await;
    }
    // Prometheus sends its credentials as a bearer token.
    let bearer = format!("Bearer {}", gateway.operator_key());
    let answer = gateway.get("/metrics").header("authorization", &bearer).expect(200).await;
    let declared = answer.header("content-type").unwrap();
    assert_eq!(declared, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.text.ends_with("# EOF\n"), "{}", answer.text);
    let version = format!("wardgate_build{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"));
    assert!(answer.text.contains(&version), "{}", answer.text);
    assert!(answer.text.contains("wardgate_plugins_left_out 0\n"), "{}", answer.text);
}

#[tokio::test]
async fn the_figures_come_in_the_format_that_is_accepted() {
    let gateway = Gateway::start().await;
    gateway.ask(json!({"prompt": "calculate {\"expression\":\"6*7\"}"})).await;
    for (accept, is_open) in [
        ("*/*", true),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", true),
        ("text/plain;version=0.0.4", false),
        ("text/plain", false),
        ("application/openmetrics-text;version=1.0.0;q=0, text/plain", false),
    ] {
        let call = gateway.get("/metrics").key(&gateway.operator_key()).header("accept", accept);
        let answer = call.expect(200).await;
        let declared = answer.header("content-type").unwrap();
        let expected = if is_open { "application/openmetrics-text" } else { "text/plain" };
        assert!(declared.starts_with(expected), "{accept}: {declared}");
        assert_eq!(answer.text.ends_with("# EOF\n"), is_open, "{accept}");
        let described = answer.text.contains("# TYPE wardgate_plugin_calls_total counter");
        assert_eq!(described, !is_open, "{accept}: {}", answer.text);
        assert!(answer.text.contains("wardgate_plugin_calls_total{"), "{accept}");
    }
}
