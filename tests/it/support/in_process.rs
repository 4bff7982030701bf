//! The bundled mapper and getter, called in this process: for tests that look at more values than there
//! is time for requests.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method};
use serde_json::{Map, Value, json};
use wardgate::ids::{AgentId, RequestId, TenantId};
use wardgate::plugins::Plugins;
use wardgate::request::{IncomingRequest, Payload};
use wardgate::sandbox::{Binding, Mapped, Subject};

use super::Gateway;

/// What a mapping can set: so many values can be asked for in one call.
pub(crate) const MAPPABLE: [&str; 6] =
    ["task_id", "user_id", "user_email", "user_first_name", "user_last_name", "prompt"];

/// The two plugins of a gateway's first tenant. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(crate) struct InProcess {
    tenant: TenantId,
    agent: AgentId,
    mapper: Arc<Binding>,
    getter: Arc<Binding>,
}

impl InProcess {
    /// They are granted all the time in the world: a machine that stalls is none of their fault.
    pub(crate) async fn of(gateway: &Gateway) -> Self {
        for plugin in ["dot-mapper", "dot-getter"] {
            gateway.grant(plugin, "[limits]\ncpu_ms = 60000\nwall_ms = 60000\n");
        }
        let plugins: &Plugins = &gateway.services.plugins;
        let bind = async |name: &str| {
            plugins.binding(gateway.tenant, &name.parse().unwrap()).await.unwrap()
        };
        Self {
            tenant: gateway.tenant,
            agent: gateway.agent.parse().unwrap(),
            mapper: bind("dot-mapper").await,
            getter: bind("dot-getter").await,
        }
    }

    /// What `params_mapping` finds at each of these paths in a payload, in their order.
    pub(crate) async fn mapped(&self, payload: &str, paths: &[String]) -> Vec<Option<String>> {
        let request = Arc::new(incoming(payload));
        let mut found = Vec::with_capacity(paths.len());
        for paths in paths.chunks(MAPPABLE.len()) {
            let pairs = MAPPABLE.into_iter().zip(paths);
            let spec: Map<String, Value> =
                pairs.map(|(target, path)| (target.to_owned(), json!(path))).collect();
            let subject = Subject { request: Some(Arc::clone(&request)), ..self.subject() };
            let called =
                self.mapper.map_payload(subject, Some(Value::from(spec).to_string())).await;
            let Mapped::Run { mut params, context: None, .. } = called.value.unwrap() else {
                panic!("the bundled mapper maps, and does nothing else");
            };
            for target in &MAPPABLE[..paths.len()] {
                let place = params.iter().position(|(name, _)| name == target);
                found.push(place.map(|place| params.swap_remove(place).1));
            }
            assert!(params.is_empty(), "nobody asked for {params:?}");
        }
        found
    }

    /// The task whose result is this text, ready to be looked into.
    pub(crate) fn task(result: &str) -> Arc<Payload> {
        Self::task_of(&Value::from(result).to_string())
    }

    /// The task whose result is written like this, as `json=true` has it.
    pub(crate) fn task_of(result_json: &str) -> Arc<Payload> {
        let task = format!("{{\"id\":\"t\",\"status\":\"completed\",\"result\":{result_json}}}");
        Arc::new(Payload::parse(task.into()).unwrap())
    }

    /// What `getter` finds at a path in a task, as JSON text.
    pub(crate) async fn got(&self, task: &Arc<Payload>, path: String) -> Option<String> {
        let subject = Subject { task: Some(Arc::clone(task)), ..self.subject() };
        self.getter.get_value(subject, path).await.value.unwrap()
    }

    fn subject(&self) -> Subject {
        Subject::of(self.tenant, self.agent, RequestId::next())
    }
}

fn incoming(payload: &str) -> IncomingRequest {
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
