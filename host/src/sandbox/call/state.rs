//! The state of one call: what it is about, what it may still use, and what it has done.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::sandbox::Binding;
use crate::sandbox::bound_secret::BoundSecret;
use crate::sandbox::egress::{EgressBudget, EgressContext};
use crate::sandbox::folder::{FileOperations, FolderQuota};
use crate::sandbox::limits::Limiter;
use crate::sandbox::quota::MemoryReservation;
use crate::sandbox::recording::{HostSource, Recording, lock};
use crate::sandbox::slow_lane::Lane;
use crate::sandbox::standard_streams::StandardStreams;
use crate::sandbox::subject::Subject;
use crate::sandbox::values::{SharedValues, ValuesOwner};
use crate::sandbox::wasi;
use crate::sandbox::wasi_http::WasiHttpState;
use crate::shares::slots::Slot;

/// Most resources that a guest may hold through WASI.
pub(in crate::sandbox) const RESOURCES_MAX: usize = 256;

/// Bytes of documents that the host walks or copies for one call. A look-up walks the document at about
/// a gigabyte a second; this is two dozen looks into the largest payload, and a quarter of a second.
pub(in crate::sandbox) const LOOK_UP_BYTES_MAX: usize = 256 << 20;

/// A guest had the host look through more than that.
#[derive(Debug, thiserror::Error)]
#[error("it looked into documents too often")]
pub(in crate::sandbox) struct LookedTooOften;

/// Names and values of one set of headers in `wasi:http`, in bytes. Servers take 8 to 16 KiB.
pub(in crate::sandbox) const FIELD_BYTES_MAX: usize = 16 << 10;

/// What all sets of headers of one call take on the host's side: as many as there are resources, and as much
/// again for the tables behind them.
const FIELDS_BYTES_MAX: usize = RESOURCES_MAX * FIELD_BYTES_MAX * 2;

/// Longest single log line, in bytes.
const LOG_LINE_BYTES_MAX: usize = 2 << 10;

/// The state of one call: the `T` of its `Store<T>`.
pub(in crate::sandbox) struct CallState {
    pub(in crate::sandbox) subject: Subject,
    pub(in crate::sandbox) binding: Arc<Binding>,
    pub(in crate::sandbox) limiter: Limiter,
    pub(in crate::sandbox) deadline: Instant,
    /// Computing time that it may use.
    pub(in crate::sandbox) cpu_max: Duration,
    /// Computing time that it has used, host calls included.
    pub(in crate::sandbox) cpu: Duration,
    /// Where it goes on when it takes long.
    pub(in crate::sandbox) lane: Lane,
    /// Bytes that it may hand over with its value, or with the arguments of one host call.
    pub(in crate::sandbox) handover_bytes_max: usize,
    pub(in crate::sandbox) http_hooks: WasiHttpState,
    pub(in crate::sandbox) values_operations: u32,
    /// Made when the guest first changes something in its folder.
    pub(in crate::sandbox) folder_quota: Option<FolderQuota>,
    /// Made when the guest first uses a file.
    pub(in crate::sandbox) operations: Option<FileOperations>,
    /// Room for each file that the guest has opened, by its descriptor.
    pub(in crate::sandbox) open_files: HashMap<u32, Slot>,
    look_up_bytes_left: usize,
    /// Whether it looked for a payload where the body could not be read, and whether it looked at the bytes.
    missed_payload: bool,
    pub(in crate::sandbox) read_bytes: bool,
    /// Why a secret that it opened is not to be had, where one is not.
    pub(in crate::sandbox) unusable_secret: Option<String>,
    logs: Vec<String>,
    log_bytes_left: usize,
    /// Made when the guest first asks for something of the world: most calls never do.
    outside: Option<HostSource>,
    wasi: Option<Box<WasiCtx>>,
    /// Made with it.
    streams: Option<StandardStreams>,
    http: WasiHttpCtx,
    table: ResourceTable,
}

impl CallState {
    pub(in crate::sandbox) fn new(binding: Arc<Binding>, subject: Subject, budget: Budget) -> Self {
        let limits = binding.granted.limits();
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            limiter: Limiter::new(limits.memory_bytes, MemoryReservation::of(&binding.share)),
            deadline: budget.deadline,
            cpu_max: budget.cpu,
            lane: budget.lane,
            handover_bytes_max: budget.handover_bytes,
            cpu: Duration::ZERO,
            http_hooks: WasiHttpState::new(EgressBudget::new(
                budget.may_send,
                limits.egress_requests,
            )),
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
    pub(in crate::sandbox) fn document_bytes(&self) -> usize {
        self.subject.document_bytes()
    }

    /// Charges one look into a document, or one copy of it. A host call is not interrupted by epochs, so
    /// without this a guest could have the host work for it in a loop.
    pub(in crate::sandbox) fn charge(&mut self, document_bytes: usize) -> wasmtime::Result<()> {
        match self.look_up_bytes_left.checked_sub(document_bytes) {
            Some(left) => self.look_up_bytes_left = left,
            None => return Err(wasmtime::Error::new(LookedTooOften)),
        }
        Ok(())
    }

    /// Where answers come from: the world, which is written down, or the script of a test or replay.
    pub(in crate::sandbox) fn outside(&mut self) -> HostSource {
        let script = &self.subject.script;
        let outside = self.outside.get_or_insert_with(|| match script {
            Some(script) => HostSource::Scripted(Arc::clone(script)),
            None => HostSource::Live(Arc::default()),
        });
        outside.clone()
    }

    /// What its requests need of it.
    pub(in crate::sandbox) fn egress_context(&mut self) -> EgressContext {
        let (binding, outside) = (Arc::clone(&self.binding), self.outside());
        EgressContext::new(binding, outside, self.deadline, self.grants_hint())
    }

    pub(in crate::sandbox) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// The tenant's secret that the plugin calls this: of the channel, else of its grants.
    pub(in crate::sandbox) fn secret(&self, name: &str) -> Option<&BoundSecret> {
        let channel = self.subject.channel.as_ref();
        let of_channel = channel.and_then(|channel| channel.secrets.get(name));
        of_channel.or_else(|| self.binding.granted.secret(name))
    }

    /// Bytes of values that the plugin may keep. A test's are bounded by its own script; in a replay it may
    /// where it might then.
    pub(in crate::sandbox) fn values_bytes(&self) -> Option<u64> {
        let scripted = self.subject.script.as_ref().is_some_and(|script| {
            lock(script).value_answers.as_ref().is_none_or(|answers| !answers.is_empty())
        });
        self.binding.granted.values_bytes().or(scripted.then_some(u64::MAX))
    }

    /// Where the plugin's values are, and whose they are.
    pub(in crate::sandbox) fn values(&self) -> (SharedValues, ValuesOwner) {
        let owner = ValuesOwner { tenant: self.subject.tenant, plugin: self.binding.name.clone() };
        (Arc::clone(&self.binding.shared.values), owner)
    }

    /// Where the operator would grant something, for the message of a denial. Neither a path nor the tenant:
    /// a plugin may hand the message on to strangers.
    pub(in crate::sandbox) fn grants_hint(&self) -> String {
        let grants = format!("the grants of the plugin {}", self.binding.name);
        match self.binding.granted.withheld_because() {
            // Why is for whoever looks after the plugin, and not for the plugin.
            Some(_) => format!("{grants}, which are not in force for this component"),
            None => grants,
        }
    }

    /// What the plugin is set to: by the channel, else by its grants.
    pub(in crate::sandbox) fn setting(&self, name: &str) -> Option<&str> {
        let channel = self.subject.channel.as_ref();
        let of_channel = channel.and_then(|channel| channel.settings.get(name));
        of_channel.or_else(|| self.binding.granted.settings().get(name)).map(String::as_str)
    }

    /// Notes that the plugin opens a secret which it cannot have. Whose fault a failure of the call is depends
    /// on it, and only the operator is told the reason.
    pub(in crate::sandbox) fn unusable_secret(&mut self, reason: String) {
        self.note(reason.clone());
        self.unusable_secret.get_or_insert(reason);
    }

    /// Whether it knows nothing of the body: it looked for a payload in vain, and at nothing else.
    pub(in crate::sandbox) fn has_missed_payload(&self) -> bool {
        self.missed_payload && !self.read_bytes
    }

    /// Notes that there is no payload where the guest looks for one. It is told so in its log.
    pub(in crate::sandbox) fn look_for_payload(&mut self) {
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
    pub(in crate::sandbox) fn note(&mut self, line: String) {
        self.keep_line(line);
    }

    pub(in crate::sandbox) fn keep_line(&mut self, mut line: String) {
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
    pub(in crate::sandbox) fn into_parts(mut self) -> (Vec<String>, Option<Recording>) {
        let of_folder: Vec<_> = self.folder_quota.iter().flat_map(FolderQuota::notes).collect();
        let written = self.streams.take().map(StandardStreams::into_lines).unwrap_or_default();
        for line in written.into_iter().chain(self.http_hooks.take_notes()).chain(of_folder) {
            self.keep_line(line);
        }
        let recording = match self.outside {
            Some(HostSource::Live(recording)) => Some(std::mem::take(&mut *lock(&recording))),
            Some(HostSource::Scripted(_)) | None => None,
        };
        (self.logs, recording.filter(|recording| !recording.is_empty()))
    }
}

/// What one call may use.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct Budget {
    pub(in crate::sandbox) deadline: Instant,
    pub(in crate::sandbox) cpu: Duration,
    pub(in crate::sandbox) may_send: bool,
    pub(in crate::sandbox) lane: Lane,
    /// See [`CallState::handover_bytes_max`].
    pub(in crate::sandbox) handover_bytes: usize,
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
        if !self.http_hooks.is_open() {
            let context = self.egress_context();
            self.http_hooks.open(context);
            // What headers can come to on the host's side is charged before there are any. Where there is no
            // room for that, none can be set.
            let has_room = self.limiter.charge(FIELDS_BYTES_MAX).is_ok();
            self.http.set_field_size_limit(if has_room { FIELD_BYTES_MAX } else { 0 });
        }
        WasiHttpCtxView { hooks: &mut self.http_hooks, table: &mut self.table, ctx: &mut self.http }
    }
}
