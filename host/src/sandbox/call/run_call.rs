//! Runs one call in the guest: instantiates it, measures it, and stops it when its time is up.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTableError;
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi_http::FieldMapError;

use super::super::Binding;
use super::super::bindings::v0_1::exports::wardgate::plugin as exports;
use super::super::bindings::v0_1::wardgate::plugin::types;
use super::super::foreign::TooLarge;
use super::super::refusal::{Refusal, Shortage};
use super::super::slow_lane::{Lane, LaneTurns};
use super::BRIEF_MAX;
use crate::ids::TenantId;
use crate::low_priority::thread_time;
use crate::sandbox::call::state::{
    CallState, FIELD_BYTES_MAX, LOOK_UP_BYTES_MAX, LookUpBudgetExceeded, RESOURCES_MAX,
};
use crate::sandbox::stats::PluginStats;
use crate::shares::turns::TurnstileSlot;

/// Most resource tables and component handles of one instance.
const HANDLES_MAX: usize = 1_024;

/// A call of an exported function.
pub(super) enum ExportCall {
    Verify,
    Map { spec: Option<String> },
    Get { path: String },
    Reply,
    Deliver,
    ListTools,
    CallTool { name: String, arguments: String },
    Schema,
    Check { settings: String },
}

impl ExportCall {
    /// The function that is called, as the plugin interface names it.
    pub(super) fn export(&self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Map { .. } => "map-payload",
            Self::Get { .. } => "get-value",
            Self::Reply => "reply",
            Self::Deliver => "deliver",
            Self::ListTools => "list-tools",
            Self::CallTool { .. } => "call-tool",
            Self::Schema => "config-schema",
            Self::Check { .. } => "check-config",
        }
    }

    /// The lane to which the call moves if it takes long, which also decides its time limits.
    pub(super) fn lane(&self) -> Lane {
        match self {
            Self::CallTool { .. } | Self::Deliver => Lane::Tools,
            Self::Verify
            | Self::Map { .. }
            | Self::Get { .. }
            | Self::Reply
            | Self::ListTools
            | Self::Schema
            | Self::Check { .. } => Lane::Default,
        }
    }

    /// The size of what the call passes to the guest, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::CallTool { arguments: text, .. }
            | Self::Map { spec: Some(text) }
            | Self::Get { path: text }
            | Self::Check { settings: text } => text.len(),
            Self::Verify
            | Self::Map { spec: None }
            | Self::Reply
            | Self::Deliver
            | Self::ListTools
            | Self::Schema => 0,
        }
    }

    /// Whether the call may use egress. A verifier must not send anything for an unverified sender, and a call
    /// about settings only reads them.
    pub(super) fn may_send(&self) -> bool {
        !matches!(self, Self::Verify | Self::Schema | Self::Check { .. })
    }
}

/// What the function returned, unchecked.
pub(super) enum RawResult {
    Principal(exports::verifier::Principal),
    Mapped(exports::payload_mapper::Mapped),
    Value(Option<String>),
    Reply(types::HttpReply),
    Delivered,
    Tools(Vec<exports::toolbox::Tool>),
    Json(String),
    Diagnostics(Vec<exports::about::Diagnostic>),
}

/// How the guest ended.
pub(super) enum CallEnd {
    /// By itself, or because the host stopped it.
    Ran(wasmtime::Result<Result<RawResult, types::Failure>>),
    /// Still running when its wall time was up.
    Elapsed,
}

pub(super) type CallOutcome = (CallEnd, CallState);

/// Instantiates the component and runs the call until it ends or its time is up. Drops the store, with everything
/// that the guest had.
pub(super) async fn run_call(
    binding: Arc<Binding>,
    state: CallState,
    call: ExportCall,
    placement: Placement,
) -> CallOutcome {
    let (deadline, lane) = (state.deadline, state.lane);
    let mut store = limited_store(&binding, state);
    let mut cpu = Duration::ZERO;
    let end = {
        let work = pin!(invoke(&binding, &mut store, call));
        let (turns, tenant) = (&binding.shared.turns, binding.tenant);
        let owner = CallOwner { lane, turns, tenant, stats: &binding.stats };
        run_until(deadline, Measured { work, cpu: &mut cpu, placement, owner, turn_slot: None })
            .await
    };
    let mut state = store.into_data();
    // Closed here, which is on a slow lane if the call used files, and not on the caller's thread.
    let closing = state.close_files();
    state.cpu = cpu.saturating_add(state.cpu_on_files()).saturating_add(closing);
    (end.map_or(CallEnd::Elapsed, CallEnd::Ran), state)
}

/// Runs the work until the deadline. This stops guests that wait in a host call, which epochs do not. Most calls
/// end at the first poll; only the others get a timer, on the runtime to which they move.
async fn run_until<T>(deadline: std::time::Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let first = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
    if let Poll::Ready(done) = first {
        return Some(done);
    }
    let mut moved = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut moved, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    tokio::time::timeout_at(deadline.into(), work).await.ok()
}

/// Where a call starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// On the caller's thread.
    Inline,
    /// On a slow lane, where calls take turns.
    Offloaded,
}

/// The CPU time of the work that this thread is polling.
#[derive(Clone, Copy)]
struct PollMeter {
    /// CPU time of earlier polls.
    before: Duration,
    since: PollClock,
    /// Whether the guest was made to yield: it has more to compute, and waits for nothing.
    yielded: bool,
}

/// The start of a poll.
#[derive(Debug, Clone, Copy)]
enum PollClock {
    /// The thread's CPU time at the start.
    ThreadCpu(Duration),
    /// Wall-clock time at the start, and the thread's CPU time a moment earlier.
    Wall(Instant, Duration),
}

impl PollClock {
    /// Starts the clock of a poll. Brief calls on their caller's thread are timed by the wall clock: most end long
    /// before it differs from the thread's CPU time, which takes a system call to read.
    fn now(placement: Placement, lane: Lane) -> Self {
        match (placement, lane) {
            (Placement::Inline, Lane::Default) => {
                let now = Instant::now();
                Self::Wall(now, recent_thread_time(now))
            }
            (Placement::Inline, Lane::Tools) | (Placement::Offloaded, _) => {
                Self::ThreadCpu(thread_time())
            }
        }
    }

    /// The CPU time since the start.
    fn spent(self) -> Duration {
        match self {
            Self::ThreadCpu(since) => thread_time().saturating_sub(since),
            Self::Wall(began, before) => {
                let passed = began.elapsed();
                if passed <= CPU_READING_AGE_MAX {
                    return passed;
                }
                // On a busy machine the thread may not have run all the time. A host call may also have computed
                // for far longer than the tick that ends a guest's poll.
                passed.min(thread_time().saturating_sub(before))
            }
        }
    }
}

/// Maximum age of a cached reading of a thread's CPU time. A call may be overcharged by this much.
const CPU_READING_AGE_MAX: Duration = Duration::from_millis(2);

/// This thread's CPU time, as read at most [`CPU_READING_AGE_MAX`] ago.
fn recent_thread_time(now: Instant) -> Duration {
    let (read_at, computed) = LAST_CPU_READING.get();
    if read_at.is_some_and(|at| now.saturating_duration_since(at) <= CPU_READING_AGE_MAX) {
        return computed;
    }
    let computed = thread_time();
    LAST_CPU_READING.set((Some(now), computed));
    computed
}

impl PollMeter {
    fn spent(self) -> Duration {
        self.before.saturating_add(self.since.spent())
    }
}

thread_local! {
    /// For the epoch callback, which runs within a poll and has no other access to it.
    static POLL_METER: Cell<PollMeter> = const {
        Cell::new(PollMeter {
            before: Duration::ZERO,
            since: PollClock::ThreadCpu(Duration::ZERO),
            yielded: false,
        })
    };

    /// The last reading of the thread's CPU time, and when it was taken.
    static LAST_CPU_READING: Cell<(Option<Instant>, Duration)> = const { Cell::new((None, Duration::ZERO)) };
}

/// The owner of a call.
#[derive(Clone, Copy)]
struct CallOwner<'a> {
    lane: Lane,
    turns: &'a LaneTurns,
    tenant: TenantId,
    stats: &'a PluginStats,
}

/// Adds up the thread's CPU time while the work is polled. On a slow lane the work is polled only while it has a
/// turn.
struct Measured<'a, F> {
    work: Pin<&'a mut F>,
    cpu: &'a mut Duration,
    placement: Placement,
    owner: CallOwner<'a>,
    /// `None` while the call runs on its caller's thread, as most calls do to their end.
    turn_slot: Option<TurnstileSlot>,
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let CallOwner { lane, turns, tenant, stats } = this.owner;
        let placement = std::mem::replace(&mut this.placement, Placement::Offloaded);
        if placement == Placement::Offloaded {
            let turn_slot = this.turn_slot.get_or_insert_with(|| turns.enqueue(lane, tenant));
            ready!(turn_slot.poll_turn(context));
        }
        let since = PollClock::now(placement, lane);
        POLL_METER.set(PollMeter { before: *this.cpu, since, yielded: false });
        let polled = this.work.as_mut().poll(context);
        let spent = since.spent();
        *this.cpu = this.cpu.saturating_add(spent);
        if spent > BRIEF_MAX {
            // The plugin's next calls do not start on their callers' threads.
            stats.mark_slow(lane);
        }
        // A guest that yielded keeps its turn until it is polled again. Otherwise it would get a turn at every
        // poll, however many other calls of its tenant are waiting to be polled.
        if (polled.is_ready() || !POLL_METER.get().yielded)
            && let Some(turn_slot) = &mut this.turn_slot
        {
            turn_slot.yield_turn();
        }
        polled
    }
}

/// A store with every limit of the binding in force.
pub(in super::super) fn limited_store(binding: &Binding, state: CallState) -> Store<CallState> {
    let mut store = Store::new(&binding.shared.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(store.data().transfer_bytes_max);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        // Ticks are not counted: on a busy machine others use them up, and a host call spans many.
        let spending = POLL_METER.get();
        let state = store.data();
        if spending.spent().saturating_add(state.cpu_on_files()) >= state.cpu_max {
            return Ok(UpdateDeadline::Interrupt);
        }
        POLL_METER.set(PollMeter { yielded: true, ..spending });
        Ok(UpdateDeadline::Yield(1))
    });
    store
}

async fn invoke(
    binding: &Binding,
    store: &mut Store<CallState>,
    call: ExportCall,
) -> wasmtime::Result<Result<RawResult, types::Failure>> {
    let roles = &binding.loaded.roles;
    if let (Some(foreign), ExportCall::CallTool { name, arguments }) = (&roles.foreign, &call) {
        let output_bytes = binding.granted.limits().output_bytes;
        let request = (name.as_str(), arguments.as_str());
        let called = foreign.call(&binding.loaded.pre, store, request, output_bytes).await?;
        return Ok(called.map(RawResult::Json));
    }
    let instance = binding.loaded.pre.instantiate_async(&mut *store).await?;
    // The caller has checked that the role exists.
    let missing = || wasmtime::Error::msg("the role is missing");
    macro_rules! role {
        ($role:ident) => {
            roles.$role.as_ref().ok_or_else(missing)?.load(&mut *store, &instance)?
        };
    }
    Ok(match call {
        ExportCall::Verify => role!(verifier).call_verify(store).await?.map(RawResult::Principal),
        ExportCall::Map { spec } => {
            role!(mapper).call_map_payload(store, spec.as_ref()).await?.map(RawResult::Mapped)
        }
        ExportCall::Get { path } => {
            role!(getter).call_get_value(store, &path).await?.map(RawResult::Value)
        }
        ExportCall::Reply => role!(replier).call_reply(store).await?.map(RawResult::Reply),
        ExportCall::Deliver => {
            role!(replier).call_deliver(store).await?.map(|()| RawResult::Delivered)
        }
        ExportCall::ListTools => role!(toolbox).call_list_tools(store).await?.map(RawResult::Tools),
        ExportCall::CallTool { name, arguments } => {
            role!(toolbox).call_call_tool(store, &name, &arguments).await?.map(RawResult::Json)
        }
        ExportCall::Schema => Ok(RawResult::Json(role!(about).call_config_schema(store).await?)),
        ExportCall::Check { settings } => {
            Ok(RawResult::Diagnostics(role!(about).call_check_config(store, &settings).await?))
        }
    })
}

pub(super) fn refusal_of(error: &wasmtime::Error, output_bytes: usize, cpu: Duration) -> Refusal {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return Refusal::OutOfCpuTime { granted_ms: super::millis(cpu) },
        Some(trap) => {
            let text = trap.to_string();
            return Refusal::Trapped(text.trim_start_matches("wasm trap: ").to_owned());
        }
        None => {}
    }
    if error.downcast_ref::<wasmtime::ThrownException>().is_some() {
        return Refusal::Trapped("an exception was caught by nothing in it".to_owned());
    }
    if error.downcast_ref::<wasmtime_wasi::I32Exit>().is_some() {
        return Refusal::Trapped("it exited".to_owned());
    }
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return Refusal::Busy(Shortage::Calls);
    }
    if let Some(FieldMapError::TooManyFields | FieldMapError::TotalSizeTooBig) =
        error.downcast_ref()
    {
        let what = "bytes of headers in one set of wasi:http";
        return Refusal::TooMany { what, granted: FIELD_BYTES_MAX };
    }
    if error.downcast_ref::<LookUpBudgetExceeded>().is_some() {
        let what = "bytes of documents to look through";
        return Refusal::TooMany { what, granted: LOOK_UP_BYTES_MAX };
    }
    if error.downcast_ref::<TooLarge>().is_some() {
        return Refusal::OutputTooLarge { granted_bytes: output_bytes };
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return Refusal::TooMany { what: "handles", granted: RESOURCES_MAX };
    }
    // Only the root cause: the context around it consists of addresses within the plugin.
    let text = error.root_cause().to_string();
    // wasmtime has no public type for this error; a test holds its text.
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return Refusal::OutputTooLarge { granted_bytes: output_bytes };
    }
    Refusal::Malformed(text.chars().take(200).collect())
}

#[cfg(test)]
mod tests;
