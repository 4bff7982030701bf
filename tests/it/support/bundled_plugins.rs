//! The bundled mapper and getter, called in this process: for tests that check more values than they could with
//! requests.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method};
use serde_json::{Map, Value, json};
use wardgate::ids::{AgentId, RequestId, TenantId};
use wardgate::plugins::Plugins;
use wardgate::request::{IncomingRequest, Payload};
use wardgate::sandbox::{Binding, Mapped, Subject};

use super::Gateway;

/// The targets of a mapping, and so the number of values that one call can look up.
pub(crate) const MAPPING_TARGETS: [&str; 6] =
    ["task_id", "user_id", "user_email", "user_first_name", "user_last_name", "prompt"];

/// The two plugins of a gateway's first tenant. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct BundledPlugins {
    tenant: TenantId,
    agent: AgentId,
    mapper: Arc<Binding>,
    getter: Arc<Binding>,
}

impl BundledPlugins {
    /// Binds the plugins with a minute of CPU and wall time for each, so that a stalled machine does not fail a test.
    pub(crate) async fn bind(gateway: &Gateway) -> Self {
        for plugin in ["dot-mapper", "dot-getter"] {
            gateway.write_grants(plugin, "[limits]\ncpu_ms = 60000\nwall_ms = 60000\n");
        }
        let plugins: &Plugins = &gateway.services.plugins;
        let binding = async |name: &str| {
            plugins.binding(gateway.tenant, &name.parse().unwrap()).await.unwrap()
        };
        Self {
            tenant: gateway.tenant,
            agent: gateway.agent.parse().unwrap(),
            mapper: binding("dot-mapper").await,
            getter: binding("dot-getter").await,
        }
    }

    /// The values that `params_mapping` finds at these paths of a payload, in the same order.
    pub(crate) async fn map_values(&self, payload: &str, paths: &[String]) -> Vec<Option<String>> {
        let request = Arc::new(incoming_request(payload));
        let mut found = Vec::with_capacity(paths.len());
        for paths in paths.chunks(MAPPING_TARGETS.len()) {
            let pairs = MAPPING_TARGETS.into_iter().zip(paths);
            let spec: Map<String, Value> =
                pairs.map(|(target, path)| (target.to_owned(), json!(path))).collect();
            let subject = Subject { request: Some(Arc::clone(&request)), ..self.subject() };
            let called =
                self.mapper.map_payload(subject, Some(Value::from(spec).to_string())).await;
            let Mapped::Run { mut params, context: None, .. } = called.value.unwrap() else {
                panic!("the bundled mapper maps, and does nothing else");
            };
            for target in &MAPPING_TARGETS[..paths.len()] {
                let position = params.iter().position(|(name, _)| name == target);
                found.push(position.map(|position| params.swap_remove(position).1));
            }
            assert!(params.is_empty(), "nobody asked for {params:?}");
        }
        found
    }

    /// A task whose result is this text, parsed for [`BundledPlugins::get_value`].
    pub(crate) fn task_with_text_result(result: &str) -> Arc<Payload> {
        Self::task_with_json_result(&Value::from(result).to_string())
    }

    /// A task whose result is this JSON, as with `json=true`.
    pub(crate) fn task_with_json_result(result_json: &str) -> Arc<Payload> {
        let task = format!("{{\"id\":\"t\",\"status\":\"completed\",\"result\":{result_json}}}");
        Arc::new(Payload::parse(task.into()).unwrap())
    }

    /// The value that `getter` finds at a path of a task, as JSON text.
    pub(crate) async fn get_value(&self, task: &Arc<Payload>, path: String) -> Option<String> {
        let subject = Subject { task: Some(Arc::clone(task)), ..self.subject() };
        self.getter.get_value(subject, path).await.value.unwrap()
    }

    fn subject(&self) -> Subject {
        Subject::new(self.tenant, self.agent, RequestId::next())
    }
}

fn incoming_request(payload: &str) -> IncomingRequest {
    let body = Bytes::copy_from_slice(payload.as_bytes());
    IncomingRequest {
        method: Method::POST,
        path: "/".to_owned(),
        query: String::new(),
        headers: HeaderMap::new(),
        payload: Payload::parse(body.clone()).unwrap(),
        body,
        unreadable: None,
    }
}
