//! The text of a turn on its way to those who follow the task: redacted, and in parts of a sensible size.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Trace;
use super::model::TextSink;
use crate::clock::Timestamp;
use crate::trace::log::RunEvent;
use crate::trace::redact::StreamRedactor;

/// A text is shown in about this many parts for each doubling of its length, so that the events of a long text are few
/// and its beginning comes at once.
const PARTS: usize = 256;

/// The text of one turn.
pub(super) struct TurnText<'a> {
    trace: &'a Trace<'a>,
    /// When the turn began: the time of all its parts, live and when they are replayed from the trace.
    begun_at: Timestamp,
    state: Mutex<State<'a>>,
    restarts: AtomicU32,
}

struct State<'a> {
    redactor: StreamRedactor<'a>,
    /// Redacted, and not shown yet.
    pending: String,
    shown_bytes: usize,
}

impl<'a> TurnText<'a> {
    pub(super) fn new(trace: &'a Trace<'a>, begun_at: Timestamp) -> Self {
        Self { trace, begun_at, state: Mutex::new(State::new(trace)), restarts: AtomicU32::new(0) }
    }

    /// Shows the rest, and returns how often the text began anew.
    pub(super) fn finish(self) -> u32 {
        let restarts = self.restarts.into_inner();
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let rest = state.pending + &state.redactor.finish();
        show(self.trace, self.begun_at, rest);
        restarts
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> State<'a> {
    fn new(trace: &'a Trace<'a>) -> Self {
        let redactor = StreamRedactor::new(trace.redactor);
        Self { redactor, pending: String::new(), shown_bytes: 0 }
    }
}

impl TextSink for TurnText<'_> {
    fn push(&self, part: &str) {
        let mut state = self.state();
        let redacted = state.redactor.push(part);
        state.pending.push_str(&redacted);
        if state.pending.len() > state.shown_bytes / PARTS {
            let part = std::mem::take(&mut state.pending);
            state.shown_bytes += part.len();
            show(self.trace, self.begun_at, part);
        }
    }

    fn restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        *self.state() = State::new(self.trace);
        self.trace.log.push(RunEvent::TextRestarted);
    }
}

fn show(trace: &Trace<'_>, at: Timestamp, text: String) {
    if !text.is_empty() {
        trace.log.push(RunEvent::TextPart { at, text });
    }
}
