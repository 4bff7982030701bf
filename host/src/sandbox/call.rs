//! One call of a plugin, from the permits it needs to the value it gives.
//!
//! Short calls (mapping, getting) begin on the caller's thread. Most end there, within microseconds. One
//! that outlives its first epoch tick, or waits for something, is moved to the slow lane, where it is
//! stopped when its computing time or its whole time is used up. Tool calls go there at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{Store, Trap, UpdateDeadline};

use super::bindings::v0_1::exports::wardgate::plugin as exports;
use super::bindings::v0_1::wardgate::plugin::types;
use super::engine::TICK;
use super::host_calls::{Budget, CallState, Subject};
use super::refusal::{Failure, PluginError, Refusal};
use super::{Binding, SlowLane};
use crate::call::Payload;

/// Most tools of one plugin, and the longest name of one.
const TOOLS_MAX: usize = 128;
const TOOL_NAME_BYTES_MAX: usize = 64;

/// The resource tables and component handles of one instance.
const HANDLES_MAX: usize = 1_024;

/// The largest document that a short call may look into on the caller's thread, in bytes.
const SHORT_DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// What a call gave, and what it cost.
#[derive(Debug)]
pub struct Called<T> {
    /// The value, or why there is none.
    pub value: Result<T, PluginError>,
    /// Log lines of the plugin. Lost where the call was ended by its deadline.
    pub logs: Vec<String>,
    /// Instantiating and running, in microseconds.
    pub micros: u64,
}

/// What a mapper decided.
#[derive(Debug)]
pub enum Mapped {
    /// Run the agent with these.
    Run {
        /// Targets and values.
        params: Vec<(String, String)>,
        /// What takes the place of the payload in the agent's context.
        context: Option<Payload>,
    },
    /// Acknowledge, run nothing.
    Ignore,
    /// Answer at once, run nothing.
    Reply(ReplyNow),
}

/// A plugin's immediate answer.
#[derive(Debug)]
pub struct ReplyNow {
    /// HTTP status.
    pub status: u16,
    /// Headers, not yet checked.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A tool of a plugin.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: serde_json::Value,
    /// Whether it may change things. True unless its annotations say otherwise.
    pub destructive: bool,
}

enum Ask {
    Map { spec: Option<String> },
    Get { path: String },
    ListTools,
    CallTool { name: String, arguments: String },
}

enum Told {
    Mapped(exports::payload_mapper::Mapped),
    Value(Option<String>),
    Tools(Vec<exports::toolbox::Tool>),
    Json(String),
}

type Performance = (wasmtime::Result<Result<Told, types::Failure>>, CallState);

impl Binding {
    /// Asks the mapper what to make of a request. `spec` is `params_mapping`, verbatim.
    pub async fn map_payload(
        self: &Arc<Self>,
        subject: Subject,
        spec: Option<String>,
    ) -> Called<Mapped> {
        if self.loaded.roles.mapper.is_none() {
            return no_role("payload-mapper");
        }
        let called = self.ask_shortly(subject, Ask::Map { spec }).await;
        called.and_then(|told| match told {
            Told::Mapped(mapped) => check_mapped(mapped),
            _ => Err(mismatch()),
        })
    }

    /// Asks the getter for one value of a finished task, as JSON text. None where nothing is there.
    pub async fn get_value(
        self: &Arc<Self>,
        subject: Subject,
        path: String,
    ) -> Called<Option<String>> {
        if self.loaded.roles.getter.is_none() {
            return no_role("response-getter");
        }
        let called = self.ask_shortly(subject, Ask::Get { path }).await;
        called.and_then(|told| match told {
            Told::Value(value) => match value.as_deref().map(check_json).transpose() {
                Ok(_) => Ok(value),
                Err(error) => Err(malformed(&format!("its value is not JSON: {error}"))),
            },
            _ => Err(mismatch()),
        })
    }

    /// Asks the toolbox what it has.
    pub async fn list_tools(self: &Arc<Self>, subject: Subject) -> Called<Vec<Tool>> {
        if self.loaded.roles.toolbox.is_none() {
            return no_role("toolbox");
        }
        let called = self.ask_shortly(subject, Ask::ListTools).await;
        called.and_then(|told| match told {
            Told::Tools(tools) if tools.len() > TOOLS_MAX => {
                Err(malformed("it has more than 128 tools"))
            }
            Told::Tools(tools) => tools.into_iter().map(check_tool).collect(),
            _ => Err(mismatch()),
        })
    }

    /// Calls a tool. Arguments and answer are JSON text.
    pub async fn call_tool(
        self: &Arc<Self>,
        subject: Subject,
        name: String,
        arguments: String,
    ) -> Called<String> {
        if self.loaded.roles.toolbox.is_none() {
            return no_role("toolbox");
        }
        let limits = self.granted.limits();
        let (cpu, wall) = (limits.tool_cpu, limits.tool_wall);
        let ask = Ask::CallTool { name, arguments };
        let called = match self.permits(wall).await {
            Ok(_permits) => {
                let begun = Instant::now();
                let budget = Budget { deadline: begun + wall, ticks: ticks(cpu), may_send: true };
                let state = CallState::new(Arc::clone(self), subject, budget);
                let work = Box::pin(perform(Arc::clone(self), state, ask));
                self.finish_in(&self.shared.tools, work, begun, cpu, wall).await
            }
            Err(refusal) => refused(refusal, Instant::now()),
        };
        called.and_then(|told| match told {
            Told::Json(json) => match check_json(&json) {
                Ok(()) => Ok(json),
                Err(error) => Err(malformed(&format!("its answer is not JSON: {error}"))),
            },
            _ => Err(mismatch()),
        })
    }

    /// A call that ought to take microseconds.
    async fn ask_shortly(self: &Arc<Self>, subject: Subject, ask: Ask) -> Called<Told> {
        let limits = self.granted.limits();
        let (cpu, wall) = (limits.cpu, limits.wall);
        let _permits = match self.permits(wall).await {
            Ok(permits) => permits,
            Err(refusal) => return refused(refusal, Instant::now()),
        };
        let begun = Instant::now();
        let budget = Budget { deadline: begun + wall, ticks: ticks(cpu), may_send: true };
        let state = CallState::new(Arc::clone(self), subject, budget);
        // Boxed because it may have to move to the other runtime while it runs.
        let looks_into_much = state.document_bytes() > SHORT_DOCUMENT_BYTES_MAX;
        let mut work = Box::pin(perform(Arc::clone(self), state, ask));
        let overtime = &self.shared.overtime;
        if looks_into_much {
            // Every look-up walks the document, and a host call does not yield.
            return self.finish_in(overtime, work, begun, cpu, wall).await;
        }
        let first = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        match first {
            Poll::Ready(performance) => self.judge(performance, begun, cpu),
            Poll::Pending => self.finish_in(overtime, work, begun, cpu, wall).await,
        }
    }

    /// The permits that bound calls in flight: of the binding, of its tenant, of the pool. They are
    /// taken in this order by everybody, so nobody waits in a circle. The waiting is not taken from the
    /// time of the call: that others are many is no fault of this one.
    async fn permits(&self, patience: Duration) -> Result<[SemaphorePermit<'_>; 3], Refusal> {
        let until = Instant::now() + patience;
        Ok([
            permit(&self.calls, until).await?,
            permit(&self.tenant_calls, until).await?,
            permit(&self.shared.calls, until).await?,
        ])
    }

    async fn finish_in(
        &self,
        lane: &SlowLane,
        work: Pin<Box<impl Future<Output = Performance> + Send + 'static>>,
        begun: Instant,
        cpu: Duration,
        wall: Duration,
    ) -> Called<Told> {
        // Epochs do not stop a guest that waits in a host call, so the whole is timed as well.
        let timed = tokio::time::timeout_at((begun + wall).into(), work);
        let Some(handle) = lane.spawn(timed) else {
            return refused(Refusal::Host("it is shutting down".to_owned()), begun);
        };
        match handle.await {
            Ok(Ok(performance)) => self.judge(performance, begun, cpu),
            Ok(Err(_elapsed)) => refused(Refusal::Deadline { granted_ms: millis(wall) }, begun),
            Err(_) => refused(Refusal::Host("the call was cut off".to_owned()), begun),
        }
    }

    /// Tells what the host did from what the guest did.
    fn judge(&self, performance: Performance, begun: Instant, cpu: Duration) -> Called<Told> {
        let (outcome, state) = performance;
        let limits = self.granted.limits();
        let value = match outcome {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(failure)) => Err(PluginError::Failure(Failure {
                code: failure.code,
                message: failure.message,
                retry_after_ms: failure.retry_after_ms,
            })),
            Err(error) => Err(PluginError::Refusal(if state.limiter.refused() {
                Refusal::OutOfMemory { granted_bytes: limits.memory_bytes }
            } else {
                refusal_of(&error, limits.output_bytes, cpu)
            })),
        };
        Called { value, logs: state.into_logs(), micros: micros_since(begun) }
    }
}

/// Instantiates and runs. The store is dropped in here, with everything the guest had.
async fn perform(binding: Arc<Binding>, state: CallState, ask: Ask) -> Performance {
    let mut store = limited_store(&binding, state);
    let outcome = invoke(&binding, &mut store, ask).await;
    (outcome, store.into_data())
}

/// A store with every limit of the binding in force.
pub(super) fn limited_store(binding: &Binding, state: CallState) -> Store<CallState> {
    let mut store = Store::new(&binding.shared.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(binding.granted.limits().output_bytes);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| {
        let state = store.data_mut();
        match state.ticks_left.checked_sub(1) {
            Some(left) => {
                state.ticks_left = left;
                Ok(UpdateDeadline::Yield(1))
            }
            None => Ok(UpdateDeadline::Interrupt),
        }
    });
    store
}

async fn invoke(
    binding: &Binding,
    store: &mut Store<CallState>,
    ask: Ask,
) -> wasmtime::Result<Result<Told, types::Failure>> {
    let instance = binding.loaded.pre.instantiate_async(&mut *store).await?;
    let roles = &binding.loaded.roles;
    // Whoever asks has looked that the role is there.
    let missing = || wasmtime::Error::msg("the role is missing");
    match ask {
        Ask::Map { spec } => {
            let guest = roles.mapper.as_ref().ok_or_else(missing)?.load(&mut *store, &instance)?;
            let mapped = guest.call_map_payload(store, spec.as_ref()).await?;
            Ok(mapped.map(Told::Mapped))
        }
        Ask::Get { path } => {
            let guest = roles.getter.as_ref().ok_or_else(missing)?.load(&mut *store, &instance)?;
            let value = guest.call_get_value(store, &path).await?;
            Ok(value.map(Told::Value))
        }
        Ask::ListTools => {
            let guest = roles.toolbox.as_ref().ok_or_else(missing)?.load(&mut *store, &instance)?;
            let tools = guest.call_list_tools(store).await?;
            Ok(tools.map(Told::Tools))
        }
        Ask::CallTool { name, arguments } => {
            let guest = roles.toolbox.as_ref().ok_or_else(missing)?.load(&mut *store, &instance)?;
            let answer = guest.call_call_tool(store, &name, &arguments).await?;
            Ok(answer.map(Told::Json))
        }
    }
}

async fn permit(semaphore: &Semaphore, until: Instant) -> Result<SemaphorePermit<'_>, Refusal> {
    if let Ok(permit) = semaphore.try_acquire() {
        return Ok(permit);
    }
    match tokio::time::timeout_at(until.into(), semaphore.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Refusal::Busy),
    }
}

fn refusal_of(error: &wasmtime::Error, output_bytes: usize, cpu: Duration) -> Refusal {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return Refusal::OutOfCpuTime { granted_ms: millis(cpu) },
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
    let text = format!("{error:#}");
    // wasmtime gives this error no public type; a test holds its text.
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return Refusal::OutputTooLarge { granted_bytes: output_bytes };
    }
    Refusal::Malformed(text.chars().take(200).collect())
}

fn check_mapped(mapped: exports::payload_mapper::Mapped) -> Result<Mapped, PluginError> {
    match mapped.action.as_str() {
        "run" => {
            let context = mapped.context.map(|text| Payload::parse(text.into())).transpose();
            let context = context.map_err(|error| malformed(&format!("its context: {error}")))?;
            if context.as_ref().is_some_and(|context| context.fields().is_none()) {
                return Err(malformed("its context is no JSON object"));
            }
            Ok(Mapped::Run { params: mapped.params, context })
        }
        "ignore" => Ok(Mapped::Ignore),
        "reply" => match mapped.reply {
            Some(reply) => Ok(Mapped::Reply(ReplyNow {
                status: reply.status,
                headers: reply.headers,
                body: reply.body,
            })),
            None => Err(malformed("it wants to reply and gave no reply")),
        },
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(malformed(&format!("its action {shown:?} is none of run, ignore, reply")))
        }
    }
}

fn check_tool(tool: exports::toolbox::Tool) -> Result<Tool, PluginError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let name_is_good = !tool.name.is_empty()
        && tool.name.len() <= TOOL_NAME_BYTES_MAX
        && tool.name.bytes().all(allowed);
    if !name_is_good {
        return Err(malformed("a tool's name is not 1 to 64 letters, digits, _ and -"));
    }
    let input_schema = serde_json::from_str::<serde_json::Value>(&tool.input_schema)
        .ok()
        .filter(serde_json::Value::is_object)
        .ok_or_else(|| malformed(&format!("the input schema of {} is no object", tool.name)))?;
    // MCP: destructiveHint is true by default and means nothing where readOnlyHint is true.
    let annotations = tool.annotations.as_deref().map(serde_json::from_str::<serde_json::Value>);
    let annotations = annotations.and_then(Result::ok).unwrap_or_default();
    let hint = |name: &str| annotations.get(name).and_then(serde_json::Value::as_bool);
    let destructive = hint("readOnlyHint") != Some(true) && hint("destructiveHint") != Some(false);
    Ok(Tool { name: tool.name, description: tool.description, input_schema, destructive })
}

/// Whether a text is JSON of bounded depth, so that everybody behind us can parse it.
fn check_json(text: &str) -> Result<(), crate::call::PayloadError> {
    Payload::parse(bytes::Bytes::copy_from_slice(text.as_bytes())).map(drop)
}

fn malformed(what: &str) -> PluginError {
    PluginError::Refusal(Refusal::Malformed(what.to_owned()))
}

fn mismatch() -> PluginError {
    PluginError::Refusal(Refusal::Host("the call gave another kind of value".to_owned()))
}

fn no_role<T>(role: &'static str) -> Called<T> {
    Called { value: Err(Refusal::NoSuchRole { role }.into()), logs: Vec::new(), micros: 0 }
}

fn refused<T>(refusal: Refusal, begun: Instant) -> Called<T> {
    Called { value: Err(refusal.into()), logs: Vec::new(), micros: micros_since(begun) }
}

fn ticks(cpu: Duration) -> u64 {
    u64::try_from(cpu.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn micros_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl<T> Called<T> {
    fn and_then<U>(self, check: impl FnOnce(T) -> Result<U, PluginError>) -> Called<U> {
        Called { value: self.value.and_then(check), logs: self.logs, micros: self.micros }
    }
}
