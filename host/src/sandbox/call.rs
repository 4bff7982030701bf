//! One plugin call, from acquiring its permits to returning its value.
//!
//! A call starts on the caller's thread, and most end there within microseconds. A call that outlives its first
//! epoch tick, or waits for something, moves to a slow lane, where it is stopped when its CPU time or its wall time
//! is used up. A call starts on the slow lane if it may read large documents, or if a recent call of its plugin
//! computed for longer than [`BRIEF_MAX`] at a stretch.

mod answers;
mod blame;
mod perform;
pub(super) mod state;
mod tools;

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Instrument as _;

use self::answers::ExportResult;
use self::blame::Circumstances;
#[cfg(feature = "bench")]
pub(super) use self::perform::limited_store;
use self::perform::{Ended, ExportCall, Performance, Placement, perform, refusal_of};
use self::state::{Budget, CallState};
use super::Binding;
use super::outcome::{Called, Diagnostic, HttpReply, Mapped, Principal, refused};
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
        self.ask(subject, ExportCall::Verify).await.and_then(|answer| match answer {
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
        self.ask(subject, ExportCall::Map { spec }).await.and_then(|answer| match answer {
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
        self.ask(subject, ExportCall::Get { path }).await.and_then(|answer| match answer {
            ExportResult::Value(value) => Ok(value),
            _ => Err(mismatch()),
        })
    }

    /// Asks the replier for the response to the request.
    pub async fn reply(self: &Arc<Self>, subject: Subject) -> Called<HttpReply> {
        if self.loaded.roles.replier.is_none() {
            return self.no_role("replier");
        }
        self.ask(subject, ExportCall::Reply).await.and_then(|answer| match answer {
            ExportResult::Reply(reply) => Ok(reply),
            _ => Err(mismatch()),
        })
    }

    /// Has the replier deliver the answer of a finished task.
    pub async fn deliver(self: &Arc<Self>, subject: Subject) -> Called<()> {
        if self.loaded.roles.replier.is_none() {
            return self.no_role("replier");
        }
        self.ask(subject, ExportCall::Deliver).await.and_then(|answer| match answer {
            ExportResult::Delivered => Ok(()),
            _ => Err(mismatch()),
        })
    }

    /// Asks the plugin for the JSON Schema of its settings, as JSON text.
    pub async fn config_schema(self: &Arc<Self>, subject: Subject) -> Called<String> {
        if self.loaded.roles.about.is_none() {
            return self.no_role("about");
        }
        self.ask(subject, ExportCall::Schema).await.and_then(|answer| match answer {
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
        self.ask(subject, ExportCall::Check { settings }).await.and_then(|answer| match answer {
            ExportResult::Diagnostics(found) => Ok(found),
            _ => Err(mismatch()),
        })
    }

    /// Makes one call and adds the plugin's identity to its result.
    async fn ask(self: &Arc<Self>, subject: Subject, ask: ExportCall) -> Called<ExportResult> {
        let channel = subject.channel.clone();
        let span = tracing::info_span!(
            "plugin_call",
            plugin = %self.name,
            export = ask.export(),
            tenant = %self.tenant,
            request = %subject.request_id
        );
        let called = self.begin(subject, ask).instrument(span).await;
        self.identify(called, channel.as_deref())
    }

    async fn begin(self: &Arc<Self>, subject: Subject, ask: ExportCall) -> Called<ExportResult> {
        let lane = ask.lane();
        let (cpu, wall) = self.granted.limits().times(lane);
        let admission = match self.account.admit(&self.shared.clock) {
            Ok(admission) => admission,
            Err(refusal) => return refused(refusal),
        };
        let _room = match self.room(lane, wall).await {
            Ok(room) => room,
            Err(refusal) => return self.settle(refused(refusal)),
        };
        let begun = Instant::now();
        let circumstances = Circumstances::of(&ask, &subject);
        let budget = Budget {
            deadline: begun + wall,
            cpu,
            may_send: ask.may_send(),
            lane,
            handover_bytes: circumstances.handover_bytes(self.granted.limits().output_bytes),
        };
        let state = CallState::new(Arc::clone(self), subject, budget);
        // Every look-up walks the document, and a host call does not yield.
        let looks_into_much = circumstances.is_about_much();
        let may_run_inline = self.account.may_run_inline(lane);
        // Boxed because the call may move to another runtime while it runs.
        let apart = looks_into_much || !may_run_inline;
        let begins = if apart { Placement::Offloaded } else { Placement::Inline };
        let mut work = Box::pin(perform(Arc::clone(self), state, ask, begins).in_current_span());
        let called = if apart {
            self.finish_in(lane, work, begun, cpu, wall, circumstances).await
        } else {
            let first =
                std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            match first {
                Poll::Ready(performance) => {
                    self.judge(performance, begun, cpu, wall, circumstances)
                }
                Poll::Pending => self.finish_in(lane, work, begun, cpu, wall, circumstances).await,
            }
        };
        // A call that the host stopped proves nothing by its little CPU time: it may have shared the lane with many
        // others.
        let ended_itself = !matches!(called.value, Err(PluginError::Refusal(_)));
        if !may_run_inline && ended_itself && called.run.cost.cpu_micros < micros(BRIEF_MAX) {
            self.account.mark_fast(lane);
        }
        drop(admission);
        self.settle(called)
    }

    /// Records a call in the plugin's statistics.
    fn settle(&self, called: Called<ExportResult>) -> Called<ExportResult> {
        let shared = &self.shared;
        self.account.settle(&called.value, called.run.cost, shared.quarantine, &shared.clock);
        let Cost { micros, cpu_micros, .. } = called.run.cost;
        let error = called.value.as_ref().err().map(tracing::field::display);
        tracing::debug!(micros, cpu_micros, error, "a plugin call ended");
        called
    }

    /// Acquires what bounds calls in flight: a permit of the binding, then a slot of the pool that all tenants
    /// share. Every call acquires them in this order, so there is no deadlock. Waits for at most `patience` in all.
    /// The wait does not count towards the call's own time, since the load that causes it is not the call's fault.
    async fn room(
        &self,
        lane: Lane,
        patience: Duration,
    ) -> Result<(SemaphorePermit<'_>, Slot), Refusal> {
        let until = Instant::now() + patience;
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

    async fn finish_in(
        &self,
        lane: Lane,
        work: Pin<Box<impl Future<Output = Performance> + Send + 'static>>,
        begun: Instant,
        cpu: Duration,
        wall: Duration,
        circumstances: Circumstances,
    ) -> Called<ExportResult> {
        let Some(handle) = self.shared.lanes.spawn(lane, work) else {
            return refused(Refusal::Host("it is shutting down".to_owned()));
        };
        match handle.await {
            Ok(performance) => self.judge(performance, begun, cpu, wall, circumstances),
            Err(_) => refused(Refusal::Host("the call was cut off".to_owned())),
        }
    }

    /// Separates refusals by the host from results of the guest, and adds the cost.
    fn judge(
        &self,
        performance: Performance,
        begun: Instant,
        cpu: Duration,
        wall: Duration,
        circumstances: Circumstances,
    ) -> Called<ExportResult> {
        let (ended, mut state) = performance;
        let limits = self.granted.limits();
        let value = match ended {
            Ended::Ran(Ok(Ok(returned))) => answers::checked(returned),
            Ended::Ran(Ok(Err(failure))) => Err(PluginError::Failure(Failure {
                code: failure.code,
                message: failure.message,
                retry_after_ms: failure.retry_after_ms.map(|ms| ms.min(RETRY_AFTER_MS_MAX)),
            })),
            Ended::Ran(Err(error)) => {
                let refused = state.limiter.refused();
                let met = || refusal_of(&error, limits.output_bytes, cpu);
                Err(PluginError::Refusal(refused.unwrap_or_else(met)))
            }
            Ended::Elapsed => Err(Refusal::Deadline { granted_ms: millis(wall) }.into()),
        };
        let value = value.map_err(|error| circumstances.blame(error, &mut state));
        let cost = Cost {
            micros: micros(begun.elapsed()),
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
