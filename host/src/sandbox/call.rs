//! One plugin call, from acquiring its permits to returning its value.
//!
//! A call starts on the caller's thread, and most end there within microseconds. A call that outlives its first
//! epoch tick, or waits for something, moves to a slow lane, where it is stopped when its CPU time or its wall time
//! is used up. A call starts on the slow lane if it may read large documents, or if a recent call of its plugin
//! computed for longer than [`BRIEF_MAX`] at a stretch.

mod answers;
mod blame;
mod run_call;
pub(super) mod state;
mod tools;

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Instrument as _;

use self::answers::ExportResult;
use self::blame::BlameContext;
#[cfg(feature = "bench")]
pub(super) use self::run_call::limited_store;
use self::run_call::{CallEnd, CallOutcome, ExportCall, Placement, refusal_of, run_call};
use self::state::{Budget, CallState};
use super::Binding;
use super::outcome::{Called, Diagnostic, HttpReply, Mapped, Principal, not_started};
use super::refusal::{Failure, PluginError, Refusal, Shortage};
use super::slow_lane::Lane;
use super::stats::Cost;
use super::subject::Subject;
use crate::shares::slots::{HeldBy, Slot};
use crate::trace::PluginRun;

/// How long a brief call may compute at a stretch. A call that merely happens to meet a tick of the epoch still
/// counts as brief.
pub(super) const BRIEF_MAX: Duration = Duration::from_millis(5);

/// The longest `Retry-After` that a plugin may give callers, in milliseconds: a day.
const RETRY_AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

impl Binding {
    /// Asks the verifier who sent the request. A verifier has no egress.
    pub async fn verify(self: &Arc<Self>, subject: Subject) -> Called<Principal> {
        if self.loaded.roles.verifier.is_none() {
            return self.no_role("verifier");
        }
        self.call(subject, ExportCall::Verify).await.and_then(|answer| match answer {
            ExportResult::Principal(principal) => Ok(principal),
            _ => Err(mismatch()),
        })
    }

    /// Asks the mapper how to handle a request. `spec` is `params_mapping`, verbatim.
    pub async fn map_payload(
        self: &Arc<Self>,
        subject: Subject,
        spec: Option<String>,
    ) -> Called<Mapped> {
        if self.loaded.roles.mapper.is_none() {
            return self.no_role("payload-mapper");
        }
        self.call(subject, ExportCall::Map { spec }).await.and_then(|answer| match answer {
            ExportResult::Mapped(mapped) => Ok(mapped),
            _ => Err(mismatch()),
        })
    }

    /// Asks the getter for one value of a finished task, as JSON text. `None` if there is no such value.
    pub async fn get_value(
        self: &Arc<Self>,
        subject: Subject,
        path: String,
    ) -> Called<Option<String>> {
        if self.loaded.roles.getter.is_none() {
            return self.no_role("response-getter");
        }
        self.call(subject, ExportCall::Get { path }).await.and_then(|answer| match answer {
            ExportResult::Value(value) => Ok(value),
            _ => Err(mismatch()),
        })
    }

    /// Asks the replier for the response to the request.
    pub async fn reply(self: &Arc<Self>, subject: Subject) -> Called<HttpReply> {
        if self.loaded.roles.replier.is_none() {
            return self.no_role("replier");
        }
        self.call(subject, ExportCall::Reply).await.and_then(|answer| match answer {
            ExportResult::Reply(reply) => Ok(reply),
            _ => Err(mismatch()),
        })
    }

    /// Has the replier deliver the answer of a finished task.
    pub async fn deliver(self: &Arc<Self>, subject: Subject) -> Called<()> {
        if self.loaded.roles.replier.is_none() {
            return self.no_role("replier");
        }
        self.call(subject, ExportCall::Deliver).await.and_then(|answer| match answer {
            ExportResult::Delivered => Ok(()),
            _ => Err(mismatch()),
        })
    }

    /// Asks the plugin for the JSON Schema of its settings, as JSON text.
    pub async fn config_schema(self: &Arc<Self>, subject: Subject) -> Called<String> {
        if self.loaded.roles.about.is_none() {
            return self.no_role("about");
        }
        self.call(subject, ExportCall::Schema).await.and_then(|answer| match answer {
            ExportResult::Json(json) => Ok(json),
            _ => Err(mismatch()),
        })
    }

    /// Asks the plugin what is wrong with these settings, a JSON object as text.
    pub async fn check_config(
        self: &Arc<Self>,
        subject: Subject,
        settings: String,
    ) -> Called<Vec<Diagnostic>> {
        if self.loaded.roles.about.is_none() {
            return self.no_role("about");
        }
        self.call(subject, ExportCall::Check { settings }).await.and_then(|answer| match answer {
            ExportResult::Diagnostics(found) => Ok(found),
            _ => Err(mismatch()),
        })
    }

    /// Makes one call and adds the plugin's identity to its result.
    async fn call(self: &Arc<Self>, subject: Subject, call: ExportCall) -> Called<ExportResult> {
        let channel = subject.channel.clone();
        let span = tracing::error_span!(
            "plugin_call",
            plugin = %self.name,
            export = call.export(),
            tenant = %self.tenant,
            request = %subject.request_id
        );
        let called = self.begin(subject, call).instrument(span).await;
        self.identify(called, channel.as_deref())
    }

    async fn begin(self: &Arc<Self>, subject: Subject, call: ExportCall) -> Called<ExportResult> {
        let lane = call.lane();
        let (cpu, wall) = self.granted.limits().durations(lane);
        let admission = match self.stats.admit(&self.shared.clock) {
            Ok(admission) => admission,
            Err(refusal) => return not_started(refusal),
        };
        let _permits = match self.acquire_permits(lane, wall).await {
            Ok(permits) => permits,
            Err(refusal) => return self.record_stats(not_started(refusal)),
        };
        let started_at = Instant::now();
        let context = BlameContext::new(&call, &subject);
        let budget = Budget {
            deadline: started_at + wall,
            cpu,
            may_send: call.may_send(),
            lane,
            transfer_bytes_max: context.transfer_bytes_max(self.granted.limits().output_bytes),
        };
        let state = CallState::new(Arc::clone(self), subject, budget);
        // Every look-up walks the document, and a host call does not yield.
        let is_large = context.is_large();
        let may_run_inline = self.stats.may_run_inline(lane);
        // Boxed because the call may move to another runtime while it runs.
        let offload = is_large || !may_run_inline;
        let placement = if offload { Placement::Offloaded } else { Placement::Inline };
        let mut work =
            Box::pin(run_call(Arc::clone(self), state, call, placement).in_current_span());
        let called = if offload {
            self.finish_on_lane(lane, work, started_at, cpu, wall, context).await
        } else {
            let first =
                std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            match first {
                Poll::Ready(outcome) => self.conclude(outcome, started_at, cpu, wall, context),
                Poll::Pending => {
                    self.finish_on_lane(lane, work, started_at, cpu, wall, context).await
                }
            }
        };
        // A call that the host stopped proves nothing by its little CPU time: it may have shared the lane with many
        // others.
        let was_not_stopped = !matches!(called.value, Err(PluginError::Refusal(_)));
        if !may_run_inline && was_not_stopped && called.run.cost.cpu_micros < micros(BRIEF_MAX) {
            self.stats.mark_fast(lane);
        }
        drop(admission);
        self.record_stats(called)
    }

    /// Records a call in the plugin's statistics.
    fn record_stats(&self, called: Called<ExportResult>) -> Called<ExportResult> {
        let shared = &self.shared;
        self.stats.record(&called.value, called.run.cost, shared.quarantine, &shared.clock);
        let Cost { micros, cpu_micros, .. } = called.run.cost;
        // Not a failure's text, which may repeat what a caller or a model sent.
        let outcome = match &called.value {
            Ok(_) => "answered",
            Err(PluginError::Failure(_)) => "failed",
            Err(PluginError::Refusal(refusal)) => refusal.code(),
        };
        tracing::debug!(micros, cpu_micros, outcome, "a plugin call ended");
        called
    }

    /// Acquires what bounds calls in flight: a permit of the binding, then a slot of the pool that all tenants
    /// share. Every call acquires them in this order, so there is no deadlock. Waits for at most `wait_max` in all.
    /// The wait does not count towards the call's own time, since the load that causes it is not the call's fault.
    async fn acquire_permits(
        &self,
        lane: Lane,
        wait_max: Duration,
    ) -> Result<(SemaphorePermit<'_>, Slot), Refusal> {
        let until = Instant::now() + wait_max;
        let permit = permit(&self.calls, until).await.map_err(Refusal::Busy)?;
        let slots = match lane {
            Lane::Default => &self.shared.slots.brief,
            Lane::Tools => &self.shared.slots.tools,
        };
        let slot = slots.take_until(self.tenant, until).await.map_err(|held_by| {
            Refusal::Busy(match held_by {
                HeldBy::Tenant => Shortage::CallsOfTenant,
                HeldBy::All => Shortage::Calls,
            })
        })?;
        Ok((permit, slot))
    }

    async fn finish_on_lane(
        &self,
        lane: Lane,
        work: Pin<Box<impl Future<Output = CallOutcome> + Send + 'static>>,
        started_at: Instant,
        cpu: Duration,
        wall: Duration,
        context: BlameContext,
    ) -> Called<ExportResult> {
        let Some(handle) = self.shared.lanes.spawn(lane, work) else {
            return not_started(Refusal::Host("it is shutting down".to_owned()));
        };
        match handle.await {
            Ok(outcome) => self.conclude(outcome, started_at, cpu, wall, context),
            Err(_) => not_started(Refusal::Host("the call was cut off".to_owned())),
        }
    }

    /// Separates refusals by the host from results of the guest, and adds the cost.
    fn conclude(
        &self,
        outcome: CallOutcome,
        started_at: Instant,
        cpu: Duration,
        wall: Duration,
        context: BlameContext,
    ) -> Called<ExportResult> {
        let (end, mut state) = outcome;
        let limits = self.granted.limits();
        let value = match end {
            CallEnd::Ran(Ok(Ok(returned))) => answers::validate(returned),
            CallEnd::Ran(Ok(Err(failure))) => Err(PluginError::Failure(Failure {
                code: failure.code,
                message: failure.message,
                retry_after_ms: failure.retry_after_ms.map(|ms| ms.min(RETRY_AFTER_MS_MAX)),
            })),
            CallEnd::Ran(Err(error)) => {
                let refused = state.limiter.refused();
                let underlying = || refusal_of(&error, limits.output_bytes, cpu);
                Err(PluginError::Refusal(refused.unwrap_or_else(underlying)))
            }
            CallEnd::Elapsed => Err(Refusal::Deadline { granted_ms: millis(wall) }.into()),
        };
        let value = value.map_err(|error| context.attribute(error, &mut state));
        let cost = Cost {
            micros: micros(started_at.elapsed()),
            cpu_micros: micros(state.cpu),
            memory_bytes: state.limiter.memory_bytes() as u64,
        };
        let missed_payload = state.has_missed_payload();
        let (logs, recording) = state.into_parts();
        let run = PluginRun { cost, ..PluginRun::default() };
        Called { value, logs, run, recording, missed_payload }
    }
}

async fn permit(semaphore: &Semaphore, until: Instant) -> Result<SemaphorePermit<'_>, Shortage> {
    if let Ok(permit) = semaphore.try_acquire() {
        return Ok(permit);
    }
    match tokio::time::timeout_at(until.into(), semaphore.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Shortage::CallsOfPlugin),
    }
}

fn mismatch() -> PluginError {
    PluginError::Refusal(Refusal::Host("the call gave another kind of value".to_owned()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
