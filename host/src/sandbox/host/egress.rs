//! `wardgate:plugin/egress`: outgoing HTTP requests of plugins.

use std::time::Duration;

use super::failure;
use crate::outbound::{OutboundError, OutboundRequest, headers};
use crate::sandbox::bindings::v0_1::wardgate::plugin::egress::{self, Answer, Outgoing};
use crate::sandbox::bindings::v0_1::wardgate::plugin::types::Failure;
use crate::sandbox::call::state::CallState;

impl egress::Host for CallState {
    async fn send(
        &mut self,
        outgoing: Outgoing,
        credential: Option<String>,
    ) -> Result<Answer, Failure> {
        self.http_hooks.budget.take_one()?;
        let context = self.egress_context();
        let body = outgoing.body.as_ref().map_or(0, Vec::len);
        context.reserve_memory(outgoing.url.len() + headers::bytes(&outgoing.headers) + body)?;
        let Outgoing { method, url, headers, body, timeout_ms, extra: _ } = outgoing;
        let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.into()));
        let request = OutboundRequest { method, url, headers, body, timeout };
        let sent = context.send(request, credential).await;
        for refusal in sent.counted {
            self.log_host_line(format!("Count egress: {refusal}"));
        }
        let response = sent.answer?;
        Ok(Answer {
            status: response.status,
            headers: response.headers,
            body: response.body,
            truncated: response.truncated,
            extra: None,
        })
    }
}

impl From<OutboundError> for Failure {
    fn from(error: OutboundError) -> Self {
        failure(&error.code, &error.message)
    }
}
