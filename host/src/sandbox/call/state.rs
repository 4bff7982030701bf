//! The state of one call: its subject, its remaining budget, and what it has done.

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

/// Bytes of documents that the host walks or copies for one call. A look-up walks the document at about 1 GB/s, so
/// this is two dozen look-ups in the largest payload, or a quarter of a second.
pub(in crate::sandbox) const LOOK_UP_BYTES_MAX: usize = 256 << 20;

/// The guest made the host walk more than [`LOOK_UP_BYTES_MAX`].
#[derive(Debug, thiserror::Error)]
#[error("it looked into documents too often")]
pub(in crate::sandbox) struct LookUpBudgetExceeded;

/// Names and values of one set of headers in `wasi:http`, in bytes. Servers accept 8 to 16 KiB.
pub(in crate::sandbox) const FIELD_BYTES_MAX: usize = 16 << 10;

/// Host memory for all sets of headers of one call, in bytes: one set for each resource, and as much again for the
/// tables behind them.
const FIELDS_BYTES_MAX: usize = RESOURCES_MAX * FIELD_BYTES_MAX * 2;

/// Longest log line, in bytes.
const LOG_LINE_BYTES_MAX: usize = 2 << 10;

/// The state of one call: the `T` of its `Store<T>`.
pub(in crate::sandbox) struct CallState {
    pub(in crate::sandbox) subject: Subject,
    pub(in crate::sandbox) binding: Arc<Binding>,
    pub(in crate::sandbox) limiter: Limiter,
    pub(in crate::sandbox) deadline: Instant,
    /// CPU time that the call may use.
    pub(in crate::sandbox) cpu_max: Duration,
    /// CPU time that the call has used, including host calls.
    pub(in crate::sandbox) cpu: Duration,
    /// The lane to which the call moves if it takes long.
    pub(in crate::sandbox) lane: Lane,
    /// Size limit of the call's result, and of each host call's arguments, in bytes.
    pub(in crate::sandbox) transfer_bytes_max: usize,
    pub(in crate::sandbox) http_hooks: WasiHttpState,
    pub(in crate::sandbox) values_operations: u32,
    /// Created when the guest first changes something in its folder.
    pub(in crate::sandbox) folder_quota: Option<FolderQuota>,
    /// Created when the guest first uses a file.
    pub(in crate::sandbox) operations: Option<FileOperations>,
    /// A slot for each file that the guest has open, by descriptor.
    pub(in crate::sandbox) open_files: HashMap<u32, Slot>,
    look_up_bytes_left: usize,
    /// Whether the guest asked for a payload although the body is unreadable.
    missed_payload: bool,
    /// Whether the guest read the raw body.
    pub(in crate::sandbox) read_bytes: bool,
    /// Why a secret that the guest opened cannot be used, if one cannot.
    pub(in crate::sandbox) unusable_secret: Option<String>,
    logs: Vec<String>,
    log_bytes_left: usize,
    /// Created when the guest first asks for outside data, which most calls never do.
    host_source: Option<HostSource>,
    wasi: Option<Box<WasiCtx>>,
    /// Created together with `wasi`.
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
            limiter: Limiter::new(limits.memory_bytes, MemoryReservation::new(&binding.quota)),
            deadline: budget.deadline,
            cpu_max: budget.cpu,
            lane: budget.lane,
            transfer_bytes_max: budget.transfer_bytes_max,
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
            host_source: None,
            wasi: None,
            streams: None,
            http: WasiHttpCtx::new(),
            table,
            subject,
            binding,
        }
    }

    /// The length of the documents that the guest can look into, in bytes.
    pub(in crate::sandbox) fn document_bytes(&self) -> usize {
        self.subject.document_bytes()
    }

    /// Charges one look-up in a document, or one copy of it. Epochs do not interrupt a host call, so without this a
    /// guest could make the host work in a loop.
    pub(in crate::sandbox) fn charge_look_up(
        &mut self,
        document_bytes: usize,
    ) -> wasmtime::Result<()> {
        match self.look_up_bytes_left.checked_sub(document_bytes) {
            Some(left) => self.look_up_bytes_left = left,
            None => return Err(wasmtime::Error::new(LookUpBudgetExceeded)),
        }
        Ok(())
    }

    /// The source of outside data: the world, which is recorded, or the script of a test or replay.
    pub(in crate::sandbox) fn host_source(&mut self) -> HostSource {
        let script = &self.subject.script;
        let host_source = self.host_source.get_or_insert_with(|| match script {
            Some(script) => HostSource::Scripted(Arc::clone(script)),
            None => HostSource::Live(Arc::default()),
        });
        host_source.clone()
    }

    /// What the call's outgoing requests need of it.
    pub(in crate::sandbox) fn egress_context(&mut self) -> EgressContext {
        let (binding, host_source) = (Arc::clone(&self.binding), self.host_source());
        EgressContext::new(binding, host_source, self.deadline, self.grants_hint())
    }

    pub(in crate::sandbox) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// The tenant's secret under this name of the plugin's: from the channel, or else from the plugin's grants.
    pub(in crate::sandbox) fn secret(&self, name: &str) -> Option<&BoundSecret> {
        let channel = self.subject.channel.as_ref();
        let of_channel = channel.and_then(|channel| channel.secrets.get(name));
        of_channel.or_else(|| self.binding.granted.secret(name))
    }

    /// Bytes of values that the plugin may store. A test's own script bounds what the test stores. A replay may
    /// store values if the recorded call used any.
    pub(in crate::sandbox) fn values_bytes(&self) -> Option<u64> {
        let scripted = self.subject.script.as_ref().is_some_and(|script| {
            lock(script).value_answers.as_ref().is_none_or(|answers| !answers.is_empty())
        });
        self.binding.granted.values_bytes().or(scripted.then_some(u64::MAX))
    }

    /// The store of values, and the owner of this plugin's.
    pub(in crate::sandbox) fn values(&self) -> (SharedValues, ValuesOwner) {
        let owner = ValuesOwner { tenant: self.subject.tenant, plugin: self.binding.name.clone() };
        (Arc::clone(&self.binding.shared.values), owner)
    }

    /// Where the operator can grant something, for the message of a denial. It contains neither a path nor the
    /// tenant, since a plugin may pass the message on to strangers.
    pub(in crate::sandbox) fn grants_hint(&self) -> String {
        let grants = format!("the grants of the plugin {}", self.binding.name);
        match self.binding.granted.inactive_reason() {
            // The reason is for the plugin's operator, not for the plugin.
            Some(_) => format!("{grants}, which are not in force for this component"),
            None => grants,
        }
    }

    /// The plugin's setting of this name: from the channel, or else from its grants.
    pub(in crate::sandbox) fn setting(&self, name: &str) -> Option<&str> {
        let channel = self.subject.channel.as_ref();
        let of_channel = channel.and_then(|channel| channel.settings.get(name));
        of_channel.or_else(|| self.binding.granted.settings().get(name)).map(String::as_str)
    }

    /// Records that the plugin opened a secret that it cannot use. This decides whose fault a failure of the call
    /// is. Only the operator sees the reason.
    pub(in crate::sandbox) fn unusable_secret(&mut self, reason: String) {
        self.log_host_line(reason.clone());
        self.unusable_secret.get_or_insert(reason);
    }

    /// Whether the call knows nothing of the body: it asked for a payload in vain, and did not read the bytes.
    pub(in crate::sandbox) fn has_missed_payload(&self) -> bool {
        self.missed_payload && !self.read_bytes
    }

    /// Records that the guest asked for a payload in a call without one, and writes a line to the plugin's log.
    pub(in crate::sandbox) fn record_missing_payload(&mut self) {
        let request = self.subject.request.as_deref();
        if let Some(unreadable) = request.and_then(|request| request.unreadable.as_ref())
            && !self.missed_payload
        {
            let line = format!("Payload: there is none, since {}", unreadable.detail);
            self.missed_payload = true;
            self.log_host_line(line);
        }
    }

    /// Adds a line of the host's own to the plugin's log.
    pub(in crate::sandbox) fn log_host_line(&mut self, line: String) {
        self.push_log_line(line);
    }

    pub(in crate::sandbox) fn push_log_line(&mut self, mut line: String) {
        // Lines beyond the limit are dropped: too much logging does not fail a call.
        if self.log_bytes_left == 0 {
            return;
        }
        let limit = self.log_bytes_left.min(LOG_LINE_BYTES_MAX);
        if line.len() > limit {
            line.truncate(line.floor_char_boundary(limit));
            line.push('…');
        }
        // A log entry stays on one line wherever it is printed, so a plugin cannot forge another source's line.
        if line.chars().any(char::is_control) {
            line = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        }
        self.log_bytes_left = self.log_bytes_left.saturating_sub(line.len());
        self.logs.push(line);
    }

    /// What remains of the call: its log lines, and the host's recorded responses.
    pub(in crate::sandbox) fn into_parts(mut self) -> (Vec<String>, Option<Recording>) {
        let of_folder: Vec<_> = self.folder_quota.iter().flat_map(FolderQuota::notes).collect();
        let written = self.streams.take().map(StandardStreams::into_lines).unwrap_or_default();
        for line in written.into_iter().chain(self.http_hooks.take_notes()).chain(of_folder) {
            self.push_log_line(line);
        }
        let recording = match self.host_source {
            Some(HostSource::Live(recording)) => Some(std::mem::take(&mut *lock(&recording))),
            Some(HostSource::Scripted(_)) | None => None,
        };
        (self.logs, recording.filter(|recording| !recording.is_empty()))
    }
}

/// The budget of one call.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct Budget {
    pub(in crate::sandbox) deadline: Instant,
    pub(in crate::sandbox) cpu: Duration,
    pub(in crate::sandbox) may_send: bool,
    pub(in crate::sandbox) lane: Lane,
    /// See [`CallState::transfer_bytes_max`].
    pub(in crate::sandbox) transfer_bytes_max: usize,
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        if self.wasi.is_none() {
            let host_source = self.host_source();
            let (granted, clock) = (&self.binding.granted, &self.binding.shared.clock);
            let streams = self.streams.get_or_insert_default();
            self.wasi = Some(Box::new(wasi::context(granted, &host_source, clock, streams)));
        }
        // Set just above if it was missing.
        let wasi = self.wasi.get_or_insert_with(|| Box::new(WasiCtx::builder().build()));
        WasiCtxView { ctx: wasi, table: &mut self.table }
    }
}

impl WasiHttpView for CallState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        if !self.http_hooks.is_open() {
            let context = self.egress_context();
            self.http_hooks.open(context);
            // Charges the host memory that headers can take before any are set. Without room for it, no header can
            // be set.
            let has_room = self.limiter.charge(FIELDS_BYTES_MAX).is_ok();
            self.http.set_field_size_limit(if has_room { FIELD_BYTES_MAX } else { 0 });
        }
        WasiHttpCtxView { hooks: &mut self.http_hooks, table: &mut self.table, ctx: &mut self.http }
    }
}
