//! The journal of a run: its finished steps, from which the next attempt goes on after the death of the process. Only
//! what is new is written, never a conversation as a whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RunError;
use super::conversation::Verdict;
use super::model::{ProviderMessage, Turn};
use crate::approval::{Approval, CallPosition, NewApproval};
use crate::clock::Timestamp;
use crate::store::{Durability, Store};
use crate::tasks::{Fence, Task};
use crate::trace::redact::Redactor;
use crate::trace::{Event, Step};

/// An entry of the journal: owned when it is read, borrowed when it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub(super) enum Entry<E = Event, M = Box<ProviderMessage>> {
    /// The model took a turn and called tools.
    Turn {
        /// The turn, redacted.
        step: StoredStep<E>,
        /// What it has besides text and calls. None too if a secret is in it: redacted, its signatures would not hold.
        provider_message: Option<M>,
        /// Whether its calls contain a secret, so that what is recorded are not the calls that were to be made.
        #[serde(default)]
        is_redacted: bool,
        /// What is wrong with its answer, if it is one that does not have the required form.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// A tool that may change things is about to be called: the call of this number in the turn.
    Intent {
        /// From 0.
        call: usize,
    },
    /// Somebody decided about a call of the turn, or nobody did in time.
    Verdict {
        /// The decision, redacted.
        step: StoredStep<E>,
        /// The call.
        position: CallPosition,
        /// Why it is not made. None if it is.
        denied: Option<String>,
    },
    /// The next call of the turn has ended.
    Result {
        /// The call, redacted.
        step: StoredStep<E>,
    },
}

/// A step of the trace, as the journal stores it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredStep<E = Event> {
    at: i64,
    micros: u64,
    event: E,
}

impl<'a> From<&'a Step> for StoredStep<&'a Event> {
    fn from(Step { at, micros, event }: &'a Step) -> Self {
        Self { at: at.micros(), micros: *micros, event }
    }
}

/// An entry that is written.
type NewEntry<'a> = Entry<&'a Event, &'a ProviderMessage>;

impl From<StoredStep> for Step {
    fn from(StoredStep { at, micros, event }: StoredStep) -> Self {
        Self { at: Timestamp::from_micros(at), micros, event }
    }
}

/// Writes the journal of one attempt.
pub(super) struct Journal<'a> {
    store: &'a Store,
    task: &'a Task,
    fence: Fence,
    position: i64,
}

impl<'a> Journal<'a> {
    /// The journal, and what earlier attempts have written.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) async fn open(
        store: &'a Store,
        task: &'a Task,
        fence: Fence,
    ) -> Result<(Self, Vec<Entry>), RunError> {
        // Each claim has a new fence, also after a pause, which is no attempt.
        let entries = if fence > Fence(1) { read(store, task).await? } else { Vec::new() };
        let position = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        Ok((Self { store, task, fence, position }, entries))
    }

    /// Records a turn that calls tools, or one with an answer in which this is wrong.
    pub(super) async fn record_turn(
        &mut self,
        step: &Step,
        turn: &Turn,
        problem: Option<&String>,
        redactor: &Redactor,
    ) -> Result<(), RunError> {
        let is_unchanged = matches!(&step.event, Event::Model { text, tool_calls, .. }
            if *text == turn.text && *tool_calls == turn.tool_calls);
        let has_no_secret = |own: &&ProviderMessage| redactor.find(&own.message).is_none();
        let provider_message = turn.provider_message.as_deref().filter(has_no_secret);
        let entry = Entry::Turn {
            step: step.into(),
            provider_message: provider_message.filter(|_| is_unchanged),
            is_redacted: !is_unchanged,
            problem: problem.cloned(),
        };
        self.append(&entry, Durability::Process).await
    }

    /// Records that a tool that may change things is about to be called.
    pub(super) async fn record_intent(&mut self, call: usize) -> Result<(), RunError> {
        self.append(&Entry::Intent { call }, Durability::Machine).await
    }

    /// Records the end of a call.
    pub(super) async fn record_result(&mut self, step: &Step) -> Result<(), RunError> {
        self.append(&Entry::Result { step: step.into() }, Durability::Process).await
    }

    /// Records what was decided about a call.
    pub(super) async fn record_verdict(
        &mut self,
        step: &Step,
        position: CallPosition,
        verdict: &Verdict,
    ) -> Result<(), RunError> {
        let denied = match verdict {
            Verdict::Approved => None,
            Verdict::Denied(why) => Some(why.clone()),
        };
        let entry = Entry::Verdict { step: step.into(), position, denied };
        self.append(&entry, Durability::Process).await
    }

    /// The approvals of the run.
    pub(super) async fn approvals(&self) -> Result<Vec<Approval>, RunError> {
        Ok(self.store.approvals_of_run(self.task).await?)
    }

    /// Pauses the task until these approvals and those still pending are decided, at most until `until`.
    ///
    /// # Errors
    /// Always: [`RunError::Paused`], or if the store is unavailable.
    pub(super) async fn pause(
        &self,
        approvals: Vec<NewApproval>,
        until: Timestamp,
    ) -> Result<(), RunError> {
        if !self.store.pause(self.task, self.fence, approvals, until).await? {
            // As for an entry that is not stored.
            std::future::pending::<()>().await;
        }
        Err(RunError::Paused)
    }

    async fn append(
        &mut self,
        entry: &NewEntry<'_>,
        durability: Durability,
    ) -> Result<(), RunError> {
        let text = serde_json::to_string(entry)
            .map_err(|error| RunError::failed(format!("a step cannot be recorded: {error}")))?;
        let appended =
            self.store.append_to_journal(self.task, self.fence, self.position, &text, durability);
        if !appended.await? {
            // The task was ended, or another worker has it. The worker of this run learns it from the store and drops
            // the run; until then it must do nothing more.
            std::future::pending::<()>().await;
        }
        self.position += 1;
        Ok(())
    }
}

/// What earlier attempts of a run have recorded.
///
/// # Errors
/// If the store cannot be read. If an entry cannot be, the run fails: behind it may be calls that must not be repeated.
pub(super) async fn read(store: &Store, task: &Task) -> Result<Vec<Entry>, RunError> {
    let entries = store.journal(task).await?;
    let entries = entries.iter().map(|entry| serde_json::from_str(entry)).collect::<Result<_, _>>();
    entries.map_err(|error| {
        RunError::failed(format!(
            "what an earlier attempt of this run did cannot be read, so it does not go on ({error}; fault: host)"
        ))
    })
}

/// How long earlier attempts have worked: the time that their steps took, without pauses between the attempts.
pub(super) fn time_used(entries: &[Entry]) -> Duration {
    let (mut used, mut until) = (0_i64, i64::MIN);
    for entry in entries {
        // Waiting for a decision takes no time of the run's.
        let (Entry::Turn { step, .. } | Entry::Result { step }) = entry else { continue };
        let end = step.at.saturating_add(i64::try_from(step.micros).unwrap_or(i64::MAX));
        // Calls that ran at the same time count once.
        used = used.saturating_add(end.saturating_sub(step.at.max(until)).max(0));
        until = until.max(end);
    }
    Duration::from_micros(u64::try_from(used).unwrap_or_default())
}

/// The steps of these entries.
pub(super) fn steps(entries: Vec<Entry>) -> Vec<Step> {
    let steps = entries.into_iter().filter_map(|entry| match entry {
        Entry::Turn { step, .. } | Entry::Verdict { step, .. } | Entry::Result { step } => {
            Some(step.into())
        }
        Entry::Intent { .. } => None,
    });
    steps.collect()
}
