//! The outgoing requests of a call, through either interface: counted, answered by the network or a script, and
//! recorded.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Binding;
use super::quota::MemoryReservation;
use super::recording::{Exchange, ExchangeError, HostResponse, HostSource, Received, Sent, lock};
use crate::outbound::{
    Bounds, OutboundError, OutboundRequest, OutboundResponse, SendOutcome, read_max, send,
};

/// What a plugin's request needs of its call. Separate from the call's state, since a request through `wasi:http`
/// runs concurrently with the plugin.
pub(in crate::sandbox) struct EgressContext {
    pub(in crate::sandbox) binding: Arc<Binding>,
    host_source: HostSource,
    pub(in crate::sandbox) deadline: Instant,
    grants_hint: String,
    /// The memory that the host holds for the call's requests and their responses.
    reservation: Mutex<MemoryReservation>,
}

impl EgressContext {
    /// The context for the requests of one call of this binding.
    pub(in crate::sandbox) fn new(
        binding: Arc<Binding>,
        host_source: HostSource,
        deadline: Instant,
        grants_hint: String,
    ) -> Self {
        let reservation = Mutex::new(MemoryReservation::new(&binding.quota));
        Self { binding, host_source, deadline, grants_hint, reservation }
    }

    /// Charges memory that the host holds for the plugin until the context is dropped.
    pub(in crate::sandbox) fn reserve_memory(&self, bytes: usize) -> Result<(), OutboundError> {
        let reserved = lock(&self.reservation).take(bytes);
        reserved.map_err(|shortage| failure("rate-limited", &format!("not sent: {shortage}")))
    }

    /// Sends a request, or takes its response from the script, and records the response. The request itself must
    /// already be charged.
    pub(in crate::sandbox) async fn send(
        &self,
        outgoing: OutboundRequest,
        credential: Option<String>,
    ) -> SendOutcome {
        let (method, url) = (outgoing.method.clone(), outgoing.url.clone());
        let outcome = match &self.host_source {
            HostSource::Scripted(script) => {
                let sent = Sent {
                    method: outgoing.method,
                    url: outgoing.url,
                    headers: outgoing.headers,
                    body: outgoing.body.unwrap_or_default(),
                    credential: credential.clone(),
                };
                let answer = lock(script)
                    .exchange(sent)
                    .map(OutboundResponse::from)
                    .map_err(OutboundError::from);
                SendOutcome { answer, counted: Vec::new() }
            }
            HostSource::Live(_) => {
                let bounds = Bounds {
                    deadline: self.deadline,
                    body_bytes_max: self.binding.granted.limits().egress_bytes,
                    grants_hint: self.grants_hint.clone(),
                    tls: self.binding.shared.tls.clone(),
                };
                let is_masked = credential.is_some();
                match self.reserve_memory(read_max(bounds.body_bytes_max, is_masked)) {
                    Ok(()) => {
                        send(
                            self.binding.granted.egress(),
                            outgoing,
                            credential.as_deref(),
                            &bounds,
                        )
                        .await
                    }
                    Err(failure) => SendOutcome { answer: Err(failure), counted: Vec::new() },
                }
            }
        };
        for _ in &outcome.counted {
            self.binding.stats.count_egress();
        }
        self.host_source.record(|| {
            let outcome = outcome.answer.as_ref().map(Received::from).map_err(ExchangeError::from);
            HostResponse::Egress(Exchange { method, url, credential, outcome })
        });
        outcome
    }
}

/// The number of requests that a call may still send.
#[derive(Debug)]
pub(in crate::sandbox) struct EgressBudget {
    /// Whether the role may use egress at all.
    may_send: bool,
    requests_left: u32,
}

impl EgressBudget {
    pub(in crate::sandbox) fn new(may_send: bool, requests_left: u32) -> Self {
        Self { may_send, requests_left }
    }

    pub(in crate::sandbox) fn take_one(&mut self) -> Result<(), OutboundError> {
        if !self.may_send {
            return Err(failure("forbidden", "this role of a plugin has no egress"));
        }
        self.requests_left = self.requests_left.checked_sub(1).ok_or_else(|| {
            failure("rate-limited", "the plugin has sent as many requests as one call may")
        })?;
        Ok(())
    }
}

fn failure(code: &str, message: &str) -> OutboundError {
    OutboundError { code: code.to_owned(), message: message.to_owned() }
}

impl From<&OutboundResponse> for Received {
    fn from(response: &OutboundResponse) -> Self {
        Self {
            status: response.status,
            headers: response.headers.clone(),
            body: response.body.clone(),
            truncated: response.truncated,
        }
    }
}

impl From<Received> for OutboundResponse {
    fn from(received: Received) -> Self {
        let Received { status, headers, body, truncated } = received;
        Self { status, headers, body, truncated }
    }
}

impl From<&OutboundError> for ExchangeError {
    fn from(error: &OutboundError) -> Self {
        Self { code: error.code.clone(), message: error.message.clone() }
    }
}

impl From<ExchangeError> for OutboundError {
    fn from(missing: ExchangeError) -> Self {
        failure(&missing.code, &missing.message)
    }
}
