//! What a call sends, by either door: counted, answered by the world or a script, and written down.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::super::Binding;
use super::super::bindings::v0_1::wardgate::plugin::egress::{self, Answer, Outgoing};
use super::super::bindings::v0_1::wardgate::plugin::types::Failure;
use super::super::host_calls::CallState;
use super::super::journal::{Answered, Exchange, NotReceived, Outside, Received, Sent, lock};
use super::super::share::HeldMemory;
use super::wasi_http::Door;
use super::{Bounds, Went, failure, headers, read_max, send};

/// Everything that one request of a plugin needs of its call; kept apart from the call's state, since a
/// request through `wasi:http` goes on while the plugin does.
pub(in super::super) struct Way {
    pub(super) binding: Arc<Binding>,
    outside: Outside,
    pub(super) deadline: Instant,
    grants_hint: String,
    /// What the host holds of its requests and their answers.
    held: Mutex<HeldMemory>,
}

impl Way {
    /// Charges what the host holds for the plugin meanwhile.
    pub(super) fn hold(&self, bytes: usize) -> Result<(), Failure> {
        let taken = lock(&self.held).take(bytes);
        taken.map_err(|shortage| failure("rate-limited", &format!("not sent: {shortage}")))
    }

    /// Sends a request, or takes its answer from the script, and writes the answer down. The request is charged
    /// already.
    pub(super) async fn send(&self, outgoing: Outgoing, credential: Option<String>) -> Went {
        let (method, url) = (outgoing.method.clone(), outgoing.url.clone());
        let went = match &self.outside {
            Outside::Scripted(script) => {
                let sent = Sent {
                    method: outgoing.method,
                    url: outgoing.url,
                    headers: outgoing.headers,
                    body: outgoing.body.unwrap_or_default(),
                    credential: credential.clone(),
                };
                let answer = lock(script).exchange(sent).map(Answer::from).map_err(Failure::from);
                Went { answer, counted: Vec::new() }
            }
            Outside::Live(_) => {
                let bounds = Bounds {
                    deadline: self.deadline,
                    body_bytes_max: self.binding.granted.limits().egress_bytes,
                    grants_hint: self.grants_hint.clone(),
                    tls: self.binding.shared.tls.clone(),
                };
                let looked_through = credential.is_some();
                match self.hold(read_max(bounds.body_bytes_max, looked_through)) {
                    Ok(()) => {
                        send(&self.binding.granted, outgoing, credential.as_deref(), &bounds).await
                    }
                    Err(failure) => Went { answer: Err(failure), counted: Vec::new() },
                }
            }
        };
        for _ in &went.counted {
            self.binding.account.count_egress();
        }
        self.outside.record(|| {
            let outcome = went.answer.as_ref().map(Received::from).map_err(NotReceived::from);
            Answered::Egress(Exchange { method, url, credential, outcome })
        });
        went
    }
}

/// What a call may still send.
pub(in super::super) struct Sending {
    /// Whether its role may use egress at all.
    may_send: bool,
    requests_left: u32,
    /// What `wasi:http` needs, once it is used.
    pub(super) door: Option<Door>,
}

impl Sending {
    pub(in super::super) fn new(may_send: bool, requests_left: u32) -> Self {
        Self { may_send, requests_left, door: None }
    }

    pub(super) fn take_one(&mut self) -> Result<(), Failure> {
        if !self.may_send {
            return Err(failure("forbidden", "this role of a plugin has no egress"));
        }
        self.requests_left = self.requests_left.checked_sub(1).ok_or_else(|| {
            failure("rate-limited", "the plugin has sent as many requests as one call may")
        })?;
        Ok(())
    }

    /// Lines that the host wrote while requests were under way.
    pub(in super::super) fn take_notes(&mut self) -> Vec<String> {
        self.door.take().map(Door::into_notes).unwrap_or_default()
    }
}

impl CallState {
    pub(in super::super) fn way(&mut self) -> Way {
        Way {
            outside: self.outside(),
            binding: Arc::clone(&self.binding),
            deadline: self.deadline,
            grants_hint: self.grants_hint(),
            held: Mutex::new(HeldMemory::of(&self.binding.share)),
        }
    }
}

impl egress::Host for CallState {
    async fn send(
        &mut self,
        outgoing: Outgoing,
        credential: Option<String>,
    ) -> Result<Answer, Failure> {
        self.sending.take_one()?;
        let way = self.way();
        let body = outgoing.body.as_ref().map_or(0, Vec::len);
        way.hold(outgoing.url.len() + headers::bytes(&outgoing.headers) + body)?;
        let went = way.send(outgoing, credential).await;
        for refusal in went.counted {
            self.note(format!("Count egress: {refusal}"));
        }
        went.answer
    }
}

impl From<&Answer> for Received {
    fn from(answer: &Answer) -> Self {
        Self {
            status: answer.status,
            headers: answer.headers.clone(),
            body: answer.body.clone(),
            truncated: answer.truncated,
        }
    }
}

impl From<Received> for Answer {
    fn from(received: Received) -> Self {
        let Received { status, headers, body, truncated } = received;
        Self { status, headers, body, truncated, extra: None }
    }
}

impl From<&Failure> for NotReceived {
    fn from(failure: &Failure) -> Self {
        Self { code: failure.code.clone(), message: failure.message.clone() }
    }
}

impl From<NotReceived> for Failure {
    fn from(missing: NotReceived) -> Self {
        failure(&missing.code, &missing.message)
    }
}
