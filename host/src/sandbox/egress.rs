//! The outgoing requests of a call, through either interface: counted, answered by the network or a script, and
//! recorded.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Binding;
use super::quota::MemoryReservation;
use super::recording::{Exchange, HostResponse, HostSource, NotReceived, Received, Sent, lock};
use crate::outbound::{
    Bounds, OutboundError, OutboundRequest, OutboundResponse, SendOutcome, read_max, send,
};

/// What a plugin's request needs of its call. Separate from the call's state, since a request through `wasi:http`
/// runs concurrently with the plugin.
pub(in crate::sandbox) struct EgressContext {
    pub(in crate::sandbox) binding: Arc<Binding>,
    outside: HostSource,
    pub(in crate::sandbox) deadline: Instant,
    grants_hint: String,
    /// The memory that the host holds for the call's requests and their responses.
    held: Mutex<MemoryReservation>,
}

impl EgressContext {
    /// The context for the requests of one call of this binding.
    pub(in crate::sandbox) fn new(
        binding: Arc<Binding>,
        outside: HostSource,
        deadline: Instant,
        grants_hint: String,
    ) -> Self {
        let held = Mutex::new(MemoryReservation::of(&binding.share));
        Self { binding, outside, deadline, grants_hint, held }
    }

    /// Charges memory that the host holds for the plugin until the context is dropped.
    pub(in crate::sandbox) fn hold(&self, bytes: usize) -> Result<(), OutboundError> {
        let taken = lock(&self.held).take(bytes);
        taken.map_err(|shortage| failure("rate-limited", &format!("not sent: {shortage}")))
    }

    /// Sends a request, or takes its response from the script, and records the response. The request itself must
    /// already be charged.
    pub(in crate::sandbox) async fn send(
        &self,
        outgoing: OutboundRequest,
        credential: Option<String>,
    ) -> SendOutcome {
        let (method, url) = (outgoing.method.clone(), outgoing.url.clone());
        let went = match &self.outside {
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
                let looked_through = credential.is_some();
                match self.hold(read_max(bounds.body_bytes_max, looked_through)) {
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
        for _ in &went.counted {
            self.binding.account.count_egress();
        }
        self.outside.record(|| {
            let outcome = went.answer.as_ref().map(Received::from).map_err(NotReceived::from);
            HostResponse::Egress(Exchange { method, url, credential, outcome })
        });
        went
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

impl From<&OutboundError> for NotReceived {
    fn from(error: &OutboundError) -> Self {
        Self { code: error.code.clone(), message: error.message.clone() }
    }
}

impl From<NotReceived> for OutboundError {
    fn from(missing: NotReceived) -> Self {
        failure(&missing.code, &missing.message)
    }
}
