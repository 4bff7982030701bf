//! A JSON document that is validated once and then read without building a tree.
//!
//! Most of a webhook's payload is passed on, not read: a mapper asks for three fields out of a kilobyte. So the text
//! is validated, and field positions are recorded only for the objects that are read. That costs less than a tree,
//! and numbers, key order and spelling stay exactly as sent.

mod texts;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{Deserialize as _, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The deepest nesting of arrays and objects. It is the JSON library's own limit for trees, so every accepted
/// document can also be parsed into one later.
const DEPTH_MAX: usize = 127;

/// Maximum fields at the top level. Each position takes 48 bytes, so a body of many tiny fields would take twenty
/// times its size in memory. Real webhooks have fewer than a hundredth of this.
const FIELDS_MAX: usize = 100_000;

/// Maximum fields of a nested object whose positions are recorded. A larger object is scanned on each lookup.
const NESTED_FIELDS_MAX: usize = 1_000;

/// Why bytes are not a valid payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not UTF-8.
    #[error("the body is not valid UTF-8 (byte {at})")]
    NotUtf8 {
        /// The offset of the first invalid byte.
        at: usize,
    },
    /// Not JSON.
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// Nested too deeply.
    #[error("the body nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Too long for 32-bit positions.
    #[error("the body is longer than 4 GiB")]
    TooLong,
}

/// A JSON document.
#[derive(Clone)]
pub struct Payload {
    /// Valid JSON.
    text: ByteString,
    root: Node,
}

/// A value's position in the text, and the positions of its fields after the first lookup.
#[derive(Clone)]
struct Node {
    start: u32,
    end: u32,
    fields: OnceLock<Option<Box<[Field]>>>,
}

#[derive(Clone)]
struct Field {
    name: Box<str>,
    value: Node,
}

impl Node {
    fn at(start: usize, text: &str) -> Option<Self> {
        let end = u32::try_from(start + text.len()).ok()?;
        Some(Self { start: u32::try_from(start).ok()?, end, fields: OnceLock::new() })
    }

    fn text<'t>(&self, document: &'t str) -> &'t str {
        document.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The fields, if this is an object with at most `max` of them. Parsed at the first lookup.
    fn fields(&self, document: &str, max: usize) -> Option<&[Field]> {
        let noted = self.fields.get_or_init(|| {
            let text = self.text(document);
            text.trim_start_matches(JSON_SPACE).starts_with('{').then_some(())?;
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let fields = Fields { max }.deserialize(&mut deserializer).ok()?;
            self.note(text, fields)
        });
        noted.as_deref()
    }

    fn note(&self, text: &str, fields: Vec<(Box<str>, &RawValue)>) -> Option<Box<[Field]>> {
        let base = text.as_ptr() as usize;
        let places = fields.into_iter().map(|(name, value)| {
            let offset = value.get().as_ptr() as usize - base;
            let value = Self::at(self.start as usize + offset, value.get())?;
            Some(Field { name, value })
        });
        places.collect()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads belong to tenants: their bytes must not get into logs by accident.
        write!(f, "Payload({} bytes)", self.text.len())
    }
}

impl Payload {
    /// Parses and validates JSON of bounded depth.
    ///
    /// # Errors
    /// [`PayloadError`], whose text may be shown to the caller.
    pub fn parse(text: Bytes) -> Result<Self, PayloadError> {
        let text = ByteString::try_from(text)
            .map_err(|error| PayloadError::NotUtf8 { at: error.valid_up_to() })?;
        let as_str: &str = &text;
        check_depth(as_str.as_bytes())?;
        let not_json = |error: serde_json::Error| PayloadError::NotJson(error.to_string());
        let root = Node::at(0, as_str).ok_or(PayloadError::TooLong)?;
        let fields = if as_str.trim_start_matches(JSON_SPACE).starts_with('{') {
            let mut deserializer = serde_json::Deserializer::from_str(as_str);
            let fields = Fields { max: FIELDS_MAX }.deserialize(&mut deserializer);
            let fields = fields.map_err(not_json)?;
            deserializer.end().map_err(not_json)?;
            Some(root.note(as_str, fields).ok_or(PayloadError::TooLong)?)
        } else {
            serde_json::from_str::<IgnoredAny>(as_str).map_err(not_json)?;
            None
        };
        let root = Node { fields: OnceLock::from(fields), ..root };
        Ok(Self { text, root })
    }

    /// Builds an object of string fields. If a name is repeated, the last value wins.
    #[must_use]
    pub fn of_fields(fields: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut object = serde_json::Map::new();
        for (name, value) in fields {
            object.insert(name, value.into());
        }
        let text = serde_json::Value::Object(object).to_string();
        // The text was just built as an object of strings.
        Self::parse(text.into()).unwrap_or_else(|_| Self::empty())
    }

    /// Builds an object from a query. If a name is repeated, the first value wins.
    #[must_use]
    pub fn of_query(pairs: &[(String, String)]) -> Self {
        let mut seen: HashSet<&str> = HashSet::new();
        let firsts = pairs.iter().filter(|(name, _)| seen.insert(name.as_str()));
        Self::of_fields(firsts.cloned().collect::<Vec<_>>())
    }

    /// The empty object.
    #[must_use]
    pub fn empty() -> Self {
        let fields = OnceLock::from(Some(Box::default()));
        Self { text: ByteString::from_static("{}"), root: Node { start: 0, end: 2, fields } }
    }

    /// The document as received.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The top-level fields in document order, each with its value's JSON text. `None` if the document is not an
    /// object.
    pub fn fields(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        let text = self.text();
        let fields = self.root.fields(text, FIELDS_MAX)?;
        Some(fields.iter().map(move |field| (&*field.name, field.value.text(text))))
    }

    /// The document's bytes, without copying.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.text.as_bytes().clone()
    }

    /// A copy of the object without the fields that `is_omitted` selects.
    #[must_use]
    pub fn without(&self, is_omitted: impl Fn(&str) -> bool) -> Self {
        let Some(fields) = self.fields() else {
            return self.clone();
        };
        let kept = fields.filter(|(field, _)| !is_omitted(field)).map(|(field, value)| {
            let field = serde_json::Value::from(field);
            format!("{field}:{value}")
        });
        let text = format!("{{{}}}", kept.collect::<Vec<_>>().join(","));
        // Fields of a valid object form a valid object.
        Self::parse(text.into()).unwrap_or_else(|_| Self::empty())
    }

    /// The JSON text of the value at an RFC 6901 pointer. If a key is repeated, the last one counts.
    #[must_use]
    pub fn find(&self, pointer: &str) -> Option<&str> {
        let text = self.text();
        if pointer.is_empty() {
            return Some(text.trim_matches(JSON_SPACE));
        }
        // A document cannot nest deeper than this, so a longer pointer cannot match. Splitting a plugin's very long
        // pointer would take more memory here than it took there.
        if pointer.bytes().filter(|&byte| byte == b'/').nth(DEPTH_MAX).is_some() {
            return None;
        }
        let mut node = &self.root;
        let mut tokens = pointer.strip_prefix('/')?.split('/').map(unescape);
        while let Some(fields) = node.fields(text, NESTED_FIELDS_MAX) {
            let Some(token) = tokens.next() else {
                return Some(node.text(text));
            };
            node = &fields.iter().rev().find(|field| *field.name == *token)?.value;
        }
        if !node.text(text).trim_start_matches(JSON_SPACE).starts_with(['{', '[']) {
            // A scalar has no children, so there is nothing to scan.
            return tokens.next().is_none().then(|| node.text(text));
        }
        // An array or a large object: scan the text from here on.
        walk(node.text(text), &tokens.collect::<Vec<_>>())
    }

    /// The scalar at a pointer as plain text. `None` for objects, arrays, null and missing values.
    #[must_use]
    pub fn scalar(&self, pointer: &str) -> Option<String> {
        self.find(pointer).and_then(scalar_text)
    }
}

/// The characters that JSON treats as white space.
const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Converts a scalar's JSON text to plain text: a string without its quotes and escapes, a number or boolean as
/// written.
#[must_use]
pub fn scalar_text(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(json.to_owned()),
        _ => None,
    }
}

/// Checks the nesting depth. Counting the brackets is fast, and only a text with enough of them is scanned.
fn check_depth(text: &[u8]) -> Result<(), PayloadError> {
    let opening = |&&byte: &&u8| byte == b'[' || byte == b'{';
    if text.iter().filter(opening).count() <= DEPTH_MAX {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(PayloadError::TooDeep);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes a pointer token: `~1` stands for `/` and `~0` for `~` (RFC 6901 section 4).
fn unescape(token: &str) -> Cow<'_, str> {
    if token.contains('~') {
        token.replace("~1", "/").replace("~0", "~").into()
    } else {
        token.into()
    }
}

/// Finds the value at the end of these tokens in one pass over the text.
fn walk<'t>(json: &'t str, tokens: &[Cow<'_, str>]) -> Option<&'t str> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_str(json);
    // An error only ends the scan early; the text was validated on arrival.
    let _ = Walk { tokens, found: &mut found }.deserialize(&mut deserializer);
    found.map(RawValue::get)
}

/// Follows tokens into a value and skips everything else without building it.
struct Walk<'a, 't, 'de> {
    tokens: &'a [Cow<'t, str>],
    found: &'a mut Option<&'de RawValue>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.tokens.is_empty() {
            *self.found = Some(<&RawValue>::deserialize(from)?);
            return Ok(());
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((token, rest)) = self.tokens.split_first() else { return Ok(()) };
        while let Some(matches) = map.next_key_seed(KeyIs(token))? {
            if matches {
                // If a key is repeated, the last one counts, even if the rest of the path is missing in it.
                *self.found = None;
                map.next_value_seed(Walk { tokens: rest, found: &mut *self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((token, rest)) = self.tokens.split_first() else { return Ok(()) };
        // An index has no leading zeros and no sign (RFC 6901 section 4).
        let is_index = &**token == "0" || !token.starts_with(['0', '+']);
        let index = token.parse::<usize>().ok().filter(|_| is_index).unwrap_or(usize::MAX);
        for _ in 0..index {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        items.next_element_seed(Walk { tokens: rest, found: self.found })?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    // A scalar has no children.
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Deserializes the fields of an object. Fails if there are more than `max`.
struct Fields {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Vec<(Box<str>, &'de RawValue)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(Box<str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            if fields.len() == self.max {
                return Err(serde::de::Error::custom("an object has too many fields"));
            }
            fields.push(field);
        }
        Ok(fields)
    }
}

/// Compares a key without copying it.
struct KeyIs<'t>(&'t str);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(text: &str) -> Payload {
        Payload::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn values_are_found_as_they_were_written() {
        let doc = payload(
            r#" {"a": {"b": [1.0, {"c~/d": "x\n\u0041"}]}, "big": 123456789012345678901234567890,
                "e": 1e999, "n": null, "t": true, "a\u0062": 5, "": {"": 7}} "#,
        );
        assert_eq!(doc.find("/a/b/0"), Some("1.0"));
        assert_eq!(doc.scalar("/a/b/1/c~0~1d").as_deref(), Some("x\nA"));
        assert_eq!(doc.scalar("/big").as_deref(), Some("123456789012345678901234567890"));
        assert_eq!(doc.scalar("/e").as_deref(), Some("1e999"));
        assert_eq!(doc.scalar("/t").as_deref(), Some("true"));
        assert_eq!(doc.scalar("/ab").as_deref(), Some("5"));
        assert_eq!(doc.scalar("//").as_deref(), Some("7"));
        assert_eq!((doc.find("/n"), doc.scalar("/n")), (Some("null"), None));
        assert_eq!(doc.scalar("/a"), None);
        for nothing in ["a", "/x", "/a/b/2", "/a/b/01", "/a/b/+1", "/a/b/-", "/t/x", "/a/b/0/0"] {
            assert_eq!(doc.find(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_large_object_is_walked_and_too_large_a_top_level_is_refused() {
        let fields = |count: usize| -> String {
            (0..count).map(|i| format!("\"k{i}\":{i},")).collect::<String>() + "\"last\":true"
        };
        let doc = payload(&format!("{{\"o\":{{{}}}}}", fields(NESTED_FIELDS_MAX + 1)));
        assert_eq!((doc.find("/o/k7"), doc.find("/o/last")), (Some("7"), Some("true")));
        let refused = Payload::parse(format!("{{{}}}", fields(FIELDS_MAX)).into());
        assert!(matches!(refused, Err(PayloadError::NotJson(_))));
        assert!(Payload::parse(format!("{{{}}}", fields(FIELDS_MAX - 1)).into()).is_ok());
    }

    #[test]
    fn of_equal_keys_the_last_one_counts() {
        let doc = payload(r#"{"a":1,"a":{"b":1,"b":2}}"#);
        assert_eq!(doc.find("/a/b"), Some("2"));
    }

    #[test]
    fn every_kind_of_document_is_a_payload() {
        for text in ["[]", "5", "\"x\"", "false", "null", " [ {\"a\":1} ] "] {
            let doc = payload(text);
            assert!(doc.fields().is_none());
            assert_eq!(doc.find(""), Some(text.trim()));
        }
        assert_eq!(payload(" [ {\"a\":1} ] ").find("/0/a"), Some("1"));
    }

    #[test]
    fn what_is_not_json_of_bounded_depth_is_refused() {
        for text in ["", "{", "{\"a\":}", "{} x", "[1,]", "nul", "\u{feff}{}", "{\"a\":\"\n\"}"] {
            let refused = Payload::parse(Bytes::copy_from_slice(text.as_bytes()));
            assert!(matches!(refused, Err(PayloadError::NotJson(_))), "{text:?}");
        }
        let bad = Payload::parse(Bytes::from_static(b"{\"a\":\"\xff\"}"));
        assert_eq!(bad.unwrap_err(), PayloadError::NotUtf8 { at: 6 });
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Payload::parse(deep(DEPTH_MAX).into()).is_ok());
        assert!(serde_json::from_str::<serde_json::Value>(&deep(DEPTH_MAX)).is_ok());
        for levels in [DEPTH_MAX + 1, 100_000] {
            let refused = Payload::parse(deep(levels).into());
            assert_eq!(refused.unwrap_err(), PayloadError::TooDeep);
        }
        let brackets_in_strings = format!("{{\"a\":\"{}\\\"[\"}}", "[".repeat(1000));
        assert!(Payload::parse(brackets_in_strings.into()).is_ok());
    }
}
