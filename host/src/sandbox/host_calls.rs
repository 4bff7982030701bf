//! What a plugin can ask the host during a call, and the state of that call.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::Binding;
use super::bindings::v0_1::wardgate::plugin::{context, request, task, types};
use super::bindings::v0_1::wasi::config::store as config_store;
use super::bindings::v0_1::wasi::logging::logging;
use super::egress::Sending;
use super::folder::{FileOperations, FolderQuota};
use super::journal::{Outside, Recording, SharedScript, lock};
use super::limits::Limiter;
use super::secrets::BoundSecret;
use super::share::HeldMemory;
use super::slow_lane::Lane;
use super::standard_streams::StandardStreams;
use super::values::{SharedValues, ValuesOwner};
use super::wasi;
use crate::ids::{AgentId, ChannelId, Name, RequestId, TenantId};
use crate::request::IncomingRequest;
use crate::request::payload::Payload;
use crate::shares::slots::Slot;

/// Most resources that a guest may hold through WASI.
pub(super) const RESOURCES_MAX: usize = 256;

/// Bytes of documents that the host walks or copies for one call. A look-up walks the document at about
/// a gigabyte a second; this is two dozen looks into the largest payload, and a quarter of a second.
pub(super) const LOOK_UP_BYTES_MAX: usize = 256 << 20;

/// A guest had the host look through more than that.
#[derive(Debug, thiserror::Error)]
#[error("it looked into documents too often")]
pub(super) struct LookedTooOften;

/// Names and values of one set of headers in `wasi:http`, in bytes. Servers take 8 to 16 KiB.
pub(super) const FIELD_BYTES_MAX: usize = 16 << 10;

/// What all sets of headers of one call take on the host's side: as many as there are resources, and as much
/// again for the tables behind them.
const FIELDS_BYTES_MAX: usize = RESOURCES_MAX * FIELD_BYTES_MAX * 2;

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
    pub request: Option<Arc<IncomingRequest>>,
    /// The task as the caller would see it, where there is one.
    pub task: Option<Arc<Payload>>,
    /// The channel that the request came in by, where it did by one.
    pub channel: Option<Arc<ChannelFacts>>,
    /// What the channel's verifier said of the caller, as JSON.
    pub principal: Option<Arc<str>>,
    /// What the host answers in place of the world, where the call is a test or a replay.
    pub script: Option<SharedScript>,
}

impl Subject {
    /// A call for this agent, about nothing yet.
    #[must_use]
    pub fn of(tenant: TenantId, agent: AgentId, request_id: RequestId) -> Self {
        Self {
            request_id,
            tenant,
            agent,
            request: None,
            task: None,
            channel: None,
            principal: None,
            script: None,
        }
    }

    /// Whether a call about it is a test: the host answers from a script that is nobody's recording.
    pub(super) fn is_rehearsed(&self) -> bool {
        self.script.as_ref().is_some_and(|script| lock(script).value_answers.is_none())
    }

    /// The length of the documents that a call about it can look into, in bytes.
    pub(super) fn document_bytes(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.body.len());
        request + self.task.as_ref().map_or(0, |task| task.text().len())
    }
}

/// What a channel gives to the plugins that it binds. Its settings and secrets come before those of a
/// plugin's grants.
#[derive(Debug, Clone)]
pub struct ChannelFacts {
    /// Its id.
    pub id: ChannelId,
    /// Its name within the tenant.
    pub name: Name,
    /// Its URL as callers know it, without a query.
    pub url: String,
    /// Settings of its plugins.
    pub settings: BTreeMap<String, String>,
    /// The secrets that it binds, by what its plugins call them.
    pub secrets: BTreeMap<String, BoundSecret>,
}

/// The state of one call: the `T` of its `Store<T>`.
pub(super) struct CallState {
    pub(super) subject: Subject,
    pub(super) binding: Arc<Binding>,
    pub(super) limiter: Limiter,
    pub(super) deadline: Instant,
    /// Computing time that it may use.
    pub(super) cpu_max: Duration,
    /// Computing time that it has used, host calls included.
    pub(super) cpu: Duration,
    /// Where it goes on when it takes long.
    pub(super) lane: Lane,
    /// Bytes that it may hand over with its value, or with the arguments of one host call.
    pub(super) handover_bytes_max: usize,
    pub(super) sending: Sending,
    pub(super) values_operations: u32,
    /// Made when the guest first changes something in its folder.
    pub(super) folder_quota: Option<FolderQuota>,
    /// Made when the guest first uses a file.
    pub(super) operations: Option<FileOperations>,
    /// Room for each file that the guest has opened, by its descriptor.
    pub(super) open_files: HashMap<u32, Slot>,
    look_up_bytes_left: usize,
    /// Whether it looked for a payload where the body could not be read, and whether it looked at the bytes.
    missed_payload: bool,
    read_bytes: bool,
    /// Why a secret that it opened is not to be had, where one is not.
    pub(super) unusable_secret: Option<String>,
    logs: Vec<String>,
    log_bytes_left: usize,
    /// Made when the guest first asks for something of the world: most calls never do.
    outside: Option<Outside>,
    wasi: Option<Box<WasiCtx>>,
    /// Made with it.
    streams: Option<StandardStreams>,
    http: WasiHttpCtx,
    table: ResourceTable,
}

impl CallState {
    pub(super) fn new(binding: Arc<Binding>, subject: Subject, budget: Budget) -> Self {
        let limits = binding.granted.limits();
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            limiter: Limiter::new(limits.memory_bytes, HeldMemory::of(&binding.share)),
            deadline: budget.deadline,
            cpu_max: budget.cpu,
            lane: budget.lane,
            handover_bytes_max: budget.handover_bytes,
            cpu: Duration::ZERO,
            sending: Sending::new(budget.may_send, limits.egress_requests),
            values_operations: 0,
            folder_quota: None,
            operations: None,
            open_files: HashMap::new(),
            look_up_bytes_left: LOOK_UP_BYTES_MAX,
            missed_payload: false,
            read_bytes: false,
            unusable_secret: None,
            logs: Vec::new(),
            log_bytes_left: limits.log_bytes,
            outside: None,
            wasi: None,
            streams: None,
            http: WasiHttpCtx::new(),
            table,
            subject,
            binding,
        }
    }

    /// The length of what the guest can look into.
    fn document_bytes(&self) -> usize {
        self.subject.document_bytes()
    }

    /// Charges one look into a document, or one copy of it. A host call is not interrupted by epochs, so
    /// without this a guest could have the host work for it in a loop.
    pub(super) fn charge(&mut self, document_bytes: usize) -> wasmtime::Result<()> {
        match self.look_up_bytes_left.checked_sub(document_bytes) {
            Some(left) => self.look_up_bytes_left = left,
            None => return Err(wasmtime::Error::new(LookedTooOften)),
        }
        Ok(())
    }

    /// Where answers come from: the world, which is written down, or the script of a test or replay.
    pub(super) fn outside(&mut self) -> Outside {
        let script = &self.subject.script;
        let outside = self.outside.get_or_insert_with(|| match script {
            Some(script) => Outside::Scripted(Arc::clone(script)),
            None => Outside::Live(Arc::default()),
        });
        outside.clone()
    }

    pub(super) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// The tenant's secret that the plugin calls this: of the channel, else of its grants.
    pub(super) fn secret(&self, name: &str) -> Option<&BoundSecret> {
        let channel = self.subject.channel.as_ref();
        let of_channel = channel.and_then(|channel| channel.secrets.get(name));
        of_channel.or_else(|| self.binding.granted.secret(name))
    }

    /// Bytes of values that the plugin may keep. A test's are bounded by its own script; in a replay it may
    /// where it might then.
    pub(super) fn values_bytes(&self) -> Option<u64> {
        let scripted = self.subject.script.as_ref().is_some_and(|script| {
            lock(script).value_answers.as_ref().is_none_or(|answers| !answers.is_empty())
        });
        self.binding.granted.values_bytes().or(scripted.then_some(u64::MAX))
    }

    /// Where the plugin's values are, and whose they are.
    pub(super) fn values(&self) -> (SharedValues, ValuesOwner) {
        let owner = ValuesOwner { tenant: self.subject.tenant, plugin: self.binding.name.clone() };
        (Arc::clone(&self.binding.shared.values), owner)
    }

    /// Where the operator would grant something, for the message of a denial. Neither a path nor the tenant:
    /// a plugin may hand the message on to strangers.
    pub(super) fn grants_hint(&self) -> String {
        let grants = format!("the grants of the plugin {}", self.binding.name);
        match self.binding.granted.withheld_because() {
            // Why is for whoever looks after the plugin, and not for the plugin.
            Some(_) => format!("{grants}, which are not in force for this component"),
            None => grants,
        }
    }

    /// What the plugin is set to: by the channel, else by its grants.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        let channel = self.subject.channel.as_ref();
        let of_channel = channel.and_then(|channel| channel.settings.get(name));
        of_channel.or_else(|| self.binding.granted.settings().get(name)).map(String::as_str)
    }

    /// Notes that the plugin opens a secret which it cannot have. Whose fault a failure of the call is depends
    /// on it, and only the operator is told the reason.
    pub(super) fn unusable_secret(&mut self, reason: String) {
        self.note(reason.clone());
        self.unusable_secret.get_or_insert(reason);
    }

    /// Whether it knows nothing of the body: it looked for a payload in vain, and at nothing else.
    pub(super) fn has_missed_payload(&self) -> bool {
        self.missed_payload && !self.read_bytes
    }

    /// Notes that there is no payload where the guest looks for one. It is told so in its log.
    fn look_for_payload(&mut self) {
        let request = self.subject.request.as_deref();
        if let Some(unreadable) = request.and_then(|request| request.unreadable.as_ref())
            && !self.missed_payload
        {
            let line = format!("Payload: there is none, since {}", unreadable.detail);
            self.missed_payload = true;
            self.note(line);
        }
    }

    /// Writes a line of the host's own among those of the plugin.
    pub(super) fn note(&mut self, line: String) {
        self.keep_line(line);
    }

    fn keep_line(&mut self, mut line: String) {
        // Past the limit lines are dropped, not refused: logging too much is no reason to fail a call.
        if self.log_bytes_left == 0 {
            return;
        }
        let limit = self.log_bytes_left.min(LOG_LINE_BYTES_MAX);
        if line.len() > limit {
            line.truncate(line.floor_char_boundary(limit));
            line.push('…');
        }
        // One call is one line, wherever it is printed: a plugin cannot forge a line of somebody else.
        if line.chars().any(char::is_control) {
            line = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        }
        self.log_bytes_left = self.log_bytes_left.saturating_sub(line.len());
        self.logs.push(line);
    }

    /// What is left of the call: its log lines, and what the host answered.
    pub(super) fn into_parts(mut self) -> (Vec<String>, Option<Recording>) {
        let of_folder: Vec<_> = self.folder_quota.iter().flat_map(FolderQuota::notes).collect();
        let written = self.streams.take().map(StandardStreams::into_lines).unwrap_or_default();
        for line in written.into_iter().chain(self.sending.take_notes()).chain(of_folder) {
            self.keep_line(line);
        }
        let recording = match self.outside {
            Some(Outside::Live(recording)) => Some(std::mem::take(&mut *lock(&recording))),
            Some(Outside::Scripted(_)) | None => None,
        };
        (self.logs, recording.filter(|recording| !recording.is_empty()))
    }
}

/// What one call may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) deadline: Instant,
    pub(super) cpu: Duration,
    pub(super) may_send: bool,
    pub(super) lane: Lane,
    /// See [`CallState::handover_bytes_max`].
    pub(super) handover_bytes: usize,
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        if self.wasi.is_none() {
            let outside = self.outside();
            let (granted, clock) = (&self.binding.granted, &self.binding.shared.clock);
            let streams = self.streams.get_or_insert_default();
            self.wasi = Some(Box::new(wasi::context(granted, &outside, clock, streams)));
        }
        // Made just now where there was none.
        let wasi = self.wasi.get_or_insert_with(|| Box::new(WasiCtx::builder().build()));
        WasiCtxView { ctx: wasi, table: &mut self.table }
    }
}

impl WasiHttpView for CallState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        if !self.sending.is_open() {
            let way = self.way();
            self.sending.open(way);
            // What headers can come to on the host's side is charged before there are any. Where there is no
            // room for that, none can be set.
            let has_room = self.limiter.charge(FIELDS_BYTES_MAX).is_ok();
            self.http.set_field_size_limit(if has_room { FIELD_BYTES_MAX } else { 0 });
        }
        WasiHttpCtxView { hooks: &mut self.sending, table: &mut self.table, ctx: &mut self.http }
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
        self.read_bytes = true;
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.body.to_vec()).unwrap_or_default())
    }

    fn json(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge(self.document_bytes().saturating_add(pointer.len()))?;
        self.look_for_payload();
        let request = self.subject.request.as_ref();
        Ok(request.and_then(|request| request.payload.find(&pointer)).map(str::to_owned))
    }

    fn scalar(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge(self.document_bytes().saturating_add(pointer.len()))?;
        self.look_for_payload();
        let request = self.subject.request.as_ref();
        Ok(request.and_then(|request| request.payload.scalar(&pointer)))
    }
}

impl task::Host for CallState {
    fn json(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge(self.document_bytes().saturating_add(pointer.len()))?;
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

impl config_store::Host for CallState {
    fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<String>, config_store::Error>> {
        Ok(Ok(self.setting(&key).map(str::to_owned)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config_store::Error>> {
        let mut settings = self.binding.granted.settings().clone();
        if let Some(channel) = &self.subject.channel {
            settings.extend(channel.settings.clone());
        }
        Ok(Ok(settings.into_iter().collect()))
    }
}

impl logging::Host for CallState {
    fn log(
        &mut self,
        level: logging::Level,
        context: String,
        message: String,
    ) -> wasmtime::Result<()> {
        self.keep_line(format!("{level:?} {context}: {message}"));
        Ok(())
    }
}
