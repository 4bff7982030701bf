//! Redacts known secrets in steps, by exact value, before anything is stored.

use std::ops::Range;
use std::sync::OnceLock;

use aho_corasick::Anchored;
use aho_corasick::automaton::Automaton as _;
use aho_corasick::nfa::contiguous::NFA;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::usage::Usage;
use super::{Event, PluginRun, Step, ToolCall};

/// The replacement for a secret.
pub const REDACTED: &str = "[redacted]";

/// The minimum bytes of a value to search for: replacing every `a` would destroy the trace and reveal the secret by
/// its gaps.
const SECRET_BYTES_MIN: usize = 6;

/// The secrets that may occur in a run.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<zeroize::Zeroizing<String>>,
    /// Finds all of them in one pass, however many there are. It is built in time linear in their length, which
    /// matters because a sender chooses them. (A table of all transitions, which the library builds for a few
    /// patterns by itself, takes time quadratic in the length of a repetitive one.)
    finder: OnceLock<Option<NFA>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Adds a value to search for, as it is and as JSON text spells it, which may escape a slash.
    pub fn add(&mut self, secret: &str) {
        if secret.len() < SECRET_BYTES_MIN {
            return;
        }
        let quoted = Value::from(secret).to_string();
        let escaped = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        let mut forms = vec![secret.to_owned(), escaped.to_owned(), escaped.replace('/', "\\/")];
        forms.dedup();
        self.secrets.extend(forms.into_iter().map(Into::into));
        self.finder = OnceLock::new();
    }

    fn finder(&self) -> Option<&NFA> {
        let finder = self.finder.get_or_init(|| {
            let patterns = self.secrets.iter().map(|secret| secret.as_bytes());
            // This fails beyond two billion states, far more than can occur here.
            NFA::new(patterns).ok().filter(|_| !self.secrets.is_empty())
        });
        finder.as_ref()
    }

    /// The ranges of secrets, in order. Secrets that overlap are one range: if only the first of them were replaced,
    /// the rest of the other would remain.
    fn ranges(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let Some(finder) = self.finder() else { return Vec::new() };
        let Ok(mut state) = finder.start_state(Anchored::No) else { return Vec::new() };
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            state = finder.next_state(Anchored::No, state, *byte);
            if !finder.is_special(state) || !finder.is_match(state) {
                continue;
            }
            // Of the patterns that end here, the longest comes first.
            let end = at + 1;
            let length = finder.pattern_len(finder.match_pattern(state, 0));
            let mut begin = end.saturating_sub(length);
            while let Some(last) = ranges.pop_if(|last| begin < last.end) {
                begin = begin.min(last.start);
            }
            ranges.push(begin..end);
        }
        ranges
    }

    /// The text with all secrets replaced, if it contains one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<String> {
        // What is replaced are whole texts, so what remains is valid UTF-8.
        self.find_bytes(text.as_bytes()).map(|rest| String::from_utf8_lossy(&rest).into_owned())
    }

    /// The bytes with all secrets replaced, if they contain one.
    #[must_use]
    pub fn find_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let ranges = self.ranges(bytes);
        if ranges.is_empty() {
            return None;
        }
        let (mut rest, mut behind) = (Vec::with_capacity(bytes.len()), 0);
        for place in ranges {
            rest.extend_from_slice(bytes.get(behind..place.start).unwrap_or_default());
            rest.extend_from_slice(REDACTED.as_bytes());
            behind = place.end;
        }
        rest.extend_from_slice(bytes.get(behind..).unwrap_or_default());
        Some(rest)
    }

    /// The text with all secrets replaced.
    #[must_use]
    pub fn text(&self, text: String) -> String {
        self.find(&text).unwrap_or(text)
    }

    /// The value with all secrets replaced, at any depth. A recording holds bytes as base64, in which a secret looks
    /// different: text that can be decoded is searched in decoded form.
    #[must_use]
    pub fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.text_or_bytes(text).into(),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                let fields = fields.into_iter();
                fields.map(|(name, value)| (self.text(name), self.value(value))).collect()
            }
            other => other,
        }
    }

    fn text_or_bytes(&self, text: String) -> String {
        let decoded = STANDARD.decode(&text).ok();
        let found = decoded.and_then(|bytes| self.find_bytes(&bytes));
        self.text(found.map_or(text, |bytes| STANDARD.encode(bytes)))
    }

    /// What the trace stores of a call, with all secrets replaced.
    #[must_use]
    pub fn redact_run(&self, run: PluginRun) -> PluginRun {
        PluginRun { recording: run.recording.map(|recording| self.value(recording)), ..run }
    }

    /// The step with all secrets replaced.
    #[must_use]
    pub fn step(&self, step: Step) -> Step {
        if self.secrets.is_empty() {
            return step;
        }
        let event = match step.event {
            Event::Prompt { text } => Event::Prompt { text: self.text(text) },
            Event::Model {
                model,
                text,
                tool_calls,
                input_tokens,
                output_tokens,
                usage,
                spending,
                served_by,
                attempts,
                fallback,
                restarts,
            } => Event::Model {
                model,
                text: self.text(text),
                tool_calls: tool_calls.into_iter().map(|call| self.call(call)).collect(),
                input_tokens,
                output_tokens,
                usage: usage.map(|usage| {
                    let reported = usage.reported.map(|reported| self.value(reported));
                    Box::new(Usage { reported, ..*usage })
                }),
                spending,
                served_by,
                attempts,
                fallback,
                restarts,
            },
            Event::Note { text } => Event::Note { text: self.text(text) },
            Event::Tool { call, plugin, mcp_server, result, is_error, logs, ran } => Event::Tool {
                mcp_server,
                call: self.call(call),
                plugin,
                result: self.text(result),
                is_error,
                logs: logs.into_iter().map(|line| self.text(line)).collect(),
                ran: ran.map(|ran| Box::new(self.redact_run(*ran))),
            },
            Event::Approval { call, is_unknown, decision, by, comment } => Event::Approval {
                call: self.call(call),
                is_unknown,
                decision,
                by,
                comment: comment.map(|comment| self.text(comment)),
            },
            Event::UserTokens { items } => Event::UserTokens { items },
            // The run and its secrets are long gone; the task that the call is about was redacted then.
            after @ Event::PluginCall { .. } => after,
            Event::Failure { reason } => Event::Failure { reason: self.text(reason) },
        };
        Step { event, ..step }
    }

    /// The call with all secrets replaced.
    #[must_use]
    pub fn call(&self, call: ToolCall) -> ToolCall {
        ToolCall {
            id: self.text(call.id),
            name: self.text(call.name),
            arguments: self.text(call.arguments),
        }
    }

    /// How many bytes at the end of a text may be the beginning of a secret, whose rest follows. Takes time linear in
    /// the lengths of the secrets.
    fn begun_bytes(&self, text: &str) -> usize {
        let begun = self.secrets.iter().map(|secret| {
            let secret = secret.as_bytes();
            let text = text.as_bytes();
            let longest = text.len().min(secret.len().saturating_sub(1));
            longest_border(secret, text.get(text.len() - longest..).unwrap_or_default())
        });
        begun.max().unwrap_or_default()
    }
}

/// The longest beginning of `pattern` that `text` ends with (Knuth, Morris and Pratt).
fn longest_border(pattern: &[u8], text: &[u8]) -> usize {
    let mut borders = vec![0_usize; pattern.len()];
    let next = |borders: &[usize], mut matched: usize, byte: u8| {
        while matched > 0 && pattern.get(matched) != Some(&byte) {
            matched = borders.get(matched - 1).copied().unwrap_or_default();
        }
        matched + usize::from(pattern.get(matched) == Some(&byte))
    };
    for position in 1..pattern.len() {
        let before = borders.get(position - 1).copied().unwrap_or_default();
        let byte = pattern.get(position).copied().unwrap_or_default();
        let border = next(&borders, before, byte);
        if let Some(place) = borders.get_mut(position) {
            *place = border;
        }
    }
    text.iter().fold(0, |matched, byte| next(&borders, matched, *byte))
}

/// More bytes of secrets than this are not looked for in a text that is streamed: it is held back to its end.
const STREAMED_SECRETS_BYTES_MAX: usize = 4 << 10;

/// A streamed text is looked at about this many times for each doubling of its length.
const LOOKS: usize = 256;

/// Redacts a text that arrives in parts. The beginning of a secret is held back until what follows tells.
#[derive(Debug)]
pub struct StreamRedactor<'a> {
    redactor: &'a Redactor,
    streams: bool,
    held: String,
    /// The bytes that have been shown.
    shown: usize,
    /// The bytes that have come since the text was looked at.
    unseen: usize,
}

impl<'a> StreamRedactor<'a> {
    /// For one text.
    #[must_use]
    pub fn new(redactor: &'a Redactor) -> Self {
        let bytes: usize = redactor.secrets.iter().map(|secret| secret.len()).sum();
        let streams = bytes <= STREAMED_SECRETS_BYTES_MAX;
        Self { redactor, streams, held: String::new(), shown: 0, unseen: 0 }
    }

    /// Adds a part, and returns what can be shown.
    pub fn push(&mut self, part: &str) -> String {
        self.held.push_str(part);
        self.unseen += part.len();
        // Each look costs as much as the secrets are long, so there are few for a long text in small parts.
        if !self.streams || self.unseen <= self.shown / LOOKS {
            return String::new();
        }
        self.unseen = 0;
        let mut end = self.held.len() - self.redactor.begun_bytes(&self.held);
        // A secret is shown, redacted, in one piece.
        let ranges = self.redactor.ranges(self.held.as_bytes());
        if let Some(across) = ranges.iter().find(|secret| secret.end > end) {
            end = end.min(across.start);
        }
        self.shown += end;
        let rest = self.held.split_off(end);
        self.redactor.text(std::mem::replace(&mut self.held, rest))
    }

    /// Returns the rest.
    #[must_use]
    pub fn finish(self) -> String {
        self.redactor.text(self.held)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_go_in_every_spelling_and_short_ones_are_left() {
        let mut redactor = Redactor::default();
        redactor.add("pa\"ss/word");
        redactor.add("abc");
        let text =
            redactor.text(r#"{"a":"pa\"ss/word","b":"abc","c":"pa\"ss\/word"} pa"ss/word"#.into());
        assert_eq!(text, r#"{"a":"[redacted]","b":"abc","c":"[redacted]"} [redacted]"#);
    }

    #[test]
    fn what_stands_in_a_secrets_place_is_not_looked_into_again() {
        let mut redactor = Redactor::default();
        for secret in ["redacted", "redact", "[redacted]", "redacted-and-more"] {
            redactor.add(secret);
        }
        assert_eq!(redactor.text("redacted-and-more, redacted".into()), "[redacted], [redacted]");
        assert_eq!(Redactor::default().find("anything"), None);
    }

    #[test]
    fn a_streamed_text_shows_what_the_whole_one_does_wherever_it_is_split() {
        let mut redactor = Redactor::default();
        for secret in ["sk-secret-1", "sk-secret-1-and-more", "ecret-1x", "geheim-ä"] {
            redactor.add(secret);
        }
        for text in [
            "a sk-secret-1 b sk-secret-1-and-more c",
            "sk-secret-1-and-mor",
            "sk-sk-secret-1x geheim-ä geheim-",
            "nothing",
        ] {
            let letters: Vec<String> = text.chars().map(String::from).collect();
            for size in 1..=letters.len() {
                let mut stream = StreamRedactor::new(&redactor);
                let mut shown = String::new();
                for part in letters.chunks(size) {
                    shown += &stream.push(&part.concat());
                    assert!(!shown.contains("secret-1"), "{shown}");
                }
                shown += &stream.finish();
                assert_eq!(shown, redactor.text(text.to_owned()), "{size}");
            }
        }
        let mut stream = StreamRedactor::new(&redactor);
        assert_eq!(stream.push("hello"), "hello", "nothing is held back without need");
    }

    #[test]
    fn secrets_that_overlap_go_whole() {
        let redacted = |secrets: &[&str], text: &str| {
            let mut redactor = Redactor::default();
            secrets.iter().for_each(|secret| redactor.add(secret));
            redactor.text(text.to_owned())
        };
        let tail = ["abcdefgh", "hSECRETTAIL"];
        assert_eq!(redacted(&tail, "to abcdefghSECRETTAIL."), "to [redacted].");
        assert_eq!(redacted(&["abcdefgh", "efghijkl"], "abcdefghijkl"), "[redacted]");
        assert_eq!(redacted(&["cdefgh", "abcdefghij", "hijklm"], "abcdefghijklm"), "[redacted]");
        assert_eq!(redacted(&["ababab"], "abababab, ababab"), "[redacted], [redacted]");
        assert_eq!(redacted(&["password"], "passwordpassword"), "[redacted][redacted]");
        let nested: Vec<String> = (6..60).map(|length| "a".repeat(length)).collect();
        let nested: Vec<&str> = nested.iter().map(String::as_str).collect();
        assert_eq!(redacted(&nested, &format!("{}b", "a".repeat(100))), "[redacted]b");
    }

    #[test]
    fn a_secret_that_repeats_itself_is_found_as_fast_as_any() {
        // A table of transitions would take hours to build, and a search that restarts at each letter would not
        // finish either.
        let secret = "a".repeat(60_000) + "b";
        let mut redactor = Redactor::default();
        redactor.add(&secret);
        let text = "a".repeat(300_000);
        assert_eq!(redactor.find(&text), None);
        assert_eq!(redactor.text(format!("{text}b")), format!("{}[redacted]", "a".repeat(240_000)));
    }

    #[test]
    fn secrets_go_from_bytes_too_wherever_in_them_they_begin() {
        let mut redactor = Redactor::default();
        redactor.add("password");
        for before in ["", "a", "ab", "password, "] {
            let body = STANDARD.encode(format!("{before}password\u{e9}"));
            let redacted = redactor.value(json!({"url": "/password", "answers": [{"body": body}]}));
            assert_eq!(redacted["url"], "/[redacted]");
            let body = STANDARD.decode(redacted["answers"][0]["body"].as_str().unwrap()).unwrap();
            let before = before.replace("password", "[redacted]");
            assert_eq!(String::from_utf8(body).unwrap(), format!("{before}[redacted]\u{e9}"));
        }
    }
}
