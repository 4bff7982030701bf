//! One call of a plugin, from the permits it needs to the value it gives.
//!
//! Calls begin on the caller's thread. Most end there, within microseconds. One that outlives its first
//! epoch tick, or waits for something, is moved to a slow lane, where it is stopped when its computing time
//! or its whole time is used up. The calls of a plugin that has just outlived its first tick go there at
//! once, as do those that look into large documents.

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

/// How long a brief call computes at a stretch. One that meets a tick of the epoch by chance is brief all the
/// same.
pub(super) const BRIEF_MAX: Duration = Duration::from_millis(5);

/// The longest time that a plugin may send callers away for, in milliseconds: a day.
const RETRY_AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

impl Binding {
    /// Asks the verifier who called. It has no egress.
    pub async fn verify(self: &Arc<Self>, subject: Subject) -> Called<Principal> {
        if self.loaded.roles.verifier.is_none() {
            return self.no_role("verifier");
        }
        self.ask(subject, ExportCall::Verify).await.and_then(|answer| match answer {
            ExportResult::Principal(principal) => Ok(principal),
            _ => Err(mismatch()),
        })
    }

    /// Asks the mapper what to make of a request. `spec` is `params_mapping`, verbatim.
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

    /// Asks the getter for one value of a finished task, as JSON text. None where nothing is there.
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

    /// Asks the replier for the answer to the request.
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

    /// Asks for the JSON Schema of the plugin's settings, as JSON text.
    pub async fn config_schema(self: &Arc<Self>, subject: Subject) -> Called<String> {
        if self.loaded.roles.about.is_none() {
            return self.no_role("about");
        }
        self.ask(subject, ExportCall::Schema).await.and_then(|answer| match answer {
            ExportResult::Json(json) => Ok(json),
            _ => Err(mismatch()),
        })
    }

    /// Asks what is wrong with these settings, a JSON object as text.
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

    /// One call, begun where it ends soonest.
    async fn ask(self: &Arc<Self>, subject: Subject, ask: ExportCall) -> Called<ExportResult> {
        let channel = subject.channel.clone();
        let called = self.begin(subject, ask).await;
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
        // Boxed because it may have to move to the other runtime while it runs.
        let apart = looks_into_much || !may_run_inline;
        let begins = if apart { Placement::Offloaded } else { Placement::Inline };
        let mut work = Box::pin(perform(Arc::clone(self), state, ask, begins));
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
        // One that was stopped had no chance to be long, where many of its kind shared the lane.
        let ended_itself = !matches!(called.value, Err(PluginError::Refusal(_)));
        if !may_run_inline && ended_itself && called.run.cost.cpu_micros < micros(BRIEF_MAX) {
            self.account.mark_fast(lane);
        }
        drop(admission);
        self.settle(called)
    }

    /// Enters a call into the plugin's account.
    fn settle(&self, called: Called<ExportResult>) -> Called<ExportResult> {
        let shared = &self.shared;
        self.account.settle(&called.value, called.run.cost, shared.quarantine, &shared.clock);
        called
    }

    /// What bounds calls in flight: those of the binding, and those of all tenants, whose slots are shared. They
    /// are taken in this order by everybody, so nobody waits in a circle. The waiting is not taken from the
    /// time of the call: that others are many is no fault of this one.
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

    /// Tells what the host did from what the guest did.
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
