//! The log that a run writes its steps to while it is in progress, and that others follow.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::{Event, Step, ToolCall};
use crate::clock::Timestamp;

/// Something that happened in a run, as followers receive it.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// An attempt at the run has started.
    AttemptStarted,
    /// A tool was called and has not answered yet.
    ToolCalled {
        /// When it was called.
        at: Timestamp,
        /// The call.
        call: ToolCall,
        /// The plugin that provides the tool, if one of the agent's plugins does.
        plugin: Option<String>,
    },
    /// The model has written a part of its text.
    TextPart {
        /// When the turn began.
        at: Timestamp,
        /// The part, redacted.
        text: String,
    },
    /// The model's answer broke off and is asked for again: its text begins anew.
    TextRestarted,
    /// A step has completed. The trace holds the same step.
    StepCompleted(Step),
}

impl RunEvent {
    /// Whether the event is a part of a turn's text. The trace holds the text with its turn.
    #[must_use]
    pub fn is_of_text(&self) -> bool {
        matches!(self, Self::TextPart { .. })
    }
}

/// The events of one task in this process, in order. Steps are redacted before they are added, so that followers see
/// no more than the trace will hold.
#[derive(Debug, Default)]
pub struct RunLog {
    events: Mutex<Vec<RunEvent>>,
    /// The number of events.
    progress: watch::Sender<usize>,
}

impl RunLog {
    /// Starts an attempt. An earlier attempt that ended without the task's end being stored no longer counts.
    pub fn begin(&self) {
        self.push(RunEvent::AttemptStarted);
    }

    /// Adds an event and wakes the followers.
    pub fn push(&self, event: RunEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if event == RunEvent::TextRestarted {
            // What was shown counts no longer, and need not be kept for those who come later.
            for event in events.iter_mut().rev() {
                let RunEvent::TextPart { text, .. } = event else { break };
                text.clear();
            }
        }
        events.push(event);
        let events = events.len();
        self.progress.send_replace(events);
    }

    /// Records that tool calls that are still in progress did not answer before the run ended.
    pub fn abandon_calls(&self, now: Timestamp) {
        let mut open: Vec<(Timestamp, ToolCall, Option<String>)> = Vec::new();
        {
            let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events.iter() {
                match event {
                    RunEvent::AttemptStarted => open.clear(),
                    RunEvent::ToolCalled { at, call, plugin } => {
                        open.push((*at, call.clone(), plugin.clone()));
                    }
                    RunEvent::StepCompleted(Step {
                        event: Event::Tool { call: ended, .. },
                        ..
                    }) => {
                        let position = open.iter().position(|(_, call, _)| call == ended);
                        position.map(|position| open.remove(position));
                    }
                    _ => {}
                }
            }
        }
        for (at, call, plugin) in open {
            let micros = u64::try_from(now.micros() - at.micros()).unwrap_or_default();
            let result = format!("{}: it did not answer before the run ended", call.name);
            let logs = Vec::new();
            let event = Event::Tool {
                call,
                plugin,
                mcp_server: None,
                result,
                is_error: true,
                logs,
                ran: None,
            };
            self.push(RunEvent::StepCompleted(Step { at, micros, event }));
        }
    }

    /// A receiver of the number of events.
    pub fn progress(&self) -> watch::Receiver<usize> {
        self.progress.subscribe()
    }

    /// The events from this index on.
    pub fn since(&self, first: usize) -> Vec<RunEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.get(first..).unwrap_or_default().to_vec()
    }

    /// The steps of the latest attempt.
    pub fn steps(&self) -> Vec<Step> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt_start = events.iter().rposition(|event| *event == RunEvent::AttemptStarted);
        let attempt = events.get(attempt_start.unwrap_or_default()..).unwrap_or_default();
        let steps = attempt.iter().filter_map(|event| match event {
            RunEvent::StepCompleted(step) => Some(step.clone()),
            _ => None,
        });
        steps.collect()
    }
}

/// The events that these steps were, for followers who come after the run. The text of each turn is one part.
#[must_use]
pub fn replay(steps: Vec<Step>) -> Vec<RunEvent> {
    let mut events = Vec::with_capacity(steps.len());
    for step in steps {
        match &step.event {
            Event::Tool { call, plugin, .. } => {
                let (call, plugin) = (call.clone(), plugin.clone());
                events.push(RunEvent::ToolCalled { at: step.at, call, plugin });
            }
            Event::Model { text, restarts, .. } => {
                for _ in 0..restarts.unwrap_or_default() {
                    events.push(RunEvent::TextRestarted);
                }
                if !text.is_empty() {
                    events.push(RunEvent::TextPart { at: step.at, text: text.clone() });
                }
            }
            _ => {}
        }
        events.push(RunEvent::StepCompleted(step));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(event: Event) -> Step {
        Step { at: Timestamp::from_micros(1), micros: 2, event }
    }

    #[test]
    fn what_is_replayed_is_what_was_followed() {
        let call = ToolCall { id: "1".into(), name: "t".into(), arguments: "{}".into() };
        let prompt = step(Event::Prompt { text: "hi".into() });
        let tool = step(Event::Tool {
            call: call.clone(),
            plugin: None,
            mcp_server: None,
            result: "1".into(),
            is_error: false,
            logs: Vec::new(),
            ran: None,
        });
        let log = RunLog::default();
        log.begin();
        log.push(RunEvent::StepCompleted(prompt.clone()));
        log.begin();
        for event in [
            RunEvent::StepCompleted(prompt.clone()),
            RunEvent::ToolCalled { at: tool.at, call, plugin: None },
            RunEvent::StepCompleted(tool.clone()),
        ] {
            log.push(event);
        }
        assert_eq!(log.steps(), [prompt, tool], "of the last attempt only");
        assert_eq!(replay(log.steps()), log.since(3));
        assert_eq!(*log.progress().borrow(), 6);
    }
}
