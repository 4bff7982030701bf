//! The outcome of a run, for repliers.

use crate::host::Host;
use crate::settings::{Format, Setting};
use crate::{Failure, json};
use alloc::string::String;

/// The text sent to the user if the run failed. The reason of the failure is for the operator and is not
/// sent: it may hold anything.
pub const FAILURE_TEXT: Setting = Setting {
    name: "failure-text",
    default: Some("Sorry, I could not answer that."),
    format: Format::Text,
    description: "What is answered where the run failed.",
};

/// The outcome of a run, as a replier sends it.
#[derive(Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// The run has not ended; the response is an acknowledgement.
    Pending,
    /// The run completed with this result. A result that is not a string is its JSON text; null is empty.
    Completed(String),
    /// The run ended without a result, with this status: `failed`, `error` or `stopped`.
    Failed(String),
}

impl RunOutcome {
    /// Reads the outcome from the task's status and result.
    pub fn from_task(host: &impl Host) -> Self {
        let status = host.task_json("/status");
        let status = status.as_deref().and_then(json::decode_string).unwrap_or_default();
        match status.as_str() {
            "completed" => {
                let result = host.task_json("/result").unwrap_or_default();
                Self::Completed(json::decode_string(&result).unwrap_or(match result.as_str() {
                    "null" => String::new(),
                    _ => result,
                }))
            }
            "failed" | "error" | "stopped" => Self::Failed(status),
            _ => Self::Pending,
        }
    }
}

/// The text to deliver after the run: its result, or [`FAILURE_TEXT`]. Empty if the result is empty. Fails
/// with `conflict` if the run has not ended.
pub fn text_to_deliver(host: &impl Host) -> Result<String, Failure> {
    match RunOutcome::from_task(host) {
        RunOutcome::Pending => Err(Failure::conflict("the run is not over yet")),
        RunOutcome::Completed(text) => Ok(text),
        RunOutcome::Failed(_) => FAILURE_TEXT.value(host),
    }
}

/// Shortens a text to at most `utf16_max` UTF-16 code units, with an ellipsis at its end. Providers count
/// in UTF-16, so a character outside the basic multilingual plane counts twice.
pub fn truncate_utf16(text: &str, utf16_max: usize) -> String {
    match split_at_utf16(text, utf16_max) {
        (all, "") => all.into(),
        _ => {
            let mut truncated = String::from(split_at_utf16(text, utf16_max.saturating_sub(1)).0);
            truncated.push('…');
            truncated
        }
    }
}

/// Splits a text into what fits into `utf16_max` UTF-16 code units, and the rest.
pub fn split_at_utf16(text: &str, utf16_max: usize) -> (&str, &str) {
    let mut units = 0;
    for (index, character) in text.char_indices() {
        units += character.len_utf16();
        if units > utf16_max {
            return text.split_at_checked(index).unwrap_or((text, ""));
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_truncated_between_characters() {
        assert_eq!(truncate_utf16("abc", 3), "abc");
        assert_eq!(truncate_utf16("abcd", 3), "ab…");
        assert_eq!(truncate_utf16("😀😀", 4), "😀😀");
        assert_eq!(truncate_utf16("😀😀", 3), "😀…");
        assert_eq!(truncate_utf16("", 0), "");
        assert_eq!(split_at_utf16("😀b", 1), ("", "😀b"));
        assert_eq!(split_at_utf16("a😀b", 3), ("a😀", "b"));
    }
}
