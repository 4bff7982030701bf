//! Assembles the tool calls of a turn from the parts in which they are streamed.

use serde_json::value::RawValue;

use super::error::ModelError;
use crate::trace::ToolCall;

/// The most calls of one turn.
const CALLS_MAX: usize = 128;

/// The longest arguments of one call, in bytes.
const ARGUMENTS_BYTES_MAX: usize = 1 << 20;

/// The longest id or name, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// The beginning of an id that is made here, for a call that its server gave none.
pub(super) const OWN_ID: &str = "wardgate-call-";

/// A part of a call, as one event brings it.
#[derive(Debug, Default)]
pub(super) struct CallPart {
    /// The position that the server gives the call. Not unique with some servers.
    pub(super) index: Option<u64>,
    /// The call's id. In the first part only, with most servers.
    pub(super) id: Option<String>,
    /// The tool's name, likewise.
    pub(super) name: Option<String>,
    /// A part of the arguments' text.
    pub(super) arguments: String,
    /// What a provider adds to the call, which is returned to it with the call.
    pub(super) extra: Option<Box<RawValue>>,
}

/// A call that is being assembled.
#[derive(Debug)]
pub(super) struct PartialCall {
    index: Option<u64>,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
    pub(super) extra: Option<Box<RawValue>>,
}

/// The calls of a turn. A part belongs to a call by its id. Only without an id, the index says to which: some servers
/// send the index 0 for every call, or none.
#[derive(Debug, Default)]
pub(super) struct PartialCalls(Vec<PartialCall>);

impl PartialCalls {
    /// Adds a part.
    ///
    /// # Errors
    /// If there are too many calls, or one of them is too long.
    pub(super) fn add(&mut self, part: CallPart) -> Result<(), ModelError> {
        let CallPart { index, id, name, arguments, extra } = part;
        let id = id.filter(|id| !id.is_empty());
        let name = name.filter(|name| !name.is_empty());
        let too_long =
            |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > NAME_BYTES_MAX);
        if too_long(&id) || too_long(&name) {
            return Err(ModelError::upstream(format!(
                "the model called a tool with an id or name of more than {NAME_BYTES_MAX} bytes"
            )));
        }
        let position = self.position(index, id.as_deref(), name.is_some());
        let late_id = id.clone();
        let call = match position.and_then(|position| self.0.get_mut(position)) {
            Some(call) => call,
            None => {
                if self.0.len() == CALLS_MAX {
                    return Err(ModelError::upstream(format!(
                        "the model called more than {CALLS_MAX} tools in one turn"
                    )));
                }
                self.0.push(PartialCall {
                    index,
                    id: id.unwrap_or_default(),
                    name: String::new(),
                    arguments: String::new(),
                    extra: None,
                });
                let Some(call) = self.0.last_mut() else { return Ok(()) };
                call
            }
        };
        if call.name.is_empty() {
            call.name = name.unwrap_or_default();
        }
        if call.arguments.len() + arguments.len() > ARGUMENTS_BYTES_MAX {
            return Err(ModelError::upstream(format!(
                "the model called a tool with arguments of more than {ARGUMENTS_BYTES_MAX} bytes"
            )));
        }
        call.arguments.push_str(&arguments);
        call.extra = extra.or(call.extra.take());
        if call.id.is_empty() {
            call.id = late_id.unwrap_or_default();
        }
        Ok(())
    }

    /// The call that a part belongs to. `None` if it begins one.
    fn position(&self, index: Option<u64>, id: Option<&str>, has_name: bool) -> Option<usize> {
        if let Some(id) = id {
            if let Some(same) = self.0.iter().rposition(|call| call.id == id) {
                // The same id at another index with a name is another call: some servers give all calls the same id.
                let is_another = has_name && self.0.get(same)?.index != index;
                return (!is_another).then_some(same);
            }
            // Without a name, it is a call that has begun: its id comes late, or has changed.
            let index = index.filter(|_| !has_name)?;
            return self.0.iter().rposition(|call| call.index == Some(index));
        }
        let position = match index {
            Some(index) => self.0.iter().rposition(|call| call.index == Some(index)),
            None => self.0.len().checked_sub(1),
        }?;
        // A name begins a call, unless the server repeats it with each part.
        let arguments = &self.0.get(position)?.arguments;
        let begins_another =
            has_name && serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok();
        (!begins_another).then_some(position)
    }

    /// The calls in the order in which they began, each with an id of its own.
    pub(super) fn finish(self) -> Vec<PartialCall> {
        let mut calls = self.0;
        for position in 0..calls.len() {
            let (earlier, rest) = calls.split_at_mut(position);
            let Some(call) = rest.first_mut() else { break };
            let mut number = position;
            while call.id.is_empty() || earlier.iter().any(|other| other.id == call.id) {
                call.id = format!("{OWN_ID}{number}");
                number += 1;
            }
        }
        calls
    }
}

impl PartialCall {
    /// The call. Without arguments, they are the empty object.
    pub(super) fn call(&self) -> ToolCall {
        let arguments = match self.arguments.trim() {
            "" => "{}".to_owned(),
            _ => self.arguments.clone(),
        };
        ToolCall { id: self.id.clone(), name: valid_name(&self.name), arguments }
    }
}

/// A name that every provider accepts: models invent others, and some providers refuse a conversation with such a call.
fn valid_name(name: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() || "_-".contains(letter) => letter,
        _ => '_',
    };
    let name: String = name.chars().take(64).map(letter).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (index, id, name, arguments)
    type Part<'a> = (Option<u64>, &'a str, &'a str, &'a str);

    fn assembled(parts: &[Part<'_>]) -> Result<Vec<(String, String, String)>, ModelError> {
        let mut calls = PartialCalls::default();
        for (index, id, name, arguments) in parts {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let (id, name) = (text(id), text(name));
            let (index, arguments) = (*index, (*arguments).to_owned());
            calls.add(CallPart { index, id, name, arguments, extra: None })?;
        }
        let calls = calls.finish().into_iter().map(|call| call.call());
        Ok(calls.map(|call| (call.id, call.name, call.arguments)).collect())
    }

    #[test]
    fn parts_belong_to_calls_however_a_server_numbers_them() {
        let two = [("a", "read", r#"{"x":1}"#), ("b", "delete", r#"{"x":2}"#)];
        let two = two.map(|(id, name, arguments)| (id.into(), name.into(), arguments.into()));
        let cases: [&[Part<'_>]; 7] = [
            // As OpenAI sends them.
            &[
                (Some(0), "a", "read", ""),
                (Some(0), "", "", "{\"x\""),
                (Some(1), "b", "delete", ""),
                (Some(0), "", "", ":1}"),
                (Some(1), "", "", "{\"x\":2}"),
            ],
            // As Ollama does: each whole, all with the index 0.
            &[(Some(0), "a", "read", "{\"x\":1}"), (Some(0), "b", "delete", "{\"x\":2}")],
            // Without an index.
            &[(None, "a", "read", "{\"x\":1}"), (None, "b", "delete", "{\"x\":2}")],
            &[
                (None, "a", "read", ""),
                (None, "", "", "{\"x\":1}"),
                (None, "b", "delete", "{\"x\""),
                (None, "", "", ":2}"),
            ],
            // Numbered from 1, or with whatever number.
            &[(Some(1), "a", "read", "{\"x\":1}"), (Some(2), "b", "delete", "{\"x\":2}")],
            &[
                (Some(u64::MAX), "a", "read", "{\"x\":1}"),
                (Some(1_000_000_000), "b", "delete", "{\"x\":2}"),
            ],
            // With id and name in every part.
            &[
                (Some(0), "a", "read", "{\"x\""),
                (Some(0), "a", "read", ":1}"),
                (Some(1), "b", "delete", "{\"x\":"),
                (Some(1), "b", "delete", "2}"),
            ],
        ];
        for parts in cases {
            assert_eq!(assembled(parts).unwrap(), two, "{parts:?}");
        }
    }

    #[test]
    fn calls_without_ids_or_with_the_same_get_ids_of_their_own() {
        let ids = |parts: &[Part<'_>]| {
            assembled(parts).unwrap().into_iter().map(|(id, ..)| id).collect::<Vec<_>>()
        };
        let whole = "{}";
        assert_eq!(
            ids(&[(Some(0), "", "a", whole), (Some(1), "", "b", whole)]),
            ["wardgate-call-0", "wardgate-call-1"]
        );
        assert_eq!(
            ids(&[(Some(0), "", "a", whole), (Some(0), "", "b", whole)]),
            ["wardgate-call-0", "wardgate-call-1"]
        );
        assert_eq!(
            ids(&[(None, "", "a", whole), (None, "", "b", whole)]),
            ["wardgate-call-0", "wardgate-call-1"]
        );
        assert_eq!(
            ids(&[(Some(0), "x", "a", whole), (Some(1), "x", "b", whole)]),
            ["x", "wardgate-call-1"]
        );
        let taken = [(Some(0), "wardgate-call-1", "a", whole), (Some(1), "", "b", whole)];
        assert_eq!(ids(&taken), ["wardgate-call-1", "wardgate-call-2"]);
        let late = [(Some(0), "", "a", "{"), (Some(0), "x", "", "}")];
        assert_eq!(assembled(&late).unwrap(), [("x".to_owned(), "a".to_owned(), whole.to_owned())]);
        let changed = [(Some(0), "x", "a", "{"), (Some(0), "y", "", "}")];
        assert_eq!(ids(&changed), ["x"]);
    }

    #[test]
    fn calls_are_bounded_in_number_and_length() {
        let id = |number: usize| format!("id{number}");
        let ids: Vec<String> = (0..=CALLS_MAX).map(id).collect();
        let parts: Vec<Part<'_>> = ids.iter().map(|id| (Some(0), id.as_str(), "a", "{}")).collect();
        assert_eq!(assembled(parts.get(1..).unwrap()).unwrap().len(), CALLS_MAX);
        assert!(assembled(&parts).unwrap_err().message.contains("more than 128 tools"));
        let long = "x".repeat(ARGUMENTS_BYTES_MAX / 2 + 1);
        let parts: [Part<'_>; 2] = [(Some(0), "a", "a", &long), (Some(0), "a", "", &long)];
        assert!(assembled(&parts).unwrap_err().message.contains("arguments"));
        assert!(assembled(&[(None, "a", &long, "")]).unwrap_err().message.contains("name"));
    }

    #[test]
    fn a_name_is_one_that_providers_accept() {
        for (name, valid) in [("a.b c/ü", "a_b_c__"), ("", "unnamed"), ("read-x_1", "read-x_1")] {
            assert_eq!(assembled(&[(None, "i", name, "{}")]).unwrap()[0].1, valid);
        }
        assert_eq!(valid_name(&"x".repeat(200)).len(), 64);
    }

    #[test]
    fn a_call_without_arguments_has_none() {
        assert_eq!(assembled(&[(None, "a", "now", " ")]).unwrap()[0].2, "{}");
    }
}
