//! Dot paths: `message.chat.id`, `items.0.name`.
//!
//! | path | refers to |
//! |---|---|
//! | `a..b`, `.a`, `a.`, the empty path | refused: a segment is empty |
//! | more than 256 segments | refused |
//! | `a.b` | the member `b` of the object at `a` |
//! | `a.0` | the first element of the array at `a`, or the member `0` of an object |
//!
//! A dot always separates, so a path cannot refer to a member with a dot in its name.

use crate::{Failure, Json};
use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The most segments of a path. Each may cost one pass over JSON text, so their number is bounded.
/// Payloads of real providers are less than ten levels deep.
const SEGMENTS_MAX: usize = 256;

/// How many characters of a refused path an error message quotes.
const QUOTED_CHARS: usize = 64;

/// A valid dot path, stored as the RFC 6901 pointer that the host looks values up by.
///
/// ```
/// # use wardgate_sdk::DotPath;
/// let path = DotPath::parse("items.0.a/b")?;
/// assert_eq!(path.pointer(), "/items/0/a~1b");
/// assert_eq!(path.find_in(r#"{"items":[{"a/b":7}]}"#).as_deref(), Some("7"));
/// # Ok::<(), wardgate_sdk::InvalidPath>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DotPath {
    pointer: String,
}

impl DotPath {
    /// Parses a path as the caller sent it.
    pub fn parse(path: &str) -> Result<Self, InvalidPath> {
        let mut pointer = String::with_capacity(path.len() + 1);
        for (index, segment) in path.split('.').enumerate() {
            if segment.is_empty() {
                return Err(InvalidPath::EmptySegment(quote_start(path)));
            }
            if index >= SEGMENTS_MAX {
                return Err(InvalidPath::TooManySegments(quote_start(path)));
            }
            pointer.push('/');
            for character in segment.chars() {
                match character {
                    '~' => pointer.push_str("~0"),
                    '/' => pointer.push_str("~1"),
                    _ => pointer.push(character),
                }
            }
        }
        Ok(Self { pointer })
    }

    /// The path as an RFC 6901 pointer, for the functions of [`request`](crate::request) and
    /// [`task`](crate::task).
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Finds the value in JSON text; `None` if the path leads to nothing. The path may continue into JSON
    /// inside a string: `result.summary` works if `result` is a string that holds an object.
    ///
    /// The value is returned as it was written: numbers keep their digits and objects their order. The text
    /// is read without recursion, however deep it is nested.
    pub fn find_in(&self, json: &str) -> Option<Json> {
        descend(Cow::Borrowed(json), &self.pointer).map(Cow::into_owned)
    }

    /// Finds the value at the host; `None` if the path leads to nothing. The path may continue into JSON
    /// inside strings. `lookup` finds a value by its pointer, as in `path.find_with(task::json)`.
    ///
    /// If the host has a value at the whole path, this is one call. Otherwise it looks up ever shorter
    /// prefixes of the path and searches the first value found for the rest.
    pub fn find_with(&self, lookup: impl Fn(&str) -> Option<Json>) -> Option<Json> {
        if let Some(value) = lookup(&self.pointer) {
            return Some(value);
        }
        let (found, rest) = self
            .pointer
            .rmatch_indices('/')
            .map(|(slash, _)| self.pointer.split_at(slash))
            .take_while(|(prefix, _)| !prefix.is_empty())
            .find_map(|(prefix, rest)| Some((lookup(prefix)?, rest)))?;
        descend(Cow::Owned(found), rest).map(Cow::into_owned)
    }
}

/// Follows a pointer into JSON text.
fn descend<'a>(mut json: Cow<'a, str>, pointer: &str) -> Option<Cow<'a, str>> {
    for segment in pointer.split('/').skip(1) {
        // A string may hold JSON, which may again be a string. Each is shorter than the one around it, so
        // this ends.
        while json.trim_ascii_start().starts_with('"') {
            json = Cow::Owned(serde_json::from_str::<String>(&json).ok()?);
        }
        json = match json {
            Cow::Borrowed(text) => Cow::Borrowed(child_text(text, segment)?),
            Cow::Owned(text) => Cow::Owned(child_text(&text, segment)?.to_owned()),
        };
    }
    Some(json)
}

/// The text of one member or element of JSON text; `None` if the text is not JSON or has no such part.
pub(crate) fn child_text<'a>(json: &'a str, segment: &str) -> Option<&'a str> {
    let name = segment.replace("~1", "/").replace("~0", "~");
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let child = deserializer.deserialize_any(ChildVisitor(&name)).ok()??;
    deserializer.end().ok()?;
    Some(child.get())
}

/// Visits an object or array and returns one part of it as raw text.
struct ChildVisitor<'n>(&'n str);

impl<'de> Visitor<'de> for ChildVisitor<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_match) = map.next_key_seed(KeyEquals(self.0))? {
            if is_match {
                found = Some(map.next_value()?); // the last of several counts, as everywhere
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        // RFC 6901 allows digits only in an index, and no leading zero: `01` and `+1` are not indices.
        let is_canonical = self.0 == "0" || !self.0.starts_with(['0', '+']);
        let Some(index) = self.0.parse::<usize>().ok().filter(|_| is_canonical) else {
            return Err(A::Error::custom("not an index"));
        };
        for _ in 0..index {
            if sequence.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = sequence.next_element()?;
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Compares a key without allocating it.
struct KeyEquals<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for KeyEquals<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyEquals<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// Why a path is invalid. The message is for the caller and quotes the path, or the start of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidPath {
    /// The path is empty, starts or ends with a dot, or has two dots in a row.
    EmptySegment(String),
    /// The path has more than 256 segments.
    TooManySegments(String),
}

impl fmt::Display for InvalidPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptySegment(path) => {
                write!(formatter, "`{path}` has an empty segment; a path looks like `items.0.name`")
            }
            Self::TooManySegments(path) => {
                write!(formatter, "`{path}` has more than {SEGMENTS_MAX} segments")
            }
        }
    }
}

impl core::error::Error for InvalidPath {}

impl From<InvalidPath> for Failure {
    fn from(invalid: InvalidPath) -> Self {
        Self::invalid_input(invalid.to_string())
    }
}

fn quote_start(path: &str) -> String {
    match path.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", path.split_at(end).0),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn path(text: &str) -> DotPath {
        DotPath::parse(text).unwrap()
    }

    /// Looks up each path in one text.
    fn check(json: &str, cases: &[(&str, Option<&str>)]) {
        for (text, found) in cases {
            assert_eq!(path(text).find_in(json).as_deref(), *found, "{text}");
        }
    }

    #[test]
    fn pointers_escape_what_rfc_6901_reserves() {
        for (text, pointer) in [
            ("prompt", "/prompt"),
            ("message.chat.id", "/message/chat/id"),
            ("items.0.name", "/items/0/name"),
            ("a/b.c~d.~1", "/a~1b/c~0d/~01"),
            ("größe. x", "/größe/ x"),
        ] {
            assert_eq!(path(text).pointer(), pointer, "{text}");
        }
    }

    #[test]
    fn empty_segments_are_refused() {
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(DotPath::parse(text), Err(InvalidPath::EmptySegment(text.to_owned())));
        }
    }

    #[test]
    fn there_are_at_most_256_segments() {
        assert!(DotPath::parse(&vec!["a"; 256].join(".")).is_ok());
        let refused = DotPath::parse(&vec!["a"; 257].join(".")).unwrap_err();
        let expected = format!("`{}…` has more than 256 segments", "a.".repeat(32));
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn a_value_is_found_as_it_was_written() {
        check(
            r#" {"b": {"z":1.50,"a":1e400}, "list":[10, [true, null]], "text":"t\n", "x":1, "x":2} "#,
            &[
                ("b", Some(r#"{"z":1.50,"a":1e400}"#)),
                ("b.z", Some("1.50")),
                ("b.a", Some("1e400")),
                ("list.0", Some("10")),
                ("list.1.1", Some("null")),
                ("text", Some(r#""t\n""#)),
                ("x", Some("2")),
                ("c", None),
                ("b.c", None),
                ("b.z.c", None),
                ("list.2", None),
                ("list.a", None),
                ("list.01", None),
                ("list.+1", None),
                ("list.-1", None),
                ("text.0", None),
            ],
        );
    }

    #[test]
    fn escaped_segments_find_the_name_that_was_meant() {
        check(r#"{"a/b":{"~1":1},"~":2}"#, &[("a/b.~1", Some("1")), ("~", Some("2")), ("a", None)]);
    }

    #[test]
    fn json_in_strings_is_descended_into() {
        let inner = serde_json::to_string(r#"{"deep":[1,{"name":"end"}]}"#).unwrap();
        let outer = serde_json::to_string(&format!(r#"{{"inner":{inner}}}"#)).unwrap();
        check(
            &format!(r#"{{"result":{outer}}}"#),
            &[
                ("result.inner.deep.0", Some("1")),
                ("result.inner.deep.1.name", Some(r#""end""#)),
                ("result.inner", Some(&inner)),
                ("result.inner.deep.2", None),
                ("result.0", None),
            ],
        );
    }

    #[test]
    fn what_is_not_json_holds_nothing() {
        for json in [
            "", "a", "{", r#"{"a":1"#, r#"{"a":1} x"#, r#"{"a":1,}"#, r#""{\"a\":1} x""#,
            r#""\ud800""#,
        ] {
            check(json, &[("a", None)]);
        }
    }

    #[test]
    fn nesting_does_not_matter() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        let json = format!(r#"{{"a":{deep},"b":1}}"#);
        check(&json, &[("a", Some(&deep)), ("b", Some("1")), ("c", None)]);
        check(&"[".repeat(1_000_000), &[("a", None), ("0", None)]);
    }

    #[test]
    fn the_host_is_asked_for_the_whole_path_first() {
        let host = |pointer: &str| match pointer {
            "/a/b" => Some("1".to_owned()),
            "/a" => Some(r#""{\"b\":2,\"c\":3}""#.to_owned()),
            _ => None,
        };
        for (text, found) in
            [("a.b", Some("1")), ("a.c", Some("3")), ("a.d", None), ("d.a", None), ("d", None)]
        {
            assert_eq!(path(text).find_with(host).as_deref(), found, "{text}");
        }
    }
}
