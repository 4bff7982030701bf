//! What a plugin can ask the host during a call, and the state of that call.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::Binding;
use super::bindings::v0_1::wardgate::plugin::{
    context, egress as egress_interface, request, secrets, task, types,
};
use super::bindings::v0_1::wasi::config::store as config_store;
use super::bindings::v0_1::wasi::logging::logging;
use super::egress;
use super::limits::Limiter;
use crate::call::IncomingCall;
use crate::call::payload::Payload;
use crate::ids::{AgentId, RequestId, TenantId};

/// Most resources that a guest may hold through WASI.
const RESOURCES_MAX: usize = 256;

/// Largest random buffer a guest may ask for at once, in bytes.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// Bytes of documents that the host walks or copies for one call. A look-up walks the document at about
/// a gigabyte a second; this is two dozen looks into the largest payload, and a quarter of a second.
const LOOK_UP_BYTES_MAX: usize = 256 << 20;

/// Longest single log line, in bytes.
const LOG_LINE_BYTES_MAX: usize = 2 << 10;

/// What a call is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// For logs and support.
    pub request_id: RequestId,
    /// On whose behalf.
    pub tenant: TenantId,
    /// For which agent.
    pub agent: AgentId,
    /// The request, where the call is made while it is there.
    pub request: Option<Arc<IncomingCall>>,
    /// The task as the caller would see it, where there is one.
    pub task: Option<Arc<Payload>>,
}

/// The state of one call: the `T` of its `Store<T>`.
pub(super) struct CallState {
    subject: Subject,
    binding: Arc<Binding>,
    pub(super) limiter: Limiter,
    pub(super) deadline: Instant,
    /// Epoch ticks that it may still compute.
    pub(super) ticks_left: u64,
    /// Whether its role may use egress at all.
    may_send: bool,
    egress_requests_left: u32,
    look_up_bytes_left: usize,
    logs: Vec<String>,
    log_bytes_left: usize,
    /// Made when the guest first asks for WASI: most calls never do.
    wasi: Option<Box<WasiCtx>>,
    table: ResourceTable,
}

impl CallState {
    pub(super) fn new(binding: Arc<Binding>, subject: Subject, budget: Budget) -> Self {
        let limits = binding.granted.limits();
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            subject,
            limiter: Limiter::new(limits.memory_bytes),
            deadline: budget.deadline,
            ticks_left: budget.ticks,
            may_send: budget.may_send,
            egress_requests_left: limits.egress_requests,
            look_up_bytes_left: LOOK_UP_BYTES_MAX,
            logs: Vec::new(),
            log_bytes_left: limits.log_bytes,
            wasi: None,
            table,
            binding,
        }
    }

    /// The length of what the guest can look into.
    pub(super) fn document_bytes(&self) -> usize {
        let request = self.subject.request.as_ref().map_or(0, |request| request.body.len());
        request + self.subject.task.as_ref().map_or(0, |task| task.text().len())
    }

    /// Charges one look into a document, or one copy of it. A host call is not interrupted by epochs, so
    /// without this a guest could have the host work for it in a loop.
    fn charge(&mut self, document_bytes: usize) -> wasmtime::Result<()> {
        match self.look_up_bytes_left.checked_sub(document_bytes) {
            Some(left) => self.look_up_bytes_left = left,
            None => wasmtime::bail!("it looked into the payload too often"),
        }
        Ok(())
    }

    /// The log lines of the call.
    pub(super) fn into_logs(self) -> Vec<String> {
        self.logs
    }
}

/// What one call may use of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) deadline: Instant,
    pub(super) ticks: u64,
    pub(super) may_send: bool,
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // No files, no environment, no arguments, no network, closed standard streams: what WASI gives
        // without a grant is clocks and random numbers.
        let wasi = self.wasi.get_or_insert_with(|| {
            let mut builder = WasiCtx::builder();
            builder.max_random_size(RANDOM_BYTES_MAX).allow_tcp(false).allow_udp(false);
            Box::new(builder.build())
        });
        WasiCtxView { ctx: wasi, table: &mut self.table }
    }
}

impl types::Host for CallState {}

impl request::Host for CallState {
    fn method(&mut self) -> wasmtime::Result<String> {
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.method.to_string()).unwrap_or_default())
    }

    fn path(&mut self) -> wasmtime::Result<String> {
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.path.clone()).unwrap_or_default())
    }

    fn query(&mut self) -> wasmtime::Result<String> {
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.query.clone()).unwrap_or_default())
    }

    fn headers(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        let headers = self.subject.request.iter().flat_map(|request| request.headers.iter());
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Ok(headers.map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect())
    }

    fn header(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        let request = self.subject.request.as_ref();
        let value = request.and_then(|request| request.headers.get(name.as_str()));
        Ok(value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()))
    }

    fn body(&mut self) -> wasmtime::Result<Vec<u8>> {
        self.charge(self.document_bytes())?;
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.body.to_vec()).unwrap_or_default())
    }

    fn json(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge(self.document_bytes())?;
        let request = self.subject.request.as_ref();
        Ok(request.and_then(|request| request.payload.find(&pointer)).map(str::to_owned))
    }

    fn scalar(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge(self.document_bytes())?;
        let request = self.subject.request.as_ref();
        Ok(request.and_then(|request| request.payload.scalar(&pointer)))
    }
}

impl task::Host for CallState {
    fn json(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge(self.document_bytes())?;
        let task = self.subject.task.as_ref();
        Ok(task.and_then(|task| task.find(&pointer)).map(str::to_owned))
    }
}

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
            "agent-id" => Some(quoted(self.subject.agent.to_string())),
            "plugin-name" => Some(quoted(self.binding.name.to_string())),
            _ => None,
        })
    }
}

/// A granted secret. There is no value of this type: a grants file cannot name secrets yet, so `open`
/// always says no, and what would use a secret cannot be reached.
pub enum GrantedSecret {}

impl secrets::Host for CallState {
    fn open(
        &mut self,
        _name: String,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        Ok(Err(egress::failure("forbidden", "no secret of this name is granted to the plugin")))
    }

    fn hmac_verify(
        &mut self,
        key: Resource<GrantedSecret>,
        _algorithm: String,
        _message: Vec<u8>,
        _signature: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, types::Failure>> {
        match *self.table.get(&key)? {}
    }

    fn hmac_sign(
        &mut self,
        key: Resource<GrantedSecret>,
        _algorithm: String,
        _message: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        match *self.table.get(&key)? {}
    }
}

impl secrets::HostSecret for CallState {
    fn drop(&mut self, key: Resource<GrantedSecret>) -> wasmtime::Result<()> {
        self.table.delete(key)?;
        Ok(())
    }
}

impl egress_interface::Host for CallState {
    async fn send(
        &mut self,
        outgoing: egress_interface::Outgoing,
        credential: Option<String>,
    ) -> Result<egress_interface::Answer, types::Failure> {
        if !self.may_send {
            return Err(egress::failure("forbidden", "this role of a plugin has no egress"));
        }
        if credential.is_some() {
            let message = "no credential of this name is granted to the plugin";
            return Err(egress::failure("forbidden", message));
        }
        self.egress_requests_left = self.egress_requests_left.checked_sub(1).ok_or_else(|| {
            egress::failure("rate-limited", "the plugin has sent as many requests as one call may")
        })?;
        let granted = &self.binding.granted;
        let bounds = egress::Bounds {
            deadline: self.deadline,
            body_bytes_max: granted.limits().egress_bytes,
            grants_hint: format!("grants/{}/{}.toml", self.subject.tenant, self.binding.name),
        };
        egress::send(granted, outgoing, &bounds).await
    }
}

impl config_store::Host for CallState {
    fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<String>, config_store::Error>> {
        Ok(Ok(self.binding.granted.settings().get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config_store::Error>> {
        let settings = self.binding.granted.settings().iter();
        Ok(Ok(settings.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

impl logging::Host for CallState {
    fn log(
        &mut self,
        level: logging::Level,
        context: String,
        message: String,
    ) -> wasmtime::Result<()> {
        // Past the limit lines are dropped, not refused: logging too much is no reason to fail a call.
        if self.log_bytes_left == 0 {
            return Ok(());
        }
        let mut line = format!("{level:?} {context}: {message}");
        let limit = self.log_bytes_left.min(LOG_LINE_BYTES_MAX);
        if line.len() > limit {
            line.truncate(line.floor_char_boundary(limit));
            line.push('…');
        }
        self.log_bytes_left = self.log_bytes_left.saturating_sub(line.len());
        self.logs.push(line);
        Ok(())
    }
}
