//! The outcome of a run, for repliers.

use crate::host::Host;
use crate::settings::{Form, Setting};
use crate::{Failure, json};
use alloc::string::String;

/// The text sent to the user if the run failed. The reason of the failure is for the operator and is not
/// sent: it may hold anything.
pub const FAILURE_TEXT: Setting = Setting {
    name: "failure-text",
    default: Some("Sorry, I could not answer that."),
    form: Form::Text,
    description: "What is answered where the run failed.",
};

/// The outcome of a run, as a replier sends it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The run has not ended; the response is an acknowledgement.
    Pending,
    /// The run completed with this result. A result that is not a string is its JSON text; null is empty.
    Done(String),
    /// The run ended without a result, with this status: `failed`, `error` or `stopped`.
    Failed(String),
}

/// Reads the outcome from the task's status and result.
pub fn read(host: &impl Host) -> Answer {
    let status = host.task("/status").as_deref().and_then(json::text).unwrap_or_default();
    match status.as_str() {
        "completed" => {
            let result = host.task("/result").unwrap_or_default();
            Answer::Done(json::text(&result).unwrap_or(match result.as_str() {
                "null" => String::new(),
                _ => result,
            }))
        }
        "failed" | "error" | "stopped" => Answer::Failed(status),
        _ => Answer::Pending,
    }
}

/// The text to deliver after the run: its result, or [`FAILURE_TEXT`]. Empty if the result is empty. Fails
/// with `conflict` if the run has not ended.
pub fn to_deliver(host: &impl Host) -> Result<String, Failure> {
    match read(host) {
        Answer::Pending => Err(Failure::conflict("the run is not over yet")),
        Answer::Done(text) => Ok(text),
        Answer::Failed(_) => FAILURE_TEXT.read(host),
    }
}

/// Shortens a text to at most `utf16_max` UTF-16 code units, with an ellipsis at its end. Providers count
/// in UTF-16, so a character outside the basic multilingual plane counts twice.
pub fn clip(text: &str, utf16_max: usize) -> String {
    match split(text, utf16_max) {
        (whole, "") => whole.into(),
        _ => {
            let mut clipped = String::from(split(text, utf16_max.saturating_sub(1)).0);
            clipped.push('…');
            clipped
        }
    }
}

/// Splits a text into what fits into `utf16_max` UTF-16 code units, and the rest.
pub fn split(text: &str, utf16_max: usize) -> (&str, &str) {
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
    fn texts_are_clipped_between_characters() {
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("abcd", 3), "ab…");
        assert_eq!(clip("😀😀", 4), "😀😀");
        assert_eq!(clip("😀😀", 3), "😀…");
        assert_eq!(clip("", 0), "");
        assert_eq!(split("😀b", 1), ("", "😀b"));
        assert_eq!(split("a😀b", 3), ("a😀", "b"));
    }
}
