//! What a tool has answered, cut to what a run may take in.

use super::json_length::json_length;
use crate::trace::PluginRun;

/// The result of a tool call, as the model and the trace see it.
pub(super) struct Answer {
    pub(super) plugin: Option<String>,
    pub(super) mcp_server: Option<String>,
    pub(super) result: String,
    pub(super) is_error: bool,
    pub(super) logs: Vec<String>,
    pub(super) ran: Option<Box<PluginRun>>,
}

impl Answer {
    /// Cuts the answer to the run's remaining byte budget and charges it. The result goes first, and is replaced
    /// by an error if it does not fit; then come log lines, then the recording for a replay.
    pub(super) fn within(mut self, bytes_left: &mut usize) -> Self {
        if !take(bytes_left, self.result.len()) {
            self.result = format!(
                "its answer of {} bytes is left out: the tools of this run have answered as much as they may",
                self.result.len()
            );
            self.is_error = true;
        }
        self.logs.retain(|line| take(bytes_left, line.len()));
        if let Some(ran) = &mut self.ran {
            ran.recording = ran.recording.take().filter(|recording| {
                let length = json_length(recording, *bytes_left);
                length.is_some_and(|length| take(bytes_left, length))
            });
        }
        self
    }
}

/// Takes this many bytes from the budget, if it has that many.
fn take(bytes_left: &mut usize, bytes: usize) -> bool {
    let left = bytes_left.checked_sub(bytes);
    *bytes_left = left.unwrap_or(*bytes_left);
    left.is_some()
}
