//! One call on its way through the guest: instantiated, run, measured, and cut off when its time is up.

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
    CallState, FIELD_BYTES_MAX, LOOK_UP_BYTES_MAX, LookedTooOften, RESOURCES_MAX,
};
use crate::sandbox::stats::PluginStats;
use crate::shares::turns::TurnstileSlot;

/// The resource tables and component handles of one instance.
const HANDLES_MAX: usize = 1_024;

/// What a guest is asked.
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
    /// Where it goes on when it takes long, which says how long it may.
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

    /// How long what it hands to the guest is, in bytes.
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

    /// Whether it may use egress. Who is not verified yet sends nothing, and neither does who only looks at
    /// settings.
    pub(super) fn may_send(&self) -> bool {
        !matches!(self, Self::Verify | Self::Schema | Self::Check { .. })
    }
}

/// What it returned, not yet checked.
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

/// How a guest ended.
pub(super) enum Ended {
    /// By itself, or because the host stopped it.
    Ran(wasmtime::Result<Result<RawResult, types::Failure>>),
    /// It still ran when its time was up.
    Elapsed,
}

pub(super) type Performance = (Ended, CallState);

/// Instantiates and runs, until it ends or its time is up. The store is dropped in here, with everything
/// the guest had.
pub(super) async fn perform(
    binding: Arc<Binding>,
    state: CallState,
    ask: ExportCall,
    begins: Placement,
) -> Performance {
    let (deadline, lane) = (state.deadline, state.lane);
    let mut store = limited_store(&binding, state);
    let mut cpu = Duration::ZERO;
    let ended = {
        let work = pin!(invoke(&binding, &mut store, ask));
        let (turns, tenant) = (&binding.shared.turns, binding.tenant);
        let of = CallOwner { lane, turns, tenant, account: &binding.account };
        within(deadline, Measured { work, cpu: &mut cpu, next: begins, of, place: None }).await
    };
    let mut state = store.into_data();
    // Here, which is a slow lane where it used files, and not on its caller's thread.
    let closing = state.close_files();
    state.cpu = cpu.saturating_add(state.cpu_on_files()).saturating_add(closing);
    (ended.map_or(Ended::Elapsed, Ended::Ran), state)
}

/// Runs until the deadline. Epochs do not stop a guest that waits in a host call, so this does. Most
/// calls end at the first poll; a timer is made for the others only, and where they go on.
async fn within<T>(deadline: std::time::Instant, work: impl Future<Output = T>) -> Option<T> {
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

/// Where a call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// On its caller's thread.
    Inline,
    /// On a slow lane, where others take turns with it.
    Offloaded,
}

/// The computing time of the work that this thread polls at the moment.
#[derive(Clone, Copy)]
struct PollMeter {
    /// In earlier polls.
    before: Duration,
    since: PollClock,
    /// Whether the guest was made to yield: it has more to compute, and waits for nothing.
    yielded: bool,
}

/// When a poll began.
#[derive(Debug, Clone, Copy)]
enum PollClock {
    /// By the thread's computing time.
    Computing(Duration),
    /// By the clock, and the thread's computing time a moment before that.
    Passing(Instant, Duration),
}

impl PollClock {
    /// Short calls that are with their callers are timed by the clock: most are over long before it tells anything
    /// else than the thread's computing time would, which takes a system call to ask for.
    fn now(begins: Placement, lane: Lane) -> Self {
        match (begins, lane) {
            (Placement::Inline, Lane::Default) => {
                let now = Instant::now();
                Self::Passing(now, lately(now))
            }
            (Placement::Inline, Lane::Tools) | (Placement::Offloaded, _) => {
                Self::Computing(thread_time())
            }
        }
    }

    /// The computing time since then.
    fn spent(self) -> Duration {
        match self {
            Self::Computing(since) => thread_time().saturating_sub(since),
            Self::Passing(began, before) => {
                let passed = began.elapsed();
                if passed <= LATELY {
                    return passed;
                }
                // On a busy machine the thread may have been anything but computing; and a host call may have
                // computed for far longer than the tick that ends a guest's poll.
                passed.min(thread_time().saturating_sub(before))
            }
        }
    }
}

/// How old the last look at a thread's computing time may be. A call may be charged that much too much.
const LATELY: Duration = Duration::from_millis(2);

/// This thread's computing time, as it was looked at lately.
fn lately(now: Instant) -> Duration {
    let (looked_at, computed) = LOOKED_AT.get();
    if looked_at.is_some_and(|at| now.saturating_duration_since(at) <= LATELY) {
        return computed;
    }
    let computed = thread_time();
    LOOKED_AT.set((Some(now), computed));
    computed
}

impl PollMeter {
    fn spent(self) -> Duration {
        self.before.saturating_add(self.since.spent())
    }
}

thread_local! {
    /// For the epoch's callback, which runs within a poll and cannot be told otherwise.
    static POLL_METER: Cell<PollMeter> = const {
        Cell::new(PollMeter {
            before: Duration::ZERO,
            since: PollClock::Computing(Duration::ZERO),
            yielded: false,
        })
    };

    /// When the thread's computing time was looked at last, and what it was.
    static LOOKED_AT: Cell<(Option<Instant>, Duration)> = const { Cell::new((None, Duration::ZERO)) };
}

/// Whose call it is.
#[derive(Clone, Copy)]
struct CallOwner<'a> {
    lane: Lane,
    turns: &'a LaneTurns,
    tenant: TenantId,
    account: &'a PluginStats,
}

/// Adds up the computing time of the thread while the work is polled, which it is on a slow lane only while
/// it has a turn.
struct Measured<'a, F> {
    work: Pin<&'a mut F>,
    cpu: &'a mut Duration,
    next: Placement,
    of: CallOwner<'a>,
    /// None as long as the call is with its caller: most never leave him.
    place: Option<TurnstileSlot>,
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let CallOwner { lane, turns, tenant, account } = this.of;
        let begins = std::mem::replace(&mut this.next, Placement::Offloaded);
        if begins == Placement::Offloaded {
            let place = this.place.get_or_insert_with(|| turns.place(lane, tenant));
            ready!(place.poll_turn(context));
        }
        let since = PollClock::now(begins, lane);
        POLL_METER.set(PollMeter { before: *this.cpu, since, yielded: false });
        let polled = this.work.as_mut().poll(context);
        let spent = since.spent();
        *this.cpu = this.cpu.saturating_add(spent);
        if spent > BRIEF_MAX {
            // Those of its plugin that follow are not even begun on their callers' threads.
            account.mark_slow(lane);
        }
        // A guest that yielded keeps its turn until it is polled again, or it would have one at every poll,
        // however many others of its tenant are about to be polled.
        if (polled.is_ready() || !POLL_METER.get().yielded)
            && let Some(place) = &mut this.place
        {
            place.pass();
        }
        polled
    }
}

/// A store with every limit of the binding in force.
pub(in super::super) fn limited_store(binding: &Binding, state: CallState) -> Store<CallState> {
    let mut store = Store::new(&binding.shared.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(store.data().handover_bytes_max);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        // Not the ticks are counted: a busy machine uses them up for others, and a host call takes many.
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
    ask: ExportCall,
) -> wasmtime::Result<Result<RawResult, types::Failure>> {
    let roles = &binding.loaded.roles;
    if let (Some(foreign), ExportCall::CallTool { name, arguments }) = (&roles.foreign, &ask) {
        let output_bytes = binding.granted.limits().output_bytes;
        let asked = (name.as_str(), arguments.as_str());
        let called = foreign.call(&binding.loaded.pre, store, asked, output_bytes).await?;
        return Ok(called.map(RawResult::Json));
    }
    let instance = binding.loaded.pre.instantiate_async(&mut *store).await?;
    // Whoever asks has looked that the role is there.
    let missing = || wasmtime::Error::msg("the role is missing");
    macro_rules! role {
        ($role:ident) => {
            roles.$role.as_ref().ok_or_else(missing)?.load(&mut *store, &instance)?
        };
    }
    Ok(match ask {
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
    if error.downcast_ref::<LookedTooOften>().is_some() {
        let what = "bytes of documents to look through";
        return Refusal::TooMany { what, granted: LOOK_UP_BYTES_MAX };
    }
    if error.downcast_ref::<TooLarge>().is_some() {
        return Refusal::OutputTooLarge { granted_bytes: output_bytes };
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return Refusal::TooMany { what: "handles", granted: RESOURCES_MAX };
    }
    // The root alone: what is around it are addresses within the plugin.
    let text = error.root_cause().to_string();
    // wasmtime gives this error no public type; a test holds its text.
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return Refusal::OutputTooLarge { granted_bytes: output_bytes };
    }
    Refusal::Malformed(text.chars().take(200).collect())
}

#[cfg(test)]
mod tests;
