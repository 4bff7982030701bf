//! One call on its way through the guest: instantiated, run, measured, and cut off when its time is up.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTableError;
use wasmtime::{Store, Trap, UpdateDeadline};

use super::super::Binding;
use super::super::bindings::v0_1::exports::wardgate::plugin as exports;
use super::super::bindings::v0_1::wardgate::plugin::types;
use super::super::engine::TICK;
use super::super::foreign::TooLarge;
use super::super::host_calls::{CallState, RESOURCES_MAX};
use super::super::refusal::Refusal;
use super::BRIEF_MAX;

/// The resource tables and component handles of one instance.
const HANDLES_MAX: usize = 1_024;

/// What a guest is asked.
pub(super) enum Ask {
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

/// What it tells.
pub(super) enum Told {
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
    Ran(wasmtime::Result<Result<Told, types::Failure>>),
    /// It still ran when its time was up.
    Elapsed,
}

pub(super) type Performance = (Ended, CallState);

/// Instantiates and runs, until it ends or its time is up. The store is dropped in here, with everything
/// the guest had.
pub(super) async fn perform(
    binding: Arc<Binding>,
    state: CallState,
    ask: Ask,
    begins: Begins,
) -> Performance {
    let deadline = state.deadline;
    let mut store = limited_store(&binding, state);
    let mut cpu = Duration::ZERO;
    let ended = {
        let work = pin!(invoke(&binding, &mut store, ask));
        let work = Measured { work, cpu: &mut cpu, next: begins };
        within(deadline, work).await
    };
    let mut state = store.into_data();
    state.cpu = cpu;
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

/// Where a call begins, which says how the computing time of its first poll is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// On its caller's thread, where a tick of the epoch ends the poll: most calls are over long before, and
    /// the passing time is as good as the thread's and ten times cheaper to ask for.
    WithItsCaller,
    /// On a slow lane, where others take turns with it.
    Apart,
}

/// The computing time of the work that this thread polls at the moment.
#[derive(Clone, Copy)]
struct Spending {
    /// In earlier polls.
    before: Duration,
    since: Since,
}

/// When a poll began.
#[derive(Clone, Copy)]
enum Since {
    /// By the thread's computing time.
    Computing(Duration),
    /// By the clock.
    Passing(Instant),
}

impl Spending {
    fn spent(self) -> Duration {
        let now = match self.since {
            Since::Computing(since) => thread_time().saturating_sub(since),
            // Longer than a tick it did not compute, whatever a stalled machine makes of it.
            Since::Passing(since) => since.elapsed().min(TICK),
        };
        self.before.saturating_add(now)
    }

    /// Whether this poll has computed for longer than a brief call does. By the clock nobody can tell: on a
    /// busy machine the thread may have been anything but computing.
    fn is_long(self) -> bool {
        match self.since {
            Since::Computing(since) => thread_time().saturating_sub(since) > BRIEF_MAX,
            Since::Passing(_) => false,
        }
    }
}

thread_local! {
    /// For the epoch's callback, which runs within a poll and cannot be told otherwise.
    static SPENDING: Cell<Spending> = const {
        Cell::new(Spending { before: Duration::ZERO, since: Since::Computing(Duration::ZERO) })
    };
}

/// Adds up the computing time of the thread while the work is polled.
struct Measured<'a, F> {
    work: Pin<&'a mut F>,
    cpu: &'a mut Duration,
    next: Begins,
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let since = match std::mem::replace(&mut self.next, Begins::Apart) {
            Begins::WithItsCaller => Since::Passing(Instant::now()),
            Begins::Apart => Since::Computing(thread_time()),
        };
        let spending = Spending { before: *self.cpu, since };
        SPENDING.set(spending);
        let polled = self.work.as_mut().poll(context);
        *self.cpu = spending.spent();
        polled
    }
}

/// The computing time of this thread so far.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// A store with every limit of the binding in force.
pub(in super::super) fn limited_store(binding: &Binding, state: CallState) -> Store<CallState> {
    let mut store = Store::new(&binding.shared.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(binding.granted.limits().output_bytes);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        // Not the ticks are counted: a busy machine uses them up for others, and a host call takes many.
        let spending = SPENDING.get();
        if spending.spent() >= store.data().cpu_max {
            return Ok(UpdateDeadline::Interrupt);
        }
        if spending.is_long() {
            // Those of its plugin that follow are not even begun on their callers' threads.
            store.data().binding.account.was_long();
        }
        Ok(UpdateDeadline::Yield(1))
    });
    store
}

async fn invoke(
    binding: &Binding,
    store: &mut Store<CallState>,
    ask: Ask,
) -> wasmtime::Result<Result<Told, types::Failure>> {
    let roles = &binding.loaded.roles;
    if let (Some(foreign), Ask::CallTool { name, arguments }) = (&roles.foreign, &ask) {
        let output_bytes = binding.granted.limits().output_bytes;
        let asked = (name.as_str(), arguments.as_str());
        let called = foreign.call(&binding.loaded.pre, store, asked, output_bytes).await?;
        return Ok(called.map(Told::Json));
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
        Ask::Verify => role!(verifier).call_verify(store).await?.map(Told::Principal),
        Ask::Map { spec } => {
            role!(mapper).call_map_payload(store, spec.as_ref()).await?.map(Told::Mapped)
        }
        Ask::Get { path } => role!(getter).call_get_value(store, &path).await?.map(Told::Value),
        Ask::Reply => role!(replier).call_reply(store).await?.map(Told::Reply),
        Ask::Deliver => role!(replier).call_deliver(store).await?.map(|()| Told::Delivered),
        Ask::ListTools => role!(toolbox).call_list_tools(store).await?.map(Told::Tools),
        Ask::CallTool { name, arguments } => {
            role!(toolbox).call_call_tool(store, &name, &arguments).await?.map(Told::Json)
        }
        Ask::Schema => Ok(Told::Json(role!(about).call_config_schema(store).await?)),
        Ask::Check { settings } => {
            Ok(Told::Diagnostics(role!(about).call_check_config(store, &settings).await?))
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
    if error.downcast_ref::<wasmtime_wasi::I32Exit>().is_some() {
        return Refusal::Trapped("it exited".to_owned());
    }
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return Refusal::Busy;
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
