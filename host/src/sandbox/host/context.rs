//! `wardgate:plugin/context`: the tenant, the request and the attributes of a call, and its deadline.

use std::time::Instant;

use crate::sandbox::bindings::v0_1::wardgate::plugin::context;
use crate::sandbox::call::state::CallState;

impl context::Host for CallState {
    fn request_id(&mut self) -> wasmtime::Result<String> {
        Ok(self.subject.request_id.to_string())
    }

    fn tenant(&mut self) -> wasmtime::Result<String> {
        Ok(self.subject.tenant.to_string())
    }

    fn deadline_ms(&mut self) -> wasmtime::Result<u64> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    fn attribute(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        let quoted = |text: String| serde_json::Value::from(text).to_string();
        Ok(match name.as_str() {
            "agent-id" => self.subject.agent.map(|agent| quoted(agent.to_string())),
            "plugin-name" => Some(quoted(self.binding.name.to_string())),
            "idempotency-key" => {
                self.subject.idempotency_key.as_deref().map(|key| quoted(key.to_owned()))
            }
            "principal" => self.subject.principal.as_deref().map(str::to_owned),
            name => self.subject.channel.as_ref().and_then(|channel| match name {
                "channel-id" => Some(quoted(channel.id.to_string())),
                "channel-name" => Some(quoted(channel.name.to_string())),
                "channel-url" => Some(quoted(channel.url.clone())),
                _ => None,
            }),
        })
    }
}
