//! What became of the run, for repliers.

use crate::host::Host;
use crate::settings::{Form, Setting};
use crate::{Failure, json};
use alloc::string::String;

/// What is answered where the run failed. Why it did is for the operator: the reason may hold anything.
pub const FAILURE_TEXT: Setting = Setting {
    name: "failure-text",
    default: Some("Sorry, I could not answer that."),
    form: Form::Text,
    description: "What is answered where the run failed.",
};

/// What there is to tell whoever asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The run goes on: this is the acknowledgement.
    Pending,
    /// The run is completed. A result that is no text is JSON text here.
    Done(String),
    /// The run ended without a result, with this status: `failed`, `error` or `stopped`.
    Failed(String),
}

/// Reads status and result of the task.
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

/// The text to deliver now that the run is over: its result, or [`FAILURE_TEXT`]. Empty where the agent
/// had nothing to say.
pub fn to_deliver(host: &impl Host) -> Result<String, Failure> {
    match read(host) {
        Answer::Pending => Err(Failure::conflict("the run is not over yet")),
        Answer::Done(text) => Ok(text),
        Answer::Failed(_) => FAILURE_TEXT.read(host),
    }
}

/// The text, shortened to so many characters; an ellipsis then takes the place of the last of them.
/// Providers count in UTF-16 units, so characters outside the basic plane count twice.
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

/// As much of the text as fits into so many UTF-16 units, and the rest.
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
