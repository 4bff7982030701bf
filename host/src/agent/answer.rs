//! What a tool has answered, cut to what a run may take in.

use std::io;

use crate::trace::PluginRun;

/// The result of a tool call, as the model and the trace see it.
pub(super) struct Answer {
    pub(super) plugin: Option<String>,
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
                let mut length = Length(0);
                serde_json::to_writer(&mut length, recording).is_ok() && take(bytes_left, length.0)
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

/// Counts the bytes that are written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
