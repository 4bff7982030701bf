//! Takes known secrets out of steps by exact value, before anything is stored.

use super::{Event, Step, ToolCall};

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// A value shorter than this is not looked for: replacing every `a` would destroy the trace and tell
/// the secret by its gaps.
const SECRET_BYTES_MIN: usize = 6;

/// The secrets that a run may have touched.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<zeroize::Zeroizing<String>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Adds a value to look for, as it is and as it stands in JSON text.
    pub fn add(&mut self, secret: &str) {
        if secret.len() < SECRET_BYTES_MIN {
            return;
        }
        let escaped = serde_json::Value::from(secret).to_string();
        let escaped = escaped.trim_matches('"');
        if escaped != secret {
            self.secrets.push(escaped.to_owned().into());
        }
        self.secrets.push(secret.to_owned().into());
    }

    /// The text without any of the secrets.
    #[must_use]
    pub fn text(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| {
            if text.contains(secret.as_str()) {
                text.replace(secret.as_str(), REDACTED)
            } else {
                text
            }
        })
    }

    /// The step without any of the secrets.
    #[must_use]
    pub fn step(&self, step: Step) -> Step {
        if self.secrets.is_empty() {
            return step;
        }
        let event = match step.event {
            Event::Prompt { text } => Event::Prompt { text: self.text(text) },
            Event::Model { model, text, tool_calls, input_tokens, output_tokens } => Event::Model {
                model,
                text: self.text(text),
                tool_calls: tool_calls.into_iter().map(|call| self.call(call)).collect(),
                input_tokens,
                output_tokens,
            },
            Event::Tool { call, plugin, result, is_error, logs } => Event::Tool {
                call: self.call(call),
                plugin,
                result: self.text(result),
                is_error,
                logs: logs.into_iter().map(|line| self.text(line)).collect(),
            },
            Event::UserTokens { items } => Event::UserTokens { items },
            Event::Failure { reason } => Event::Failure { reason: self.text(reason) },
        };
        Step { event, ..step }
    }

    /// The call without any of the secrets.
    #[must_use]
    pub fn call(&self, call: ToolCall) -> ToolCall {
        ToolCall { arguments: self.text(call.arguments), ..call }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_in_every_spelling_and_short_ones_are_left() {
        let mut redactor = Redactor::default();
        redactor.add("pa\"ss word");
        redactor.add("abc");
        let text = redactor.text(r#"{"a":"pa\"ss word","b":"abc"} pa"ss word"#.into());
        assert_eq!(text, r#"{"a":"[redacted]","b":"abc"} [redacted]"#);
    }
}
